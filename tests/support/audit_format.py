"""docs/reference/audit-format.md's table of members, to hold records against."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from sidecar.audit.record import Event

PAGE: Final = Path(__file__).parents[2] / "docs/reference/audit-format.md"
_OPAQUE: Final = frozenset({"subject.act", "notifications"})  # as the token or the PDP gave them
_SAME: Final = {"candidate.obligations": "obligations"}
_SECRETS: Final = [event for event in Event if event.startswith("SECRET_")]


@cache
def documented() -> Mapping[Event, frozenset[str]]:
    """The members of each event by the page, with dots."""
    part = PAGE.read_text(encoding="utf-8").partition("## A record")[2].partition("## The chain")[0]
    members: dict[Event, set[str]] = {event: set() for event in Event}
    for names, value in re.findall(r"^\| ((?:`[a-z_.]+`(?:, )?)+) \| ([^|]*) \|", part, re.MULTILINE):
        events = re.findall(r"`([A-Z_*]+)`", value) if re.fullmatch(r"(`[A-Z_*]+` ?)+", value) else list(Event)
        for event in events:
            for one in _SECRETS if event == "SECRET_*" else [Event(event)]:
                members[one].update(re.findall(r"`([a-z_.]+)`", names))
    for event in Event:
        for copy, original in _SAME.items():
            inner = {name for name in members[event] if name.startswith(f"{original}.")}
            members[event] |= {name.replace(original, copy, 1) for name in inner if copy in members[event]}
    return {event: frozenset(names) for event, names in members.items()}


def members_of(value: Any, prefix: str = "") -> Iterator[str]:
    """Every member of a record, with dots."""
    if prefix in _OPAQUE:
        return
    for inner in value if isinstance(value, list) else [value]:
        for name, further in inner.items() if isinstance(inner, dict) else ():
            name = f"{prefix}.{name}" if prefix else name
            yield name
            yield from members_of(further, name)


def undocumented(record: Mapping[str, Any]) -> set[str]:
    """The members that the page does not name for this event."""
    return set(members_of(dict(record))) - documented()[Event(record["event"])]
