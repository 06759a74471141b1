"""KV version 2: one secret under several prefixes, with versions and metadata.

`custom_metadata` holds what policies go by. Its `owner` is changed under a purpose of its own, `created_by` and
`created_at` by nobody's request. POST and PUT of metadata replace the whole of `custom_metadata`: whoever sends it
drops an owner that it does not name, so it counts as a change of the owner; `created_by` and `created_at` are read and
sent along (`sidecar.kept_makers`). PATCH merges, and changes what it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sidecar.errors import Code, Refused
from sidecar.surface.fields import mapping, object_of, scalar, versions, whole_number
from sidecar.surface.operation import Purpose
from sidecar.surface.query import number
from sidecar.surface.table import PAGES, Body, Reading, Row, Table, Verb

_OWNER: Final = "owner"
_OURS: Final = frozenset({"created_by", "created_at"})


def _labels(value: Any) -> dict[str, Any]:
    return {name: scalar(item) for name, item in mapping(value).items()}


def _labels_or_nulls(value: Any) -> dict[str, Any]:
    """In a merge patch null removes a member (RFC 7396)."""
    return {name: None if item is None else scalar(item) for name, item in mapping(value).items()}


def _replaced(fields: Mapping[str, Any]) -> Reading:
    labels = fields.get("custom_metadata")
    if labels is None:
        return Reading()
    _check_ours(labels)
    return Reading(Purpose.OWNER_UPDATE, replaces_labels=True)


def _merged(fields: Mapping[str, Any]) -> Reading:
    labels = fields.get("custom_metadata", {})
    _check_ours(labels)
    return Reading(Purpose.OWNER_UPDATE if _OWNER in labels else None)


def _check_ours(labels: Mapping[str, Any]) -> None:
    if not _OURS.isdisjoint(labels):
        raise Refused(
            Code.OPERATION_FORBIDDEN, "created_by and created_at in custom_metadata are not a client's to write"
        )


_SECRET: Final = Body(
    {"data": mapping, "options": object_of({"cas": whole_number})},
    required=frozenset({"data"}),
)
_VERSIONS: Final = Body({"versions": versions}, required=frozenset({"versions"}))
_SETTINGS: Final = {
    "max_versions": scalar,
    "cas_required": scalar,
    "delete_version_after": scalar,
    "metadata_cas": whole_number,
    "metadata_cas_required": scalar,
}
_METADATA: Final = Body(_SETTINGS | {"custom_metadata": _labels}, decide=_replaced)
_METADATA_PATCH: Final = Body(_SETTINGS | {"custom_metadata": _labels_or_nulls}, decide=_merged)
_READ_VERSION: Final = {"version": number}

_DATA: Final = ("data/{path...}",)
_META: Final = ("metadata/{path...}",)

TABLE: Final = Table(
    "kv2",
    (
        Row("kv2.read", Purpose.READ, Verb.READ, _DATA, "{path...}", query=_READ_VERSION, streams=True),
        Row("kv2.write", Purpose.WRITE, Verb.WRITE, _DATA, "{path...}", body=_SECRET),
        Row("kv2.patch", Purpose.WRITE, Verb.PATCH, _DATA, "{path...}", body=_SECRET),
        Row("kv2.delete", Purpose.DELETE, Verb.DELETE, _DATA, "{path...}"),
        Row("kv2.delete", Purpose.DELETE, Verb.WRITE, ("delete/{path...}",), "{path...}", body=_VERSIONS),
        Row("kv2.undelete", Purpose.UNDELETE, Verb.WRITE, ("undelete/{path...}",), "{path...}", body=_VERSIONS),
        Row("kv2.destroy", Purpose.DESTROY_VERSIONS, Verb.WRITE, ("destroy/{path...}",), "{path...}", body=_VERSIONS),
        Row(
            "kv2.subkeys",
            Purpose.READ_METADATA,
            Verb.READ,
            ("subkeys/{path...}",),
            "{path...}",
            query=_READ_VERSION | {"depth": number},
            streams=True,
        ),
        Row("kv2.metadata_read", Purpose.READ_METADATA, Verb.READ, _META, "{path...}", streams=True),
        Row("kv2.metadata_write", Purpose.WRITE, Verb.WRITE, _META, "{path...}", body=_METADATA),
        Row("kv2.metadata_write", Purpose.WRITE, Verb.PATCH, _META, "{path...}", body=_METADATA_PATCH),
        Row("kv2.delete_all", Purpose.DESTROY_VERSIONS, Verb.DELETE, _META, "{path...}"),
        Row(
            "kv2.list",
            Purpose.READ_METADATA,
            Verb.LIST,
            ("metadata/{folder...}",),
            "{folder...}",
            query=PAGES,
            streams=True,
        ),
    ),
    refusals={
        "config": "a mount's configuration is its operator's, made on OpenBao itself",
        "detailed-metadata": "list metadata/ and read the metadata of single secrets",
    },
)
