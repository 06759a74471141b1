"""From a secret's URI to the operation on it that the Secrets API carries out.

One permit may need several exchanges with OpenBao (read, change, write under `cas`; then the metadata). An operation
names them all beforehand: `upstream` is the one that it is about, `also` the further methods and paths that belong to
it. Nothing else can be sent under its permit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sidecar.errors import Code, Refused
from sidecar.surface.encoding import encode_path, encode_segment
from sidecar.surface.mounts import MountTable
from sidecar.surface.operation import NO_REQUEST, Operation, Purpose, Target, UpstreamRequest
from sidecar.surface.secret_uri import SecretUri


class Act(StrEnum):
    """What the Secrets API does with one secret."""

    READ = "read"
    WRITE = "write"
    ROTATE = "rotate"
    DELETE = "delete"
    DELETE_ALL = "delete_all"
    UNDELETE = "undelete"
    DESTROY = "destroy"
    KEYS = "keys"
    METADATA = "metadata"
    SET_OWNER = "set_owner"
    LIST = "list"


PURPOSES: Final[Mapping[Act, Purpose]] = {
    Act.READ: Purpose.READ,
    Act.WRITE: Purpose.WRITE,
    Act.ROTATE: Purpose.ROTATE,
    Act.DELETE: Purpose.DELETE,
    Act.DELETE_ALL: Purpose.DESTROY_VERSIONS,
    Act.UNDELETE: Purpose.UNDELETE,
    Act.DESTROY: Purpose.DESTROY_VERSIONS,
    Act.KEYS: Purpose.READ_METADATA,
    Act.METADATA: Purpose.READ_METADATA,
    Act.SET_OWNER: Purpose.OWNER_UPDATE,
    Act.LIST: Purpose.READ_METADATA,
}
_LOOKING: Final = frozenset({Act.READ, Act.KEYS, Act.METADATA, Act.LIST})


@dataclass(frozen=True, slots=True)
class _Way:
    """How one act is carried out: the operation's name, its main target, and the further ones, each `METHOD area`."""

    name: str
    target: str
    also: tuple[str, ...] = ()


_STAMP: Final = ("GET metadata", "PATCH metadata", "POST metadata")
_WAYS: Final[Mapping[str, Mapping[Act, _Way]]] = {
    "kv2": {
        Act.READ: _Way("kv2.read", "GET data"),
        Act.WRITE: _Way("kv2.write", "POST data", ("GET data", *_STAMP)),
        Act.ROTATE: _Way("kv2.rotate", "POST data", ("GET data", *_STAMP)),
        Act.DELETE: _Way("kv2.delete", "POST delete", ("GET data", "POST data")),
        Act.DELETE_ALL: _Way("kv2.delete_all", "DELETE metadata", ("GET metadata",)),
        Act.UNDELETE: _Way("kv2.undelete", "POST undelete", ("GET metadata",)),
        Act.DESTROY: _Way("kv2.destroy", "POST destroy", ("GET metadata",)),
        Act.KEYS: _Way("kv2.subkeys", "GET subkeys"),
        Act.METADATA: _Way("kv2.metadata_read", "GET metadata"),
        Act.SET_OWNER: _Way("kv2.metadata_write", "PATCH metadata", ("GET metadata", "POST metadata")),
        Act.LIST: _Way("kv2.list", "LIST metadata"),
    },
    "kv1": {
        Act.READ: _Way("kv1.read", "GET"),
        Act.WRITE: _Way("kv1.write", "POST", ("GET",)),
        Act.ROTATE: _Way("kv1.rotate", "POST", ("GET",)),
        Act.DELETE: _Way("kv1.delete", "DELETE", ("GET", "POST")),
        Act.KEYS: _Way("kv1.keys", "GET"),
        Act.LIST: _Way("kv1.list", "LIST"),
    },
    "transit": {Act.ROTATE: _Way("transit.rotate", "POST keys", ())},
    "database": {Act.ROTATE: _Way("database.rotate_role", "POST", ())},
}


def supports(uri: SecretUri, act: Act, mounts: MountTable) -> bool:
    """Whether the secret's engine, or its provider, can do this at all."""
    return act in (_WAYS.get(uri.engine, {}) if uri.engine else mounts.stores.get(uri.provider, ()))


def rotates_itself(uri: SecretUri) -> bool:
    """Whether the secret's engine makes new values itself and takes none."""
    ways = _WAYS.get(uri.engine, {})
    return Act.ROTATE in ways and Act.WRITE not in ways


def password_policy(name: str) -> str:
    """The path that makes a password by one of OpenBao's policies."""
    return f"/v1/sys/policies/password/{encode_segment(name)}/generate"


def operation(act: Act, uri: SecretUri, mounts: MountTable, policy: str = "") -> Operation:
    """The operation that this act on this secret is. `policy` names the password policy that makes its new value.

    Raises `Refused`: UNSUPPORTED_OPERATION where its engine cannot; PROVIDER_TRAILING_SLASH_MISMATCH where a folder is
    named and a secret is meant, or the other way round; TENANT_MOUNT_MISMATCH.
    """
    if not supports(uri, act, mounts):
        raise Refused(Code.UNSUPPORTED_OPERATION, f"secrets of this kind have no {act.replace('_', ' ')}")
    if uri.folder is not (act is Act.LIST):
        raise Refused(
            Code.PROVIDER_TRAILING_SLASH_MISMATCH,
            "a path that ends with a slash names a folder, which can only be listed",
        )
    if not uri.engine:
        if policy:
            raise Refused(Code.UNSUPPORTED_OPERATION, "a password policy is OpenBao's, for its own secrets")
        return Operation(f"{uri.provider}.{act}", PURPOSES[act], uri, NO_REQUEST, mutation=act not in _LOOKING)
    way = _WAYS[uri.engine][act]
    place = mounts.place(uri.mount)
    method, path = _target(way.target, uri, place.target)
    query = f"version={uri.version}" if uri.version is not None and method == "GET" else ""
    main = UpstreamRequest(method, path, query, place.namespace)
    also = frozenset(_target(text, uri, place.target) for text in way.also)
    if policy:
        also |= {("GET", password_policy(policy))}
    return Operation(way.name, PURPOSES[act], uri, main, mutation=act not in _LOOKING, also=also)


def knowing(uri: SecretUri) -> Operation:
    """The operation by which it is decided whether a caller may know of a secret, or a folder, at all. It reaches
    nothing."""
    name = f"{uri.engine or uri.provider}.{'list' if uri.folder else 'metadata_read'}"
    return Operation(name, Purpose.READ_METADATA, uri, UpstreamRequest("", ""))


def _target(text: str, uri: SecretUri, mount: str) -> Target:
    method, _, area = text.partition(" ")
    path = encode_path(uri.path)
    if uri.engine == "transit":
        path += "/rotate"
    elif uri.engine == "database":
        role = uri.path[-1]
        if uri.path[:-1] != ("rotate-role",):
            raise Refused(Code.UNSUPPORTED_OPERATION, "of a database, static roles are rotated: …/rotate-role/<role>")
        path = f"rotate-role/{encode_path((role,))}"
    below = "/".join(filter(None, (area, path)))
    return method, f"{mount}{below}{'/' if method == 'LIST' and uri.path else ''}"
