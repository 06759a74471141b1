"""Gives records their place: id, time, instance, seq and the hash of the record before."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final
from zlib import crc32

from sidecar.audit.chain import GENESIS
from sidecar.audit.record import Event

STAMPED: Final = frozenset({"event_id", "ts", "instance", "seq", "prev", "event"})
"""The members that come from here; in this order they begin every record."""

STAMP_BYTES: Final = 330
"""No stamp, with its frame, is longer than this."""

Signing = Callable[[Event, str, int, str, str], bytes]
"""(event, instance, seq, prev, ts) → further members of a record that is signed, without braces; empty for others."""

_RANDOM_BYTES: Final = 9
_EVENTS: Final = {event: event.value for event in Event}
_MICROS: Final = tuple(f"{micros:03d}Z" for micros in range(1000))


Body = tuple[Event, float, bytes]
"""A record before it has its place: its event, when it was handed over (seconds since the epoch), and its own members
as they follow the stamp. No class of its own: thousands are made and taken apart in a second."""


def body(event: Event, wall: float, members: bytes = b"{}") -> Body:
    """`members` as a JSON object, whose brace is left to the stamp."""
    return (event, wall, b"," + members[1:] if len(members) > 2 else b"}")


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
        self._milli = self._second = -1
        self._second_text = self._milli_text = self._id_text = ""

    def lines(self, bodies: Sequence[Body], tip: Tip) -> tuple[bytearray, Tip]:
        """The framed lines of these records behind `tip`, and the new tip.

        What is put together here is ASCII without quotes or backslashes and needs no escaping; serialising the whole
        record again would cost more than all the rest.
        """
        seq, prev = tip.seq, tip.hash
        random = os.urandom(_RANDOM_BYTES)
        # RFC 9562, version 7: a consumer's table of ids it has seen stays sorted by time. The randomness is the
        # batch's; its last 48 bits, the first of them kept free, count the records (section 6.2, method 2).
        middle, last = f"-7{random.hex()[:3]}-a{random.hex()[3:6]}-", int.from_bytes(random[3:]) >> 1
        instance, signing = f'","instance":"{self._instance}","seq":', self._signing
        lines = bytearray()
        for event, wall, members in bodies:
            seq += 1
            micros = int(wall * 1_000_000)
            if (milli := micros // 1000) != self._milli:
                self._keep(milli)
            ts = f"{self._milli_text}{_MICROS[micros % 1000]}"
            if signing is not None and (signed := signing(event, self._instance, seq, prev, ts)):
                members = b"," + signed + b"}"
            stamp = (
                f'{{"event_id":"{self._id_text}{middle}{last:012x}","ts":"{ts}{instance}{seq},'
                f'"prev":"{prev}","event":"{_EVENTS[event]}"'
            ).encode()
            last += 1
            record = stamp + members
            prev = sha256(record).hexdigest()
            lines += b"%08x " % crc32(record)
            lines += record
            lines += b"\n"
        return lines, Tip(seq, prev)

    def _keep(self, milli: int) -> None:
        """The id's first 48 bits, and RFC 3339, UTC, but for the microseconds: kept while the millisecond lasts."""
        self._milli = milli
        self._id_text = f"{milli >> 16:08x}-{milli & 0xFFFF:04x}"
        second, millis = divmod(milli, 1000)
        if second != self._second:
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        self._milli_text = f"{self._second_text}.{millis:03d}"
