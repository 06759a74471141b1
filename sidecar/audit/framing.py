"""How a record stands in a segment: `crc32 SP json LF`, one line each, so that a segment can be searched with grep.

The checksum (CRC-32 of the JSON bytes, eight lower-case hex digits) tells a line torn by a crash from a whole one.
It proves nothing against a person; the chain does.
"""

from __future__ import annotations

import re
from typing import Final
from zlib import crc32

_PREFIX: Final = re.compile(rb"[0-9a-f]{8} ")
OVERHEAD: Final = 10
"""Bytes a frame adds to its record."""


def frame(record: bytes) -> bytes:
    """The line of a record. The record holds no newline: JSON escapes it."""
    return b"%08x %b\n" % (crc32(record), record)


def unframe(line: bytes) -> bytes | None:
    """The record of a line given without its newline; None where the line is not whole."""
    if not _PREFIX.match(line):
        return None
    record = line[9:]
    return record if crc32(record) == int(line[:8], 16) else None


def whole(segment: bytes) -> tuple[int, bytes | None, bool]:
    """Where a segment's last whole record ends, that record, and whether every line before that end is whole.

    What stands behind the last whole record was torn by a crash and never acknowledged. A bad line *before* it was
    not torn: it was damaged later, and is kept as evidence.
    """
    end, start, last, sound, pending_fault = 0, 0, None, True, False
    while (newline := segment.find(b"\n", start)) >= 0:
        record = unframe(segment[start:newline])
        start = newline + 1
        if record is None:
            pending_fault = True
            continue
        end, last = start, record
        sound = sound and not pending_fault
    return end, last, sound
