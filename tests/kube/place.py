"""A namespace of the cluster with the chart in it, and an OpenBao that takes the pods' tokens."""

from __future__ import annotations

import copy
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.deploy.pod import SALT, of_kind
from tests.deploy.values import CHART, values
from tests.kubelet.pod import RunningPod
from tests.real.helm import Helm
from tests.real.kube import KubeApi
from tests.real.openbao import OpenBao

ACCOUNT: Final = "openbao-sidecar"
"""The chart's service account, which its pods have."""
AUDIENCE: Final = "openbao"
APPLICATION: Final = Path(__file__).with_name("application.py")
IMAGES: Final = {
    "openbao-sidecar:0.1.0": (sys.executable, "-I", "-u", "-m", "sidecar"),
}
_RULES: Final = """
path "secret/data/app/*"      { capabilities = ["read", "create", "update"] }
path "sys/mounts"             { capabilities = ["read"] }
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self"  { capabilities = ["update"] }
"""


def policy(namespace: str, account: str = ACCOUNT) -> str:
    """The pods of a namespace read what is theirs."""
    return f"""
@id("the pods of {namespace}")
@ttl_seconds("60")
@max_uses("1000000")
permit (principal == Workload::"system:serviceaccount:{namespace}:{account}", action, resource in Folder::"secret/app");
"""


class Place:
    """One namespace. OpenBao's kubernetes auth has a mount of the namespace's name, which asks the cluster."""

    def __init__(
        self, kube: KubeApi, openbao: OpenBao, folder: Path, namespace: str, account: str = ACCOUNT, **labels: str
    ) -> None:
        self.kube, self.openbao, self.folder, self.namespace, self.account = kube, openbao, folder, namespace, account
        self._numbers = itertools.count(1)
        enforced = {"pod-security.kubernetes.io/enforce": "restricted"}
        kube.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace, "labels": enforced | labels}})
        kube.service_account("reviewer", namespace)
        kube.may_review_tokens("reviewer", namespace)
        self.make("secrets", "acme-salt", stringData={"salt": SALT})
        self.make("configmaps", "cluster-ca", data={"ca.crt": kube.ca_file.read_text()})
        self.let_in()

    def let_in(self) -> None:
        """OpenBao takes this namespace's pods, by what the API server says of their tokens."""
        openbao, mount = self.openbao, self.namespace
        openbao.policy(mount, _RULES)
        openbao.enable_auth("kubernetes", mount)
        config = {
            "kubernetes_host": self.kube.address,
            "kubernetes_ca_cert": self.kube.ca_file.read_text(),
            "token_reviewer_jwt": self.kube.token("reviewer", self.namespace),
        }
        role = {
            "bound_service_account_names": [self.account],
            "bound_service_account_namespaces": [self.namespace],
            "audience": AUDIENCE,
            "token_policies": [mount],
            "token_no_default_policy": True,
            "token_period": "1h",
        }
        openbao.root().write_data(f"auth/{mount}/config", data=config)
        openbao.root().write_data(f"auth/{mount}/role/pods", data=role)

    # -- the chart ---------------------------------------------------------------------------------------------------
    def values(self, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """For pods that are callers themselves, in front of this OpenBao."""
        cluster = {
            "issuer": self.kube.issuer,
            "kind": "kubernetes",
            "jwksUri": f"{self.kube.address}/openid/v1/jwks",
            "caConfigMap": "cluster-ca",
            "tokenAudience": self.kube.issuer,
        }
        return values(
            {
                "ops.environment": "test",
                "ops.upstream.address": self.openbao.address,
                "ops.upstream.auth.method": "kubernetes",
                "ops.upstream.auth.role": "pods",
                "ops.upstream.auth.mount": self.namespace,
                "ops.identity.issuers": [cluster],
                "ops.identity.pod.enabled": True,
                "policies": {"pods.cedar": policy(self.namespace)},
                "example.image": "application:test",
                "example.command": self.command("serve"),
            }
            | dict(changes or {})
        )

    def command(self, what: str) -> list[str]:
        """Of a container that is the application."""
        return [sys.executable, "-I", "-u", str(APPLICATION), what]

    def install(self, helm: Helm, changes: Mapping[str, Any] | None = None) -> list[Any]:
        """The chart as `helm install` would apply it; what the API server made of it."""
        manifests = helm.template(CHART, self.values(changes), "--namespace", self.namespace)
        return [self.kube.apply(manifest) for manifest in manifests]

    # -- pods --------------------------------------------------------------------------------------------------------
    def example(self, installed: list[Any]) -> dict[str, Any]:
        """The pod that the example's Deployment asks for: no controller runs here that would make it."""
        (deployment,) = of_kind(installed, "Deployment")
        return copy.deepcopy(dict(deployment["spec"]["template"]))

    def create(self, template: Mapping[str, Any]) -> dict[str, Any]:
        """A pod of a template, as the API server admitted it."""
        metadata = {**template["metadata"], "name": f"pod-{next(self._numbers)}", "namespace": self.namespace}
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        created: dict[str, Any] = self.kube.call("POST", path, {"metadata": metadata, "spec": template["spec"]})
        return created

    @contextmanager
    def running(
        self, template: Mapping[str, Any], *, change: Callable[[dict[str, Any]], None] = lambda _: None, **options: Any
    ) -> Iterator[RunningPod]:
        """A pod made of it, not started yet; gone from the API server in the end. `change`: what runs is not what was
        admitted, to see what that would do."""
        pod = self.create(template)
        change(pod)
        name = pod["metadata"]["name"]
        ways_out = [self.openbao.port, self.kube.port]
        with RunningPod(self.folder / name, self.kube, pod, images=IMAGES, ways_out=ways_out, **options) as running:
            yield running
        self.kube.call("DELETE", f"/api/v1/namespaces/{self.namespace}/pods/{name}", {"gracePeriodSeconds": 0})

    def make(self, kind: str, name: str, **content: Any) -> None:
        """An object of the namespace that operators bring."""
        body = {"metadata": {"name": name}, **content}
        self.kube.call("POST", f"/api/v1/namespaces/{self.namespace}/{kind}", body)
