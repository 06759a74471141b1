"""How a record stands in a segment: `crc32 SP json LF`, one line each, so that a segment can be searched with grep.

The checksum (CRC-32 of the JSON bytes, eight lower-case hex digits) tells a line torn by a crash from a whole one.
It proves nothing against a person; the chain does.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

OVERHEAD: Final = 10
"""Bytes a frame adds to its record."""

MAX_LINE_BYTES: Final = 8 * 1024 * 1024
"""No line comes near it; without a bound one endless line would fill the memory of who reads it."""


def frame(record: bytes) -> bytes:
    """The line of a record. The record holds no newline: JSON escapes it."""
    return b"%08x %b\n" % (crc32(record), record)


def unframe(line: bytes) -> bytes | None:
    """The record of a line given without its newline; None where the line is not whole."""
    record = line[9:]
    return record if line[:9] == b"%08x " % crc32(record) else None


class Scan:
    """Finds where a segment's last whole record ends. What stands behind it was torn by a crash and never
    acknowledged. A bad line *before* it was not torn: it was damaged later, and is kept as evidence."""

    def __init__(self) -> None:
        self.read = 0
        """Bytes given so far."""
        self.end = 0
        """Where the last whole record ends."""
        self.last: bytes | None = None
        """That record."""
        self.sound = True
        """Whether every line before that end is whole."""
        self._fault = False
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        """Takes the next bytes."""
        start = self.read - len(self._rest)
        self.read += len(chunk)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            start += len(line) + 1
            record = unframe(line)
            if record is None:
                self._fault = True
                continue
            self.end, self.last = start, record
            self.sound = self.sound and not self._fault
        if len(self._rest) > MAX_LINE_BYTES:  # no record: it is not kept in memory
            self._fault, self._rest = True, b""
