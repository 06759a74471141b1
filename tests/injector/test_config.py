"""The injector's configuration: what would weaken it is refused, with every problem in one run."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.config import ConfigError
from sidecar.injector.config import load
from tests.injector.making import Tree, config


def written(folder: Path, *changes: tuple[str, Any]) -> Path:
    tree = config().model_dump(mode="json")
    for key, value in changes:
        node: Any = tree
        *sections, last = key.split(".")
        for section in sections:
            node = node[int(section)] if isinstance(node, list) else node[section]
        node[last] = value
    path = folder / "injector.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_what_is_whole_is_taken(tmp_path: Path) -> None:
    assert load(written(tmp_path)) == config()


TENANT: Tree = {"id": "acme", "allowed_mounts": ["secret"], "roles": ["app"], "salt_secret": {"name": "salt"}}

BAD: list[tuple[str, Any, str]] = [
    ("listen.tls.cert_file", None, "listen.tls"),
    ("listen.unknown", 1, "listen.unknown"),
    ("self_made.secret", "tls", "self_made"),
    ("native_sidecars", "sometimes", "native_sidecars"),
    ("api_server.address", "http://api", "api_server.address"),
    ("api_server.address", "https://api", "api_server"),
    ("sidecar.image", "", "sidecar.image"),
    ("sidecar.upstream.address", "http://openbao:8200", "sidecar.upstream.address"),
    ("sidecar.token.audience", "", "sidecar.token.audience"),
    ("sidecar.token.audience", "crud.secrets", "sidecar.token.audience"),
    ("sidecar.token.audience", "https://kubernetes.default.svc.cluster.local", "sidecar.token.audience"),
    ("sidecar.token.expiration_seconds", 10, "sidecar.token.expiration_seconds"),
    ("sidecar.pinned", {"tenant": {}}, "sidecar.pinned"),
    ("sidecar.pinned", {"identity": {"pod": {}}}, "sidecar.pinned"),
    ("sidecar.operations_address", "9102", "sidecar.operations_address"),
    ("sidecar.resources.cpu_request", "many", "sidecar.resources.cpu_request"),
    ("sidecar.resources.cpu_limit", "1m", "sidecar.resources"),
    ("sidecar.resources.memory_limit", "1Mi", "sidecar.resources.memory_limit"),
    ("sidecar.tolerated.env", ["LD_PRELOAD"], "sidecar.tolerated.env"),
    ("sidecar.tolerated.env", ["SIDECAR__TENANT"], "sidecar.tolerated.env"),
    ("sidecar.tolerated.env", ["VAULT_URL"], "sidecar.tolerated.env"),
    ("namespaces.team-a.tenants", [], "namespaces.team-a.tenants"),
    ("namespaces.team-a.tenants", [TENANT, copy.deepcopy(TENANT)], "namespaces.team-a.tenants"),
    ("namespaces.team-a.tenants", [TENANT | {"allowed_mounts": ["a/../b"]}], "allowed_mounts"),
    ("namespaces.team-a.tenants", [TENANT | {"allowed_mounts": []}], "allowed_mounts"),
    ("namespaces.team-a.configs", ["Upper"], "configs"),
    ("namespaces", {"kube-system": {"tenants": [TENANT], "configs": ["c"]}}, "namespaces"),
    ("namespaces", {"*": {"tenants": [TENANT], "configs": ["c"]}}, "namespaces"),
    ("namespaces", {"openbao-sidecar": {"tenants": [TENANT], "configs": ["c"]}}, "namespaces.openbao-sidecar"),
]


@pytest.mark.parametrize(("key", "value", "named"), BAD)
def test_what_weakens_it_is_refused_by_name(key: str, value: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        load(written(tmp_path, (key, value)))
    assert any(named in problem.key for problem in refusal.value.problems), refusal.value


def test_every_problem_is_said_in_one_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        load(written(tmp_path, ("sidecar.image", ""), ("ops.log_level", "loud"), ("namespaces.team-a.configs", [])))
    assert len(refusal.value.problems) == 3
