"""The entities that policies see: the caller and the secret of one request, and what an entities file adds to them.

Everything that a request brings goes in as JSON values, never as Cedar text, and no value of it can pass for more than
it is: Cedar's JSON escapes (`__entity`, `__extn`) are refused in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from cedarpy import Entities

from sidecar.decision.cedar.problem import PolicyError
from sidecar.decision.permit import Question

WORKLOAD: Final = "Workload"
SECRET: Final = "Secret"
FOLDER: Final = "Folder"
MOUNT: Final = "Mount"
ACTION: Final = "Action"

_RESERVED: Final[Mapping[str, frozenset[str]]] = {
    WORKLOAD: frozenset({"sub", "issuer", "client_id", "scopes", "amr", "acr", "auth_time", "act"}),
    SECRET: frozenset(
        {
            *("tenant_id", "provider", "engine", "mount", "path", "fragment", "version"),
            *("owner", "created_by", "created_at"),
        }
    ),
}
"""Attributes that come from the request alone: a file that sets them would speak for the token or the URI."""

_LONGEST: Final = 2**63

Uid = tuple[str, str]


class NotCedarError(ValueError):
    """A value that cannot be put before policies as what it is."""


@dataclass(frozen=True, slots=True)
class _Record:
    attrs: Mapping[str, Any]
    tags: Mapping[str, Any]
    parents: tuple[Uid, ...]
    refers_to: frozenset[Uid]
    json: orjson.Fragment


class EntityBase:
    """The entities file, parsed once. Empty where none is configured."""

    def __init__(self, text: str | None) -> None:
        """Raises PolicyError."""
        self._records: dict[Uid, _Record] = {}
        if text is None:
            return
        try:
            Entities.from_json_str(text, release_gil=True)
            for entry in json.loads(text):
                uid = _uid(entry["uid"])
                attrs, tags = entry.get("attrs", {}), entry.get("tags", {})
                parents = tuple(_uid(parent) for parent in entry.get("parents", ()))
                taken = _RESERVED.get(uid[0], frozenset()).intersection(attrs)
                if taken:
                    raise PolicyError([f"entities: {_show(uid)} sets {', '.join(sorted(taken))}: the request does"])
                references = frozenset([*parents, *_references(attrs), *_references(tags)])
                record = _record_json(uid, attrs, tags, parents)
                self._records[uid] = _Record(attrs, tags, parents, references, orjson.Fragment(record))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise PolicyError([f"entities: {str(error) or type(error).__name__}"]) from error

    def __contains__(self, uid: Uid) -> bool:
        return uid in self._records

    def uids(self) -> frozenset[Uid]:
        """All entities that the file names, as parents or in attributes too."""
        return frozenset(self._records).union(*(record.refers_to for record in self._records.values()))

    def reachable(self, uids: Iterable[Uid]) -> frozenset[Uid]:
        """Those of the file's entities that are among these, or above them, or named in their attributes."""
        found: set[Uid] = set()
        pending = list(uids)
        while pending:
            uid = pending.pop()
            record = self._records.get(uid)
            if record is not None and uid not in found:
                found.add(uid)
                pending += record.refers_to
        return frozenset(found)

    def for_request(self, question: Question, always: frozenset[Uid]) -> str:
        """The entities of one question as Cedar's JSON; `always` are the file's that policies name themselves.

        Raises:
            NotCedarError: where the question holds what cannot be put before policies.
        """
        principal = (WORKLOAD, question.subject["id"])
        resource = (SECRET, question.resource["id"])
        action = (ACTION, question.action["name"])
        above = hierarchy(question.resource)
        own = {
            # Cedar cannot compare an entity's id with a text, such as a secret's owner: so it is an attribute too.
            principal: (cedar_value({"sub": question.subject["id"], **question.subject["properties"]}), ()),
            resource: (cedar_value(question.resource["properties"]), above),
        }
        others = self.reachable((principal, resource, action, *above)) | always if self._records else frozenset()
        entities: list[Any] = [self._records[uid].json for uid in others if uid not in own]
        for uid, (attrs, parents) in own.items():
            record = self._records.get(uid)
            if record is None:
                entities.append(_entity(uid, attrs, {}, parents))
            else:
                merged = dict.fromkeys((*parents, *record.parents))
                entities.append(_entity(uid, {**record.attrs, **attrs}, record.tags, merged))
        return orjson.dumps(entities).decode()


def hierarchy(resource: Mapping[str, Any]) -> tuple[Uid, ...]:
    """What a secret is in: itself without version, without key, each folder above it, its mount.

    A list of a folder is in that folder. `?` and `#` inside a part are percent-encoded, so that both end one here.
    """
    name: str = resource["id"]
    properties = resource["properties"]
    whole, has_version, version = name.partition("?")
    secret, has_key, _ = whole.partition("#")
    broader = []
    if has_version:
        broader.append(whole)
    if has_key:
        broader.append(secret)
        if has_version:
            broader.append(f"{secret}?{version}")
    mount: str = properties["mount"]
    folders, folder = [], mount
    for segment in properties["path"].split("/")[:-1]:
        folder = f"{folder}/{segment}"
        folders.append(folder)
    return (
        *((SECRET, one) for one in broader),
        *((FOLDER, one) for one in folders),
        (MOUNT, mount),
    )


def cedar_value(value: Any) -> Any:
    """A JSON value as Cedar takes it. Numbers with fractions, null, and members that Cedar's JSON would read as
    something else have no equal there.

    Raises:
        NotCedarError: for those.
    """
    kind = type(value)
    if kind is str or kind is bool:
        return value
    if kind is int and -_LONGEST <= value < _LONGEST:
        return value
    if kind is list:
        return [cedar_value(item) for item in value]
    if kind is dict:
        for name in value:
            if type(name) is not str or name.startswith("__"):
                raise NotCedarError("a member's name that Cedar reserves")
        return {name: cedar_value(item) for name, item in value.items()}
    raise NotCedarError(f"a {kind.__name__} that Cedar cannot hold")


def _entity(uid: Uid, attrs: Mapping[str, Any], tags: Mapping[str, Any], parents: Iterable[Uid]) -> dict[str, Any]:
    entity: dict[str, Any] = {
        "uid": {"type": uid[0], "id": uid[1]},
        "attrs": attrs,
        "parents": [{"type": kind, "id": name} for kind, name in parents],
    }
    if tags:
        entity["tags"] = tags
    return entity


def _record_json(uid: Uid, attrs: Mapping[str, Any], tags: Mapping[str, Any], parents: Iterable[Uid]) -> bytes:
    return orjson.dumps(_entity(uid, attrs, tags, parents))


def _uid(value: Any) -> Uid:
    """`{"type", "id"}`, alone or inside `__entity`."""
    inner = value.get("__entity", value)
    kind, name = inner["type"], inner["id"]
    if type(kind) is not str or type(name) is not str:
        raise ValueError("an entity's type and id are texts")
    return (kind, name)


def _references(value: Any) -> Iterable[Uid]:
    if isinstance(value, dict):
        if "__entity" in value:
            yield _uid(value)
        elif value.keys() == {"type", "id"} and type(value["type"]) is type(value["id"]) is str:
            # Cedar takes this short form too where the schema says so; here it costs nothing to follow it.
            yield (value["type"], value["id"])
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def _show(uid: Uid) -> str:
    return f'{uid[0]}::"{uid[1]}"'
