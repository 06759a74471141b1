"""The injector beside what else a cluster lets pods pass through: Pod Security, LimitRanges, other webhooks."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.injector.making import Tree, pod, sidecar_of, variables
from tests.injector.shapes import RESTRICTED, container
from tests.real.injector import ADMISSION, Cluster
from tests.real.kube import BUILD_TIMEOUT
from tests.support.certificates import Authority

pytestmark = [pytest.mark.real, pytest.mark.timeout(BUILD_TIMEOUT)]

NAMESPACE = "team-a"


def posted(cluster: Cluster, tree: Tree) -> Tree:
    """What the API server says to a new pod, in a dry run."""
    del tree["metadata"]["namespace"]
    answer: Tree = cluster.kube.answer("POST", f"/api/v1/namespaces/{NAMESPACE}/pods?dryRun=All", tree).json()
    return answer


@pytest.fixture
def restricted(cluster: Cluster) -> Iterator[None]:
    """The namespace takes only what Pod Security calls restricted."""
    path = f"/api/v1/namespaces/{NAMESPACE}"
    label = "pod-security.kubernetes.io/enforce"

    def set_to(value: str | None) -> None:
        patch = {"metadata": {"labels": {label: value}}}
        assert cluster.kube.answer("PATCH", path, patch, "application/merge-patch+json").ok

    set_to("restricted")
    yield
    set_to(None)


@pytest.mark.parametrize("wishes", [{}, {"listen": "unix"}, {"spool_volume": "claim"}])
def test_a_restricted_pod_stays_restricted(cluster: Cluster, restricted: None, wishes: dict[str, str]) -> None:
    spec = {"containers": [container("app", securityContext=RESTRICTED)]}
    assert sidecar_of(posted(cluster, pod(spec, **wishes)))
    assert "restricted" in posted(cluster, pod())["message"]  # Pod Security is on


def test_a_limit_range_may_add_what_the_sidecar_does_not_say(cluster: Cluster) -> None:
    path = f"/api/v1/namespaces/{NAMESPACE}/limitranges"
    limits = [
        {
            "type": "Container",
            "default": {"cpu": "1", "memory": "512Mi", "ephemeral-storage": "1Gi"},
            "defaultRequest": {"cpu": "10m", "memory": "16Mi"},
        }
    ]
    cluster.kube.call("POST", path, {"metadata": {"name": "limits"}, "spec": {"limits": limits}})
    try:
        made = posted(cluster, pod())
        resources = sidecar_of(made)["resources"]
        assert resources["requests"] == {"cpu": "50m", "memory": "128Mi", "ephemeral-storage": "1Gi"}
        assert resources["limits"] == {"cpu": "1", "memory": "256Mi", "ephemeral-storage": "1Gi"}
        again = {"metadata": {"name": "app", "namespace": "", "annotations": made["metadata"]["annotations"]}}
        assert posted(cluster, again | {"spec": made["spec"]})["spec"] == made["spec"]
    finally:
        cluster.kube.call("DELETE", f"{path}/limits")


# -- other webhooks --------------------------------------------------------------------------------------------------
Mutation = Callable[[Tree], list[Tree]]


@contextmanager
def another_webhook(cluster: Cluster, folder: Path, name: str, mutation: Mutation) -> Iterator[None]:
    """A webhook of somebody else's for the same pods, called before or after the injector by its name's order."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"]
            patch = base64.b64encode(json.dumps(mutation(request["object"])).encode()).decode()
            response = {"uid": request["uid"], "allowed": True, "patchType": "JSONPatch", "patch": patch}
            body = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
            text = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    authority = Authority()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*authority.issue_server().write(folder, "other"))
    path = f"{ADMISSION}/mutatingwebhookconfigurations"
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        bundle = base64.b64encode(authority.write(folder).read_bytes()).decode()
        webhook = {
            "name": "other.example.com",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Fail",
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}],
            "clientConfig": {"url": f"https://localhost:{server.server_address[1]}/", "caBundle": bundle},
        }
        cluster.kube.call("POST", path, {"metadata": {"name": name}, "webhooks": [webhook]})
        try:
            yield
        finally:
            cluster.kube.call("DELETE", f"{path}/{name}")
            server.shutdown()
            thread.join()


def known(cluster: Cluster, tree: Tree, seen: Callable[[Tree], bool]) -> Tree:
    """What the API server says to a pod once it calls the other webhook, which it learns of by a watch."""
    for _ in range(200):
        made = posted(cluster, json.loads(json.dumps(tree)))
        if seen(made):
            return made
    pytest.fail("the other webhook is not called")


def a_mesh(tree: Tree) -> list[Tree]:
    """A container more, first; an init container more, first; a volume."""
    spec = tree["spec"]
    if any(one["name"] == "istio-proxy" for one in spec["containers"]):
        return []
    proxy = {"name": "istio-proxy", "image": "proxy", "env": [{"name": "X", "value": "1"}]}
    setup = {"name": "istio-init", "image": "proxy"}
    first = "/spec/initContainers/0" if spec.get("initContainers") else "/spec/initContainers"
    return [
        {"op": "add", "path": "/spec/containers/0", "value": proxy},
        {"op": "add", "path": first, "value": setup if first.endswith("0") else [setup]},
    ]


@pytest.mark.parametrize("name", ["aa-mesh", "zz-mesh"])
def test_a_mesh_comes_in_before_or_after(cluster: Cluster, tmp_path: Path, name: str) -> None:
    def seen(made: Tree) -> bool:
        return any(one["name"] == "istio-proxy" for one in made["spec"]["containers"])

    with another_webhook(cluster, tmp_path, name, a_mesh):
        made = known(cluster, pod(), seen)
    assert {one["name"] for one in made["spec"]["initContainers"]} == {"openbao-sidecar", "istio-init"}
    for one in made["spec"]["containers"]:
        assert variables(one)["VAULT_ADDR"] == "http://127.0.0.1:8200"  # asked again after the mesh (IfNeeded)


def in_the_sidecar(change: Tree) -> Mutation:
    """Changes the sidecar's container, where it is there."""

    def mutation(tree: Tree) -> list[Tree]:
        names = [one["name"] for one in tree["spec"].get("initContainers", ())]
        if "openbao-sidecar" not in names:
            return []
        return [change | {"path": f"/spec/initContainers/{names.index('openbao-sidecar')}{change['path']}"}]

    return mutation


TOKEN: Tree = {"name": "openbao-sidecar-token", "mountPath": "/token"}
MEDDLING: dict[str, Mutation] = {
    "image": in_the_sidecar({"op": "replace", "path": "/image", "value": "other:1"}),
    "env": in_the_sidecar({"op": "add", "path": "/env/-", "value": {"name": "LD_PRELOAD", "value": "/x"}}),
    "securityContext": in_the_sidecar({"op": "replace", "path": "/securityContext/runAsUser", "value": 1}),
    "openbao-sidecar-token": lambda tree: [
        {"op": "add", "path": "/spec/containers/0/volumeMounts", "value": [TOKEN]},
    ],
}


@pytest.mark.parametrize("named", MEDDLING)
def test_what_others_make_of_the_sidecar_is_seen_in_the_end(cluster: Cluster, tmp_path: Path, named: str) -> None:
    with another_webhook(cluster, tmp_path, "zz-meddler", MEDDLING[named]):
        made = known(cluster, pod(), lambda made: made["kind"] == "Status")
    assert made["code"] == 403
    assert named in made["message"]
