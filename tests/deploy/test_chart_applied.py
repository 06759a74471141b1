"""The rendered chart before those who read it: a real API server, which lets every object in by server-side apply, and
kubeconform with Kubernetes' schemas."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings

from tests.deploy.pod import of_kind
from tests.deploy.random_values import random_values
from tests.deploy.values import BUILT, CHART, GATEWAYS, INJECTORS, values
from tests.real.crds import definitions
from tests.real.helm import BUILD_TIMEOUT as HELM_TIMEOUT
from tests.real.helm import Helm, HelmRefused
from tests.real.kube import BUILD_TIMEOUT, KubeApi
from tests.real.kubeconform import Kubeconform

pytestmark = [pytest.mark.real, pytest.mark.timeout(BUILD_TIMEOUT + HELM_TIMEOUT)]

NAMESPACE: Final = "chart-applied"
OPENBAO: Final = "openbao"
CASES: Final = BUILT | GATEWAYS | INJECTORS
Manifests = list[dict[str, Any]]


@pytest.fixture(scope="module")
def cluster(kube: KubeApi) -> KubeApi:
    """The shared API server with the definitions of others' resources, and namespaces in which nothing is let in that
    Pod Security's `restricted` does not allow."""
    for definition in definitions():
        kube.apply(definition)
        kube.wait_until_served(definition["spec"])
    restricted = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    for name in (NAMESPACE, OPENBAO):
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": restricted}}
        kube.apply(namespace)
    return kube


@pytest.fixture(scope="module")
def conforming(tmp_path_factory: pytest.TempPathFactory) -> Kubeconform:
    """kubeconform with its schemas."""
    return Kubeconform(tmp_path_factory.mktemp("schemas"))


def rendered(helm: Helm, given_values: dict[str, Any]) -> Manifests:
    """The manifests; a policy for OpenBao's namespace goes to one that is there."""
    manifests = helm.template(CHART, given_values, "--namespace", NAMESPACE)
    for manifest in manifests:
        if manifest["metadata"].get("namespace", NAMESPACE) != NAMESPACE:
            manifest["metadata"]["namespace"] = OPENBAO
    return manifests


def pods(manifests: Manifests) -> Manifests:
    """A pod of each Deployment, as its controller would make it."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "of-it",
                "namespace": NAMESPACE,
                "labels": one["spec"]["template"]["metadata"]["labels"],
            },
            "spec": one["spec"]["template"]["spec"],
        }
        for one in of_kind(manifests, "Deployment")
    ]


def test_every_case_is_taken_by_the_api_server_and_by_kubeconform(
    helm: Helm, cluster: KubeApi, conforming: Kubeconform, tmp_path: Path
) -> None:
    every: Manifests = []
    for name, changes in CASES.items():
        more = (
            {"monitoring.rules": True, "monitoring.dashboard": True} if name in ("least", "gateway", "injector") else {}
        )
        manifests = rendered(helm, values(changes | more))
        every += manifests
        for manifest in manifests + pods(manifests):
            cluster.apply(manifest, dry_run=True)
    assert {"PrometheusRule", "ServiceMonitor", "PodMonitor", "Certificate", "Issuer"} <= {one["kind"] for one in every}
    assert conforming.check(every, tmp_path) == ""


def test_fifty_random_valid_values_give_valid_manifests(
    helm: Helm, cluster: KubeApi, conforming: Kubeconform, tmp_path: Path
) -> None:
    kept: list[Manifests] = []

    # Not made smaller where one fails: that would take minutes, and a case with eight changes is small.
    @settings(
        max_examples=50,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(random_values())
    def take(given_values: dict[str, Any]) -> None:
        try:
            manifests = rendered(helm, given_values)
        except HelmRefused as refused:
            if "problem(s) in the values" not in str(refused):
                raise  # a fault of schema or template
            assume(False)  # valid one by one and not together: said with key and remedy
        for manifest in manifests + pods(manifests):
            cluster.apply(manifest, dry_run=True)
        kept.append(manifests)

    take()
    assert len(kept) >= 50
    assert conforming.check([manifest for manifests in kept for manifest in manifests], tmp_path) == ""


def test_what_is_wrong_is_found_by_both(cluster: KubeApi, conforming: Kubeconform, tmp_path: Path) -> None:
    metadata = {"name": "wrong", "namespace": NAMESPACE}
    wrong = [
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"port": [{"port": 1}]}},
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PodMonitor",
            "metadata": metadata,
            "spec": {"selector": {}, "podMetricsEndpoint": []},
        },
    ]
    for number, manifest in enumerate(wrong):
        (tmp_path / str(number)).mkdir()
        assert "wrong" in conforming.check([manifest], tmp_path / str(number))
        with pytest.raises(AssertionError, match="wrong"):
            cluster.apply(manifest, dry_run=True)
    privileged = {"containers": [{"name": "a", "image": "a", "securityContext": {"privileged": True}}]}
    with pytest.raises(AssertionError, match="violates PodSecurity"):
        cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": privileged}, dry_run=True)
