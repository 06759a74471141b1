"""Whether what stands in a pod is the sidecar that would be put there, by its content: an annotation that says so can
be forged. Only what is known to be harmless may be more than was put there. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from sidecar.injector.config import Tolerated
from sidecar.injector.names import VOLUME_PREFIX
from sidecar.injector.quantity import parse_quantity

_ADDED_BY_DEFAULT: Final[Mapping[str, Callable[[object], bool]]] = {
    # The kubelet mounts an empty file there: at another path it would hide one of the sidecar's, such as a policy.
    "terminationMessagePath": lambda value: value == "/dev/termination-log",
    "terminationMessagePolicy": lambda _value: True,
    "resizePolicy": lambda _value: True,
}
"""What the API server adds to a container, and which values of it do no harm."""
_SERVICE_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
_API_ACCESS: Final = "kube-api-access-"
_QUANTITIES: Final = frozenset({"sizeLimit"})
_PLAIN_MOUNT: Final = frozenset({"name", "mountPath", "readOnly"})


def container_differences(
    wanted: Mapping[str, Any],
    found: Mapping[str, Any],
    volumes: Sequence[Mapping[str, Any]],
    tolerated: Tolerated,
) -> list[str]:
    """The fields in which a container is not the wanted one; none where it is."""
    differing = [
        key for key, value in found.items() if key not in wanted and not _ADDED_BY_DEFAULT.get(key, _never)(value)
    ]
    for key, value in wanted.items():
        there = found.get(key)
        if key == "env":
            there = [one for one in there or () if one.get("name") not in tolerated.env]
        elif key == "volumeMounts":
            there = [one for one in there or () if not _is_harmless_mount(one, volumes, tolerated)]
        elif key == "resources":
            if not _gives(value, there):
                differing.append(key)
            continue
        if not _same(value, there):
            differing.append(key)
    return sorted(differing)


def _never(_value: object) -> bool:
    return False


def same_volume(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether a volume is the wanted one."""
    return _same(wanted, found)


def _same(wanted: Any, found: Any, key: str = "") -> bool:
    if isinstance(wanted, dict):
        return (
            isinstance(found, dict)
            and wanted.keys() == found.keys()
            and all(_same(value, found[name], name) for name, value in wanted.items())
        )
    if isinstance(wanted, (list, tuple)):
        return isinstance(found, list) and len(wanted) == len(found) and all(map(_same, wanted, found))
    if key in _QUANTITIES:
        return _same_quantity(wanted, found)
    return type(wanted) is type(found) and bool(wanted == found)


def _same_quantity(wanted: object, found: object) -> bool:
    """The API server writes quantities its own way: `1024Mi` comes back as `1Gi`."""
    try:
        return parse_quantity(str(wanted)) == parse_quantity(str(found))
    except ValueError:
        return False


def _gives(wanted: Mapping[str, Mapping[str, str]], found: object) -> bool:
    """Whether requests and limits are there as wanted; a LimitRange may have added others."""
    if not isinstance(found, dict) or not found.keys() <= {"requests", "limits"}:
        return not wanted and not found
    for name, quantities in wanted.items():
        there = found.get(name)
        if not isinstance(there, dict):
            return False
        if not all(_same_quantity(quantity, there.get(kind)) for kind, quantity in quantities.items()):
            return False
    return True


def _is_harmless_mount(mount: Mapping[str, Any], volumes: Sequence[Mapping[str, Any]], tolerated: Tolerated) -> bool:
    name, path = str(mount.get("name")), mount.get("mountPath")
    if name.startswith(VOLUME_PREFIX) or mount.get("readOnly") is not True or not mount.keys() <= _PLAIN_MOUNT:
        return False
    if path in tolerated.mount_paths:
        return True
    return path == _SERVICE_ACCOUNT and any(map(_is_api_access, (one for one in volumes if one["name"] == name)))


def _is_api_access(volume: Mapping[str, Any]) -> bool:
    """The volume that Kubernetes itself gives to every container (ServiceAccount admission): the account's default
    token, the cluster's certificate, the namespace's name, each in its place. Another content there could pass for
    them: a file of the pod's annotations for the cluster's certificate."""
    projected = volume.get("projected")
    if not volume["name"].startswith(_API_ACCESS) or not isinstance(projected, dict):
        return False
    sources = projected.get("sources")
    return isinstance(sources, list) and all(map(_is_api_source, sources))


def _is_api_source(source: object) -> bool:
    if not isinstance(source, dict) or len(source) != 1:
        return False
    ((kind, described),) = source.items()
    if not isinstance(described, dict):
        return False
    if kind == "serviceAccountToken":
        return not described.get("audience") and described.get("path") == "token"
    items = described.get("items")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        return False
    if kind == "configMap":
        return described.get("name") == "kube-root-ca.crt" and all(
            (item.get("key"), item.get("path")) == ("ca.crt", "ca.crt") for item in items
        )
    return kind == "downwardAPI" and all(
        item.get("path") == "namespace" and _field(item) == "metadata.namespace" for item in items
    )


def _field(item: Mapping[str, Any]) -> object:
    reference = item.get("fieldRef")
    return reference.get("fieldPath") if isinstance(reference, dict) else None


def token_audiences(volume: Mapping[str, Any]) -> Iterator[str]:
    """The audiences of the service-account tokens that a volume projects."""
    projected = volume.get("projected")
    sources = projected.get("sources") if isinstance(projected, dict) else None
    for source in sources if isinstance(sources, list) else ():
        token = source.get("serviceAccountToken") if isinstance(source, dict) else None
        if isinstance(token, dict):
            yield str(token.get("audience") or "")
