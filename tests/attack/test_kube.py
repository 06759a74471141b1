"""KUBE: past the injector, or out of the pod, to what is the sidecar's. With a real API server and a real OpenBao."""

from __future__ import annotations

import base64
import copy
import http.client
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import hvac
import pytest
import yaml
from hvac.exceptions import VaultError

from sidecar.config import is_loopback, load
from tests.injector.making import (
    AUDIENCE,
    NAMESPACE,
    Tree,
    annotated,
    as_in_the_pod,
    pod,
    review,
    setting,
    sidecar_of,
    variables,
)
from tests.real.injector import NAMESPACE as INJECTORS
from tests.real.injector import SECRET, SERVICE, Cluster
from tests.real.kube import BUILD_TIMEOUT
from tests.real.openbao import OpenBao

pytestmark = [pytest.mark.real, pytest.mark.timeout(BUILD_TIMEOUT)]

PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
_MERGE = "application/strategic-merge-patch+json"


def posted(cluster: Cluster, tree: Tree, namespace: str = NAMESPACE, query: str = "?dryRun=All") -> Tree:
    """What the API server says to a new pod: the pod, or why not."""
    tree = copy.deepcopy(tree)
    tree["metadata"].pop("namespace", None)
    answer: Tree = cluster.kube.answer("POST", f"/api/v1/namespaces/{namespace}/pods{query}", tree).json()
    return answer


def refusal(answer: Mapping[str, Any]) -> str:
    """Why it was kept out."""
    assert answer["kind"] == "Status", "it was let in"
    assert answer["status"] == "Failure"
    return str(answer["message"])


@pytest.fixture
def running(cluster: Cluster) -> Iterator[Tree]:
    """A pod with its sidecar, as the API server has it."""
    tree = pod()
    tree["metadata"] = {"generateName": "app-", "annotations": tree["metadata"]["annotations"]}
    made = posted(cluster, tree, query="")
    assert made["kind"] == "Pod", made
    yield made
    cluster.kube.call("DELETE", f"{PODS}/{made['metadata']['name']}?gracePeriodSeconds=0")


def changed(cluster: Cluster, made: Tree, patch: Tree, subresource: str = "") -> Tree:
    """What the API server says to a change of a pod that is there."""
    path = f"{PODS}/{made['metadata']['name']}{subresource}"
    answer: Tree = cluster.kube.answer("PATCH", path, patch, _MERGE).json()
    return answer


def token_volume(audience: str) -> Tree:
    """A volume with a token for an audience."""
    source = {"serviceAccountToken": {"audience": audience, "path": "token"}}
    return {"volumes": [{"name": "mine", "projected": {"sources": [source]}}]}


# -- 01: the injection is dodged -------------------------------------------------------------------------------------
DODGES: dict[str, Tree] = {
    "the host's network": pod({"hostNetwork": True}),
    "processes in common": pod({"shareProcessNamespace": True}),
    "the host's processes": pod({"hostPID": True}),
    "another system": pod({"os": {"name": "windows"}, "securityContext": {}}),
    "no injection, but its token": pod(token_volume(AUDIENCE), inject=None),
    "said to be injected": pod(inject=None, status="injected"),
    "a label": pod(inject=None) | {"metadata": {"name": "app", "labels": annotated(inject="true")}},
    "a sidecar of its own": pod({"initContainers": [{"name": "openbao-sidecar", "image": "evil"}]}),
}


@pytest.mark.parametrize("tree", DODGES.values(), ids=DODGES.keys())
def test_kube_01_no_new_pod_dodges_its_sidecar_and_keeps_what_it_wants(cluster: Cluster, tree: Tree) -> None:
    assert "openbao-sidecar" in refusal(posted(cluster, tree))


def test_kube_01_a_pod_of_a_running_injection_cannot_be_turned_around(cluster: Cluster, running: Tree) -> None:
    changes: dict[str, Tree] = {
        "openbao-sidecar": {"spec": {"initContainers": [{"name": "openbao-sidecar", "image": "evil"}]}},
        "annotations": {"metadata": {"annotations": annotated(tenant_id="umbrella")}},
    }
    for named, change in changes.items():
        assert named in refusal(changed(cluster, running, change))
    assert changed(cluster, running, {"spec": {"containers": [{"name": "app", "image": "app:2"}]}})["kind"] == "Pod"


def test_kube_01_a_debugging_container_does_not_get_near_the_sidecar(cluster: Cluster, running: Tree) -> None:
    def debugged(**more: Any) -> Tree:
        container = {"name": "debug", "image": "busybox", "terminationMessagePolicy": "File"} | more
        return changed(cluster, running, {"spec": {"ephemeralContainers": [container]}}, "/ephemeralcontainers")

    mount = {"name": "openbao-sidecar-token", "mountPath": "/token"}
    assert "openbao-sidecar-token" in refusal(debugged(volumeMounts=[mount]))
    assert "openbao-sidecar" in refusal(debugged(targetContainerName="openbao-sidecar"))
    salted = {"name": "X", "valueFrom": {"secretKeyRef": {"name": "acme-salt", "key": "salt"}}}
    assert "acme-salt" in refusal(debugged(env=[salted]))
    assert debugged(targetContainerName="app")["kind"] == "Pod"


@pytest.mark.parametrize("how", ["exec", "attach"])
def test_kube_01_nobody_enters_the_sidecar_to_read_its_token(cluster: Cluster, running: Tree, how: str) -> None:
    path = f"{PODS}/{running['metadata']['name']}/{how}?command=id&stdout=true&container="
    inside = cluster.kube.answer("POST", f"{path}openbao-sidecar")
    assert inside.status_code == 403
    assert "openbao-sidecar" in inside.json()["message"]
    assert "openbao-sidecar" not in cluster.kube.answer("POST", f"{path}app").text  # no node: another failure


def test_kube_01_nobody_is_the_pod_by_a_forwarded_port(cluster: Cluster, running: Tree) -> None:
    """What comes by it comes from the pod's loopback, where a request without credentials is the pod's own."""
    forwarded = cluster.kube.answer("POST", f"{PODS}/{running['metadata']['name']}/portforward?ports=8200")
    assert forwarded.status_code == 403
    assert "openbao-sidecar: port-forward" in forwarded.json()["message"]


# -- 02: annotations as configuration --------------------------------------------------------------------------------
INJECTIONS = {
    "tenant_id": "acme\ntenant: {id: umbrella}",
    "allowed_mounts": "secret, secret/../umbrella",
    "role": 'app","mode":"passthrough',
    "config": "../../umbrella/config",
    "spool_volume": "../etc",
    "log_level": "debug\nops: {debug: true}",
    "listen": "unix:///etc/shadow",
    "containers": "app}{",
}


@pytest.mark.parametrize(("key", "text"), INJECTIONS.items())
def test_kube_02_no_annotation_becomes_structure(cluster: Cluster, key: str, text: str) -> None:
    assert f"openbao-sidecar.io/{key.replace('_', '-')}" in refusal(posted(cluster, pod(None, **{key: text})))


@pytest.mark.parametrize(
    ("key", "text"),
    {"tenant_id": "wayne", "allowed_mounts": "secret,kv", "role": "other", "config": "of-my-own"}.items(),
)
def test_kube_02_no_annotation_widens_what_the_namespace_is_allowed(cluster: Cluster, key: str, text: str) -> None:
    assert f"openbao-sidecar.io/{key.replace('_', '-')}" in refusal(posted(cluster, pod(None, **{key: text})))


def hostile_config(folder: Path) -> Path:
    """A ConfigMap that says the opposite of all that the injector says."""
    (folder / "policies").mkdir()
    (folder / "policies" / "all.cedar").write_text("permit (principal, action, resource);\n")
    tree = {
        "environment": "dev",
        "listen": {"address": "0.0.0.0:8200"},
        "upstream": {
            "address": "http://evil.example",
            "auth": {"mode": "passthrough"},
            "cluster_addresses": ["http://e"],
        },
        "tenant": {"id": "umbrella", "allowed_mounts": ["everything"], "salt": "x" * 16},
        "identity": {"pod": {"enabled": False}, "issuers": [{"issuer": "https://idp.example"}]},
        "authorization": {"cedar": {"policies": str(folder / "policies")}},
        "audit": {"spool_dir": str(folder)},
        "ops": {"address": "0.0.0.0:1", "log_level": "error"},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_kube_02_what_the_injector_says_wins_over_the_namespaces_configmap(cluster: Cluster, tmp_path: Path) -> None:
    made = posted(cluster, pod(allowed_mounts="team/kv", role="batch"))
    config = load(hostile_config(tmp_path), as_in_the_pod(sidecar_of(made), tmp_path))
    assert config.environment == "prod"
    assert (config.tenant.id, config.tenant.allowed_mounts, config.tenant.salt) == ("acme", ["team/kv"], None)
    assert config.upstream.address == "https://openbao.openbao.svc:8200"
    assert (config.upstream.auth.mode, config.upstream.auth.role) == ("broker", "batch")
    assert config.upstream.cluster_addresses == []
    assert config.identity.pod.enabled
    assert config.ops.log_level == "info"


# -- 03: reviews that no API server sends ----------------------------------------------------------------------------
def sent(cluster: Cluster, raw: bytes, content_type: str = "application/json") -> tuple[int, Tree]:
    """What the injector answers to bytes from anywhere, over its TLS, under the certificate of its own making."""
    secret = cluster.kube.call("GET", f"/api/v1/namespaces/{INJECTORS}/secrets/{SECRET}")
    authorities = ssl.create_default_context(cadata=_decoded(secret["data"]["ca.crt"]))
    name = f"{SERVICE}.{INJECTORS}.svc"
    with (
        socket.create_connection(("127.0.0.1", cluster.injector.port), 30) as plain,
        authorities.wrap_socket(plain, server_hostname=name) as secured,
        closing(http.client.HTTPSConnection(name, timeout=30)) as connection,
    ):
        connection.sock = secured
        connection.request("POST", "/mutate", raw, {"Content-Type": content_type})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode()


FORGERIES: dict[str, tuple[int, bytes]] = {
    "of another version": (400, json.dumps(review(pod()) | {"apiVersion": "admission.k8s.io/v1beta1"}).encode()),
    "of another kind": (400, json.dumps(review(pod()) | {"kind": "TokenReview"}).encode()),
    "that reads in two ways": (
        400,
        json.dumps(review(pod())).replace('"dryRun": false', '"dryRun": 0, "dryRun": false').encode(),
    ),
    "without end": (400, b'{"a":[' * 200_000),
    "of another object": (
        400,
        json.dumps(review(pod(), resource={"group": "", "version": "v1", "resource": "secrets"})).encode(),
    ),
    "too large": (413, b" " * (9 * 1024 * 1024)),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_kube_03_a_review_that_is_forged_lets_nothing_in(cluster: Cluster, name: str) -> None:
    status, raw = FORGERIES[name]
    found, answer = sent(cluster, raw)
    assert found == status
    assert set(answer) == {"error"}


def test_kube_03_an_object_of_three_mebibytes_is_answered(cluster: Cluster) -> None:
    tree = pod()
    tree["metadata"]["annotations"]["example.com/x"] = "x" * (3 * 1024 * 1024)
    status, answer = sent(cluster, json.dumps(review(tree)).encode())
    assert (status, answer["response"]["allowed"]) == (200, True)


def test_kube_03_a_dry_run_leaves_nothing_behind(cluster: Cluster) -> None:
    before = cluster.kube.call("GET", f"/api/v1/namespaces/{INJECTORS}/secrets/{SECRET}")
    made = posted(cluster, pod() | {"metadata": {"name": "dry", "annotations": annotated(inject="true")}})
    assert sidecar_of(made)
    assert cluster.kube.answer("GET", f"{PODS}/dry").status_code == 404
    assert cluster.kube.call("GET", f"/api/v1/namespaces/{INJECTORS}/secrets/{SECRET}") == before


def test_kube_03_asked_again_it_changes_nothing_and_believes_no_annotation(cluster: Cluster) -> None:
    made = posted(cluster, pod())
    once = {"metadata": {"name": "app", "annotations": made["metadata"]["annotations"]}, "spec": made["spec"]}
    assert posted(cluster, copy.deepcopy(once))["spec"] == made["spec"]
    without = copy.deepcopy(once)
    without["spec"]["initContainers"] = []
    assert "openbao-sidecar-" in refusal(posted(cluster, without))
    forged = copy.deepcopy(once)
    forged["spec"]["initContainers"][0]["env"].append({"name": "LD_PRELOAD", "value": "/x.so"})
    assert "env" in refusal(posted(cluster, forged))
    hidden = copy.deepcopy(once)
    hidden["spec"]["initContainers"][0]["terminationMessagePath"] = "/etc/sidecar/policies/forbid.cedar"
    assert "terminationMessagePath" in refusal(posted(cluster, hidden))


def test_kube_03_no_file_of_the_authors_passes_for_the_clusters_certificate(cluster: Cluster) -> None:
    """Put into a volume that looks like Kubernetes' own, from an annotation, and mounted where everybody looks."""
    made = posted(cluster, pod())
    annotations = made["metadata"]["annotations"] | {"authority": "-----BEGIN CERTIFICATE-----"}
    forged = {"metadata": {"name": "app", "annotations": annotations}, "spec": made["spec"]}
    path = "/var/run/secrets/kubernetes.io/serviceaccount"
    mount = {"name": "kube-api-access-x", "mountPath": path, "readOnly": True}
    item = {"path": "ca.crt", "fieldRef": {"fieldPath": "metadata.annotations['authority']"}}
    volume = {"name": "kube-api-access-x", "projected": {"sources": [{"downwardAPI": {"items": [item]}}]}}
    sidecar = forged["spec"]["initContainers"][0]
    sidecar["volumeMounts"] = [one for one in sidecar["volumeMounts"] if one["mountPath"] != path] + [mount]
    forged["spec"]["volumes"].append(volume)
    assert "volumeMounts" in refusal(posted(cluster, forged))


def test_kube_04_no_application_has_the_spools_claim_by_an_ephemeral_volume(cluster: Cluster) -> None:
    """Its claim is named by pod and volume."""
    template = {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}
    mine = {"name": "mine", "mountPath": "/mine"}
    tree = pod(
        {
            "containers": [{"name": "app", "image": "a", "volumeMounts": [mine]}],
            "volumes": [{"name": "mine", "ephemeral": {"volumeClaimTemplate": template}}],
        },
        spool_volume="web-0-mine",
    )
    tree["metadata"]["name"] = "web-0"
    assert "web-0-mine" in refusal(posted(cluster, tree))


# -- 04: the sidecar's token and keys --------------------------------------------------------------------------------
def test_kube_04_the_applications_containers_hold_nothing_of_the_sidecars(cluster: Cluster) -> None:
    made = posted(cluster, pod({"initContainers": [{"name": "first", "image": "f"}]}, listen="unix"))
    for container in (*made["spec"]["containers"], made["spec"]["initContainers"][1]):
        ours = [one for one in container["volumeMounts"] if one["name"].startswith("openbao-sidecar-")]
        assert [(one["name"], one["readOnly"]) for one in ours] == [("openbao-sidecar-socket", True)]
        assert set(variables(container)) == {"VAULT_ADDR", "BAO_ADDR"}
    # What a downward API volume would show of the pod: no secret stands in it.
    assert "token" not in json.dumps(made["metadata"]["annotations"])


@pytest.mark.parametrize("name", ["token", "secrets", "spool", "config", "socket", "policies", "trust"])
def test_kube_04_no_container_mounts_the_sidecars_volumes(cluster: Cluster, name: str) -> None:
    mount = {"name": f"openbao-sidecar-{name}", "mountPath": "/mine"}
    tree = pod({"containers": [{"name": "app", "image": "a", "volumeMounts": [mount]}]}, listen="unix")
    assert f"openbao-sidecar-{name}" in refusal(posted(cluster, tree))
    there = posted(cluster, pod(listen="unix"))
    again = {"metadata": {"name": "app", "annotations": there["metadata"]["annotations"]}, "spec": there["spec"]}
    again["spec"]["containers"][0]["volumeMounts"].append(mount)
    assert f"openbao-sidecar-{name}" in refusal(posted(cluster, again))


def from_a_secret(name: str) -> dict[str, Tree]:
    """Every way in which a pod has a Secret put into it."""

    def of_app(**more: Any) -> Tree:
        return {"containers": [{"name": "app", "image": "a", **more}]}

    def of_volume(**kind: Any) -> Tree:
        return {"volumes": [{"name": "mine", **kind}]}

    return {
        "a volume": of_volume(secret={"secretName": name}),
        "a projected volume": of_volume(projected={"sources": [{"secret": {"name": name}}]}),
        "a driver": of_volume(csi={"driver": "csi.example", "readOnly": True, "nodePublishSecretRef": {"name": name}}),
        "a network disk": of_volume(azureFile={"shareName": "s", "secretName": name}),
        "a variable": of_app(env=[{"name": "X", "valueFrom": {"secretKeyRef": {"name": name, "key": "k"}}}]),
        "variables": of_app(envFrom=[{"secretRef": {"name": name}}]),
        "an init container's": {
            "initContainers": [{"name": "i", "image": "i", "envFrom": [{"secretRef": {"name": name}}]}]
        },
    }


@pytest.mark.parametrize("inject", ["true", None])
@pytest.mark.parametrize("name", ["umbrella-salt", "kafka"])
@pytest.mark.parametrize("how", from_a_secret(""))
def test_kube_04_no_pod_has_the_sidecars_keys_put_into_it(
    cluster: Cluster, how: str, name: str, inject: str | None
) -> None:
    """Whoever may make pods has every Secret of their namespace by it, but the salts and what the operator gave."""
    message = refusal(posted(cluster, pod(from_a_secret(name)[how], inject=inject)))
    assert f"'{name}'" in message
    assert posted(cluster, pod(from_a_secret("of-its-own")[how], inject=inject))["kind"] == "Pod"


_BECOME = """
import ctypes, os, sys
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65532); os.setuid(65532)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as a program is that was started by this user
"""
_LOOKS = """
for name in ("environ", "maps", "mem"):
    try:
        open(f"/proc/{sys.argv[1]}/{name}", "rb").close()
        print(name)
    except PermissionError:
        pass
for name in ("root", "cwd", "fd/1"):
    try:
        print(os.readlink(f"/proc/{sys.argv[1]}/{name}") and name)
    except PermissionError:
        pass
"""


def seen_by_its_own_user(then: str) -> set[str]:
    """What another process of its user sees of one that does `then`."""
    program = f"{then and 'from sidecar.process import harden'}\n{_BECOME}\n{then}\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as looked_at:
        assert looked_at.stdout is not None
        assert looked_at.stdout.readline() == b"\n"
        command = [sys.executable, "-I", "-S", "-c", _BECOME + _LOOKS, str(looked_at.pid)]
        looked = subprocess.run(command, capture_output=True, text=True, check=True)
        looked_at.kill()
    return set(looked.stdout.split())


def test_kube_04_in_proc_not_even_a_process_of_the_same_user_looks_into_the_sidecar() -> None:
    """Whoever gets the sidecar's user could still kill it, and look while the next one starts: where processes are in
    common, the injector lets in nobody who could get it (tests/injector/test_admit.py)."""
    assert {"environ", "maps", "root"} <= seen_by_its_own_user("")  # what is looked for can be seen
    assert seen_by_its_own_user("harden()") == set()


# -- 05: straight to OpenBao -----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def mount(cluster: Cluster, openbao: OpenBao) -> str:
    """OpenBao's kubernetes login for this cluster, with a role bound to the account and to the sidecar's audience."""
    path, kube = "kube-attack", cluster.kube
    kube.service_account("openbao-reviewer")
    kube.may_review_tokens("openbao-reviewer")
    openbao.enable_auth("kubernetes", path)
    root = openbao.root()
    root.write_data(
        f"auth/{path}/config",
        data={
            "kubernetes_host": kube.address,
            "kubernetes_ca_cert": kube.ca_file.read_text(),
            "token_reviewer_jwt": kube.token("openbao-reviewer"),
        },
    )
    role = {
        "bound_service_account_names": ["default"],
        "bound_service_account_namespaces": [NAMESPACE],
        "audience": AUDIENCE,
        "token_policies": ["default"],
    }
    root.write_data(f"auth/{path}/role/app", data=role)
    return path


def tokens_of(cluster: Cluster, made: Tree, container: Mapping[str, Any]) -> dict[str, str]:
    """The tokens that the kubelet would put into a container's volumes, by their paths, bound to its pod."""
    volumes = {one["name"]: one for one in made["spec"]["volumes"]}
    found: dict[str, str] = {}
    for one in container["volumeMounts"]:
        for source in volumes[one["name"]].get("projected", {}).get("sources", ()):
            if token := source.get("serviceAccountToken"):
                bound = {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "name": made["metadata"]["name"],
                    "uid": made["metadata"]["uid"],
                }
                spec = {"audiences": [token["audience"]] if token.get("audience") else [], "boundObjectRef": bound}
                path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{made['spec']['serviceAccountName']}/token"
                status = cluster.kube.call("POST", path, {"spec": spec})["status"]
                found[f"{one['mountPath']}/{token['path']}"] = status["token"]
    return found


def logs_in(openbao: OpenBao, mount: str, jwt: str) -> bool:
    """Whether OpenBao takes a token."""
    try:
        return bool(hvac.Client(openbao.address).auth.kubernetes.login("app", jwt, mount_point=mount)["auth"])
    except VaultError:
        return False


def test_kube_05_openbao_takes_the_sidecars_token_and_none_of_the_applications(
    cluster: Cluster, running: Tree, openbao: OpenBao, mount: str
) -> None:
    sidecar = tokens_of(cluster, running, sidecar_of(running))
    applications = tokens_of(cluster, running, running["spec"]["containers"][0])
    assert list(applications) == ["/var/run/secrets/kubernetes.io/serviceaccount/token"]
    upstream = setting(sidecar_of(running), "UPSTREAM")
    assert logs_in(openbao, mount, sidecar[upstream["auth"]["jwt_file"]])
    assert not logs_in(openbao, mount, sidecar["/run/sidecar/token/pod"])  # its name for callers opens nothing either
    for token in applications.values():
        assert not logs_in(openbao, mount, token)


@pytest.mark.parametrize("inject", ["true", "false", None])
def test_kube_05_no_pod_of_a_labelled_namespace_gets_a_token_that_openbao_takes(
    cluster: Cluster, inject: str | None
) -> None:
    assert AUDIENCE in refusal(posted(cluster, pod(token_volume(AUDIENCE), inject=inject)))


# -- 06: other pods --------------------------------------------------------------------------------------------------
def test_kube_06_the_sidecar_listens_where_no_other_pod_comes(cluster: Cluster, tmp_path: Path) -> None:
    """On the pod's loopback or its socket, whatever the ConfigMap says. That another address does not reach it is tried
    in tests/injector/test_injected_sidecar.py; that a request from elsewhere is not the pod's, in tests/caller."""
    tcp, unix = posted(cluster, pod()), posted(cluster, pod(listen="unix"))
    config = load(hostile_config(tmp_path), as_in_the_pod(sidecar_of(tcp), tmp_path))
    assert config.listen.address == "127.0.0.1:8200"
    assert is_loopback(config.listen.address.rpartition(":")[0])
    assert setting(sidecar_of(unix), "LISTEN")["address"].startswith("unix:///run/openbao-sidecar/")
    assert [port["name"] for port in sidecar_of(tcp)["ports"]] == ["operations"]


# -- 07: no injector -------------------------------------------------------------------------------------------------
def test_kube_07_without_the_injector_labelled_namespaces_take_no_pods(cluster: Cluster) -> None:
    cluster.namespace("unlabelled", injected=False)
    cluster.injector.stop()
    try:
        answer = posted(cluster, pod())
        assert answer["code"] == 500
        assert "openbao-sidecar.io" in refusal(answer)
        assert "openbao-sidecar.io" in refusal(posted(cluster, pod(inject=None)))
        assert posted(cluster, pod(), "unlabelled")["kind"] == "Pod"
    finally:
        cluster.injector.start()
    assert posted(cluster, pod())["kind"] == "Pod"


def test_kube_07_without_the_injector_pods_that_run_are_cared_for_but_not_turned_around(
    cluster: Cluster, running: Tree
) -> None:
    """Jobs and networks change pods all the time; what is the sidecar's stays closed."""
    cluster.injector.stop()
    try:
        harmless = {"metadata": {"labels": {"a": "b"}, "annotations": {"cni.example/ip": "10.1.1.1"}}}
        got = changed(cluster, running, harmless)
        assert got["kind"] == "Pod", got["message"]
        for change in (
            {"metadata": {"annotations": annotated(tenant_id="umbrella")}},
            {"metadata": {"annotations": annotated(status=None)}},
            {"metadata": {"annotations": annotated(inject="false")}},
            {"spec": {"initContainers": [{"name": "openbao-sidecar", "image": "evil"}]}},
        ):
            assert "openbao-sidecar.io" in refusal(changed(cluster, running, change))
    finally:
        cluster.injector.start()
