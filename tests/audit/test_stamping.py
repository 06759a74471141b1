"""The stamp, whose text is put together by hand, says what a serialiser would have said."""

from __future__ import annotations

import itertools
import zlib
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import orjson
import pytest

from sidecar.audit.record import Event
from sidecar.audit.stamping import STAMP_BYTES, Stamper, Tip
from tests.audit.chains import INSTANCE, body

# Micros since the epoch: on, back and on again by micros, millis, seconds and years, within a millisecond and a second.
JUMPS = [
    *(1_700_000_000_123_456, 1_700_000_000_123_457, 1_700_000_000_123_001, 1_700_000_000_122_999),
    *(1_700_000_000_999_999, 1_700_000_001_000_000, 1_700_000_000_999_999, 1_600_000_000_000_007),
    *(0, 1, 1_000, 59_999_999, 4_102_444_800_000_000, 1_700_000_000_000_000, 1_700_000_123_000_008, 65_536_000),
]


def signed(event: Event, instance: str, seq: int, prev: str, ts: str) -> bytes:
    return b'"key_id":"%b"' % ts.encode() if event is Event.AUDIT_STOP else b""


@pytest.mark.parametrize("together", [1, 3, 100])
def test_a_line_is_what_a_serialiser_would_make_of_it_however_the_clock_jumps(together: int) -> None:
    stamper, tip, prev = Stamper(INSTANCE, signed), Tip(), "0" * 64
    kinds: list[tuple[Event, dict[str, Any]]] = [(event, {}) for event in Event]
    kinds += [(Event.SECRET_PERMIT, {"sub": "é\n"}), (Event.SECRET_DENY, {"a": {}, "b": []})]
    told = list(zip(itertools.cycle(kinds), JUMPS * 3, strict=False))
    lines: list[bytes] = []
    for start in range(0, len(told), together):
        bodies = [body(event, members, micros / 1e6) for (event, members), micros in told[start : start + together]]
        made, tip = stamper.lines(bodies, tip)
        lines += bytes(made).splitlines()
    for seq, (((event, members), micros), line) in enumerate(zip(told, lines, strict=True), 1):
        time = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=int(micros / 1e6 * 1e6))
        ts = time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        wanted = {"event_id": "", "ts": ts, "instance": INSTANCE, "seq": seq, "prev": prev, "event": event} | members
        if event is Event.AUDIT_STOP:
            wanted["key_id"] = ts
        record = line[9:]
        event_id = wanted["event_id"] = orjson.loads(record)["event_id"]
        assert int(event_id.replace("-", "")[:12], 16) == int(micros / 1e6 * 1e6) // 1000
        assert len(event_id) == 36
        assert record == orjson.dumps(wanted)
        assert line[:9] == b"%08x " % zlib.crc32(record)
        prev = sha256(record).hexdigest()
    assert tip == Tip(len(told), prev)


def test_no_stamp_is_longer_than_what_is_reckoned_with() -> None:
    longest = max(Event, key=len)
    lines, _ = Stamper(INSTANCE).lines([body(longest)], Tip(2**63 - 1))
    assert len(lines) <= STAMP_BYTES
