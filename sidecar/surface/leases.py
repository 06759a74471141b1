"""Leases: `sys/leases/renew` and `sys/leases/revoke`, by URL or by body, both of them one operation.

OpenBao obeys the body where URL and body name different leases, and writes the URL's into its audit; that is refused
here, and what is forwarded names the lease once, in the body. A lease's id begins with the path that it was made by, so
that its secret is known from the id alone; whose it is only the ledger knows (`sidecar.leases`). Everything else below
`sys/leases/` (look-ups, prefixes, force) and the old `sys/renew`, `sys/revoke` acts on leases of others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from sidecar.door.head import Head
from sidecar.errors import Code, Refused
from sidecar.surface.fields import Reader, nullable, read_fields, scalar, text
from sidecar.surface.json_body import check_media_type, read_object, write
from sidecar.surface.mounts import MountTable
from sidecar.surface.operation import Named, Operation, Purpose, UpstreamRequest, lease_of
from sidecar.surface.query import read_values, split_query
from sidecar.surface.secret_uri import SecretUri
from sidecar.surface.table import Table

ROOT: Final = ("sys", "leases")
MAX_ID_CHARACTERS: Final = 2048

_BODY_READERS: Final[Mapping[str, Mapping[str, Reader]]] = {
    "renew": {"lease_id": text, "increment": nullable(scalar)},
    "revoke": {"lease_id": text, "sync": nullable(scalar)},
}
_PURPOSES: Final = {"renew": Purpose.RENEW, "revoke": Purpose.REVOKE}
_METHODS: Final = frozenset({"POST", "PUT"})
_NO_NAMES: Final = frozenset({"", ".", "..", "*"})


class _Issuing(NamedTuple):
    uri: SecretUri
    namespace: str


class LeaseRoute:
    """A request to renew or revoke one lease. Which one may stand in the body."""

    __slots__ = ("_action", "_engines", "_headers", "_in_url", "_mounts", "_namespace")

    def __init__(
        self,
        head: Head,
        segments: tuple[str, ...],
        folder: bool,
        namespace: str,
        mounts: MountTable,
        engines: Mapping[str, Table],
    ) -> None:
        """Raises `Refused`: OPERATION_FORBIDDEN, PROVIDER_TRAILING_SLASH_MISMATCH, AMBIGUOUS_QUERY."""
        action = segments[2] if len(segments) > 2 else ""
        if action not in _PURPOSES or head.method not in _METHODS:
            raise Refused(
                Code.OPERATION_FORBIDDEN,
                "of sys/leases/ are served: POST and PUT of renew and revoke, for leases that the caller obtained",
            )
        if folder:
            raise Refused(Code.PROVIDER_TRAILING_SLASH_MISMATCH, "a lease id does not end with a slash")
        read_values(split_query(head.query), {})
        self._action = action
        self._in_url = "/".join(segments[3:])
        self._headers = head.headers
        self._namespace = namespace
        self._mounts = mounts
        self._engines = engines

    @property
    def named(self) -> Named:
        """See `Route.named`. The lease, and with it the secret, may stand in the body."""
        return Named(f"lease.{self._action}", _PURPOSES[self._action], None)

    def operation(self, body: bytes) -> Operation:
        """The operation. Raises `Refused`: MALFORMED_REQUEST, OPERATION_FORBIDDEN."""
        fields = self._read(body)
        lease_id = fields.setdefault("lease_id", self._in_url)
        if not lease_id:
            raise Refused(Code.MALFORMED_REQUEST, "the request names no lease: lease_id")
        if self._in_url and lease_id != self._in_url:
            raise Refused(Code.OPERATION_FORBIDDEN, "the URL and the body name different leases; name one")
        issuing = self._issuing(lease_id)
        request = UpstreamRequest("PUT", f"/v1/sys/leases/{self._action}", "", issuing.namespace, write(fields))
        return Operation(
            self.named.name, self.named.purpose, issuing.uri, request, mutation=True, holds=lease_of(lease_id)
        )

    def _read(self, body: bytes) -> dict[str, str]:
        if not body or body.strip(b" \t\r\n") == b"null":
            return {}
        check_media_type(self._headers, merge_patch=False, first_byte=body[:1])
        fields = read_fields(read_object(body), _BODY_READERS[self._action])
        return {
            name: value for name, value in fields.items() if value is not None
        }  # hvac says null of what it leaves out

    def _issuing(self, lease_id: str) -> _Issuing:
        """What made the lease. Any fault of the id is answered like a lease of somebody else's."""
        segments = tuple(lease_id.split("/"))
        if len(lease_id) > MAX_ID_CHARACTERS or not lease_id.isprintable() or not _NO_NAMES.isdisjoint(segments):
            raise not_held()
        try:
            place, depth = self._mounts.resolve(self._namespace, segments[:-1])
        except Refused:
            raise not_held() from None
        engine = self._engines.get(place.mount.engine)
        path = segments[depth:-1]
        if engine is None or not engine.issues(path):
            raise not_held()
        uri = SecretUri(self._mounts.provider, place.mount.engine, place.full, path)
        return _Issuing(uri, place.namespace)


def not_held() -> Refused:
    """The one answer for what was never made, what has ended, and what is somebody else's."""
    return Refused(
        Code.OPERATION_FORBIDDEN, "this caller holds no such lease or certificate; what others hold is not acted on"
    )
