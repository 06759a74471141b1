"""Mistakes that a policy's own grammar allows: what would never match, and what a caller would get around. Pure.

Works on a policy in Cedar's JSON form. In a `forbid` such a mistake is a hole, so that it is an error there; in a
`permit` it only permits less than was meant, which a warning says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sidecar.decision.cedar.entities import ACTION, FOLDER, MOUNT, SECRET, WORKLOAD, Uid
from sidecar.errors import Refused
from sidecar.surface.operation import Purpose
from sidecar.surface.secret_uri import parse

_PURPOSES: Final = frozenset(str(purpose) for purpose in Purpose)
_FOLDER_ID: Final = re.compile(r"[^/\s]+(/[^/\s]+)+")
_MOUNT_ID: Final = re.compile(r"[^/\s]+(/[^/\s]+)*")


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake. `fatal` where it leaves a hole."""

    text: str
    fatal: bool


def lint(policy: Mapping[str, Any], known: frozenset[Uid]) -> Iterator[Finding]:
    """The mistakes of one policy; `known` are the entities that the entities file names."""
    forbids = policy["effect"] == "forbid"
    kinds = {kind for kind, _ in known}
    for uid in literals(policy):
        complaint = "" if uid in known else _complaint(uid)
        if complaint:
            yield Finding(complaint, forbids)
    yield from _scope_types(policy, forbids, kinds)
    if forbids and _compares_resource(policy):
        yield Finding(
            "compares the resource by `==`: its versions and keys are not meant by that; write `resource in …`", False
        )


def literals(node: Any) -> Iterator[Uid]:
    """The entities that a policy names, in its scope and its conditions."""
    if isinstance(node, dict):
        if node.keys() == {"type", "id"} and isinstance(node["type"], str) and isinstance(node["id"], str):
            yield (node["type"], node["id"])
            return
        for name, value in node.items():
            if name != "annotations":
                yield from literals(value)
    elif isinstance(node, list):
        for item in node:
            yield from literals(item)


def _complaint(uid: Uid) -> str:
    kind, name = uid
    if kind == ACTION and name not in _PURPOSES:
        return f'Action::"{name}" is none of the purposes ({", ".join(sorted(_PURPOSES))})'
    if kind == SECRET and not _is_canonical(name):
        return f'Secret::"{name}" is no canonical URI; `sidecar uri` shows that form'
    if kind == FOLDER and not _FOLDER_ID.fullmatch(name):
        return f'Folder::"{name}" is no mount and folder; write Folder::"mount/folder", without a slash at the end'
    if kind == MOUNT and not _MOUNT_ID.fullmatch(name):
        return f'Mount::"{name}" is no mount; write Mount::"mount", without slashes around it'
    return ""


def _is_canonical(uri: str) -> bool:
    try:
        return str(parse(uri)) == uri
    except Refused:
        return False


def _scope_types(policy: Mapping[str, Any], forbids: bool, kinds: set[str]) -> Iterator[Finding]:
    for variable, own, above in (("principal", WORKLOAD, set()), ("resource", SECRET, {SECRET, FOLDER, MOUNT})):
        scope = policy[variable]
        operator = scope["op"]
        compared = [entity["type"] for entity in (scope.get("entity"), scope.get("in", {}).get("entity")) if entity]
        wrong = operator == "==" and any(kind != own for kind in compared)
        wrong = wrong or (operator == "is" and scope["entity_type"] != own)
        wrong = wrong or (operator in ("in", "is") and any(kind not in kinds | above | {own} for kind in compared))
        if wrong:
            yield Finding(f"its {variable} can be none: every {variable} is a {own}", forbids)


def _compares_resource(node: Any) -> bool:
    """`resource == …` in the scope, or anywhere in a condition."""
    if isinstance(node, dict):
        if node.get("op") == "==" and node.get("entity", {}).get("type") == SECRET:
            return True
        equal = node.get("==")
        if isinstance(equal, dict) and {"Var": "resource"} in (equal.get("left"), equal.get("right")):
            return True
        return any(_compares_resource(value) for name, value in node.items() if name != "annotations")
    return isinstance(node, list) and any(_compares_resource(item) for item in node)
