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
def place(kube: KubeApi, openbao: OpenBao, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A labelled namespace with what its pods need."""
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
    return made


@pytest.fixture(scope="module", autouse=True)
def injector(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InjectorProcess]:
    """The injector, and what it allows the namespace's pods."""
    kube = place.kube
    tenant = {"id": "acme", "allowed_mounts": ["secret"], "roles": ["pods"], "salt_secret": {"name": "acme-salt"}}
    allowed = {"tenants": [tenant], "configs": ["sidecar-config"], "policies_config_map": "sidecar-policies"}
    sidecar = {
        "image": "openbao-sidecar:0.1.0",
        "environment": "test",
        "upstream": {"address": place.openbao.address, "mount": NAMESPACE},
        "token": {"audience": AUDIENCE},
        "trust": [{"configMap": {"name": "cluster-ca", "items": [{"key": "ca.crt", "path": "cluster.crt"}]}}],
        "secrets": [{"serviceAccountToken": {"audience": kube.issuer, "path": "api"}}],
    }
    process = InjectorProcess(tmp_path_factory.mktemp("injector"), kube, sidecar, {NAMESPACE: allowed})
    register(kube, process.port)
    process.start()
    try:
        yield process
    finally:
        unregister(kube)
        process.stop()


def ordinary(place: Place, what: str, *, listen: str = "tcp", **more: Any) -> dict[str, Any]:
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
    asked = {"openbao-sidecar.io/inject": "true", "openbao-sidecar.io/listen": listen}
    return {"metadata": {"annotations": asked}, "spec": spec}


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


def test_the_application_has_the_sidecars_socket_and_no_token_and_its_own_opens_nothing(place: Place) -> None:
    """Its own token, for the API server or for the sidecar, is of another audience than OpenBao's role is bound to."""
    with place.running(ordinary(place, "look", listen="unix", restartPolicy="Never")) as pod:
        pod.start()
        assert pod.wait() == [0]
        found = json.loads(pod.container("application").log())
        assert found["secret"] == SECRET
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


# -- where there are no native sidecars ------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def classic(injector: InjectorProcess) -> None:
    """The injector as on an older cluster, until its end: these tests come last."""
    injector.stop()
    injector.config["native_sidecars"] = "never"
    injector.start()


def without_its_hook(pod: dict[str, Any]) -> None:
    """The sidecar is told to end when the application is."""
    (sidecar,) = (one for one in pod["spec"]["containers"] if one["name"] == SIDECAR)
    del sidecar["lifecycle"]


@pytest.mark.parametrize("hooked", [True, False], ids=["as it is", "without its hook"])
def test_a_classic_sidecar_serves_until_the_application_has_ended(place: Place, classic: None, hooked: bool) -> None:
    """Held against the same pod without the hook, where the application's last reads fail."""
    classic_ends_after_the_application(place, hooked=hooked)


def classic_ends_after_the_application(place: Place, *, hooked: bool) -> None:
    """A pod with a classic sidecar, from its start to its end."""
    asked = ordinary(place, "later", terminationGracePeriodSeconds=5)
    with place.running(asked, change=without_its_hook if not hooked else lambda _: None) as pod:
        assert [one["name"] for one in pod.pod["spec"]["containers"]] == ["application", SIDECAR]
        pod.start()
        wait_for(lambda: SECRET in pod.container("application").log(), "the application has read")
        ended = pod.terminate()
        told = json.loads(pod.container("application").log().splitlines()[-1])
        assert bool(told["failed"]) is not hooked, told
        assert ended == {"application": int(not hooked), SIDECAR: 0}
