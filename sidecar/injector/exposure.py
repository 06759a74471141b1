"""Pods that a sidecar would not be safe in, or that reach for what is the sidecar's. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from sidecar.injector.likeness import token_audiences
from sidecar.injector.names import CONTAINER, USER, VOLUME_PREFIX
from sidecar.injector.refusal import Denied
from sidecar.injector.workload import Container, Pod

_KUBELET: Final = "/var/lib/kubelet"
_HARMLESS_CAPABILITIES: Final = frozenset({"NET_BIND_SERVICE"})


def refuse_others_tokens(pod: Pod, audience: str) -> None:
    """No volume but the sidecar's holds a token that OpenBao's login takes.

    Raises:
        Denied: naming the volume.
    """
    for volume in pod.volumes:
        if volume["name"] != f"{VOLUME_PREFIX}token" and audience in token_audiences(volume):
            raise Denied(
                f"volume {volume['name']!r}: projects a service-account token for the audience {audience!r}, "
                "which is the sidecar's alone; remove it"
            )


def refuse_reserved_names(pod: Pod) -> None:
    """A pod that is not injected uses none of the injector's names.

    Raises:
        Denied: naming what does.
    """
    for container in pod.everywhere:
        if container.name == CONTAINER:
            raise Denied(f"container {CONTAINER!r}: the name is the injector's, in namespaces with its label")
    for volume in pod.volumes:
        if volume["name"].startswith(VOLUME_PREFIX):
            raise Denied(f"volume {volume['name']!r}: names that begin with {VOLUME_PREFIX} are the injector's")


def refuse_unsafe(pod: Pod) -> None:
    """The pod is one in which a sidecar keeps what it has to itself.

    Raises:
        Denied: saying what is in the way.
    """
    if _is_windows(pod):
        raise Denied("spec.os: the sidecar runs on Linux only")
    if pod.spec.get("hostNetwork"):
        raise Denied(
            "spec.hostNetwork: the sidecar's address would be the node's, and every process of the node could use it"
        )
    for container in pod.everywhere:
        if container.name != CONTAINER:
            refuse_who_sees_processes(container, pod)


def refuse_who_sees_processes(container: Container, pod: Pod) -> None:
    """Where the pod's processes see each other, a container beside the sidecar cannot look into it.

    Raises:
        Denied: it could; naming what to set.
    """
    for key in ("shareProcessNamespace", "hostPID"):
        if pod.spec.get(key) and (reason := _may_become_the_sidecar(container, pod)):
            raise Denied(f"spec.{key}: container {container.name!r} could read the sidecar's token in /proc: {reason}")


def _is_windows(pod: Pod) -> bool:
    system, selector = pod.spec.get("os"), pod.spec.get("nodeSelector")
    named = system.get("name") if isinstance(system, dict) else None
    selected = selector.get("kubernetes.io/os") if isinstance(selector, dict) else None
    return "windows" in (named, selected)


def _may_become_the_sidecar(container: Container, pod: Pod) -> str:
    """Why a process that sees the sidecar's could look into it; empty where it cannot: it has another user, and no way
    to another one or to other users' processes. An image's own user is not known here."""
    security = container.security
    user = security.get("runAsUser", pod.security.get("runAsUser"))
    capabilities = security.get("capabilities")
    capabilities = capabilities if isinstance(capabilities, dict) else {}
    added = capabilities.get("add") or []
    if security.get("privileged"):
        return "it is privileged"
    if user is None or user in (0, USER):
        return f"set securityContext.runAsUser to a number other than 0 and {USER}"
    if security.get("allowPrivilegeEscalation") is not False:
        return "set securityContext.allowPrivilegeEscalation to false"
    if not isinstance(added, list) or not {str(one) for one in added} <= _HARMLESS_CAPABILITIES:
        return "it adds capabilities"
    return ""


def node_level_warnings(pod: Pod) -> Iterator[str]:
    """What gives a pod the node's power, and with it every token on the node, its own sidecar's among them. That is
    Pod Security's matter; the pod's author is told."""
    for container in pod.everywhere:
        if container.security.get("privileged"):
            yield f"container {container.name} is privileged: it can read the sidecar's token"
    for volume in pod.volumes:
        if _shows_kubelets_folder(volume):
            yield f"volume {volume['name']} shows the kubelet's folder: it can read the sidecar's token"


def _shows_kubelets_folder(volume: Mapping[str, Any]) -> bool:
    host = volume.get("hostPath")
    path = host.get("path") if isinstance(host, dict) else None
    if not isinstance(path, str):
        return False
    clean = "/" + "/".join(part for part in path.split("/") if part)
    return clean == "/" or f"{_KUBELET}/".startswith(f"{clean}/") or clean.startswith(f"{_KUBELET}/")
