"""What happened lately: a bounded ring of the newest audit records, as callers may see them, each with its secret.

A record names its secret by `resource_ref` alone; who may see it is decided by the secret itself, which is kept beside
it in memory and shown to nobody. Nothing here is the audit: that is the journal, whole, and durable.
"""

from __future__ import annotations

import re
import secrets
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

from sidecar.audit.record import Record
from sidecar.caller.identity import Caller
from sidecar.clock import Clock
from sidecar.surface.secret_uri import SecretUri

SHOWN: Final = (
    "phase",
    "effect",
    "code",
    "purpose",
    "operation",
    "resource_ref",
    "parent_ref",
    "kv_version",
    "decision_id",
    "policy_version",
    "correlation_id",
)
"""What is shown of a record, beside `id`, `ts`, `event` and `subject`: no id of a token or proof, no grant."""

_id: Final = re.compile(r"([0-9a-f]{8})-(0|[1-9][0-9]{0,14})").fullmatch


@dataclass(frozen=True, slots=True)
class Happening:
    """One record. `uri` is None where it is about no secret; `owner` is the issuer and subject of whoever asked."""

    number: int
    shown: Mapping[str, Any]
    uri: SecretUri | None
    owner: tuple[str, str] | None


class Happenings:
    """The ring. Numbers count up from 1; an id names the process too, so that one from before a restart is known."""

    def __init__(self, kept: int, clock: Clock) -> None:
        self._clock = clock
        self._ring: deque[Happening] = deque(maxlen=kept)
        self._process = secrets.token_hex(4)
        self.last = 0
        """The newest number."""

    def note(self, record: Record, uri: SecretUri | None, caller: Caller | None) -> None:
        """Takes in a record that is durable."""
        self.last += 1
        now = datetime.fromtimestamp(self._clock.wall(), UTC).isoformat(timespec="microseconds")
        subject = record.fields.get("subject") or {}
        shown: dict[str, Any] = {
            "id": f"{self._process}-{self.last}",
            "ts": now.replace("+00:00", "Z"),
            "event": record.event,
            "subject": {"sub": subject.get("sub"), "client_id": subject.get("client_id")},
        }
        shown |= {name: record.fields.get(name) for name in SHOWN}
        owner = (caller.issuer, caller.subject) if caller is not None else None
        self._ring.append(Happening(self.last, shown, uri.without_version() if uri is not None else None, owner))

    def after(self, number: int) -> list[Happening] | None:
        """What came after that number, oldest first; None where some of it is gone already."""
        first = self._ring[0].number if self._ring else self.last + 1
        if number + 1 < first:
            return None
        return list(islice(self._ring, number + 1 - first, None))

    def newest(self) -> list[Happening]:
        """All that is kept, newest first."""
        return list(reversed(self._ring))

    def before_all(self) -> int:
        """The number after which everything that is kept came."""
        return self.last - len(self._ring)

    def number_of(self, event_id: str) -> int | None:
        """The number in an id; None where it is another process's, or was never given out. Raises ValueError for what
        is no id at all."""
        found = _id(event_id)
        if found is None:
            raise ValueError("no event id")
        number = int(found[2])
        return number if found[1] == self._process and number <= self.last else None
