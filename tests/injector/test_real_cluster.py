"""Pods as a real API server lets them in, with its own defaulting, validation and admission around the injector.

Their shapes are made up to hold what pods may have (`shapes.py`), and taken from public charts as these render with
their own values (`public_pods.json`: cert-manager, external-dns, external-secrets, kyverno, metrics-server, Argo CD,
the Prometheus operator, all Apache-2.0; the service account alone is changed, to one that is there).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import requests

from tests.injector.difference import assert_only_added
from tests.injector.making import NAMESPACE, Tree, pod, sidecar_of, variables
from tests.injector.shapes import SHAPES
from tests.real.injector import Cluster
from tests.real.kube import BUILD_TIMEOUT

pytestmark = [pytest.mark.real, pytest.mark.timeout(BUILD_TIMEOUT)]

PUBLIC: Final[dict[str, Tree]] = json.loads(Path(__file__).with_name("public_pods.json").read_text())
PLAIN = "plain"
"""A namespace without the label."""


@pytest.fixture(scope="module")
def plain(cluster: Cluster) -> str:
    cluster.namespace(PLAIN, injected=False)
    return PLAIN


def tried(cluster: Cluster, tree: Tree, namespace: str = NAMESPACE) -> Tree:
    """What the API server would make of it (a dry run, which asks the webhooks all the same)."""
    made: Tree = asked(cluster, tree, namespace).json()
    assert made.get("kind") == "Pod", made
    return made


def asked(cluster: Cluster, tree: Tree, namespace: str = NAMESPACE) -> requests.Response:
    tree = copy.deepcopy(tree)
    tree["metadata"].pop("namespace", None)
    return cluster.kube.answer("POST", f"/api/v1/namespaces/{namespace}/pods?dryRun=All", tree)


def refused(cluster: Cluster, tree: Tree) -> str:
    answer = asked(cluster, tree)
    assert answer.status_code in (400, 403), answer.text
    return str(answer.json()["message"])


def again(made: Mapping[str, Any]) -> Tree:
    """A pod as it came back, as somebody would post it once more."""
    metadata = {key: made["metadata"][key] for key in ("name", "labels", "annotations") if key in made["metadata"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": copy.deepcopy(made["spec"])}


WISHES: dict[str, dict[str, str]] = {
    "as it is": {},
    "by socket": {"listen": "unix", "vault_agent_addr": "true", "override_vault_addr": "true"},
    "with all there is": {
        "tenant_id": "acme",
        "allowed_mounts": "team/kv",
        "role": "batch",
        "config": "sidecar-quiet",
        "pod_identity": "false",
        "spool_volume": "audit",
        "cpu_request": "0.1",
        "cpu_limit": "1500m",
        "memory_request": "0.125Gi",
        "memory_limit": "1024Mi",
        "log_level": "debug",
    },
}


@pytest.mark.parametrize("wishes", WISHES.values(), ids=WISHES.keys())
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_a_pod_of_any_shape_is_let_in_with_nothing_but_additions(
    cluster: Cluster, plain: str, shape: Tree, wishes: dict[str, str]
) -> None:
    only_gains(cluster, plain, pod(shape, **wishes), overridden="override_vault_addr" in wishes)


@pytest.mark.parametrize("spec", PUBLIC.values(), ids=PUBLIC.keys())
def test_a_pod_of_a_public_chart_is_let_in_with_nothing_but_additions(cluster: Cluster, plain: str, spec: Tree) -> None:
    only_gains(cluster, plain, pod(spec))


def only_gains(cluster: Cluster, plain: str, wanted: Tree, *, overridden: bool = False) -> None:
    """Let in twice, as it is and as it came back, with a sidecar and otherwise as it is let in without."""
    before, after = tried(cluster, wanted, plain), tried(cluster, wanted)
    assert_only_added(before["spec"], after["spec"], overridden=overridden)
    assert sidecar_of(after)["restartPolicy"] == "Always"
    once_more = tried(cluster, again(after))
    assert once_more["spec"] == after["spec"]
    assert once_more["metadata"]["annotations"] == after["metadata"]["annotations"]


def test_a_pod_that_is_made_is_led_to_its_sidecar(cluster: Cluster) -> None:
    tree = pod()
    tree["metadata"] = {"generateName": "app-", "annotations": tree["metadata"]["annotations"]}
    made = cluster.kube.call("POST", f"/api/v1/namespaces/{NAMESPACE}/pods", tree)
    assert variables(made["spec"]["containers"][0])["VAULT_ADDR"] == "http://127.0.0.1:8200"
    assert made["metadata"]["annotations"]["openbao-sidecar.io/status"] == "injected"


def test_a_warning_reaches_who_asked(cluster: Cluster) -> None:
    spec = {"containers": [{"name": "app", "image": "a", "env": [{"name": "VAULT_ADDR", "value": "https://v"}]}]}
    assert "keeps its own VAULT_ADDR" in asked(cluster, pod(spec)).headers["Warning"]


def test_a_bad_annotation_is_told_by_name(cluster: Cluster) -> None:
    message = refused(cluster, pod(memory_limit="128m"))
    assert "openbao-sidecar.io/memory-limit" in message
    assert "64Mi" in message
