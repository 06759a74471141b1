"""Reads records back: from a spool's segments (framed) and from JSON-lines files such as a topic's dump.

Either may be compressed, by zstd or gzip: the first bytes tell.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import orjson

from sidecar.audit.framing import MAX_LINE_BYTES, unframe
from sidecar.audit.segments import SEGMENT_NAME, UNREADABLE, Unpacking, open_segment, segment_paths, unpacking

READ_BYTES: Final = 128 * 1024

UNFINISHED: Final = "the file ends in the middle of a record: torn by a crash (the next start mends it), or cut"
DAMAGED: Final = "the line does not match its checksum: it was changed or damaged"
TOO_LONG: Final = "the line is longer than any record"
UNPACKABLE: Final = "the compressed file cannot be read from here on: it was cut, changed or damaged"


class Line(msgspec.Struct, frozen=True, gc=False):
    """One line read. `record` is its exact bytes; empty where `fault` says what is wrong with the line. `end` is the
    offset in the file behind it."""

    path: Path
    number: int
    record: bytes
    end: int
    fault: str = ""

    @property
    def place(self) -> str:
        """Where it stands, for a person."""
        return f"{self.path}:{self.number}"


class FileReader:
    """Reads one file as it grows, whole lines only. Whether its lines are framed is told by its first byte.

    Offsets are those of the content, where the file is compressed.
    """

    def __init__(self, path: Path, descriptor: int = -1) -> None:
        """`descriptor`: the file where it is open already; it is closed by `close`."""
        flags = os.O_RDONLY | os.O_CLOEXEC
        # A link in place of a segment is somebody's doing; a link to a dump is the operator's.
        follow = 0 if not SEGMENT_NAME.fullmatch(path.name) else os.O_NOFOLLOW
        self._descriptor = descriptor if descriptor >= 0 else os.open(path, flags | follow)
        self._packed: Unpacking | None = None
        self.path = path
        self.offset = 0
        self._number = 0
        self._rest = b""
        self._framed: bool | None = None
        self._broken = False

    def read(self, until: int | None = None) -> list[Line]:
        """The next whole lines, none at the end of what is there now. Nothing behind the offset `until` is read."""
        lines: list[Line] = []
        while not lines and not self._broken:
            read_to = self.offset + len(self._rest)
            size = READ_BYTES if until is None else min(READ_BYTES, until - read_to)
            try:
                chunk = self._chunk(size) if size > 0 else b""
            except UNREADABLE:
                if self._packed is None:
                    raise
                self._broken = True
                lines.append(Line(self.path, self._number + 1, b"", self.offset, UNPACKABLE))
                break
            if not chunk:
                break
            if self._framed is None:
                self._framed = chunk[0] != ord("{")
            *whole, self._rest = (self._rest + chunk).split(b"\n")
            lines = self._records(whole) if self._framed else [line for line in map(self._plain, whole) if line]
            if len(self._rest) > MAX_LINE_BYTES:
                self._broken = True
                lines.append(Line(self.path, self._number + 1, b"", self.offset, TOO_LONG))
        return lines

    def finish(self) -> Line | None:
        """The last line, where it has no newline: whole in a plain file, torn in a segment."""
        rest, self._rest = self._rest, b""
        if not rest or self._broken:
            return None
        if not self._framed:
            return self._plain(rest)
        return Line(self.path, self._number + 1, b"", self.offset, UNFINISHED)

    def close(self) -> None:
        """Closes the file."""
        if self._packed is not None:
            self._packed.close()
        os.close(self._descriptor)

    def _chunk(self, size: int) -> bytes:
        """At most `size` bytes more of the content, however much they are compressed."""
        if self._framed is None and self._packed is None:
            self._packed = unpacking(self._descriptor)
        return os.read(self._descriptor, size) if self._packed is None else self._packed.read(size)

    def _records(self, whole: Sequence[bytes]) -> list[Line]:
        """The lines of a segment. Every record comes by here on its way to Kafka."""
        path, number, offset, lines = self.path, self._number, self.offset, []
        for raw in whole:
            number += 1
            offset += len(raw) + 1
            record = unframe(raw)
            lines.append(
                Line(path, number, b"", offset, DAMAGED) if record is None else Line(path, number, record, offset)
            )
        self._number, self.offset = number, offset
        return lines

    def _plain(self, raw: bytes) -> Line | None:
        """The line of a file without frames; None where it is empty."""
        self._number += 1
        self.offset += len(raw) + 1
        return Line(self.path, self._number, raw, self.offset) if raw.strip() else None


class SpoolReader:
    """Reads a spool's segments in order, going on to new ones as they appear."""

    def __init__(self, directory: Path, after_seq: int = 0) -> None:
        self._directory = directory
        self._after_seq = after_seq
        self._reader: FileReader | None = None
        self._first_seq = -1

    def read(self, extent: tuple[int, int] | None = None) -> list[Line]:
        """The next whole lines; none at the end. `extent` (a segment's first seq, its bytes) is where to stop: what
        stands behind it is not yet durable."""
        if self._reader is not None and extent is not None and extent[0] == self._first_seq:
            return self._reader.read(extent[1])  # nothing durable stands in any segment behind this one
        while True:
            # Looked up before the current segment is read: once a newer one stands there, this one grows no more.
            following = self._following()
            if self._reader is not None:
                lines = self._reader.read(self._until(extent))
                if lines:
                    return lines
            if following is None or (extent is not None and following > extent[0]):
                return []
            torn = self._reader.finish() if self._reader is not None else None
            self.close()
            try:
                self._reader = FileReader(*open_segment(self._directory, following))
            except FileNotFoundError:  # dropped just now
                continue
            self._first_seq = following
            if torn is not None:
                return [torn]

    def finish(self) -> Line | None:
        """The unfinished last line, where there is one."""
        return self._reader.finish() if self._reader is not None else None

    def close(self) -> None:
        """Closes the current segment."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _following(self) -> int | None:
        firsts = [first for first, _ in segment_paths(self._directory)]
        if self._first_seq < 0:
            before = [first for first in firsts if first <= self._after_seq + 1]
            return before[-1] if before else (firsts[0] if firsts else None)
        return next((first for first in firsts if first > self._first_seq), None)

    def _until(self, extent: tuple[int, int] | None) -> int | None:
        return extent[1] if extent is not None and extent[0] == self._first_seq else None


def readers(paths: Sequence[Path]) -> list[FileReader | SpoolReader]:
    """A reader for each folder and file, files oldest first. Raises OSError where one cannot be read."""
    folders = [SpoolReader(path) for path in paths if path.is_dir()]
    return [*folders, *(FileReader(path) for path in _oldest_first([path for path in paths if not path.is_dir()]))]


def read_all(paths: Sequence[Path]) -> Iterator[Line]:
    """Every line of these folders and files as they are now."""
    for reader in readers(paths):
        try:
            while lines := reader.read():
                yield from lines
            last = reader.finish()
            if last is not None and not (last.fault == UNFINISHED and in_use(last.path.parent)):
                yield last
        finally:
            reader.close()


def in_use(directory: Path) -> bool:
    """Whether a sidecar is writing to this spool: an unfinished record at its end is then being written."""
    try:
        descriptor = os.open(directory / "lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _oldest_first(paths: Sequence[Path]) -> list[Path]:
    """Files by the time of their first record; those of one instance by its seq, whatever its clock said."""
    if len(paths) < 2:  # a pipe must not be opened twice
        return list(paths)
    firsts = {path: _first(path) for path in paths}
    ordered = sorted(paths, key=lambda path: firsts[path][1])
    for instance in {firsts[path][0] for path in paths}:
        places = [index for index, path in enumerate(ordered) if firsts[path][0] == instance]
        by_seq = sorted((ordered[index] for index in places), key=lambda path: firsts[path][2])
        for index, path in zip(places, by_seq, strict=True):
            ordered[index] = path
    return ordered


def _first(path: Path) -> tuple[str, str, int]:
    """Instance, time and seq of a file's first record; empty where it cannot be read, which is found later."""
    reader = FileReader(path)
    try:
        lines: Iterable[Line] = reader.read()
        record = orjson.loads(next(line.record for line in lines if line.record))
        instance, ts, seq = record["instance"], record["ts"], record["seq"]
    except (StopIteration, ValueError, KeyError, TypeError):
        return "", "", 0
    finally:
        reader.close()
    return (
        (instance, ts, seq) if isinstance(instance, str) and isinstance(ts, str) and type(seq) is int else ("", "", 0)
    )
