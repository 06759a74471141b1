"""The real injector as a process of its own, registered with a real API server as its manifests would do it.

The API server calls it by a Service, whose name its self-made certificate has, and which leads to loopback; it speaks
to the API server under a service account that may do no more than its Role says.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
import requests
import yaml

from sidecar.dev import leash
from sidecar.dev.ports import LOOPBACK, free_port
from sidecar.dev.processes import child_environment
from tests.injector.making import config
from tests.real.go_tools import cached_go_tool
from tests.real.kube import KUBE_APISERVER, KubeApi
from tests.real.processes import ended

READY_SECONDS: Final = 30.0
NAMESPACE: Final = "openbao-sidecar"
LABEL: Final = "openbao-sidecar.io/injection"
SERVICE: Final = "injector"
SECRET: Final = "injector-tls"
REGISTRATION: Final = "openbao-sidecar"
ADMISSION: Final = "/apis/admissionregistration.k8s.io/v1"
RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"

_POLL_SECONDS: Final = 0.05
_PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "injector.md"
(HAS_A_SAY,) = re.findall(r"```cel\n(.*?)```", _PAGE.read_text(encoding="utf-8"), re.DOTALL)
"""Where the injector is asked about changes, as its page says."""


class InjectorProcess:
    """One running injector. `sidecar` and `namespaces` are sections of its configuration."""

    def __init__(
        self, folder: Path, kube: KubeApi, sidecar: Mapping[str, Any], namespaces: Mapping[str, Any], **more: Any
    ) -> None:
        self.folder = folder
        self.kube = kube
        self.port, self.ops_port = free_port(), free_port()
        self.log = folder / "injector.log"
        self.config_file = folder / "injector.yaml"
        self.process: subprocess.Popen[bytes] | None = None
        self.account = (SERVICE, NAMESPACE)
        folder.mkdir(parents=True, exist_ok=True)
        self.config: dict[str, Any] = {
            "listen": {"address": f"{LOOPBACK}:{self.port}"},
            "ops": {"address": f"{LOOPBACK}:{self.ops_port}"},
            "namespace": NAMESPACE,
            "api_server": {
                "address": kube.address,
                "ca_file": str(kube.ca_file),
                "token_file": str(folder / "token"),
            },
            "self_made": {
                "secret": SECRET,
                "service": SERVICE,
                "mutating_webhook": REGISTRATION,
                "validating_webhook": REGISTRATION,
                "folder": str(folder / "tls"),
            },
            "sidecar": dict(sidecar),
            "namespaces": dict(namespaces),
            **more,
        }

    def start(self) -> None:
        """Starts it and waits until it is ready."""
        (self.folder / "token").write_text(self.kube.token(*self.account))
        self.config_file.write_text(yaml.safe_dump(self.config))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", str(leash.__file__), str(os.getpid())),
                    *(sys.executable, "-I", "-u", "-m", "sidecar"),
                    *("injector", "serve", "--config", str(self.config_file)),
                ],
                env=child_environment(),
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + READY_SECONDS
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                text = self.log.read_text(errors="replace")
                self.stop()
                pytest.fail(f"the injector did not become ready:\n{text}")
            time.sleep(_POLL_SECONDS)

    def is_ready(self) -> bool:
        """What /readyz says."""
        with suppress(requests.RequestException):
            return self.operations("/readyz").status_code == 200
        return False

    def operations(self, path: str) -> requests.Response:
        """One GET of the operations listener."""
        return requests.get(f"http://{LOOPBACK}:{self.ops_port}{path}", timeout=5)

    def stop(self) -> int:
        """Ends it; its exit status."""
        process, self.process = self.process, None
        return ended(process, patience=30) if process is not None else 0


def register(kube: KubeApi, port: int, failure_policy: str = "Fail") -> None:
    """What an operator installs beside the injector's Deployment: its account with its rights, its Service, an empty
    Secret, and the registrations, whose `caBundle` it fills in itself."""
    namespace(kube, NAMESPACE)
    kube.service_account(SERVICE, NAMESPACE)
    kube.call("POST", f"/api/v1/namespaces/{NAMESPACE}/secrets", {"metadata": {"name": SECRET}, "type": "Opaque"})
    spec = {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]}
    kube.call("POST", f"/api/v1/namespaces/{NAMESPACE}/services", {"metadata": {"name": SERVICE}, "spec": spec})
    _grant(kube)
    for kind, path in (("mutatingwebhookconfigurations", "/mutate"), ("validatingwebhookconfigurations", "/validate")):
        kube.call("POST", f"{ADMISSION}/{kind}", registration(kind, path, port, failure_policy))


def unregister(kube: KubeApi) -> None:
    """Takes the registrations away."""
    for kind in ("mutatingwebhookconfigurations", "validatingwebhookconfigurations"):
        kube.call("DELETE", f"{ADMISSION}/{kind}/{REGISTRATION}")


def registration(kind: str, path: str, port: int, failure_policy: str) -> dict[str, Any]:
    """As docs/reference/injector.md has it."""
    mutating = kind.startswith("mutating")
    rules: list[dict[str, Any]] = [{"operations": ["CREATE"], "resources": ["pods"]}]
    if not mutating:
        rules += [
            {"operations": ["UPDATE"], "resources": ["pods", "pods/ephemeralcontainers"]},
            {"operations": ["CONNECT"], "resources": ["pods/exec", "pods/attach", "pods/portforward"]},
        ]
    excluded = {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system", NAMESPACE]}
    webhook: dict[str, Any] = {
        "name": f"{kind[: -len('webhookconfigurations')]}.openbao-sidecar.io",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": failure_policy,
        "matchPolicy": "Equivalent",
        "timeoutSeconds": 10,
        "namespaceSelector": {"matchLabels": {LABEL: "enabled"}, "matchExpressions": [excluded]},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "scope": "Namespaced"} | rule for rule in rules],
        "clientConfig": {"service": {"name": SERVICE, "namespace": NAMESPACE, "path": path, "port": port}},
    }
    if mutating:
        webhook["reinvocationPolicy"] = "IfNeeded"
    else:
        webhook["matchConditions"] = [{"name": "has-a-say", "expression": HAS_A_SAY}]
    return {"metadata": {"name": REGISTRATION}, "webhooks": [webhook]}


def namespace(kube: KubeApi, name: str, **labels: str) -> None:
    """Makes a namespace."""
    kube.call("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})


def _grant(kube: KubeApi) -> None:
    """All that the injector may do."""
    role = {
        "metadata": {"name": SERVICE},
        "rules": [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": [SECRET], "verbs": ["get", "update"]}],
    }
    cluster_role = {
        "metadata": {"name": f"{NAMESPACE}-{SERVICE}"},
        "rules": [
            {
                "apiGroups": ["admissionregistration.k8s.io"],
                "resources": ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"],
                "resourceNames": [REGISTRATION],
                "verbs": ["get", "patch"],
            }
        ],
    }
    subjects = [{"kind": "ServiceAccount", "name": SERVICE, "namespace": NAMESPACE}]
    for path, kind, made in (
        (f"{RBAC}/namespaces/{NAMESPACE}/role", "Role", role),
        (f"{RBAC}/clusterrole", "ClusterRole", cluster_role),
    ):
        kube.call("POST", f"{path}s", made)
        name = made["metadata"]["name"]  # type: ignore[index]
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
        kube.call("POST", f"{path}bindings", {"metadata": {"name": name}, "roleRef": reference, "subjects": subjects})


OF_THE_OPERATOR: Final[dict[str, Any]] = {
    "env": [
        {"name": "SIDECAR__OPS__OTLP_ENDPOINT", "value": ""},
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
        {"name": "USERNAME", "valueFrom": {"secretKeyRef": {"name": "kafka", "key": "username"}}},
    ],
    "trust": [{"secret": {"name": "kafka", "items": [{"key": "ca.crt", "path": "kafka.crt"}]}}],
    "secrets": [
        {"serviceAccountToken": {"audience": "pdp", "path": "pdp"}},
        {"serviceAccountToken": {"audience": "", "path": "api"}},
        {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    ],
    "pinned": {"scopes": {"enforce": True}},
}
"""What operators add, with fields to which the API server adds defaults."""


# -- a cluster with both ---------------------------------------------------------------------------------------------
class Cluster:
    """A real API server that gives pods their accounts' tokens, with a real injector beside it."""

    def __init__(self, kube: KubeApi, injector: InjectorProcess) -> None:
        self.kube = kube
        self.injector = injector

    def namespace(self, name: str, *, injected: bool = True) -> None:
        """A namespace with its default account."""
        namespace(self.kube, name, **({LABEL: "enabled"} if injected else {}))
        self.kube.service_account("default", name)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """An API server of its own: what it lets in depends on the injector, whose namespaces are those of
    `tests.injector.making.config`. Tests carry `pytest.mark.timeout(BUILD_TIMEOUT)`, as for `kube`."""
    capture: Any = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        binary = cached_go_tool(KUBE_APISERVER)
    with KubeApi(tmp_path_factory.mktemp("injected"), binary, service_accounts=True) as kube:
        configured = config(**OF_THE_OPERATOR).model_dump(mode="json")
        folder = tmp_path_factory.mktemp("injector")
        injector = InjectorProcess(folder, kube, configured["sidecar"], configured["namespaces"])
        register(kube, injector.port)
        injector.start()
        made = Cluster(kube, injector)
        for name in configured["namespaces"]:
            made.namespace(name)
        try:
            yield made
        finally:
            injector.stop()
