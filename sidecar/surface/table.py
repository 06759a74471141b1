"""The language that an engine's table is written in, and the one place that turns a row of it into an `Operation`.

A table is closed: what none of its rows names is 403 OPERATION_FORBIDDEN. A row says by which verb and which shapes of
path an operation is asked for, which query names and body fields it has, and what its secret is called. The upstream
request is written from what the row understood, never from the caller's bytes.

Shapes are segments below the mount: a word stands for itself, `{key}` for one segment, `{path...}` for one or more,
`{folder...}` for none or more. A single segment is a name as OpenBao takes it, unless the row has a reader for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

from sidecar.errors import Code, Refused
from sidecar.surface.encoding import encode_path
from sidecar.surface.fields import Reader as FieldReader
from sidecar.surface.fields import read_fields
from sidecar.surface.json_body import JSON, MERGE_PATCH, check_media_type, read_object, write
from sidecar.surface.mounts import Place
from sidecar.surface.operation import Issue, Named, Operation, Purpose, UpstreamRequest, certificate_of
from sidecar.surface.query import Reader as QueryReader
from sidecar.surface.query import encode_query, name_in_folder, number, read_values
from sidecar.surface.secret_uri import SecretUri


class Verb(StrEnum):
    """What a method means. POST and PUT are one, and so are LIST and GET with `list=true`."""

    READ = "GET"
    LIST = "LIST"
    WRITE = "POST"
    PATCH = "PATCH"
    DELETE = "DELETE"


METHODS: Final[Mapping[str, Verb]] = {
    "GET": Verb.READ,
    "LIST": Verb.LIST,
    "POST": Verb.WRITE,
    "PUT": Verb.WRITE,
    "PATCH": Verb.PATCH,
    "DELETE": Verb.DELETE,
}

PAGES: Final[Mapping[str, QueryReader]] = {"after": name_in_folder, "limit": number}
"""The query of a list, which OpenBao can give in pages."""

_LOOKING: Final = frozenset({Purpose.READ, Purpose.READ_METADATA})

Captures = Mapping[str, tuple[str, ...]]
CaptureReader = Callable[[str], str | None]
"""Reads one captured segment: its canonical form for the URI, or None where the shape does not fit."""

_generic_name: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?").fullmatch


def generic_name(segment: str) -> str | None:
    """A name as OpenBao's engines take it (`framework.GenericNameRegex`)."""
    return segment if _generic_name(segment) else None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a body decides: another purpose than the row's, how many uses of a grant it spends, the serial number of the
    certificate that the caller must hold, and whether it replaces all of a secret's labels."""

    purpose: Purpose | None = None
    uses: int = 1
    certificate: str = ""
    replaces_labels: bool = False


@dataclass(frozen=True, slots=True)
class Body:
    """The body of a row.

    `fields` None takes an object with any members: they are the secret. `required` names must be there; an `optional`
    body may be missing altogether, which some clients say with `null`. `decide` looks at the fields that were read.
    """

    fields: Mapping[str, FieldReader] | None
    required: frozenset[str] = frozenset()
    optional: bool = False
    decide: Callable[[Mapping[str, Any]], Reading] | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One way to ask for one operation.

    `uri` is the path of the secret's canonical URI in terms of the shapes' captures; where it is empty, the whole path
    below the mount. A query name `version` names the version in the URI. `mutation` is for rows that create
    something although their purpose is to read; `issues` for those that hand out what can be renewed or revoked.
    """

    operation: str
    purpose: Purpose
    verb: Verb
    shapes: tuple[str, ...]
    uri: str = ""
    query: Mapping[str, QueryReader] = field(default_factory=dict)
    body: Body | None = None
    readers: Mapping[str, CaptureReader] = field(default_factory=dict)
    mutation: bool = False
    streams: bool = False
    issues: Issue | None = None

    @property
    def changes(self) -> bool:
        """Whether anything changes or comes into being upstream."""
        return self.mutation or self.purpose not in _LOOKING


class Asked(NamedTuple):
    """A request as far as its engine is known: the decoded path below the mount, its slash at the end, the query."""

    place: Place
    provider: str
    verb: Verb
    path: tuple[str, ...]
    folder: bool
    query: Mapping[str, str]
    headers: Mapping[str, str]


class Table:
    """One engine's rows. `refusals` says by a path's first segment why what stands below it is not served."""

    def __init__(self, engine: str, rows: tuple[Row, ...], refusals: Mapping[str, str] | None = None) -> None:
        self.engine = engine
        self.rows = rows
        self._refusals = dict(refusals or {})
        self._index: dict[tuple[Verb, str], list[_Shape]] = {}
        for row in rows:
            for text in row.shapes:
                shape = _Shape(row, text)
                self._index.setdefault((row.verb, shape.head), []).append(shape)

    def route(self, asked: Asked) -> TableRoute:
        """Names a request. Raises `Refused`: OPERATION_FORBIDDEN, PROVIDER_TRAILING_SLASH_MISMATCH, AMBIGUOUS_QUERY."""
        path, verb = asked.path, asked.verb
        # A list of the mount itself has no first segment.
        head = path[0] if path else ""
        for key in ((verb, head), (verb, "")):
            for shape in self._index.get(key, ()):
                captures = shape.match(path)
                if captures is not None:
                    return TableRoute(shape, captures, asked)
            if not head:
                break
        raise self._forbidden(asked)

    def issues(self, path: tuple[str, ...]) -> bool:
        """Whether this path below the mount is one that leases are made by."""
        return any(
            shape.row.issues is not None and shape.match(path) is not None
            for shapes in self._index.values()
            for shape in shapes
        )

    def _forbidden(self, asked: Asked) -> Refused:
        if asked.folder and asked.verb is not Verb.LIST:
            return _trailing_slash()
        reason = self._refusals.get(asked.path[0]) if asked.path else None
        if reason is None:
            methods = {verb for verb, head in self._index if asked.path and head == asked.path[0]}
            served = ", ".join(sorted(methods))
            reason = (
                f"here are served: {served}" if served else f"below a {self.engine} mount are served: {self._heads()}"
            )
        return Refused(
            Code.OPERATION_FORBIDDEN,
            f"the table of operations for {self.engine} mounts does not have this method and path; {reason}",
        )

    def _heads(self) -> str:
        return ", ".join(sorted({f"{head}/" if head else "any path" for _, head in self._index}))


class TableRoute:
    """A request that a row names; with its body it is an `Operation`. Everything that needs no body is checked here."""

    __slots__ = ("_asked", "_query", "_row", "_uri")

    def __init__(self, shape: _Shape, captures: Captures, asked: Asked) -> None:
        row = self._row = shape.row
        folder = row.verb is Verb.LIST
        if asked.folder and not folder:
            raise _trailing_slash()
        self._asked = asked
        self._query = read_values(asked.query, row.query) if asked.query else {}
        version = self._query.get("version")
        self._uri = SecretUri(
            asked.provider,
            asked.place.mount.engine,
            asked.place.full,
            shape.path_of_uri(captures, asked.path),
            None,
            int(version) if version is not None else None,
            folder or not shape.names_secret,
        )

    @property
    def named(self) -> Named:
        """See `Route.named`."""
        return Named(self._row.operation, self._row.purpose, self._uri)

    def operation(self, body: bytes) -> Operation:
        """The operation. Raises `Refused`: MALFORMED_REQUEST, OPERATION_FORBIDDEN."""
        row, asked, uri = self._row, self._asked, self._uri
        content: bytes | None = None
        reading = _PLAIN
        if row.body is not None:
            content, reading = self._read(row.body, body)
        elif body:
            raise Refused(Code.MALFORMED_REQUEST, "this operation takes no body")
        request = UpstreamRequest(
            row.verb.value,
            asked.place.target + encode_path(asked.path) + ("/" if row.verb is Verb.LIST and asked.path else ""),
            encode_query(self._query) if self._query else "",
            asked.place.namespace,
            content,
            MERGE_PATCH if row.verb is Verb.PATCH else JSON,
        )
        return Operation(
            row.operation,
            reading.purpose or row.purpose,
            uri,
            request,
            row.changes,
            reading.uses,
            row.streams,
            row.issues,
            certificate_of(uri.mount, reading.certificate) if reading.certificate else "",
            frozenset({("GET", request.path)}) if reading.replaces_labels else frozenset(),
            reading.replaces_labels,
        )

    def _read(self, spec: Body, body: bytes) -> tuple[bytes | None, Reading]:
        if not body or (spec.optional and body.strip(b" \t\r\n") == b"null"):
            if not spec.optional:
                raise Refused(Code.MALFORMED_REQUEST, "this operation needs a body, one JSON object")
            return None, _PLAIN
        check_media_type(self._asked.headers, merge_patch=self._row.verb is Verb.PATCH, first_byte=body[:1])
        members = read_object(body)
        values = members if spec.fields is None else read_fields(members, spec.fields)
        if not spec.required <= values.keys():
            raise Refused(
                Code.MALFORMED_REQUEST, f"the body lacks a field that it must have: {', '.join(sorted(spec.required))}"
            )
        reading = spec.decide(values) if spec.decide is not None else _PLAIN
        return write(values), reading


class _Shape:
    """One shape of a row, taken apart once."""

    __slots__ = ("_least", "_parts", "_rest", "_uri", "head", "names_secret", "row")

    def __init__(self, row: Row, text: str) -> None:
        parts = text.split("/")
        self.row = row
        self._rest = ""
        self._least = 0
        if parts[-1].endswith("...}"):
            self._rest = parts.pop()[1:-4]
            self._least = 0 if row.verb is Verb.LIST else 1
        # Each: a word, or the name and the reader of one captured segment.
        self._parts = [
            (part[1:-1], row.readers.get(part[1:-1], generic_name)) if part.startswith("{") else (part, None)
            for part in parts
        ]
        self.head = parts[0] if parts and not parts[0].startswith("{") else ""
        self._uri = row.uri.split("/") if row.uri else []
        self.names_secret = row.uri != MOUNT

    def match(self, path: tuple[str, ...]) -> Captures | None:
        """The captures where the path has this shape."""
        length = len(self._parts)
        if len(path) < length + self._least or (not self._rest and len(path) > length):
            return None
        captures: dict[str, tuple[str, ...]] = {}
        for (word, reader), segment in zip(self._parts, path, strict=False):
            if reader is None:
                if segment != word:
                    return None
            else:
                name = reader(segment)
                if name is None:
                    return None
                captures[word] = (name,)
        if self._rest:
            captures[self._rest] = path[length:]
        return captures

    def path_of_uri(self, captures: Captures, path: tuple[str, ...]) -> tuple[str, ...]:
        """The path of the canonical URI."""
        if not self._uri:
            return path
        if not self.names_secret:
            return ()
        segments: tuple[str, ...] = ()
        for part in self._uri:
            segments += captures[part.strip("{.}")] if part.startswith("{") else (part,)
        return segments


MOUNT: Final = "/"
"""The `uri` of a row that is about no secret but about the mount itself."""

_PLAIN: Final = Reading()


def _trailing_slash() -> Refused:
    return Refused(
        Code.PROVIDER_TRAILING_SLASH_MISMATCH, "a path that ends with a slash names a folder, which can only be listed"
    )
