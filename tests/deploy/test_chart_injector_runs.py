"""The chart's injector as it is installed: its objects in a real API server, and a real injector that reads the
rendered configuration and has no other rights than the rendered ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest
import requests
import yaml

from tests.deploy.pod import of_kind
from tests.deploy.values import CHART, INJECTOR, values
from tests.injector.making import pod, sidecar_of
from tests.real.helm import BUILD_TIMEOUT as HELM_TIMEOUT
from tests.real.helm import Helm
from tests.real.injector import ADMISSION, InjectorProcess
from tests.real.kube import BUILD_TIMEOUT, KubeApi

pytestmark = [pytest.mark.real, pytest.mark.timeout(BUILD_TIMEOUT + HELM_TIMEOUT)]

NAMESPACE: Final = "chart-injector"
TEAM: Final = "chart-injected"
NAME: Final = "openbao-sidecar-injector"
KINDS: Final = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")


class Installed:
    """The release in the cluster, and its injector beside it."""

    def __init__(self, kube: KubeApi, manifests: list[dict[str, Any]], injector: InjectorProcess) -> None:
        self.kube = kube
        self.manifests = manifests
        self.injector = injector
        (registration,) = {one["metadata"]["name"] for kind in KINDS for one in of_kind(manifests, kind)}
        self.registration = registration

    def install(self) -> None:
        """As Helm does it, and does it again on an upgrade."""
        for manifest in self.manifests:
            self.kube.apply(manifest)

    def bundles(self) -> set[str | None]:
        """What the API server trusts the webhooks by."""
        return {
            webhook["clientConfig"].get("caBundle")
            for kind in KINDS
            for webhook in self.kube.call("GET", f"{ADMISSION}/{kind.lower()}s/{self.registration}")["webhooks"]
        }

    def as_injector(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> int:
        """The status of a call under the injector's own account."""
        headers = {"Authorization": f"Bearer {self.kube.token(*self.injector.account)}", "Content-Type": content_type}
        answer = requests.request(
            method,
            f"{self.kube.address}{path}",
            json=body,
            headers=headers,
            verify=str(self.kube.ca_file),
            timeout=30,
        )
        return answer.status_code


@pytest.fixture(scope="module")
def installed(kube: KubeApi, helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """Two things differ from what is rendered, since there is no kube-proxy: the Service leads to this machine, and the
    webhooks' port is the process's own."""
    allowed = {TEAM: {"configs": ["sidecar-config"], "policiesConfigMap": "sidecar-policies"}}
    manifests = helm.template(CHART, values(INJECTOR | {"injector.namespaces": allowed}), "--namespace", NAMESPACE)
    injector = InjectorProcess(tmp_path_factory.mktemp("chart-injector"), kube, {}, {})
    (config,) = of_kind(manifests, "ConfigMap")
    rendered = yaml.safe_load(config["data"]["config.yaml"])
    made = rendered["self_made"] | {"folder": injector.config["self_made"]["folder"]}
    addresses = {key: injector.config[key] for key in ("listen", "ops", "api_server")}
    injector.config = rendered | addresses | {"self_made": made}
    injector.account = (NAME, NAMESPACE)
    (service,) = map(dict, of_kind(manifests, "Service"))
    manifests = [one for one in manifests if one["kind"] != "Service"] + [service]
    service["spec"] = {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": injector.port}]}
    for kind in KINDS:
        (registration,) = of_kind(manifests, kind)
        registration["webhooks"][0]["clientConfig"]["service"]["port"] = injector.port
    found = Installed(kube, manifests, injector)
    for name, labels in ((NAMESPACE, {}), (TEAM, {"openbao-sidecar.io/injection": "enabled"})):
        kube.call("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    found.install()
    try:
        yield found
    finally:
        injector.stop()
        for kind in KINDS:
            kube.call("DELETE", f"{ADMISSION}/{kind.lower()}s/{found.registration}")


def test_until_the_injector_is_there_no_pod_is_made_and_then_each_has_its_sidecar(installed: Installed) -> None:
    path, asked = f"/api/v1/namespaces/{TEAM}/pods", pod({"serviceAccountName": "default"})
    asked["metadata"]["namespace"] = TEAM
    refused = installed.kube.answer("POST", path, asked)
    assert refused.status_code == 500
    assert "failed calling webhook" in refused.text
    installed.injector.start()
    assert None not in installed.bundles()
    made = installed.kube.call("POST", path, asked)
    assert sidecar_of(made)["image"] == "openbao-sidecar:0.1.0"
    assert made["metadata"]["annotations"]["openbao-sidecar.io/status"] == "injected"
    untouched = pod(inject=None)
    untouched["metadata"]["namespace"] = NAMESPACE
    made = installed.kube.call("POST", f"/api/v1/namespaces/{NAMESPACE}/pods", untouched)
    assert "initContainers" not in made["spec"]


@pytest.fixture
def running(installed: Installed) -> Installed:
    """The same with its injector started."""
    if installed.injector.process is None:
        installed.injector.start()
    return installed


def test_an_upgrade_keeps_certificate_and_bundle(running: Installed) -> None:
    secret = f"/api/v1/namespaces/{NAMESPACE}/secrets/{NAME}-tls"
    before = (running.kube.call("GET", secret)["data"], running.bundles())
    running.install()
    assert (running.kube.call("GET", secret)["data"], running.bundles()) == before


def test_its_account_may_nothing_else(running: Installed) -> None:
    secrets = f"/api/v1/namespaces/{NAMESPACE}/secrets"
    other = {"metadata": {"name": "other"}}
    running.kube.call("POST", secrets, other)
    patch = [{"op": "add", "path": "/metadata/labels", "value": {}}]
    may = running.as_injector
    assert may("GET", f"{secrets}/{NAME}-tls") == 200
    assert may("GET", f"{ADMISSION}/mutatingwebhookconfigurations/{running.registration}") == 200
    assert may("GET", f"{secrets}/other") == 403
    assert may("GET", secrets) == 403
    assert may("POST", secrets, {"metadata": {"name": "more"}}) == 403
    assert may("DELETE", f"{secrets}/{NAME}-tls") == 403
    assert may("GET", f"{ADMISSION}/mutatingwebhookconfigurations") == 403
    assert may("DELETE", f"{ADMISSION}/mutatingwebhookconfigurations/{running.registration}") == 403
    assert may("PATCH", f"{ADMISSION}/mutatingwebhookconfigurations/x", patch, "application/json-patch+json") == 403
    assert may("GET", f"/api/v1/namespaces/{TEAM}/pods") == 403
    assert may("POST", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{NAME}/token", {"spec": {}}) == 403
