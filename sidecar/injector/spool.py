"""Where the sidecar keeps its journal, if not in an empty folder: a claim that is nobody else's in the pod. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sidecar.injector.annotations import EMPTY_DIR
from sidecar.injector.names import CONTAINER, PREFIX, VOLUME_PREFIX
from sidecar.injector.refusal import Denied
from sidecar.injector.workload import Container, Pod


def spool_claim(pod: Pod, asked: str) -> str:
    """The claim that is asked for, by its name, or by that of a volume of the pod: a StatefulSet gives each pod a claim
    of its own behind one volume's name. `emptyDir` stays what it is.

    Raises:
        Denied: a container of the application has it.
    """
    if asked == EMPTY_DIR:
        return asked
    claims = {volume["name"]: claim for volume in pod.volumes if (claim := _claim(volume))}
    wanted = claims.get(asked, asked)
    for container in pod.everywhere:
        if container.name != CONTAINER:
            refuse_claim(container, pod, wanted, f"annotation {PREFIX}spool-volume")
    return wanted


def refuse_spool(container: Container, pod: Pod) -> None:
    """A container that is added later has not the spool's claim either. Raises Denied."""
    for volume in pod.volumes:
        if volume["name"] == f"{VOLUME_PREFIX}spool" and (claim := _claim(volume)):
            refuse_claim(container, pod, claim, f"ephemeral container {container.name!r}")


def refuse_claim(container: Container, pod: Pod, claim: str, what: str) -> None:
    """Raises Denied where a container uses a claim, under whatever volume's name."""
    theirs = {volume["name"] for volume in pod.volumes if claim in (_claim(volume), _made_for(pod, volume))}
    uses = {str(one.get("name")) for one in (*container.mounts, *container.devices)}
    if theirs & uses:
        raise Denied(f"{what}: container {container.name!r} has the claim {claim!r}, which is the spool's alone")


def _claim(volume: Mapping[str, Any]) -> str:
    claim = volume.get("persistentVolumeClaim")
    return str(claim.get("claimName", "")) if isinstance(claim, dict) else ""


def _made_for(pod: Pod, volume: Mapping[str, Any]) -> str:
    """The claim that Kubernetes makes for a pod's ephemeral volume: by the names of both. A pod whose name is to be
    generated has none yet when it is mutated, and has it when it is validated."""
    return f"{pod.name}-{volume['name']}" if isinstance(volume.get("ephemeral"), dict) else ""
