"""What is changed in an application's containers: the variables that lead to the sidecar, and its socket. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sidecar.injector.annotations import Wishes
from sidecar.injector.container import address, socket_mount
from sidecar.injector.names import (
    ADDRESS_VARIABLES,
    AGENT_VARIABLE,
    ALL_ADDRESSES,
    CONTAINER,
    PREFIX,
    SOCKET_FOLDER,
    SOCKET_VOLUME,
    VOLUME_PREFIX,
)
from sidecar.injector.refusal import Denied
from sidecar.injector.workload import Container, Pod

Change = dict[str, Any]
"""One operation of a JSON patch (RFC 6902)."""


def chosen_containers(pod: Pod, wishes: Wishes, *, native: bool) -> tuple[Container, ...]:
    """The containers that are led to the sidecar: those named, else all. Init containers run before a classic sidecar.

    Raises:
        Denied: one that is named is not there, or cannot be.
    """
    available = {container.name: container for container in (*pod.init_containers, *pod.containers)}
    available.pop(CONTAINER, None)
    if not wishes.containers:
        return tuple(one for one in available.values() if native or not one.init)
    for name in wishes.containers:
        if name not in available:
            raise Denied(f"annotation {PREFIX}containers: the pod has no container {name!r}")
        if available[name].init and not native:
            raise Denied(
                f"annotation {PREFIX}containers: {name!r} is an init container, and runs before the sidecar: "
                "this cluster has no native sidecars"
            )
    return tuple(available[name] for name in wishes.containers)


def lead_to_sidecar(container: Container, wishes: Wishes, warnings: list[str]) -> Iterator[Change]:
    """The changes to one container. An address that it has already stays, and nothing is set beside it, unless the pod
    asks for the other."""
    names = (*ADDRESS_VARIABLES, AGENT_VARIABLE) if wishes.vault_agent_addr else ADDRESS_VARIABLES
    ours = address(wishes)
    set_already = _last_of_each(container.env)
    others = [name for name in ALL_ADDRESSES if not _is(set_already.get(name), ours)]
    if others and not wishes.override_vault_addr:
        warnings.append(
            f"container {container.name} keeps its own {', '.join(others)}, past the sidecar; "
            f'{PREFIX}override-vault-addr: "true" replaces it'
        )
    else:
        yield from _variables(container, names, ours, set_already)
        if wishes.listen == "tcp" and (warning := proxy_warning(container)):
            warnings.append(warning)
    if wishes.listen == "unix":
        yield from _socket(container)


def proxy_warning(container: Container) -> str:
    """What to tell of a container whose requests to the sidecar a proxy would get; many clients' libraries send it even
    what is meant for loopback. Empty where there is nothing to tell."""
    values = {name: str(entry.get("value") or "") for name, entry in _last_of_each(container.env).items()}
    given = [name for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy") if values.get(name)]
    spared = ",".join(values.get(name, "") for name in ("NO_PROXY", "no_proxy"))
    if not given or "127.0.0.1" in spared or "*" in spared:
        return ""
    return f"container {container.name} has {given[0]}: without 127.0.0.1 in NO_PROXY its requests may go there"


def _variables(
    container: Container, names: Sequence[str], ours: str, set_already: Mapping[str, Mapping[str, Any]]
) -> Iterator[Change]:
    for index, entry in enumerate(container.env):
        name = entry.get("name")
        if name in ALL_ADDRESSES and not _is(entry, ours):
            yield {"op": "replace", "path": f"{container.place}/env/{index}", "value": {"name": name, "value": ours}}
    missing = [{"name": name, "value": ours} for name in names if name not in set_already]
    if missing and not container.env:
        yield {"op": "add", "path": f"{container.place}/env", "value": missing}
        return
    for entry in reversed(missing):  # before all others, so that these may refer to them
        yield {"op": "add", "path": f"{container.place}/env/0", "value": entry}


def _last_of_each(env: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The entries in force: of one that stands twice the last."""
    return {str(entry.get("name")): entry for entry in env}


def _is(entry: Mapping[str, Any] | None, value: str) -> bool:
    return entry is None or (entry.get("value") == value and not entry.get("valueFrom"))


def _socket(container: Container) -> Iterator[Change]:
    wanted = socket_mount()
    for mount in container.mounts:
        if mount.get("name") == SOCKET_VOLUME:
            return
        if mount.get("mountPath") == SOCKET_FOLDER:
            raise Denied(
                f"container {container.name!r}: mounts something at {SOCKET_FOLDER}, where the socket is to be"
            )
    if container.mounts:
        yield {"op": "add", "path": f"{container.place}/volumeMounts/-", "value": wanted}
    else:
        yield {"op": "add", "path": f"{container.place}/volumeMounts", "value": [wanted]}


def refuse_foreign_mounts(container: Container) -> None:
    """An application's container mounts none of the sidecar's volumes, but for the socket, as it was given it.

    Raises:
        Denied: naming container and volume.
    """
    for mount in container.mounts:
        name = str(mount.get("name"))
        if not name.startswith(VOLUME_PREFIX):
            continue
        if name != SOCKET_VOLUME or any(mount.get(key) != value for key, value in socket_mount().items()):
            raise Denied(f"container {container.name!r}: mounts {name!r}, which is the sidecar's alone")
