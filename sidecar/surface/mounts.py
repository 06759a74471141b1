"""Which engine is mounted where, whose mounts those are, and which of them a request means.

A mount is known by its full name, `namespace/mount`. OpenBao takes a namespace from `X-Vault-Namespace` and from the
leading segments of the path; here both become that one name, and the request that is built names the namespace in the
header only. The longest mount wins, whether or not the tenant may use it: a nested mount of somebody else's is not read
as a folder of the mount above it.

What is not there and what is not allowed is refused alike, so that nobody can ask which mounts exist.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from sidecar.errors import Code, Refused
from sidecar.surface.encoding import encode_path

# The header is not percent-decoded by OpenBao but cleaned as a path, `..` included. So: plain names between single
# slashes, and no comma, since repeated headers may have been joined with it on their way.
_namespace: Final = re.compile(r"[A-Za-z0-9\-._~!$+=:@/]*").fullmatch
_ROOT: Final = "root"


@dataclass(frozen=True, slots=True)
class Mount:
    """A secrets engine at a path. `namespace` is relative to `upstream.namespace`, as callers name it; neither has
    slashes at its ends. `ambiguous` where the configuration and OpenBao disagree about it."""

    path: str
    engine: str
    namespace: str = ""
    ambiguous: bool = False

    @property
    def name(self) -> str:
        """`namespace/mount`, as callers name it."""
        return f"{self.namespace}/{self.path}" if self.namespace else self.path


@dataclass(frozen=True, slots=True)
class Place:
    """A mount as the table holds it: `full` is its name in canonical URIs, `target` the encoded path that requests to
    it begin with (`/v1/team/kv/`), `namespace` what their `X-Vault-Namespace` says."""

    mount: Mount
    full: str
    target: str
    namespace: str
    allowed: bool


class MountTable:
    """All mounts that are known, and those that the tenant may use. Immutable: a change makes a new table.

    `allowed_mounts` are full names, `namespace_prefix` (`upstream.namespace`) included. A namespace that cannot stand
    in a header is nobody's. `stores` are the providers beside OpenBao, by the scheme of their URIs, with what each can
    do (`Act`); `own` are the tenant's mounts that can be theirs. Raises `ValueError` for a mount that is no path, or
    that stands twice.
    """

    __slots__ = ("_depth", "_places", "_prefix", "namespace_prefix", "own", "provider", "stores")

    def __init__(
        self,
        mounts: Iterable[Mount],
        allowed_mounts: Iterable[str],
        provider: str = "openbao",
        namespace_prefix: str = "",
        stores: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self.provider = provider
        self.stores = stores or {}
        self.namespace_prefix = _trimmed_namespace(namespace_prefix)
        self._prefix = tuple(self.namespace_prefix.split("/")) if self.namespace_prefix else ()
        self._places: dict[str, Place] = {}
        self._depth = 0
        allowed = {name.strip("/") for name in allowed_mounts}
        self.own = sorted(name for name in allowed if name and "/" not in name)
        for given in mounts:
            mount = _trimmed(given)
            segments = mount.name.split("/")
            if any(segment in ("", ".", "..") for segment in segments):
                raise ValueError(f"{mount.name!r} is not the path of a mount")
            if mount.name in self._places:
                raise ValueError(f"the mount {mount.name!r} stands twice")
            namespace = "/".join(filter(None, (self.namespace_prefix, mount.namespace)))
            full = "/".join((*self._prefix, *segments))
            target = f"/v1/{encode_path(tuple(mount.path.split('/')))}/"
            usable = full in allowed and _namespace(namespace) is not None
            self._places[mount.name] = Place(mount, full, target, namespace, usable)
            self._depth = max(self._depth, len(segments))

    @classmethod
    def empty(cls) -> MountTable:
        """No mounts: every request to one is refused."""
        return cls((), ())

    def __len__(self) -> int:
        """How many mounts are known, allowed or not."""
        return len(self._places)

    def resolve(self, namespace: str, segments: tuple[str, ...]) -> tuple[Place, int]:
        """The mount that a request means, and how many of the path's segments name it.

        `namespace` is that of `X-Vault-Namespace` (`parse_namespace`). Raises `Refused`: TENANT_MOUNT_MISMATCH,
        AMBIGUOUS_MOUNT, DOUBLE_MOUNT_SOURCE.
        """
        above = f"{namespace}/" if namespace else ""
        place, depth = self._longest(above, segments)
        if place is None or not place.allowed:
            # The path repeats the header: said of the spelling alone, whatever is mounted.
            if namespace and "/".join(segments).startswith(above):
                raise _double_source()
            raise _mismatch()
        # `ns1` in the header and `secret` in the path do not mean the root's mount `ns1/secret`.
        if namespace and not f"{place.mount.namespace}/".startswith(above):
            raise _mismatch()
        if namespace and place.mount.namespace != namespace:
            raise _double_source()
        if place.mount.ambiguous:
            raise Refused(
                Code.AMBIGUOUS_MOUNT,
                "the configured table of mounts and OpenBao's disagree about this mount; correct `mounts`",
            )
        return place, depth

    def locate(self, segments: tuple[str, ...]) -> tuple[str, str, int]:
        """Engine, full mount and its depth, for a URI's path, which begins with the full mount.

        Raises `Refused`: TENANT_MOUNT_MISMATCH, AMBIGUOUS_MOUNT, UNSUPPORTED_ENGINE.
        """
        above = len(self._prefix)
        if segments[:above] != self._prefix:
            raise _mismatch()
        place, depth = self.resolve("", segments[above:])
        # Not at the top: the engines' tables are built on this package's values.
        from sidecar.surface.engines import ENGINES

        if place.mount.engine not in ENGINES:
            raise unsupported_engine()
        return place.mount.engine, place.full, depth + above

    def place_of(self, full: str) -> Place | None:
        """The mount of a canonical URI, by its full name; None where there is none that the tenant may use, or two
        tables disagree about it."""
        prefix = f"{self.namespace_prefix}/" if self.namespace_prefix else ""
        place = self._places.get(full.removeprefix(prefix)) if full.startswith(prefix) else None
        return place if place is not None and place.allowed and not place.mount.ambiguous else None

    def place(self, full: str) -> Place:
        """The place of a full mount name. Raises `Refused`: TENANT_MOUNT_MISMATCH."""
        found = self.place_of(full)
        if found is None:
            raise _mismatch()
        return found

    def allowed(self) -> list[Place]:
        """Everything the tenant may use, by full name."""
        return sorted((place for place in self._places.values() if place.allowed), key=lambda place: place.full)

    def visible(self, namespace: str) -> list[Mount]:
        """The mounts of one namespace that the tenant may use, by path."""
        return sorted(
            (place.mount for place in self._places.values() if place.allowed and place.mount.namespace == namespace),
            key=lambda mount: mount.path,
        )

    def _longest(self, above: str, segments: tuple[str, ...]) -> tuple[Place | None, int]:
        places = self._places
        for depth in range(min(len(segments), self._depth), 0, -1):
            place = places.get(above + "/".join(segments[:depth]))
            if place is not None:
                return place, depth
        return None, 0


def merge(configured: Iterable[Mount], discovered: Iterable[Mount]) -> list[Mount]:
    """One table of a configured and a discovered one: all that OpenBao has, and the configured mounts that it has not.

    A configured mount is ambiguous where OpenBao has none at its name, has another engine there, or has one above or
    below it: any of these gives the same request another meaning. Requests to it are then refused as AMBIGUOUS_MOUNT,
    those to other mounts go on.
    """
    found = {mount.name: mount for mount in map(_trimmed, discovered)}
    wanted = {mount.name: mount for mount in map(_trimmed, configured)}
    unforeseen = found.keys() - wanted.keys()
    merged = dict(found)
    for name, mount in wanted.items():
        agrees = mount == found.get(name) and not any(_nested(other, name) for other in unforeseen)
        merged[name] = mount if agrees else replace(mount, ambiguous=True)
    return list(merged.values())


def parse_namespace(header: str) -> str:
    """`X-Vault-Namespace` → the namespace without slashes at its ends; empty for the root.

    One leading and one trailing slash are taken, `root` and `/` mean the root: OpenBao reads these alike. What it would
    clean away (`..`, `.`, empty segments) and what a namespace's name is not made of is refused; a percent sign would
    be part of the name. Raises `Refused`: ILLEGAL_SEGMENT, ILLEGAL_ENCODING.
    """
    if not _namespace(header):
        raise Refused(Code.ILLEGAL_ENCODING, "X-Vault-Namespace holds a character that is not taken in a namespace")
    name = header.removeprefix("/").removesuffix("/")
    if name in ("", _ROOT):
        return ""
    if not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise Refused(Code.ILLEGAL_SEGMENT, "X-Vault-Namespace has an empty, `.` or `..` segment")
    return name


def names_below(namespace_prefix: str, allowed_mounts: Iterable[str]) -> list[str]:
    """Those of `tenant.allowed_mounts` that may be below `upstream.namespace`, named from there, without those that no
    namespace can be the beginning of."""
    prefix = _trimmed_namespace(namespace_prefix)
    above = f"{prefix}/" if prefix else ""
    full = (name.strip("/") for name in allowed_mounts)
    names = (name.removeprefix(above) for name in full if name.startswith(above))
    return [name for name in names if _namespace(name) and {"", ".", ".."}.isdisjoint(name.split("/"))]


def unsupported_engine() -> Refused:
    """The refusal of a mount whose engine has no table."""
    return Refused(
        Code.UNSUPPORTED_ENGINE,
        "there is no table of operations for the engine of this mount, so nothing in it can be authorised",
    )


def _trimmed(mount: Mount) -> Mount:
    return replace(mount, path=mount.path.strip("/"), namespace=_trimmed_namespace(mount.namespace))


def _trimmed_namespace(namespace: str) -> str:
    name = namespace.strip("/")
    return "" if name == _ROOT else name


def _nested(one: str, other: str) -> bool:
    return one.startswith(f"{other}/") or other.startswith(f"{one}/")


def _mismatch() -> Refused:
    return Refused(
        Code.TENANT_MOUNT_MISMATCH,
        "no mount that this tenant may use (tenant.allowed_mounts) is at the beginning of the path",
    )


def _double_source() -> Refused:
    return Refused(
        Code.DOUBLE_MOUNT_SOURCE, "the namespace is named by X-Vault-Namespace and by the path; name it once"
    )
