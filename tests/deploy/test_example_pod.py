"""The plain manifests of deploy/k8s/examples: valid, and what the chart would have made."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from sidecar.config import load
from sidecar.decision.cedar import CedarPdp
from tests.deploy.pod import config_file, config_tree, environment, of_kind, pod_spec
from tests.deploy.schemas import assert_valid
from tests.deploy.values import CHART, EXAMPLES
from tests.real.helm import BUILD_TIMEOUT, Helm

HELMS: Final = ("helm.sh/chart", "app.kubernetes.io/managed-by", "app.kubernetes.io/version")
KINDS: Final = ("ServiceAccount", "ConfigMap", "NetworkPolicy")


def plain() -> list[dict[str, Any]]:
    """The manifests of pod.yaml."""
    return list(yaml.safe_load_all((EXAMPLES / "pod.yaml").read_text()))


def bare(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest without what only Helm adds, and with its configuration as a tree."""
    found: dict[str, Any] = copy.deepcopy(dict(manifest))
    metadata = found["metadata"]
    metadata.pop("namespace", None)
    metadata.pop("labels", None)
    if "config.yaml" in found.get("data", {}):
        found["data"]["config.yaml"] = yaml.safe_load(found["data"]["config.yaml"])
    return found


def test_every_manifest_is_valid_kubernetes() -> None:
    for manifest in plain():
        assert_valid(manifest)


def test_the_sidecar_takes_its_configuration_and_its_policies(tmp_path: Path) -> None:
    config = load(config_file(plain(), tmp_path), environment(plain()))
    assert config.tenant.allowed_mounts == ["secret"]
    assert CedarPdp(config.authorization.cedar).warnings == ()


@pytest.mark.real
@pytest.mark.timeout(BUILD_TIMEOUT)
def test_the_chart_makes_the_same_of_the_values_beside_it(helm: Helm) -> None:
    rendered = helm.template(CHART, yaml.safe_load((EXAMPLES / "values.yaml").read_text()))
    assert pod_spec(plain()) == pod_spec(rendered)
    assert config_tree(plain()) == config_tree(rendered)
    for kind in KINDS:
        assert [*map(bare, of_kind(plain(), kind))] == [*map(bare, of_kind(rendered, kind))]
    (pod,), (deployment,) = of_kind(plain(), "Pod"), of_kind(rendered, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert pod["metadata"]["labels"] == {name: text for name, text in labels.items() if name not in HELMS}
