"""What is let in, what is kept out, and that it is said why."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from sidecar.injector.names import PREFIX
from tests.injector.making import (
    AUDIENCE,
    OWN_NAMESPACE,
    Tree,
    answered,
    injected,
    pod,
    review,
    rules,
    why_not,
)

Spec = dict[str, Any]


def unchanged(tree: Tree, **asked: Any) -> bool:
    response = answered(tree, **asked)
    return response["allowed"] is True and "patch" not in response


# -- annotations -----------------------------------------------------------------------------------------------------
BAD = [
    ("inject", "yes"),
    ("inject", "True"),
    ("inject", ""),
    ("config", "../etc"),
    ("config", "Upper"),
    ("tenant-id", "acme\nTENANT: other"),
    ("tenant-id", '{"id":"other"}'),
    ("tenant-id", ""),
    ("allowed-mounts", ""),
    ("allowed-mounts", "secret,"),
    ("allowed-mounts", "secret/"),
    ("allowed-mounts", "secret/../kv"),
    ("allowed-mounts", "secret,secret"),
    ("allowed-mounts", "*"),
    ("role", "app role"),
    ("role", "$(HOME)"),
    ("containers", "app,,web"),
    ("containers", "nobody"),
    ("containers", "openbao-sidecar"),
    ("listen", "udp"),
    ("override-vault-addr", "1"),
    ("vault-agent-addr", "on"),
    ("pod-identity", "no"),
    ("spool-volume", "/var/lib"),
    ("cpu-request", "lots"),
    ("cpu-request", "0"),
    ("cpu-limit", "-1"),
    ("cpu-limit", "0.0001"),
    ("memory-request", "256MB"),
    ("memory-limit", "128m"),
    ("memory-limit", "1" * 2000),
    ("log-level", "trace"),
    ("status", "done"),
    ("injekt", "true"),
    ("Inject", "true"),
    ("config\u202e", "x"),
]


@pytest.mark.parametrize(("key", "text"), BAD)
def test_a_bad_annotation_is_denied_by_name(key: str, text: str) -> None:
    tree = pod()
    tree["metadata"]["annotations"][f"{PREFIX}{key}"] = text
    message = why_not(tree)
    assert key.removesuffix("\u202e") in message
    assert message.isprintable()
    assert len(message) < 700


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("tenant-id", "wayne"),
        ("allowed-mounts", "secret,kv"),
        ("allowed-mounts", "team"),
        ("role", "other"),
        ("config", "of-my-own"),
    ],
)
def test_an_annotation_that_widens_is_denied_by_name(key: str, text: str) -> None:
    message = why_not(pod(None, **{key.replace("-", "_"): text}))
    assert key in message
    assert "umbrella" not in message  # what else the namespace may have is not told


def test_annotations_of_others_are_nobodys_matter() -> None:
    tree = pod()
    tree["metadata"]["annotations"]["example.com/inject"] = "maybe"
    assert injected(tree)


def test_a_label_in_place_of_an_annotation_is_denied() -> None:
    tree = pod(inject=None)
    tree["metadata"]["labels"] = {f"{PREFIX}inject": "true"}
    assert "annotation" in why_not(tree)


# -- whom it concerns ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("inject", [None, "false"])
def test_a_pod_that_does_not_ask_is_left_alone(inject: str | None) -> None:
    assert unchanged(pod(inject=inject))
    assert unchanged(pod(inject=inject), phase="validate")


@pytest.mark.parametrize("namespace", ["kube-system", OWN_NAMESPACE])
def test_the_clusters_own_pods_and_the_injectors_are_never_touched(namespace: str) -> None:
    tree = pod()
    tree["metadata"]["namespace"] = namespace
    assert unchanged(tree, namespace=namespace)


def test_a_namespace_that_is_not_configured_gets_nothing() -> None:
    tree = pod()
    tree["metadata"]["namespace"] = "elsewhere"
    assert "elsewhere" in why_not(tree, namespace="elsewhere")


def test_where_every_pod_must_have_one_none_says_no() -> None:
    tree = pod(inject="false")
    tree["metadata"]["namespace"] = "strict"
    assert "inject" in why_not(tree, namespace="strict")


def test_a_pod_without_a_name_of_its_own_is_injected() -> None:
    tree = pod()
    tree["metadata"] = {"generateName": "app-", "annotations": tree["metadata"]["annotations"]}
    assert injected(tree)


def test_a_dry_run_is_answered_the_same() -> None:
    assert answered(pod(), dryRun=True) == answered(pod())


def test_a_static_pod_is_not_injected() -> None:
    tree = pod(inject=None)
    tree["metadata"]["annotations"]["kubernetes.io/config.mirror"] = "x"
    assert unchanged(tree)
    tree["metadata"]["annotations"][f"{PREFIX}inject"] = "true"
    assert "static" in why_not(tree)


# -- pods that it would not be safe in -------------------------------------------------------------------------------
UNSAFE: list[tuple[str, Spec]] = [
    ("hostNetwork", {"hostNetwork": True}),
    ("Linux", {"os": {"name": "windows"}}),
    ("Linux", {"nodeSelector": {"kubernetes.io/os": "windows"}}),
    ("shareProcessNamespace", {"shareProcessNamespace": True}),
    ("hostPID", {"hostPID": True}),
    ("runAsUser", {"shareProcessNamespace": True, "securityContext": {"runAsUser": 65532}}),
    ("allowPrivilegeEscalation", {"shareProcessNamespace": True, "securityContext": {"runAsUser": 1000}}),
    ("openbao-sidecar", {"initContainers": [{"name": "openbao-sidecar", "image": "mine"}]}),
    ("openbao-sidecar", {"containers": [{"name": "openbao-sidecar", "image": "mine"}]}),
    ("openbao-sidecar-spool", {"volumes": [{"name": "openbao-sidecar-spool", "emptyDir": {}}]}),
    ("8200", {"containers": [{"name": "vault", "image": "v", "ports": [{"containerPort": 8200}]}]}),
    ("9102", {"containers": [{"name": "statsd", "image": "v", "ports": [{"containerPort": 9102}]}]}),
]


@pytest.mark.parametrize(("names", "spec"), UNSAFE)
def test_a_pod_in_which_it_is_not_safe_is_denied(names: str, spec: Spec) -> None:
    assert names in why_not(pod(spec))


def apart(**security: Any) -> Spec:
    context = {"runAsUser": 1000, "allowPrivilegeEscalation": False} | security
    return {"containers": [{"name": "app", "image": "a", "securityContext": context}]}


@pytest.mark.parametrize("key", ["shareProcessNamespace", "hostPID"])
def test_processes_may_be_seen_by_who_cannot_look_into_them(key: str) -> None:
    assert injected(pod(apart() | {key: True}))
    for more in ({"privileged": True}, {"runAsUser": 0}, {"capabilities": {"add": ["SYS_PTRACE"]}}):
        assert key in why_not(pod(apart(**more) | {key: True}))


def test_the_node_is_somebody_elses_matter_and_its_author_is_told() -> None:
    spec = {
        "containers": [{"name": "agent", "image": "a", "securityContext": {"privileged": True}}],
        "volumes": [
            {"name": "root", "hostPath": {"path": "/var/lib/"}},
            {"name": "log", "hostPath": {"path": "/var/log"}},
        ],
    }
    warnings = answered(pod(spec))["warnings"]
    assert ["agent" in warnings[0], "root" in warnings[1], len(warnings)] == [True, True, 2]


def token_volume(name: str, audience: str) -> Spec:
    source = {"serviceAccountToken": {"audience": audience, "path": "token"}}
    return {"volumes": [{"name": name, "projected": {"sources": [source]}}]}


@pytest.mark.parametrize("inject", [None, "false", "true"])
@pytest.mark.parametrize("phase", ["mutate", "validate"])
def test_no_pod_projects_a_token_for_openbao_of_its_own(inject: str | None, phase: Any) -> None:
    message = why_not(pod(token_volume("mine", AUDIENCE), inject=inject), phase=phase)
    assert "mine" in message
    assert AUDIENCE in message


def test_tokens_for_others_are_the_pods_own_matter() -> None:
    assert injected(pod(token_volume("mine", "sts.amazonaws.com")))
    assert injected(pod(token_volume("mine", "")))


# -- a cluster without native sidecars -------------------------------------------------------------------------------
@pytest.mark.parametrize("policy", ["Never", "OnFailure"])
def test_a_pod_that_is_to_end_needs_native_sidecars(policy: str) -> None:
    spec = {"restartPolicy": policy}
    assert injected(pod(spec))
    assert "restartPolicy" in why_not(pod(spec), rules(native=False))


def test_init_containers_do_without_a_classic_sidecar_and_are_told() -> None:
    spec = {"initContainers": [{"name": "migrate", "image": "m"}]}
    after = injected(pod(spec), rules(native=False))
    assert after["spec"]["initContainers"] == spec["initContainers"]
    assert "init containers" in answered(pod(spec), rules(native=False))["warnings"][0]
    assert "migrate" in why_not(pod(spec, containers="migrate"), rules(native=False))


# -- pods that are there ---------------------------------------------------------------------------------------------
def changed(change: Any, *, subresource: str = "", old: Tree | None = None) -> Tree:
    before = old or injected(pod())
    after = copy.deepcopy(before)
    change(after)
    return answered(after, operation="UPDATE", old=before, subresource=subresource)


def test_what_is_not_the_sidecars_may_change() -> None:
    def finalizer(tree: Tree) -> None:
        tree["metadata"]["finalizers"] = []
        tree["metadata"]["annotations"]["example.com/x"] = "y"
        tree["spec"]["containers"][0]["image"] = "app:2"

    response = changed(finalizer)
    assert response["allowed"]
    assert "patch" not in response
    assert changed(finalizer, old=pod(inject=None))["allowed"]


def test_resources_may_be_changed_in_place() -> None:
    def more(tree: Tree) -> None:
        tree["spec"]["initContainers"][0]["resources"]["limits"]["memory"] = "512Mi"

    assert changed(more, subresource="resize")["allowed"]


def test_the_sidecars_image_is_not_changed_while_it_runs() -> None:
    def image(tree: Tree) -> None:
        tree["spec"]["initContainers"][0]["image"] = "evil:1"

    assert "openbao-sidecar" in changed(image)["status"]["message"]


def test_its_annotations_are_not_changed_afterwards() -> None:
    def tenant(tree: Tree) -> None:
        tree["metadata"]["annotations"][f"{PREFIX}tenant-id"] = "umbrella"

    def gone(tree: Tree) -> None:
        del tree["metadata"]["annotations"][f"{PREFIX}status"]

    for change in (tenant, gone):
        assert "annotations" in changed(change)["status"]["message"]


def debugged(old: Tree | None = None, /, **container: Any) -> Tree:
    def add(tree: Tree) -> None:
        tree["spec"]["ephemeralContainers"] = [{"name": "debug", "image": "busybox"} | container]

    return changed(add, subresource="ephemeralcontainers", old=old)


def test_a_debugging_container_comes_in_but_not_near_the_sidecar() -> None:
    assert debugged()["allowed"]
    assert debugged(targetContainerName="app")["allowed"]
    assert not debugged(targetContainerName="openbao-sidecar")["allowed"]
    assert not debugged(name="openbao-sidecar")["allowed"]
    assert not debugged(volumeMounts=[{"name": "openbao-sidecar-token", "mountPath": "/t"}])["allowed"]


def test_a_debugging_container_is_as_far_from_it_as_the_others() -> None:
    shared = injected(pod(apart() | {"shareProcessNamespace": True}))
    harmless = apart()["containers"][0]["securityContext"]
    assert "/proc" in debugged(shared)["status"]["message"]
    assert debugged(shared, securityContext=harmless)["allowed"]
    plain = pod({"shareProcessNamespace": True}, inject=None)
    assert debugged(plain)["allowed"]  # nothing there is the sidecar's
    claim = {"name": "audit", "persistentVolumeClaim": {"claimName": "audit-web-0"}}
    kept = injected(pod({"volumes": [claim]}, spool_volume="audit"))
    assert "spool" in debugged(kept, volumeMounts=[{"name": "audit", "mountPath": "/a"}])["status"]["message"]


@pytest.mark.parametrize("how", ["exec", "attach"])
def test_nobody_enters_the_sidecar(how: str) -> None:
    def enter(container: str) -> Tree:
        return answered({"container": container, "command": ["id"]}, operation="CONNECT", subresource=how)

    assert enter("app")["allowed"]
    assert enter("")["allowed"]
    assert "openbao-sidecar" in enter("openbao-sidecar")["status"]["message"]


def test_where_it_is_asked_about_them_ports_are_not_forwarded() -> None:
    message = why_not({"ports": [8200]}, operation="CONNECT", subresource="portforward")
    assert "loopback" in message


# -- what is no pod --------------------------------------------------------------------------------------------------
MALFORMED: list[Any] = [
    None,
    [],
    "pod",
    {"kind": "Deployment", "apiVersion": "apps/v1"},
    pod() | {"spec": []},
    pod({"containers": {}}),
    pod({"containers": ["app"]}),
    pod({"containers": [{"image": "x"}]}),
    pod({"containers": [{"name": "x", "env": {}}]}),
    pod({"volumes": [{}]}),
    pod() | {"metadata": {"annotations": {f"{PREFIX}inject": True}}},
    pod() | {"metadata": {"namespace": "kube-system"}},
]


@pytest.mark.parametrize("tree", MALFORMED)
def test_what_is_no_pod_is_not_let_in(tree: Any) -> None:
    response = answered(tree)
    assert response["status"]["code"] == 400
    assert not response["allowed"]


def test_an_operation_that_does_not_go_with_it_is_not_let_in() -> None:
    assert answered(pod(), operation="CONNECT")["status"]["code"] == 400
    assert answered(pod(), subresource="resize")["status"]["code"] == 400
    assert answered(pod(), operation="UPDATE", old=None)["status"]["code"] == 400
    assert review(pod())["request"]["operation"] == "CREATE"
