"""The description of the Secrets API, OpenAPI 3.1, made from its table and its bodies.

Only what an answer holds is said here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from http import HTTPStatus
from typing import Any, Final

import orjson

from sidecar.errors import STATUS, Code
from sidecar.surface.operation import SCOPE
from sidecar.surface.secrets.endpoints import DEFAULT_PAGE, MAX_PAGE, ROOT, ROWS, Endpoint, Row

Schema = Mapping[str, Any]

_URI: Final[Schema] = {"type": "string"}
_EXAMPLE: Final = "openbao+kv2://secret/app/db"
_KEY_EXAMPLE: Final = f"{_EXAMPLE}#password"
_COUNT: Final[Schema] = {"type": ["integer", "null"]}
_TEXT: Final[Schema] = {"type": ["string", "null"]}
_FLAG: Final[Schema] = {"type": "boolean"}
_NUMBERS: Final[Schema] = {"type": "array", "items": {"type": "integer"}}


def _object(**properties: Schema) -> dict[str, Any]:
    """An object with exactly these members."""
    return {
        "type": "object",
        "properties": properties,
        "required": sorted(properties),
        "additionalProperties": False,
    }


_VERSION: Final = _object(version={"type": "integer"}, created_at=_TEXT, deleted_at=_TEXT, destroyed=_FLAG)
_VERSIONS: Final[Schema] = {"type": "array", "items": _VERSION}
_ITEMS: Final = _object(items={"type": "array", "items": _object(uri=_URI)}, next=_TEXT)
_TRANSFER: Final = _object(fromUri=_URI, toUri=_URI, version=_COUNT)
_HAPPENED: Final = _object(
    id={"type": "string"},
    ts={"type": "string"},
    event={"type": "string"},
    subject=_object(sub=_TEXT, client_id=_TEXT),
    phase=_TEXT,
    effect=_TEXT,
    code=_TEXT,
    purpose=_TEXT,
    operation=_TEXT,
    resource_ref=_TEXT,
    parent_ref=_TEXT,
    kv_version=_COUNT,
    decision_id=_TEXT,
    policy_version=_TEXT,
    correlation_id=_TEXT,
)
_RESULT: Final[Schema] = {
    "type": "object",
    "properties": {"op": {"type": "string"}, "uri": _URI, "status": {"type": "integer"}, "error": {"type": "object"}},
    "required": ["op", "status", "uri"],
}
ANSWERS: Final[Mapping[Endpoint, Schema]] = {
    Endpoint.WRITE: _object(uri=_URI, version=_COUNT),
    Endpoint.VALUE: _object(uri=_URI, version=_COUNT, value={}),
    Endpoint.YAML: {"type": "object"},
    Endpoint.DELETE: _object(uri=_URI, deleted=_FLAG, destroyed=_FLAG),
    Endpoint.ROTATE: _object(uri=_URI, version=_COUNT, previous_version=_COUNT),
    Endpoint.LIST: _ITEMS,
    Endpoint.KEYS: _object(uri=_URI, keys={"type": "array", "items": {"type": "string"}}),
    Endpoint.DETAIL: _object(
        uri=_URI,
        owner=_TEXT,
        created_by=_TEXT,
        created_at=_TEXT,
        current_version=_COUNT,
        versions=_VERSIONS,
        custom_metadata={"type": "object", "additionalProperties": {"type": "string"}},
    ),
    Endpoint.VERSIONS: _object(uri=_URI, versions=_VERSIONS),
    Endpoint.UNDELETE: _object(uri=_URI, versions=_NUMBERS),
    Endpoint.DESTROY: _object(uri=_URI, versions=_NUMBERS),
    Endpoint.OWNER: _object(uri=_URI, owner={"type": "string"}),
    Endpoint.BULK: _object(results={"type": "array", "items": _RESULT}),
    Endpoint.COPY: _TRANSFER,
    Endpoint.MOVE: _TRANSFER,
    Endpoint.SEARCH: _ITEMS,
    Endpoint.AUDIT: _object(items={"type": "array", "items": _HAPPENED}),
    Endpoint.EVENTS: {"type": "string"},
    Endpoint.OPENAPI: {"type": "object"},
}
"""What each endpoint answers with."""

_QUERY: Final[Mapping[str, tuple[Schema, str]]] = {
    "uri": (
        {"type": "string", "minLength": 1, "examples": [_EXAMPLE]},
        "A secret URI, percent-encoded: `#` is %23.",
    ),
    "version": ({"type": "integer", "minimum": 1, "maximum": 2**53}, "A version of a KV version 2 secret."),
    "destroy": ({"type": "boolean", "default": False}, "All versions and the metadata, for good."),
    "prefix": (
        {"type": "string", "examples": ["openbao+kv2://secret/"]},
        "The beginning of secret URIs: a mount at least.",
    ),
    "q": ({"type": "string", "minLength": 1}, "Text in a secret's path, in any case."),
    "limit": ({"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": DEFAULT_PAGE}, "Items of a page."),
    "cursor": ({"type": "string"}, "`next` of the page before."),
}
_YAML_URI: Final[tuple[Schema, str]] = (
    {"type": "string", "pattern": "^[Yy][Aa][Mm][Ll]://", "examples": ["yaml://secret/app/db"]},
    "The URI of a secret of the YAML provider's; any other is 501.",
)
_HEADERS: Final[Mapping[str, tuple[Schema, str]]] = {
    "If-Match": ({"type": "string", "pattern": '^"(0|[1-9][0-9]{0,15})"$'}, "The version that is replaced."),
    "Idempotency-Key": ({"type": "string", "pattern": "^[!-~]{1,128}$"}, "The same again is carried out once."),
}
_BODIES: Final[Mapping[Endpoint, Mapping[str, Any]]] = {
    Endpoint.WRITE: {"uri": _EXAMPLE, "value": {"user": "app", "password": "first"}},
    Endpoint.ROTATE: {"uri": _KEY_EXAMPLE, "generate": {"length": 32}},
    Endpoint.UNDELETE: {"uri": _EXAMPLE, "versions": [1]},
    Endpoint.DESTROY: {"uri": _EXAMPLE, "versions": [1]},
    Endpoint.OWNER: {"uri": _EXAMPLE, "owner": "team-a"},
    Endpoint.BULK: {
        "operations": [{"op": "set", "uri": _KEY_EXAMPLE, "value": "second"}, {"op": "delete", "uri": _EXAMPLE}]
    },
    Endpoint.COPY: {"fromUri": _EXAMPLE, "toUri": f"{_EXAMPLE}-copy", "overwrite": True},
    Endpoint.MOVE: {"fromUri": f"{_EXAMPLE}-copy", "toUri": f"{_EXAMPLE}-moved", "overwrite": True},
}
"""An example of each body."""
_NEXT: Final[Mapping[Endpoint, tuple[str, tuple[Endpoint, ...]]]] = {
    Endpoint.WRITE: (
        "$response.body#/uri",
        (Endpoint.VALUE, Endpoint.KEYS, Endpoint.DETAIL, Endpoint.VERSIONS, Endpoint.DELETE),
    ),
}
"""What can be asked of the secret that an answer names, and where the answer names it."""


@cache
def document() -> dict[str, Any]:
    """The whole document."""
    schemas: dict[str, Any] = {
        "Error": _object(
            error={"type": "string"},
            code={"type": "string", "enum": sorted(Code)},
            message={"type": "string"},
            correlation_id={"type": "string"},
        )
    }
    paths: dict[str, dict[str, Any]] = {}
    for row in ROWS:
        paths.setdefault(ROOT + row.path, {})[row.method.lower()] = _operation(row, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Secrets API",
            "version": "1",
            "description": "Secrets by URI and purpose, over the same decisions and audit as the Vault API.",
        },
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "dpop": {"type": "http", "scheme": "dpop", "description": "RFC 9449; with a `DPoP` header"},
            },
        },
        "security": [{"bearer": []}, {"dpop": []}],
    }


@cache
def written() -> bytes:
    """The document as it is served and committed."""
    return orjson.dumps(document(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _operation(row: Row, schemas: dict[str, Any]) -> dict[str, Any]:
    scopes = sorted({SCOPE[purpose] for purpose in row.purposes})
    said: dict[str, Any] = {
        "operationId": str(row.endpoint),
        "summary": row.summary,
        "parameters": [
            _parameter("query", name, *(_YAML_URI if row.endpoint is Endpoint.YAML else _QUERY[name]), name in row.must)
            for name in row.query
        ],
        "responses": _responses(row),
        "x-purposes": [str(purpose) for purpose in row.purposes],
        "x-scopes": scopes,
    }
    if row.if_match:
        said["parameters"].append(_parameter("header", "If-Match", *_HEADERS["If-Match"], False))
    if row.idempotent:
        said["parameters"].append(_parameter("header", "Idempotency-Key", *_HEADERS["Idempotency-Key"], False))
    if row.body is not None:
        schema = row.body.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[row.body.__name__] = schema
        reference = {"$ref": f"#/components/schemas/{row.body.__name__}"}
        content = {"schema": reference, "examples": {"example": {"value": _BODIES[row.endpoint]}}}
        said["requestBody"] = {"required": True, "content": {"application/json": content}}
    if row.public:
        said["security"] = []
    return said


def _parameter(where: str, name: str, schema: Schema, description: str, required: bool) -> dict[str, Any]:
    return {"name": name, "in": where, "required": required, "description": description, "schema": schema}


def _responses(row: Row) -> dict[str, Any]:
    """Its answer, and every refusal that there is: each request passes all stages, whatever its endpoint."""
    found: dict[str, Any] = {}
    if row.endpoint in ANSWERS:
        media = "text/event-stream" if row.endpoint is Endpoint.EVENTS else "application/json"
        answer: dict[str, Any] = {"content": {media: {"schema": ANSWERS[row.endpoint]}}}
        where, following = _NEXT.get(row.endpoint, ("", ()))
        if following:
            answer["links"] = {
                str(each): {"operationId": str(each), "parameters": {"uri": where}} for each in following
            }
        for status in ("200", "201") if row.endpoint is Endpoint.WRITE else ("200",):
            found[status] = {"description": HTTPStatus(int(status)).phrase, **answer}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    for status_code in sorted(set(STATUS.values())):
        codes = ", ".join(f"`{code}`" for code in Code if STATUS[code] == status_code)
        found[str(status_code)] = {"description": codes, "content": error}
    return found
