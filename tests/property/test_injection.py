"""Of any pod at all: it is denied in words, or it gets its sidecar once, with nothing but additions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.injector.annotations import ANNOTATIONS
from sidecar.injector.names import PREFIX
from sidecar.injector.refusal import Malformed
from sidecar.injector.review import parse_review
from sidecar.injector.server import answer_review
from tests.injector.difference import assert_only_added
from tests.injector.making import NAMESPACE, Tree, answered, patched, pod, review, rules, sidecar_of

NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,8}[a-z0-9]", fullmatch=True) | st.sampled_from(["app", "openbao", "init"])
TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
VARIABLES = st.sampled_from(["VAULT_ADDR", "BAO_ADDR", "VAULT_AGENT_ADDR", "BAO_AGENT_ADDR", "A"])
ENTRIES = st.builds(lambda name, value: {"name": name, "value": value}, VARIABLES, TEXTS) | st.builds(
    lambda name: {"name": name, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}, VARIABLES
)
MOUNTS = st.builds(lambda name: {"name": name, "mountPath": f"/{name}"}, NAMES)
CONTAINERS = st.fixed_dictionaries(
    {"name": NAMES, "image": st.just("image:1")},
    optional={
        "env": st.lists(ENTRIES, max_size=4),
        "volumeMounts": st.lists(MOUNTS, max_size=3),
        "ports": st.lists(
            st.builds(lambda port: {"containerPort": port}, st.sampled_from([80, 8201, 8443])), max_size=2
        ),
        "securityContext": st.just({"runAsUser": 1000, "allowPrivilegeEscalation": False}),
        "command": st.lists(TEXTS, max_size=2),
    },
)


def apart(containers: list[Tree]) -> list[Tree]:
    return [one | {"name": f"{one['name']}-{index}"} for index, one in enumerate(containers)]


SPECS = st.fixed_dictionaries(
    {"containers": st.lists(CONTAINERS, min_size=1, max_size=4).map(apart)},
    optional={
        "initContainers": st.lists(CONTAINERS, max_size=3).map(apart),
        "volumes": st.lists(st.builds(lambda name: {"name": name, "emptyDir": {}}, NAMES), max_size=3),
        "terminationGracePeriodSeconds": st.integers(0, 10_000),
        "securityContext": st.fixed_dictionaries(
            {}, optional={"fsGroup": st.integers(1, 9), "supplementalGroups": st.lists(st.integers(1, 9), max_size=2)}
        ),
        "imagePullSecrets": st.lists(st.builds(lambda name: {"name": name}, NAMES), max_size=2),
        "resources": st.just({"requests": {"cpu": "1", "memory": "1Gi"}}),
        "hostname": NAMES,
    },
)
WISHES = st.fixed_dictionaries(
    {},
    optional={
        "listen": st.sampled_from(["tcp", "unix"]),
        "override_vault_addr": st.sampled_from(["true", "false"]),
        "vault_agent_addr": st.sampled_from(["true", "false"]),
        "pod_identity": st.sampled_from(["true", "false"]),
        "role": st.sampled_from(["app", "batch"]),
        "spool_volume": st.sampled_from(["emptyDir", "claim"]),
        "cpu_limit": st.sampled_from(["20m", "0.5", "2"]),
        "memory_request": st.sampled_from(["64Mi", "1Gi"]),
    },
)


@given(SPECS, WISHES, st.booleans())
@settings(max_examples=80)
def test_a_pod_gets_its_sidecar_once_and_nothing_else_changes(spec: Tree, wishes: dict[str, str], native: bool) -> None:
    by = rules(native=native, image_pull_secrets=["regcred"])
    tree = pod(spec, **wishes)
    once = patched(tree, answered(tree, by))
    assert sidecar_of(once, native=native)
    assert_only_added(tree["spec"], once["spec"], overridden=wishes.get("override_vault_addr") == "true")
    again = answered(once, by)
    assert again["allowed"]
    assert "patch" not in again
    assert answered(once, by, "validate")["allowed"]


@given(st.dictionaries(st.sampled_from(ANNOTATIONS) | TEXTS, TEXTS | st.sampled_from(["true", "acme", "secret"])))
@settings(max_examples=150)
def test_annotations_of_any_kind_are_denied_in_words_or_narrow(found: dict[str, str]) -> None:
    tree = pod()
    tree["metadata"]["annotations"] |= {f"{PREFIX}{key}": text for key, text in found.items()}
    response = answered(tree)
    if not response["allowed"]:
        assert response["status"]["code"] == 403
        assert response["status"]["message"].isprintable()
        return
    text = json.dumps(patched(tree, response)["spec"])
    assert "umbrella" not in text
    assert "other" not in text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
_PLACES = """
metadata metadata.annotations metadata.labels spec spec.containers spec.volumes spec.initContainers spec.os
spec.securityContext spec.securityContext.supplementalGroups spec.nodeSelector spec.resources spec.hostPID
spec.imagePullSecrets spec.terminationGracePeriodSeconds spec.containers.0 spec.containers.0.env
spec.containers.0.env.0 spec.containers.0.ports spec.containers.0.volumeMounts spec.containers.0.resources
spec.containers.0.securityContext spec.containers.0.securityContext.capabilities spec.volumes.0
spec.volumes.0.projected spec.volumes.0.projected.sources spec.volumes.0.hostPath spec.resources.requests
spec.volumes.0.persistentVolumeClaim
"""
PLACES = st.sampled_from(_PLACES.split())


def full() -> Tree:
    """A pod in which every place is there."""
    container = {"name": "app", "image": "a", "env": [{}], "ports": [], "volumeMounts": [], "resources": {}}
    container["securityContext"] = {"capabilities": {}}
    volume = {"name": "v", "projected": {"sources": []}, "hostPath": {}, "persistentVolumeClaim": {}}
    spec = {"containers": [container], "volumes": [volume], "securityContext": {"supplementalGroups": []}}
    tree = pod(
        spec
        | {"initContainers": [], "os": {}, "nodeSelector": {}, "resources": {"requests": {}}, "imagePullSecrets": []}
    )
    tree["metadata"]["labels"] = {}
    return tree


@given(PLACES, JSON, st.sampled_from(["CREATE", "CREATE", "UPDATE"]), st.booleans(), st.booleans())
@settings(max_examples=200)
def test_a_pod_of_any_form_is_answered_and_no_fault_of_ours(
    place: str, value: Any, operation: str, unix: bool, native: bool
) -> None:
    tree: Any = full()
    tree["metadata"]["annotations"][f"{PREFIX}listen"] = "unix" if unix else "tcp"
    tree["metadata"]["annotations"][f"{PREFIX}spool-volume"] = "claim"
    holder: Any = tree
    *parents, last = place.split(".")
    for part in parents:
        holder = holder[int(part) if part.isdigit() else part]
    holder[int(last) if last.isdigit() else last] = value
    by = rules(native=native, image_pull_secrets=["regcred"])
    response = answered(tree, by, operation=operation, old=full())
    assert response.get("status", {}).get("code") in (None, 400, 403)


@given(JSON)
def test_a_review_of_any_form_is_refused_as_malformed(value: Any) -> None:
    with pytest.raises(Malformed):
        parse_review(json.dumps(value).encode())


@given(st.sampled_from(sorted(review(pod())["request"])), JSON)
@settings(max_examples=100)
def test_a_request_of_any_form_is_answered_or_refused(key: str, value: Any) -> None:
    tree = review(pod())
    tree["request"][key] = value
    try:
        found = parse_review(json.dumps(tree).encode())
    except Malformed:
        return
    response = answer_review(found, rules(), "mutate")["response"]
    assert response.get("status", {}).get("code") in (None, 400, 403)
    assert found.namespace == NAMESPACE or not response.get("patch")
