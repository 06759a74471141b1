"""Who reaches whom under the chart's NetworkPolicies: not that they are valid ones, which is held elsewhere, but what
they mean."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.deploy.pod import of_kind
from tests.deploy.values import CHART, GATEWAY, INJECTOR, values
from tests.real.helm import BUILD_TIMEOUT, Helm
from tests.real.network_policies import Connection, Peer, passing

pytestmark = [pytest.mark.real, pytest.mark.timeout(BUILD_TIMEOUT)]

HOME: Final = "home"
"""The release's namespace."""
OPENBAO: Final = Peer("openbao", {"app.kubernetes.io/name": "openbao"})
PROMETHEUS: Final = Peer("monitoring", {"app.kubernetes.io/name": "prometheus"})
NAMES: Final = Peer("kube-system", {"k8s-app": "kube-dns"})
KAFKA: Final = Peer("kafka", {"app": "kafka"})
SHOP: Final = Peer("shop", {"app": "web"})
STRANGER: Final = Peer("elsewhere", {"app": "web"})
NEIGHBOUR: Final = Peer(HOME, {"app": "web"})
LABELLED: Final = Peer("team-a", {"app": "web"}, {"openbao-sidecar.io/injection": "enabled"})
API_SERVER: Final = Peer(address="10.1.0.9")
INTERNET: Final = Peer(address="198.51.100.7")

Expected = dict[Connection, bool]


def component(manifests: list[dict[str, Any]], namespace: str = HOME) -> Peer:
    """A pod of the chart's Deployment, by its labels; in another namespace a pod that has the same ones."""
    (deployment,) = of_kind(manifests, "Deployment")
    return Peer(namespace, deployment["spec"]["template"]["metadata"]["labels"])


def hold(manifests: list[dict[str, Any]], expected: Expected) -> None:
    """What passes is what is expected, and would all pass without the policies."""
    policies = of_kind(manifests, "NetworkPolicy")
    found = passing(policies, [*expected])
    assert {one: passes for one, passes in zip(expected, found, strict=True) if passes is not expected[one]} == {}
    assert all(passing([], [*expected]))


def test_a_gateway_alone_reaches_openbao_and_only_its_clients_reach_the_gateway(helm: Helm) -> None:
    changes = GATEWAY | {
        "gateway.clientNamespaces": ["shop"],
        "networkPolicy.openbao.namespace": "openbao",
        "networkPolicy.egress": [
            {"namespace": "openbao", "podLabels": dict(OPENBAO.labels), "ports": [8200]},
            {"namespace": "kafka", "ports": [9093]},
        ],
    }
    manifests = helm.template(CHART, values(changes), "--namespace", HOME)
    gateway, impostor = component(manifests), component(manifests, "elsewhere")
    hold(
        manifests,
        {
            Connection(gateway, OPENBAO, 8200): True,
            Connection(gateway, OPENBAO, 8201): False,
            Connection(OPENBAO, OPENBAO, 8201): True,
            Connection(SHOP, OPENBAO, 8200): False,
            Connection(NEIGHBOUR, OPENBAO, 8200): False,
            Connection(impostor, OPENBAO, 8200): False,
            Connection(LABELLED, OPENBAO, 8200): False,
            Connection(PROMETHEUS, OPENBAO, 8200): False,
            Connection(INTERNET, OPENBAO, 8200): False,
            Connection(SHOP, gateway, 8200): True,
            Connection(SHOP, gateway, 9102): False,
            Connection(STRANGER, gateway, 8200): False,
            Connection(NEIGHBOUR, gateway, 8200): False,
            Connection(OPENBAO, gateway, 8200): False,
            Connection(INTERNET, gateway, 8200): False,
            Connection(PROMETHEUS, gateway, 9102): True,
            Connection(PROMETHEUS, gateway, 8200): False,
            Connection(STRANGER, gateway, 9102): False,
            Connection(gateway, KAFKA, 9093): True,
            Connection(gateway, KAFKA, 22): False,
            Connection(gateway, NAMES, 53, "UDP"): True,
            Connection(gateway, STRANGER, 8200): False,
            Connection(gateway, INTERNET, 443): False,
        },
    )


def test_beside_an_application_only_prometheus_comes_in(helm: Helm) -> None:
    changes = {"networkPolicy.openbao.namespace": "openbao", "networkPolicy.openbao.alsoFrom": ["elsewhere"]}
    manifests = helm.template(CHART, values(changes), "--namespace", HOME)
    pod = component(manifests)
    hold(
        manifests,
        {
            Connection(PROMETHEUS, pod, 9102): True,
            Connection(PROMETHEUS, pod, 8200): False,
            Connection(NEIGHBOUR, pod, 9102): False,
            Connection(NEIGHBOUR, pod, 8200): False,
            Connection(pod, OPENBAO, 8200): True,
            Connection(pod, INTERNET, 443): True,
            Connection(NEIGHBOUR, OPENBAO, 8200): False,
            Connection(STRANGER, OPENBAO, 8200): True,
            Connection(STRANGER, OPENBAO, 8201): False,
        },
    )


@pytest.mark.parametrize("named", [True, False], ids=["by the API server's address", "where that is not known"])
def test_the_injector_is_called_by_the_api_server_and_calls_nobody_else(helm: Helm, named: bool) -> None:
    changes = INJECTOR | {"networkPolicy.openbao.namespace": "openbao"}
    changes |= {"injector.apiServerCidrs": ["10.1.0.0/24"]} if named else {}
    manifests = helm.template(CHART, values(changes), "--namespace", HOME)
    injector = component(manifests)
    hold(
        manifests,
        {
            Connection(API_SERVER, injector, 8443): True,
            Connection(API_SERVER, injector, 9102): False,
            Connection(INTERNET, injector, 8443): not named,
            Connection(LABELLED, injector, 8443): not named,
            Connection(NEIGHBOUR, injector, 8443): not named,
            Connection(NEIGHBOUR, injector, 9102): False,
            Connection(PROMETHEUS, injector, 9102): True,
            Connection(injector, API_SERVER, 6443): True,
            Connection(injector, API_SERVER, 22): False,
            Connection(injector, INTERNET, 443): not named,
            Connection(injector, OPENBAO, 8200): False,
            Connection(injector, NAMES, 53, "UDP"): False,
            Connection(LABELLED, OPENBAO, 8200): True,
            Connection(LABELLED, OPENBAO, 8201): False,
            Connection(STRANGER, OPENBAO, 8200): False,
            Connection(NEIGHBOUR, OPENBAO, 8200): False,
        },
    )


def test_an_injector_that_speaks_to_nobody_may_speak_to_nobody(helm: Helm) -> None:
    changes = INJECTOR | {"injector.certificates.by": "cert-manager", "injector.nativeSidecars": "always"}
    manifests = helm.template(CHART, values(changes), "--namespace", HOME)
    injector = component(manifests)
    everybody = {Connection(injector, one, port): False for one in (API_SERVER, OPENBAO, NAMES) for port in (443, 53)}
    hold(manifests, everybody | {Connection(API_SERVER, injector, 8443): True})
