"""A pod that knows nothing of the sidecar: admitted by a real API server, given its sidecar by the real injector, and
then run as it came back, between that API server and a real OpenBao."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any, Final

import hvac
import pytest
import yaml

from sidecar.injector.names import VOLUME_PREFIX
from tests.audit.spools import records
from tests.kube.place import AUDIENCE, Place, policy
from tests.kubelet.pod import wait_for
from tests.real.injector import LABEL, InjectorProcess, register, unregister
from tests.real.kube import BUILD_TIMEOUT, KubeApi
from tests.real.openbao import SEEDS, OpenBao

pytestmark = [pytest.mark.real, pytest.mark.timeout(BUILD_TIMEOUT)]

SECRET: Final = json.dumps(SEEDS["app/db"], sort_keys=True)
SIDECAR: Final = "openbao-sidecar"
NAMESPACE: Final = "injected"


@pytest.fixture(scope="module")
def place(kube: KubeApi, openbao: OpenBao, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A labelled namespace, what its pods are allowed, and the injector."""
    made = Place(kube, openbao, tmp_path_factory.mktemp("injected"), NAMESPACE, "app", **{LABEL: "enabled"})
    kube.service_account("app", NAMESPACE)
    cluster = {
        "issuer": kube.issuer,
        "kind": "kubernetes",
        "jwks_uri": f"{kube.address}/openid/v1/jwks",
        "ca_file": "/etc/sidecar/trust/cluster.crt",
        "token_file": "/run/sidecar/secrets/api",
    }
    config = {
        "identity": {"issuers": [cluster]},
        "authorization": {"cedar": {"policies": "/etc/sidecar/policies"}},
        "audit": {"spool_dir": "/var/lib/sidecar/audit"},
    }
    made.make("configmaps", "sidecar-config", data={"config.yaml": yaml.safe_dump(config)})
    made.make("configmaps", "sidecar-policies", data={"pods.cedar": policy(NAMESPACE, "app")})
    tenant = {"id": "acme", "allowed_mounts": ["secret"], "roles": ["pods"], "salt_secret": {"name": "acme-salt"}}
    allowed = {"tenants": [tenant], "configs": ["sidecar-config"], "policies_config_map": "sidecar-policies"}
    sidecar = {
        "image": "openbao-sidecar:0.1.0",
        "environment": "test",
        "upstream": {"address": openbao.address, "mount": NAMESPACE},
        "token": {"audience": AUDIENCE},
        "trust": [{"configMap": {"name": "cluster-ca", "items": [{"key": "ca.crt", "path": "cluster.crt"}]}}],
        "secrets": [{"serviceAccountToken": {"audience": kube.issuer, "path": "api"}}],
    }
    injector = InjectorProcess(tmp_path_factory.mktemp("injector"), kube, sidecar, {NAMESPACE: allowed})
    register(kube, injector.port)
    injector.start()
    try:
        yield made
    finally:
        unregister(kube)
        injector.stop()


def ordinary(place: Place, what: str, **more: Any) -> dict[str, Any]:
    """What an application's author writes."""
    hardened = {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {
        "name": "application",
        "image": "application:test",
        "command": place.command(what),
        "securityContext": hardened,
    }
    spec = {"serviceAccountName": "app", "automountServiceAccountToken": False, "containers": [container], **more}
    return {"metadata": {"annotations": {"openbao-sidecar.io/inject": "true"}}, "spec": spec}


def test_it_reads_its_secret_from_its_first_request_to_its_last(place: Place) -> None:
    with place.running(ordinary(place, "serve")) as pod:
        assert pod.pod["metadata"]["annotations"]["openbao-sidecar.io/status"] == "injected"
        pod.start()
        wait_for(lambda: SECRET in pod.container("application").log(), "the application has read")
        pod.wait_until_ready()
        assert pod.terminate() == {"application": 0, SIDECAR: 0}
        told = json.loads(pod.container("application").log().splitlines()[-1])
        assert told["failed"] == []
        written = records(pod.volumes.path(f"{VOLUME_PREFIX}spool") / "audit")
        assert sum(record["event"] == "SECRET_PERMIT" for record in written) == told["reads"]


def test_a_job_with_an_init_container_that_reads_comes_to_its_end(place: Place) -> None:
    job = ordinary(place, "once", restartPolicy="Never")
    job["spec"]["initContainers"] = [copy.deepcopy(job["spec"]["containers"][0]) | {"name": "first"}]
    with place.running(job) as pod:
        pod.start()
        assert pod.wait() == [0]
        assert pod.container(SIDECAR).exit_code() == 0
        assert [pod.container(name).log().strip() for name in ("first", "application")] == [SECRET, SECRET]


def test_the_application_finds_no_token_and_its_own_opens_nothing(place: Place) -> None:
    """Its own token, for the API server or for the sidecar, is of another audience than OpenBao's role is bound to."""
    with place.running(ordinary(place, "look", restartPolicy="Never")) as pod:
        pod.start()
        assert pod.wait() == [0]
        found = json.loads(pod.container("application").log())
        assert found["files"] == []
        assert found["processes"] == 0
        assert not [name for name in found["variables"] if name.startswith("SIDECAR")]
        login = place.openbao.anonymous().auth.kubernetes.login
        metadata = pod.pod["metadata"]
        for audiences in ([], ["crud.secrets"]):
            token = place.kube.token("app", NAMESPACE, audiences=audiences, pod=metadata)
            with pytest.raises(hvac.exceptions.VaultError):
                login("pods", token, use_token=False, mount_point=NAMESPACE)
        token = place.kube.token("app", NAMESPACE, audiences=[AUDIENCE], pod=metadata)
        assert login("pods", token, use_token=False, mount_point=NAMESPACE)["auth"]["client_token"]
