"""Chains made for tests: the journal's own stamping, without a disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from sidecar.audit import stamping
from sidecar.audit.chain import Break, Place, verify
from sidecar.audit.framing import unframe
from sidecar.audit.record import Event
from sidecar.audit.stamping import Body, Signing, Stamper, Tip

INSTANCE = "11111111-2222-4333-8444-555555555555"
OTHER = "99999999-2222-4333-8444-555555555555"


def body(event: Event, members: dict[str, Any] | None = None, wall: float = 1_700_000_000.123456) -> Body:
    return stamping.body(event, wall, orjson.dumps(members or {}))


def chained(
    bodies: Sequence[Body], instance: str = INSTANCE, tip: Tip | None = None, signing: Signing | None = None
) -> list[bytes]:
    """The records of these bodies, in one chain."""
    lines, _ = Stamper(instance, signing).lines(bodies, tip or Tip())
    records = [unframe(line) for line in bytes(lines).splitlines()]
    return [record for record in records if record is not None]


def run(permits: int, instance: str = INSTANCE, tip: Tip | None = None, *, stopped: bool = True) -> list[bytes]:
    """One run: AUDIT_START, permits, AUDIT_STOP."""
    bodies = [body(Event.AUDIT_START)]
    bodies += [body(Event.SECRET_PERMIT, {"correlation_id": f"c-{n}"}) for n in range(permits)]
    return chained([*bodies, body(Event.AUDIT_STOP)] if stopped else bodies, instance, tip)


def placed(records: Iterable[bytes]) -> list[tuple[bytes, Place]]:
    return [(record, Place("file", line)) for line, record in enumerate(records, 1)]


def first_break(records: Iterable[bytes]) -> Break | None:
    return verify(placed(records))
