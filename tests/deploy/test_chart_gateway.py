"""The chart's gateway: the same program as a Deployment of its own. That two replicas with one store take a proof
once is held by tests/e2e/test_replicas.py, with real processes."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from sidecar.app import DRAIN_SECONDS
from sidecar.config import Config, load
from tests.deploy.pod import config_file, config_tree, environment, of_kind, pod_spec, sidecar_container
from tests.deploy.schemas import assert_valid
from tests.deploy.values import CHART, GATEWAY, GATEWAYS, values
from tests.real.helm import BUILD_TIMEOUT, Helm, HelmRefused

pytestmark = [pytest.mark.real, pytest.mark.timeout(BUILD_TIMEOUT)]


@functools.cache
def rendered(helm: Helm, case: str) -> list[dict[str, Any]]:
    """The manifests of a case; nobody changes them."""
    return helm.template(CHART, values(GATEWAYS[case]))


def loaded(manifests: list[dict[str, Any]], root: Path) -> Config:
    """The rendered configuration, read by the sidecar from where the pod would have it."""
    return load(config_file(manifests, root), environment(manifests))


# -- every case ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", GATEWAYS)
def test_every_manifest_is_valid_kubernetes_and_lint_has_nothing_to_say(helm: Helm, case: str) -> None:
    for manifest in rendered(helm, case):
        assert_valid(manifest)
    assert "1 chart(s) linted, 0 chart(s) failed" in helm.lint(CHART, values(GATEWAYS[case]))


@pytest.mark.parametrize("case", GATEWAYS)
def test_the_sidecar_takes_the_rendered_configuration(helm: Helm, case: str, tmp_path: Path) -> None:
    config = loaded(rendered(helm, case), tmp_path)
    assert config.listen.address.endswith(":8200")
    assert config.listen.tls.cert_file is not None
    assert config.listen.public_urls == ["https://secrets.acme.example"]
    assert config.anti_replay.store.startswith("valkeys://")
    assert not config.identity.pod.enabled


@pytest.mark.parametrize("case", GATEWAYS)
def test_it_listens_by_tls_only_and_probes_do_not_need_it(helm: Helm, case: str) -> None:
    manifests = rendered(helm, case)
    (container,) = pod_spec(manifests)["containers"]
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {"https": 8200, "operations": 9102}
    assert config_tree(manifests)["listen"]["tls"]["key_file"] == "/run/sidecar/listener/tls.key"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == 9102
    assert "restartPolicy" not in container


# -- several replicas ------------------------------------------------------------------------------------------------
def test_replicas_are_apart_and_a_roll_out_or_a_drained_node_takes_one_at_a_time(helm: Helm) -> None:
    manifests = rendered(helm, "gateway")
    (deployment,) = of_kind(manifests, "Deployment")
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    selected = deployment["spec"]["selector"]["matchLabels"]
    assert selected["app.kubernetes.io/component"] == "gateway"
    spread = pod_spec(manifests)["topologySpreadConstraints"]
    assert {one["topologyKey"] for one in spread} == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
    assert all(one["labelSelector"]["matchLabels"] == selected for one in spread)
    (budget,) = of_kind(manifests, "PodDisruptionBudget")
    assert budget["spec"] == {"maxUnavailable": 1, "selector": {"matchLabels": selected}}
    (service,) = of_kind(manifests, "Service")
    assert service["spec"]["selector"] == selected
    assert service["spec"]["ports"] == [
        {"name": "https", "port": 443, "targetPort": "https", "protocol": "TCP", "appProtocol": "https"}
    ]


def test_an_ending_pod_serves_until_endpoints_have_learnt_of_it_and_then_drains(helm: Helm) -> None:
    manifests = helm.template(CHART, values(GATEWAY | {"gateway.lingerSeconds": 20}))
    assert sidecar_container(manifests)["lifecycle"] == {"preStop": {"sleep": {"seconds": 20}}}
    assert pod_spec(manifests)["terminationGracePeriodSeconds"] >= 20 + DRAIN_SECONDS + 5


# -- who may connect -------------------------------------------------------------------------------------------------
def test_nobody_may_connect_until_namespaces_are_named(helm: Helm) -> None:
    (policy,) = of_kind(rendered(helm, "gateway"), "NetworkPolicy")
    assert [rule["ports"][0]["port"] for rule in policy["spec"]["ingress"]] == [9102]
    assert all(rule["from"] for rule in policy["spec"]["ingress"])
    (policy,) = of_kind(helm.template(CHART, values(GATEWAY | {"ops.metrics.enabled": False})), "NetworkPolicy")
    assert policy["spec"]["ingress"] == []


def test_only_the_named_namespaces_may_connect(helm: Helm) -> None:
    manifests = rendered(helm, "gateway in a mesh")
    (policy,), (deployment,) = of_kind(manifests, "NetworkPolicy"), of_kind(manifests, "Deployment")
    (rule,) = (one for one in policy["spec"]["ingress"] if one["ports"] == [{"port": 8200, "protocol": "TCP"}])
    names = [one["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for one in rule["from"]]
    assert names == ["shop", "billing"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert labels["mesh.example/revision"] == "stable"


def test_the_service_monitor_finds_the_gateways_pods(helm: Helm) -> None:
    manifests = rendered(helm, "gateway in a mesh")
    (deployment,) = of_kind(manifests, "Deployment")
    (metrics,) = (one for one in of_kind(manifests, "Service") if one["metadata"]["name"].endswith("-metrics"))
    assert metrics["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    assert of_kind(manifests, "ServiceMonitor")


# -- what is refused -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "changes",
    [
        {"gateway.tls.secret": ""},
        {"gateway.publicUrls": []},
        {"gateway.tls.clientCert": "required"},
        {"gateway.tls.clientCaConfigMap": "ca"},
        {"ops.antiReplay.store": "memory", "ops.antiReplay.storePasswordSecret": ""},
        {"ops.antiReplay.store": "valkey://valkey:6379"},
        {"ops.kafka.bootstrapServers": ""},
        {"ops.environment": "test", "ops.api.requireAuth": False},
        {"ops.identity.pod.enabled": True},
        {"example.enabled": True},
        {"gateway.podLabels": {"app.kubernetes.io/component": "x"}},
        {"gateway.podAnnotations": {"checksum/config": "x"}},
    ],
    ids=str,
)
def test_what_weakens_or_contradicts_is_refused(helm: Helm, changes: dict[str, Any]) -> None:
    with pytest.raises(HelmRefused) as refused:
        helm.template(CHART, values(GATEWAY | changes))
    assert "1 problem(s) in the values" in str(refused.value)
    assert " → " in str(refused.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"gateway.publicUrls": ["http://secrets.example"]},
        {"gateway.publicUrls": ["https://*"]},
        {"gateway.publicUrls": ["https://secrets.example/path"]},
        {"gateway.clientNamespaces": ["*"]},
        {"gateway.clientNamespaces": [""]},
        {"gateway.replicas": 0},
        {"gateway.service.annotations": {"a": "b\u2028c"}},
        {"networkPolicy.egress": [{"cidr": "0.0.0.0/0", "ports": [443]}]},
        {"networkPolicy.egress": [{"cidr": "::/0", "ports": [443]}]},
        {"networkPolicy.egress": [{"cidr": "10.0.0.0/8", "ports": []}]},
        {"networkPolicy.egress": [{"ports": [443]}]},
        {"networkPolicy.egress": [{"namespace": "a", "cidr": "10.0.0.0/8", "ports": [443]}]},
        {"networkPolicy.egress": [{"cidr": "10.0.0.0/8", "podLabels": {"a": "b"}, "ports": [443]}]},
    ],
    ids=str,
)
def test_what_would_let_everybody_in_or_out_is_refused_by_the_schema(helm: Helm, changes: dict[str, Any]) -> None:
    with pytest.raises(HelmRefused, match="don't meet the specifications of the schema"):
        helm.template(CHART, values(GATEWAY | changes))
