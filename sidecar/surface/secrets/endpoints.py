"""The closed table of the Secrets API: method and path → endpoint, its query and its body."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from urllib.parse import unquote_to_bytes

from sidecar.door.head import Head
from sidecar.errors import Code, Refused
from sidecar.surface.headers import check_headers
from sidecar.surface.json_body import check_media_type
from sidecar.surface.operation import Purpose
from sidecar.surface.secret_uri import whole_number
from sidecar.surface.secrets import bodies
from sidecar.surface.secrets.bodies import Body

ROOT: Final = "/api/secrets"
MAX_PAGE: Final = 1000
DEFAULT_PAGE: Final = 100


class Endpoint(StrEnum):
    """Every endpoint, by the operation id of the OpenAPI document."""

    WRITE = "writeSecret"
    VALUE = "readValue"
    YAML = "readYaml"
    DELETE = "deleteSecret"
    ROTATE = "rotateSecret"
    LIST = "listMetadata"
    KEYS = "listKeys"
    DETAIL = "readMetadata"
    VERSIONS = "listVersions"
    UNDELETE = "undeleteVersions"
    DESTROY = "destroyVersions"
    OWNER = "setOwner"
    BULK = "bulk"
    COPY = "copySecret"
    MOVE = "moveSecret"
    SEARCH = "searchSecrets"
    EVENTS = "streamEvents"
    AUDIT = "readAudit"
    OPENAPI = "openapi"


@dataclass(frozen=True, slots=True)
class Row:
    """One endpoint. `query` are the names that it takes; `must` those that must be there. `purposes` are all that one
    request may need a permit for; empty where each operation of a body has its own."""

    endpoint: Endpoint
    method: str
    path: str
    summary: str
    purposes: tuple[Purpose, ...] = ()
    query: tuple[str, ...] = ()
    must: tuple[str, ...] = ()
    body: type[Body] | None = None
    if_match: bool = False
    idempotent: bool = False
    """Whether `Idempotency-Key` is taken."""
    public: bool = False
    """Whether no caller need be known."""


_META: Final = (Purpose.READ_METADATA,)
_PAGED: Final = ("prefix", "limit", "cursor")

ROWS: Final = (
    Row(
        Endpoint.WRITE,
        "POST",
        "",
        "Write a secret, or one key of it",
        (Purpose.WRITE,),
        body=bodies.Write,
        if_match=True,
    ),
    Row(
        Endpoint.VALUE,
        "GET",
        "/value",
        "Read a secret, or one key of it",
        (Purpose.READ,),
        ("uri", "version"),
        ("uri",),
    ),
    Row(Endpoint.YAML, "GET", "", "Read from the YAML provider", (Purpose.READ,), ("uri",), ("uri",)),
    Row(
        Endpoint.DELETE,
        "DELETE",
        "",
        "Delete the latest version or one key; with destroy=true all versions and the metadata",
        (Purpose.DELETE, Purpose.DESTROY_VERSIONS),
        ("uri", "destroy"),
        ("uri",),
    ),
    Row(
        Endpoint.ROTATE,
        "POST",
        "/rotate",
        "Replace a value by a new version",
        (Purpose.ROTATE,),
        body=bodies.Rotate,
        if_match=True,
        idempotent=True,
    ),
    Row(Endpoint.LIST, "GET", "/metadata", "List the secrets below a prefix", _META, _PAGED, ("prefix",)),
    Row(Endpoint.KEYS, "GET", "/keys", "List the keys of a secret", _META, ("uri",), ("uri",)),
    Row(Endpoint.DETAIL, "GET", "/metadata/detail", "Read a secret's metadata", _META, ("uri",), ("uri",)),
    Row(Endpoint.VERSIONS, "GET", "/versions", "List a secret's versions", _META, ("uri",), ("uri",)),
    Row(Endpoint.UNDELETE, "POST", "/undelete", "Undelete versions", (Purpose.UNDELETE,), body=bodies.SomeVersions),
    Row(
        Endpoint.DESTROY,
        "POST",
        "/destroy-versions",
        "Destroy versions for good",
        (Purpose.DESTROY_VERSIONS,),
        body=bodies.SomeVersions,
    ),
    Row(Endpoint.OWNER, "POST", "/metadata/owner", "Set a secret's owner", (Purpose.OWNER_UPDATE,), body=bodies.Owner),
    Row(Endpoint.BULK, "POST", "/bulk", "Several operations in one request", body=bodies.Bulk, idempotent=True),
    Row(
        Endpoint.COPY,
        "POST",
        "/copy",
        "Copy a secret",
        (Purpose.READ, Purpose.WRITE),
        body=bodies.Transfer,
        idempotent=True,
    ),
    Row(
        Endpoint.MOVE,
        "POST",
        "/move",
        "Move a secret",
        (Purpose.READ, Purpose.WRITE, Purpose.DELETE),
        body=bodies.Transfer,
        idempotent=True,
    ),
    Row(Endpoint.SEARCH, "GET", "/search", "Search secrets by name", _META, ("q", *_PAGED), ("q",)),
    Row(Endpoint.EVENTS, "GET", "/events", "What happens, as it happens (server-sent events)", _META),
    Row(Endpoint.AUDIT, "GET", "/audit", "What happened lately", _META, ("limit",)),
    Row(Endpoint.OPENAPI, "GET", "/openapi.json", "This description", public=True),
)
"""All there is."""

_INDEX: Final = {(row.method, ROOT + row.path): row for row in ROWS}
_PATHS: Final = {path for _, path in _INDEX}
_name: Final = re.compile(r"[a-z]+").fullmatch
_value: Final = re.compile(r"(?:[A-Za-z0-9\-._~!$'()*+,;:@/?=]|%[0-9A-Fa-f]{2})*").fullmatch
_etag: Final = re.compile(r'"(0|[1-9][0-9]{0,15})"').fullmatch
_key: Final = re.compile(r"[\x21-\x7e]{1,128}").fullmatch
_PRECONDITIONS: Final = frozenset({"if-none-match", "if-unmodified-since", "if-modified-since", "if-range"})


@dataclass(frozen=True, slots=True)
class Call:
    """A request to one endpoint. `cas` is what `If-Match` says; `raw_body` is set once it was read."""

    row: Row
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    cas: int | None = None
    idempotency_key: str = ""
    last_event_id: str = ""

    @property
    def endpoint(self) -> Endpoint:
        """Which one."""
        return self.row.endpoint

    @property
    def limit(self) -> int:
        """Items of one page."""
        return int(self.query.get("limit", DEFAULT_PAGE))

    def check_body(self, raw: bytes) -> None:
        """Raises `Refused`: MALFORMED_REQUEST for a body where none is taken, or of another media type."""
        if self.row.body is None:
            if raw:
                raise Refused(Code.MALFORMED_REQUEST, "this request takes no body")
        else:
            check_media_type(self.headers, merge_patch=False, first_byte=raw[:1])


def recognise(head: Head) -> Call:
    """The endpoint that a request asks for, with its query and headers read.

    Raises `Refused`: OPERATION_FORBIDDEN where there is none, and for HEAD, as everywhere; METHOD_NOT_ALLOWED,
    AMBIGUOUS_QUERY, MALFORMED_REQUEST, DOUBLE_MOUNT_SOURCE.
    """
    check_headers(head.headers)
    if head.headers.get("x-vault-namespace"):
        raise Refused(Code.DOUBLE_MOUNT_SOURCE, "a secret URI names its namespace itself; send no X-Vault-Namespace")
    row = _INDEX.get((head.method, head.path))
    if row is None:
        if head.path in _PATHS:
            served = ", ".join(sorted(method for method, path in _INDEX if path == head.path))
            code = Code.OPERATION_FORBIDDEN if head.method == "HEAD" else Code.METHOD_NOT_ALLOWED
            raise Refused(code, f"this endpoint is served by: {served}", headers={"Allow": served})
        raise Refused(Code.OPERATION_FORBIDDEN, f"the Secrets API has no such endpoint; see {ROOT}/openapi.json")
    query = _query(head.query, row)
    last = head.headers.get("last-event-id", "") if row.endpoint is Endpoint.EVENTS else ""
    return Call(row, query, head.headers, _if_match(head, row), _idempotency_key(head, row), last)


def _query(text: str | None, row: Row) -> dict[str, str]:
    """In a secret URI `+` is a plus: it stands in `openbao+kv2`. Values are percent-encoded UTF-8."""
    values: dict[str, str] = {}
    for pair in text.split("&") if text else ():
        name, _, raw = pair.partition("=")
        if not _name(name) or name not in row.query:
            raise Refused(Code.AMBIGUOUS_QUERY, f"the query takes: {', '.join(row.query) or 'nothing'}")
        if name in values:
            raise Refused(Code.AMBIGUOUS_QUERY, f"`{name}` stands twice in the query")
        if not _value(raw):
            raise Refused(Code.AMBIGUOUS_QUERY, f"`{name}` is not percent-encoded; `#` is %23")
        try:
            values[name] = unquote_to_bytes(raw).decode("utf-8")
        except UnicodeDecodeError:
            raise Refused(Code.AMBIGUOUS_QUERY, f"`{name}` is not UTF-8") from None
    missing = [name for name in row.must if not values.get(name)]
    if missing:
        raise Refused(Code.MALFORMED_REQUEST, f"the query lacks: {', '.join(missing)}")
    for name in ("version", "limit"):
        if name in values and not 0 < whole_number(values[name]) <= (MAX_PAGE if name == "limit" else 2**53):
            raise Refused(Code.AMBIGUOUS_QUERY, f"`{name}` is out of range")
    if values.get("destroy", "false") not in ("true", "false"):
        raise Refused(Code.AMBIGUOUS_QUERY, "`destroy` is true or false")
    return values


def _if_match(head: Head, row: Row) -> int | None:
    """The version in an entity tag (RFC 9110, section 13.1.1). A precondition of another kind is not passed over where
    something changes: who sends it would not have it changed."""
    if head.method != "GET" and not _PRECONDITIONS.isdisjoint(head.headers):
        raise Refused(
            Code.MALFORMED_REQUEST, 'the only precondition is If-Match: "3"; `cas`: 0 writes what is not there'
        )
    given = head.headers.get("if-match")
    if given is None:
        return None
    found = _etag(given) if row.if_match else None
    if found is None:
        raise Refused(Code.MALFORMED_REQUEST, 'If-Match is taken where a version is written, and names one: "3"')
    return int(found[1])


def _idempotency_key(head: Head, row: Row) -> str:
    given = head.headers.get("idempotency-key")
    if given is None:
        return ""
    if not (row.idempotent and _key(given)):
        raise Refused(
            Code.MALFORMED_REQUEST,
            "Idempotency-Key is taken by rotate, bulk, copy and move: up to 128 visible characters",
        )
    return given
