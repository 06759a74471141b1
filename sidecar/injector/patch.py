"""What makes a pod one with a sidecar: a JSON patch (RFC 6902) that only adds, but for addresses that the pod asks to
have replaced, and the time that it is given to stop. Of a pod that has its sidecar it changes nothing. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sidecar.injector.annotations import Wishes
from sidecar.injector.config import Sidecar
from sidecar.injector.container import Parts, sidecar_parts
from sidecar.injector.exposure import node_level_warnings, refuse_reserved_names, refuse_unsafe
from sidecar.injector.likeness import container_differences, same_volume
from sidecar.injector.names import CONTAINER, INJECTED, PORT, PREFIX, STATUS, USER, VOLUME_PREFIX
from sidecar.injector.refusal import Denied
from sidecar.injector.resources import all_limited, is_guaranteed, raised
from sidecar.injector.spool import spool_claim
from sidecar.injector.terms import Terms
from sidecar.injector.variables import Change, chosen_containers, lead_to_sidecar, refuse_foreign_mounts
from sidecar.injector.workload import Container, Pod

_USUAL_GRACE: Final = 30
"""Seconds: Kubernetes' own default of terminationGracePeriodSeconds."""


@dataclass(frozen=True, slots=True)
class Injection:
    """The patch, empty where the pod has its sidecar already, and what its author should know."""

    patch: tuple[Change, ...]
    warnings: tuple[str, ...]


def inject(pod: Pod, wishes: Wishes, terms: Terms, sidecar: Sidecar, *, native: bool) -> Injection:
    """What to do to a pod that is to have a sidecar.

    Raises:
        Denied: the pod cannot have one as it is.
    """
    refuse_unsafe(pod)
    if not native and pod.spec.get("restartPolicy", "Always") != "Always":
        raise Denied(
            "spec.restartPolicy: the sidecar would keep the pod from ending, since this cluster has no native sidecars"
        )
    grace = _grace(pod)
    there = _present(pod, native=native)
    wishes = replace(wishes, spool_volume=spool_claim(pod, wishes.spool_volume))
    own_grace = max(grace - sidecar.drain_seconds, 0) if there else grace
    parts = sidecar_parts(wishes, terms, sidecar, native=native, application_grace=own_grace)
    if there is not None:
        _must_be_ours(there, parts, pod, sidecar)
    else:
        refuse_reserved_names(pod)
        _refuse_collisions(pod, wishes, sidecar)
    warnings = list(node_level_warnings(pod))
    patch: list[Change] = []
    for container in pod.everywhere:
        if container is not there:
            refuse_foreign_mounts(container)
    for container in chosen_containers(pod, wishes, native=native):
        patch += lead_to_sidecar(container, wishes, warnings)
    if not native and pod.init_containers:
        warnings.append("init containers run before the sidecar and are given no address: no native sidecars here")
    if pod.annotations.get(STATUS) != INJECTED:
        patch += _status(pod)
    if there is None:
        patch += _additions(pod, wishes, sidecar, parts, native=native)
        patch.append(_number("/spec/terminationGracePeriodSeconds", grace + sidecar.drain_seconds))
        ours = parts.container["resources"]
        for name, quantities in raised(pod, ours).items():
            patch += [
                {"op": "add", "path": f"/spec/resources/{name}/{kind}", "value": one}
                for kind, one in quantities.items()
            ]
        if is_guaranteed(pod) and not all_limited(ours):
            warnings.append(
                f"the pod is no longer of the class Guaranteed: {PREFIX}cpu-limit and its like make the sidecar so too"
            )
    return Injection(tuple(patch), tuple(warnings))


# -- a sidecar that is there -----------------------------------------------------------------------------------------
def _present(pod: Pod, *, native: bool) -> Container | None:
    found = [container for container in pod.everywhere if container.name == CONTAINER]
    if not found:
        return None
    if len(found) > 1 or found[0].ephemeral or found[0].init is not native:
        raise Denied(f"container {CONTAINER!r}: the name is the injector's, and this is not what it adds")
    return found[0]


def _must_be_ours(there: Container, parts: Parts, pod: Pod, sidecar: Sidecar) -> None:
    if all(container is there for container in pod.containers):
        # Who enters a pod without naming a container is led into its only one.
        raise Denied(f"spec.containers: has none but {CONTAINER!r}")
    differing = container_differences(parts.container, there.tree, pod.volumes, sidecar.tolerated)
    if differing:
        fields = ", ".join(differing)
        raise Denied(f"container {CONTAINER!r}: is not what the injector adds; different are: {fields}. Remove it")
    wanted = {volume["name"]: volume for volume in parts.volumes}
    for volume in pod.volumes:
        name = volume["name"]
        if name.startswith(VOLUME_PREFIX) and not (name in wanted and same_volume(wanted.pop(name), volume)):
            raise Denied(f"volume {name!r}: the name is the injector's, and this is not what it adds. Remove it")
    if wanted:
        raise Denied(f"volume {next(iter(wanted))!r}: is missing beside the container {CONTAINER!r}. Remove that")


# -- a sidecar that is added -----------------------------------------------------------------------------------------
def _refuse_collisions(pod: Pod, wishes: Wishes, sidecar: Sidecar) -> None:
    """Ports that the application and the sidecar cannot both have."""
    taken = {sidecar.operations_port} | ({PORT} if wishes.listen == "tcp" else set())
    for container in (*pod.init_containers, *pod.containers):
        for number in (port.get("containerPort") for port in container.ports):
            if isinstance(number, int) and number in taken:
                raise Denied(
                    f"container {container.name!r}: port {number} is the sidecar's in this pod"
                    + (f"; {PREFIX}listen: unix leaves it free" if number == PORT else "")
                )


def _additions(pod: Pod, wishes: Wishes, sidecar: Sidecar, parts: Parts, *, native: bool) -> Iterator[Change]:
    yield from _appended("/spec/volumes", pod.volumes, parts.volumes)
    secrets = [{"name": name} for name in sidecar.image_pull_secrets]
    missing = [one for one in secrets if one not in pod.pull_secrets]
    yield from _appended("/spec/imagePullSecrets", pod.pull_secrets, missing)
    if wishes.listen == "unix":
        yield from _socket_group(pod)
    if not native:
        yield {"op": "add", "path": "/spec/containers/-", "value": parts.container}
    elif pod.init_containers:
        yield {"op": "add", "path": "/spec/initContainers/0", "value": parts.container}
    else:
        yield {"op": "add", "path": "/spec/initContainers", "value": [parts.container]}


def _socket_group(pod: Pod) -> Iterator[Change]:
    """Who may connect to the socket: the sidecar's user and group. So the application's processes get that group, which
    opens nothing else to them: no volume of the sidecar's is theirs."""
    if USER in pod.groups:
        return
    if not pod.spec.get("securityContext"):
        yield {"op": "add", "path": "/spec/securityContext", "value": {"supplementalGroups": [USER]}}
    else:
        yield from _appended("/spec/securityContext/supplementalGroups", pod.groups, [USER])


def _status(pod: Pod) -> Iterator[Change]:
    if not pod.annotations:
        yield {"op": "add", "path": "/metadata/annotations", "value": {}}
    yield {"op": "add", "path": f"/metadata/annotations/{STATUS.replace('/', '~1')}", "value": INJECTED}


def _appended(path: str, present: Sequence[Any], more: Sequence[Any]) -> Iterator[Change]:
    if not present and more:
        yield {"op": "add", "path": path, "value": list(more)}
        return
    for item in more:
        yield {"op": "add", "path": f"{path}/-", "value": item}


def _number(path: str, value: int) -> Change:
    return {"op": "add", "path": path, "value": value}


def _grace(pod: Pod) -> int:
    grace = pod.spec.get("terminationGracePeriodSeconds")
    if grace is None or isinstance(grace, bool) or not isinstance(grace, int) or grace < 0:
        return _USUAL_GRACE
    return grace
