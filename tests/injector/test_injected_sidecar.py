"""The sidecar as the injector tells it to run: its own variables and tokens, in front of a real OpenBao that asks a
real API server about them, for an application that has no credential at all."""

from __future__ import annotations

import socket
from pathlib import Path

import hvac
import pytest
import requests
from hvac.exceptions import Forbidden

from tests.injector.making import AUDIENCE, NAMESPACE, as_in_the_pod, injected, pod, rules, sidecar_of
from tests.real.injector import Cluster
from tests.real.kube import BUILD_TIMEOUT
from tests.real.openbao import SEEDS, OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer

pytestmark = [pytest.mark.real, pytest.mark.timeout(BUILD_TIMEOUT)]

MOUNT = "kube-injected"
OPENBAOS = """
path "secret/data/*"          { capabilities = ["read"] }
path "sys/mounts"             { capabilities = ["read"] }
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self"  { capabilities = ["update"] }
"""
SIDECARS = f"""
@id("the pod reads") @max_uses("100")
permit (principal == Workload::"system:serviceaccount:{NAMESPACE}:default", action == Action::"read",
        resource in Folder::"secret/app");
"""


@pytest.fixture
def taken(cluster: Cluster, openbao: OpenBao) -> None:
    """OpenBao takes the namespace's pods, by the sidecar's audience."""
    cluster.kube.service_account("injected-reviewer")
    cluster.kube.may_review_tokens("injected-reviewer")
    openbao.policy(MOUNT, OPENBAOS)
    openbao.enable_auth("kubernetes", MOUNT)
    api = {
        "kubernetes_host": cluster.kube.address,
        "kubernetes_ca_cert": cluster.kube.ca_file.read_text(),
        "token_reviewer_jwt": cluster.kube.token("injected-reviewer"),
    }
    role = {
        "bound_service_account_names": ["default"],
        "bound_service_account_namespaces": [NAMESPACE],
        "audience": AUDIENCE,
        "token_policies": [MOUNT],
        "token_no_default_policy": True,
        "token_period": "1h",
    }
    openbao.root().write_data(f"auth/{MOUNT}/config", data=api)
    openbao.root().write_data(f"auth/{MOUNT}/role/app", data=role)


def test_an_unchanged_application_reads_its_secret_as_its_pod(
    cluster: Cluster, openbao: OpenBao, taken: None, issuer: Issuer, tmp_path: Path
) -> None:
    by = rules(environment="test", upstream={"address": openbao.address, "mount": MOUNT})
    made = injected(pod(allowed_mounts="secret"), by)
    environment = as_in_the_pod(sidecar_of(made), tmp_path)
    (tmp_path / "run/sidecar/token/token").write_text(cluster.kube.token("default", NAMESPACE, audiences=[AUDIENCE]))
    (tmp_path / "run/sidecar/token/pod").write_text(
        cluster.kube.token("default", NAMESPACE, audiences=["crud.secrets"])
    )
    keys = tmp_path / "jwks.json"
    keys.write_text(cluster.kube.answer("GET", "/openid/v1/jwks").text)
    issuers = [{"issuer": cluster.kube.issuer, "kind": "kubernetes", "jwks_file": str(keys)}]
    # What the namespace's ConfigMap says; its upstream, tenant and listener are not heard.
    sidecar = SidecarProcess(tmp_path / "sidecar", openbao, issuer, {"identity": {"issuers": issuers}})
    (sidecar.policies / "policies.cedar").write_text(SIDECARS)
    # A pod has its addresses for itself; this machine does not.
    environment["SIDECAR__LISTEN"] = environment["SIDECAR__LISTEN"].replace("8200", str(sidecar.port))
    environment["SIDECAR__OPS__ADDRESS"] = f"127.0.0.1:{sidecar.ops_port}"
    sidecar.environment = environment
    sidecar.start()
    try:
        client = hvac.Client(url=sidecar.url)
        read = client.secrets.kv.v2.read_secret_version("app/db", raise_on_deleted_version=True)
        assert read["data"]["data"] == SEEDS["app/db"]
        with pytest.raises(Forbidden):
            client.secrets.kv.v2.create_or_update_secret("app/db", {"password": "mine"})
        with pytest.raises(ConnectionRefusedError):  # on one address it listens, and that is loopback
            socket.create_connection(("127.0.0.2", sidecar.port), 5)
        # A page in a browser, or whatever does not say that it means it, is not the pod.
        assert requests.get(f"{sidecar.url}/v1/secret/data/app/db", timeout=10).status_code == 401
    finally:
        assert sidecar.terminate() == 0
