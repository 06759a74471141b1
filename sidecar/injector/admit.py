"""What is said to each review: the rules in the order in which they count. Pure.

`mutate` makes pods what they are to be. `validate` looks at what came out once every other webhook has had its turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sidecar.injector.allowed import Namespace
from sidecar.injector.annotations import Wishes, parse_annotations
from sidecar.injector.config import InjectorConfig
from sidecar.injector.exposure import refuse_others_tokens, refuse_reserved_names, refuse_who_sees_processes
from sidecar.injector.keys import refuse_others_secrets, refuse_secret_variables, sidecars_secrets
from sidecar.injector.names import CONTAINER, PREFIX, STATUS, UNTOUCHED_NAMESPACES
from sidecar.injector.patch import Injection, inject
from sidecar.injector.refusal import Denied, Malformed
from sidecar.injector.review import Review
from sidecar.injector.spool import refuse_spool
from sidecar.injector.terms import settle
from sidecar.injector.variables import refuse_foreign_mounts
from sidecar.injector.workload import Container, Pod, parse_pod

Phase = Literal["mutate", "validate"]
_NOTHING = Injection((), ())


@dataclass(frozen=True, slots=True)
class Rules:
    """What a running injector decides by."""

    config: InjectorConfig
    own_namespace: str
    native: bool


def admit(review: Review, rules: Rules, phase: Phase) -> Injection:
    """What to do with it.

    Raises:
        Denied: it is kept out.
        Malformed: it is not what the API server sends.
    """
    if review.namespace in UNTOUCHED_NAMESPACES or review.namespace == rules.own_namespace:
        return _NOTHING
    if review.subresource == "portforward":  # which port is not told; not asked where the operator lets it be
        raise Denied(
            "port-forward: what comes by it comes from the pod's loopback, and would be the pod to its sidecar"
        )
    if review.subresource in ("exec", "attach"):
        return _enter(review.object)
    pod = parse_pod(review.object)
    if _namespace_of(review.object) not in ("", review.namespace):
        raise Malformed("the object's namespace is not the request's")
    if review.operation == "UPDATE":
        reserved = sidecars_secrets(rules.config.sidecar, rules.config.namespaces.get(review.namespace))
        return _change(pod, parse_pod(review.old_object), reserved)
    if review.operation != "CREATE" or review.subresource:
        raise Malformed("request.operation: does not go with the resource")
    return _create(pod, review.namespace, rules, phase)


def _namespace_of(tree: Mapping[str, Any]) -> object:
    metadata = tree.get("metadata")
    return metadata.get("namespace") or "" if isinstance(metadata, dict) else ""


# -- a new pod -------------------------------------------------------------------------------------------------------
def _create(pod: Pod, namespace: str, rules: Rules, phase: Phase) -> Injection:
    _refuse_labels(pod)
    wishes = parse_annotations(pod.annotations)
    refuse_others_tokens(pod, rules.config.sidecar.token.audience)
    allowed = rules.config.namespaces.get(namespace)
    refuse_others_secrets(pod, sidecars_secrets(rules.config.sidecar, allowed))
    if not _is_to_be_injected(pod, wishes, allowed):
        refuse_reserved_names(pod)
        if STATUS in pod.annotations:
            raise Denied(f'annotation {STATUS}: says what is not so; ask for it with {PREFIX}inject: "true"')
        return _NOTHING
    if allowed is None:
        raise Denied(f"namespace {namespace!r} is not among those that the injector is configured for")
    terms = settle(wishes, allowed)
    found = inject(pod, wishes, terms, rules.config.sidecar, native=rules.native)
    if phase == "validate":
        if not any(container.name == CONTAINER for container in pod.everywhere):
            raise Denied(f"container {CONTAINER!r}: is missing; was the injector's mutating webhook not called?")
        return _NOTHING
    return found


def _is_to_be_injected(pod: Pod, wishes: Wishes, allowed: Namespace | None) -> bool:
    if pod.is_mirror:
        if wishes.inject:
            raise Denied("a static pod runs from its node's file: nothing can be put into it")
        return False
    if allowed is not None and allowed.required:
        if wishes.inject is False:
            raise Denied(f"annotation {PREFIX}inject: every pod of this namespace has a sidecar")
        return True
    return bool(wishes.inject)


def _refuse_labels(pod: Pod) -> None:
    for name in pod.labels:
        if name.startswith(PREFIX):
            raise Denied(f"label {name!r}: a pod says it by annotation; a label does nothing")


# -- a pod that is there ---------------------------------------------------------------------------------------------
def _change(pod: Pod, old: Pod, reserved: frozenset[str]) -> Injection:
    """Of a pod that runs Kubernetes lets little be changed; of that, nothing that is the sidecar's."""
    before = {name: text for name, text in old.annotations.items() if name.startswith(PREFIX)}
    after = {name: text for name, text in pod.annotations.items() if name.startswith(PREFIX)}
    if before != after:
        raise Denied(f"annotations {PREFIX}*: count when a pod is made, and are not changed afterwards")
    if _sidecars(pod) != _sidecars(old):
        raise Denied(f"container {CONTAINER!r}: is not changed once it runs")
    known = {container.name for container in old.ephemeral_containers}
    for container in pod.ephemeral_containers:
        if container.name not in known:
            refuse_secret_variables(container, reserved)
            _debug(container, pod)
    return _NOTHING


def _sidecars(pod: Pod) -> list[Mapping[str, Any]]:
    """Without their resources, which may be changed (`pods/resize`)."""
    return [
        {key: value for key, value in container.tree.items() if key != "resources"}
        for container in (*pod.init_containers, *pod.containers)
        if container.name == CONTAINER
    ]


def _debug(container: Container, pod: Pod) -> None:
    """An ephemeral container, as `kubectl debug` adds it to a running pod."""
    if container.name == CONTAINER:
        raise Denied(f"ephemeral container {CONTAINER!r}: the name is the injector's")
    if container.tree.get("targetContainerName") == CONTAINER:
        raise Denied(f"ephemeral container {container.name!r}: would see the processes of {CONTAINER!r}")
    refuse_foreign_mounts(container)
    if _sidecars(pod):
        refuse_who_sees_processes(container, pod)
        refuse_spool(container, pod)


def _enter(options: Any) -> Injection:
    """`kubectl exec` and `attach`: whoever gets into the sidecar's container has its token."""
    if not isinstance(options, dict):
        raise Malformed("the object is not options of exec or attach")
    if options.get("container") == CONTAINER:
        raise Denied(f"container {CONTAINER!r}: is not entered; look at its logs, or at /readyz")
    return _NOTHING
