"""`upstream.provider: hashicorp`: the same engines by HashiCorp's own clients, and the Secrets API with its scheme.

HashiCorp Vault itself is not run: its last version under an open licence (1.14) could not be built from the module
proxy. OpenBao speaks the same API, and stands in for it. See docs/how-to/use-hashicorp-vault.md.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import requests

from sidecar.audit.record import ResourceRefs
from sidecar.dev.processes import child_environment
from sidecar.surface.secret_uri import parse
from tests.real.go_tools import cached_go_tool, own_program
from tests.real.openbao import OpenBao
from tests.real.sidecar import SALT, SidecarProcess
from tests.support.crooked_openbao import CrookedOpenBao
from tests.support.tokens import Issuer

pytestmark = pytest.mark.real

POLICIES: Final = '@ttl_seconds("60") @max_uses("1000000")\npermit (principal, action, resource);\n'
PROGRAM: Final = Path(__file__).parent.parent / "clients" / "hashicorp"


@pytest.fixture(scope="module")
def vault(openbao: OpenBao) -> Iterator[CrookedOpenBao]:
    """OpenBao, but for a list in pieces: Vault passes over `limit`, says so in a warning, and a list of nothing is no
    404. (OpenBao's KV version 1 does the same.)"""
    with CrookedOpenBao(openbao.address) as vault:
        told = b'{"data": {}, "warnings": ["Endpoint ignored these unrecognized parameters: [limit]"]}'
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(told)}\r\n\r\n"
        vault.lies["/metadata/nothing/?limit="] = head.encode() + told
        yield vault


@pytest.fixture(scope="module")
def process(
    tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, vault: CrookedOpenBao, issuer: Issuer
) -> Iterator[SidecarProcess]:
    overrides = {
        "identity": {"binding": "preferred"},
        "anti_replay": {"unbound_token": "off"},
        "upstream": {"provider": "hashicorp", "address": vault.address},
        "mounts": [
            {"path": "secret", "engine": "kv2"},
            {"path": "kv1", "engine": "kv1"},
            {"path": "transit", "engine": "transit"},
        ],
        "tenant": {"allowed_mounts": ["secret", "kv1", "transit"]},
    }
    made = SidecarProcess(tmp_path_factory.mktemp("hashicorp"), openbao, issuer, overrides)
    (made.policies / "policies.cedar").write_text(POLICIES)
    with openbao.mounted({"kv1": "kv1", "transit": "transit"}), made as running:
        openbao.root().secrets.transit.create_key("hashicorp")
        yield running


@pytest.mark.timeout(600)  # the first time on a machine it is built
def test_hashicorps_own_go_client_works_unchanged(process: SidecarProcess) -> None:
    """Every engine that the sidecar names; what is refused is refused in words that the client reads."""
    program = cached_go_tool(own_program(PROGRAM, cold_seconds=60))
    environment = child_environment() | {"VAULT_ADDR": process.url, "VAULT_TOKEN": process.issuer.token(sub="go")}
    done = subprocess.run([str(program)], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    steps = {step["step"]: step for step in map(json.loads, done.stdout.splitlines())}
    assert {name for name, step in steps.items() if not step["ok"]} == {"refused"}, steps
    assert steps["refused"]["status"] == 403
    assert steps["kv2_get"]["data"] == {"user": "u", "password": "p"} == steps["kv2_get_version"]["data"]
    assert (steps["kv2_patch"]["data"], steps["kv2_metadata"]["data"]) == (2, 2)
    assert steps["kv2_list"]["data"]["keys"] == ["one"]
    assert steps["kv1_get"]["data"] == {"k": "v"}
    assert steps["transit_decrypt"]["data"]["plaintext"] == "dGV4dA=="
    assert len(steps) == 15


def test_the_secrets_api_speaks_its_scheme_and_no_other(process: SidecarProcess) -> None:
    """`hashicorp+kv2://…`, in answers, decisions and the audit; OpenBao's scheme is another store's."""
    uri = "hashicorp+kv2://secret/hashicorp/api"

    def ask(method: str, path: str, body: Any = None, **query: str) -> requests.Response:
        bearer = {"Authorization": f"Bearer {process.issuer.token(sub='hashicorp-api')}"}
        url = f"{process.url}/api/secrets{path}"
        return requests.request(method, url, params=query, json=body, headers=bearer, timeout=30)

    written = ask("POST", "", {"uri": f"{uri}#k", "value": "v"})
    assert (written.status_code, written.json()["uri"]) == (201, f"{uri}#k")
    assert ask("POST", "/rotate", {"uri": f"{uri}#k", "generate": {"length": 12}}).json()["previous_version"] == 1
    assert ask("GET", "/value", uri="HashiCorp://secret/hashicorp/api", version="1").json()["value"] == {"k": "v"}
    assert ask("GET", "/metadata/detail", uri=uri).json()["created_by"] == "hashicorp-api"
    assert ask("POST", "/copy", {"fromUri": uri, "toUri": "hashicorp+kv1://kv1/hashicorp-copy"}).ok
    listed = ask("GET", "/metadata", prefix="hashicorp+kv2://secret/hashicorp/a").json()["items"]
    assert listed == [{"uri": uri}]
    assert ask("GET", "/metadata", prefix="hashicorp+kv2://secret/nothing/").json() == {"items": [], "next": None}
    assert ask("POST", "/rotate", {"uri": "hashicorp+transit://transit/hashicorp"}).ok
    for other in (uri.replace("hashicorp+", "openbao+"), uri.replace("hashicorp+", "vault+")):
        refused = ask("GET", "/value", uri=other)
        assert (refused.status_code, refused.json()["code"]) == (400, "INVALID_URI"), refused.text
    ref = ResourceRefs("acme", SALT.encode()).of(parse(f"{uri}#k")).resource_ref
    rotated = [each for each in process.records() if each["event"] == "SECRET_ROTATED"]
    assert rotated[0]["resource_ref"] == ref
