"""Which attributes a policy reads, by name: for the record of a decision, which tells names and no values, and to know
whether a secret's metadata must be fetched. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

_OF_METADATA: Final = frozenset({"owner", "created_by", "created_at", "resource_attributes", "attributes_unavailable"})


def attributes(policy: Mapping[str, Any]) -> tuple[str, ...]:
    """The attributes that the conditions of a policy in Cedar's JSON form look at, such as `resource.owner`, each once.

    An entity that the policy names stands by its type: its id may be a secret's URI.
    """
    return tuple(sorted(set(_read(policy.get("conditions", ())))))


def reads_metadata(policy: Mapping[str, Any]) -> bool:
    """Whether a policy may look at what is fetched of a secret. True in doubt: where an attribute of such a name is
    read of anything, and where the context is taken as a whole."""
    return _may_read_metadata(policy.get("conditions", ()))


def _may_read_metadata(node: Any) -> bool:
    if isinstance(node, list):
        return any(map(_may_read_metadata, node))
    if not isinstance(node, Mapping):
        return False
    if node.get("Var") == "context":
        return True
    for operator in (".", "has"):
        access = node.get(operator)
        if isinstance(access, Mapping) and "attr" in access:
            left = access.get("left")
            return access["attr"] in _OF_METADATA or (left != {"Var": "context"} and _may_read_metadata(left))
    return any(map(_may_read_metadata, node.values()))


def _read(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        for operator in (".", "has"):
            access = node.get(operator)
            if isinstance(access, Mapping) and (root := _path(access)):
                yield root
                return
        for value in node.values():
            yield from _read(value)
    elif isinstance(node, list):
        for item in node:
            yield from _read(item)


def _path(access: Mapping[str, Any]) -> str:
    """`context.cnf_binding.kind`; empty where what the attribute is of is computed."""
    left = access.get("left")
    attribute = access.get("attr")
    if not isinstance(left, Mapping) or not isinstance(attribute, str):
        return ""
    if "Var" in left:
        return f"{left['Var']}.{attribute}"
    if isinstance(left.get("Value"), Mapping) and "__entity" in left["Value"]:
        return f"{left['Value']['__entity']['type']}.{attribute}"
    inner = left.get(".")
    above = _path(inner) if isinstance(inner, Mapping) else ""
    return f"{above}.{attribute}" if above else ""
