"""Gives records their place: id, time, instance, seq and the hash of the record before."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final, NamedTuple
from zlib import crc32

from sidecar.audit.chain import GENESIS
from sidecar.audit.record import Event

STAMPED: Final = frozenset({"event_id", "ts", "instance", "seq", "prev", "event"})
"""The members that come from here; in this order they begin every record."""

STAMP_BYTES: Final = 330
"""No stamp, with its frame, is longer than this."""

Signing = Callable[[Event, str, int, str, str], bytes]
"""(event, instance, seq, prev, ts) → further members of a record that is signed, without braces; empty for others."""

_RANDOM_BYTES: Final = 10
_HEX: Final = _RANDOM_BYTES * 2


class Body(NamedTuple):
    """A record before it has its place: its event, when it was handed over (seconds since the epoch), and its own
    members as a JSON object."""

    event: Event
    wall: float
    members: bytes


@dataclass(frozen=True, slots=True)
class Tip:
    """The end of a chain: the last record's seq (0 for none) and its hash."""

    seq: int = 0
    hash: str = GENESIS


class Stamper:
    """Stamps the records of one instance."""

    def __init__(self, instance: str, signing: Signing | None = None) -> None:
        self._instance = instance
        self._signing = signing
        self._second = -1
        self._second_text = ""

    def lines(self, bodies: Sequence[Body], tip: Tip) -> tuple[list[bytes], Tip]:
        """The framed lines of these records behind `tip`, and the new tip.

        What is put together here is ASCII without quotes or backslashes and needs no escaping; serialising the whole
        record again would cost more than all the rest.
        """
        seq, prev, lines = tip.seq, tip.hash, []
        random = os.urandom(_RANDOM_BYTES * len(bodies)).hex()
        for index, (event, wall, members) in enumerate(bodies):
            seq += 1
            micros = int(wall * 1_000_000)
            millis = f"{micros // 1000:012x}"
            bits = random[index * _HEX : (index + 1) * _HEX]
            ts = self._timestamp(micros)
            if self._signing is not None and (signed := self._signing(event, self._instance, seq, prev, ts)):
                members = b"{" + signed + b"}"
            # RFC 9562, version 7: a consumer's table of ids it has seen stays sorted by time.
            stamp = (
                f'{{"event_id":"{millis[:8]}-{millis[8:]}-7{bits[:3]}-a{bits[3:6]}-{bits[6:18]}",'
                f'"ts":"{ts}","instance":"{self._instance}",'
                f'"seq":{seq},"prev":"{prev}","event":"{event}"'
            ).encode()
            record = stamp + b"," + members[1:] if len(members) > 2 else stamp + b"}"
            prev = sha256(record).hexdigest()
            lines.append(b"%08x %b\n" % (crc32(record), record))
        return lines, Tip(seq, prev)

    def _timestamp(self, micros: int) -> str:
        """RFC 3339, UTC, microseconds. The second's text is kept: a batch lies within one or two of them."""
        second, fraction = divmod(micros, 1_000_000)
        if second != self._second:
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._second_text}.{fraction:06d}Z"
