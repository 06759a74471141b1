"""Segments: the files a spool is made of, plain while they are written to, compressed once they are closed.

A compressed segment holds the very bytes of the plain one. It is made beside it, durable before it takes the plain
one's place, so that a crash leaves the plain file, both, or the compressed one; where both stand the plain one counts.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from gzip import GzipFile
from pathlib import Path
from typing import Final

from sidecar.audit import position
from sidecar.audit.framing import MAX_LINE_BYTES, unframe

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SEGMENT_NAME: Final = re.compile(r"(\d{20})\.segment(\.zst)?")
PACKED: Final = ".zst"
READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""How a file of the spool is opened: a link there is not followed, and a pipe not waited for."""

UNPACKING_ERRORS: Final = (zstd.ZstdError, zlib.error, EOFError)
UNREADABLE: Final = (*UNPACKING_ERRORS, OSError)
"""What reading a compressed file raises where it was cut, changed or damaged."""

Unpacking = zstd.ZstdFile | GzipFile
"""What reads a compressed file's content."""

_DRAFT: Final = ".new"
_CHUNK_BYTES: Final = 1024 * 1024
_OPTIONS: Final[dict[int, int]] = {
    zstd.CompressionParameter.compression_level: 1,
    zstd.CompressionParameter.checksum_flag: 1,
}
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_GZIP_MAGIC: Final = b"\x1f\x8b"


class SegmentError(Exception):
    """What stands in a segment's place cannot be the sidecar's. The message tells an operator what to do."""


@dataclass(slots=True)
class Segment:
    """One file. `size` counts its whole, acknowledged bytes on disk, compressed ones where it is `packed`."""

    first_seq: int
    size: int
    packed: bool = False

    @property
    def name(self) -> str:
        """The file's name in the spool."""
        return segment_name(self.first_seq) + (PACKED if self.packed else "")


def segment_name(first_seq: int) -> str:
    """The name of the plain segment that begins with this seq."""
    return f"{first_seq:020d}.segment"


def segment_paths(directory: Path) -> list[tuple[int, Path]]:
    """The segments of a spool, oldest first, as (first seq, path); the plain one where both forms stand."""
    found: dict[int, Path] = {}
    for path in directory.iterdir():
        match = SEGMENT_NAME.fullmatch(path.name)
        if match and (match[2] is None or int(match[1]) not in found):
            found[int(match[1])] = path
    return sorted(found.items())


def open_segment(directory: Path, first_seq: int) -> tuple[Path, int]:
    """Path and descriptor of a segment, plain or compressed; it may be compressed at this very moment.

    Raises FileNotFoundError where there is neither.
    """
    for name in (segment_name(first_seq), segment_name(first_seq) + PACKED):
        path = directory / name
        with suppress(FileNotFoundError):
            return path, os.open(path, READ)
    raise FileNotFoundError(2, os.strerror(2), str(directory / segment_name(first_seq)))


def unpacking(descriptor: int) -> Unpacking | None:
    """What reads the content of a file that is compressed (zstd, gzip); None where it is not, or is still empty."""
    try:
        magic = os.pread(descriptor, 4, 0)
    except OSError:  # a pipe
        return None
    if magic == _ZSTD_MAGIC:
        return zstd.ZstdFile(os.fdopen(descriptor, "rb", closefd=False))
    if magic[:2] == _GZIP_MAGIC:
        return GzipFile(fileobj=os.fdopen(descriptor, "rb", closefd=False))
    return None


def chunks(directory: Path, segment: Segment) -> Iterator[bytes]:
    """The content of a segment, piece by piece. Raises OSError; of a compressed one, one of UNREADABLE."""
    descriptor = os.open(directory / segment.name, READ)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        source = unpacking(descriptor) if segment.packed else file
        if source is None:
            raise zstd.ZstdError(f"{segment.name} is not compressed")
        while chunk := source.read(_CHUNK_BYTES):
            yield chunk


def first_record(directory: Path, segment: Segment) -> bytes | None:
    """A segment's first record; None where it cannot be read."""
    start = b""
    with suppress(*UNREADABLE):
        for chunk in chunks(directory, segment):
            start += chunk
            if b"\n" in chunk or len(start) > MAX_LINE_BYTES:
                break
    return unframe(start.partition(b"\n")[0])


def pack(directory: Path, first_seq: int, size: int) -> int:
    """Writes the compressed form of a closed segment beside it, durable but not yet in its place. Returns its size.

    Raises OSError where the disk refuses, or the segment is not `size` bytes long any more.
    """
    draft = directory / (segment_name(first_seq) + PACKED + _DRAFT)
    draft.unlink(missing_ok=True)
    source = os.open(directory / segment_name(first_seq), READ)
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as target:
            compressor, read = zstd.ZstdCompressor(options=_OPTIONS), 0
            while chunk := os.read(source, _CHUNK_BYTES):
                target.write(compressor.compress(chunk))
                read += len(chunk)
            if read != size:
                raise OSError(5, f"{segment_name(first_seq)} has {read} bytes, not {size}")
            target.write(compressor.flush())
            target.flush()
            os.fsync(descriptor)
            return target.tell()
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    finally:
        os.close(source)


def take_packed(directory: Path, first_seq: int) -> None:
    """Puts a finished compressed segment into the plain one's place. Raises OSError; then the plain one stands too."""
    packed = directory / (segment_name(first_seq) + PACKED)
    packed.with_name(packed.name + _DRAFT).rename(packed)
    position.sync_directory(directory)
    (directory / segment_name(first_seq)).unlink()
    with suppress(OSError):  # a crash may bring the plain one back; the next start finds both the same
        position.sync_directory(directory)


def drop(directory: Path, first_seq: int) -> None:
    """Removes a segment in whatever forms it stands. Raises OSError."""
    for name in (segment_name(first_seq), segment_name(first_seq) + PACKED):
        (directory / name).unlink(missing_ok=True)


def drop_draft(directory: Path, first_seq: int) -> None:
    """Removes a compressed segment that is not wanted any more."""
    (directory / (segment_name(first_seq) + PACKED + _DRAFT)).unlink(missing_ok=True)


def found(directory: Path) -> tuple[list[Segment], bool]:
    """The segments of a spool, oldest first, as files of their own; what a crash left of compressing is removed.
    And whether an empty file stood beside a segment's other form, which no crash leaves.

    Raises OSError, and SegmentError where what stands there cannot be a sidecar's.
    """
    there, planted = [], False
    for first_seq, _ in segment_paths(directory):
        plain, packed = _form(directory, first_seq, packed=False), _form(directory, first_seq, packed=True)
        if plain is not None and packed is not None:
            surplus, alike = _surplus(directory, plain, packed)
            (directory / surplus.name).unlink()
            planted = planted or not alike
            there.append(plain if surplus is packed else packed)
        else:
            there += [form for form in (plain, packed) if form is not None]
        drop_draft(directory, first_seq)
    return there, planted


def _form(directory: Path, first_seq: int, *, packed: bool) -> Segment | None:
    segment = Segment(first_seq, 0, packed)
    path = directory / segment.name
    try:
        state = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(state.st_mode) or state.st_nlink != 1:
        raise SegmentError(f"{path} is not a plain file of its own (a link?); remove it")
    segment.size = state.st_size
    return segment


def _surplus(directory: Path, plain: Segment, packed: Segment) -> tuple[Segment, bool]:
    """Which of a segment's two forms may go, and whether they are alike. Only what holds nothing, or nothing that the
    other one does not hold, may go."""
    if _alike(directory, plain, packed):
        return packed, True
    if _holds_nothing(directory, packed):
        return packed, False
    if plain.size == 0:
        return plain, False
    raise SegmentError(
        f"{directory / plain.name} and {directory / packed.name} differ, so one of them is not the sidecar's. "
        "Keep both; move the wrong one away (`audit verify` reads either)"
    )


def _alike(directory: Path, plain: Segment, packed: Segment) -> bool:
    """Whether two forms hold the same bytes, without keeping in memory what they hold."""
    with os.fdopen(os.open(directory / plain.name, READ), "rb") as file, suppress(*UNPACKING_ERRORS):
        return all(file.read(len(chunk)) == chunk for chunk in chunks(directory, packed)) and not file.read(1)
    return False


def _holds_nothing(directory: Path, packed: Segment) -> bool:
    with suppress(*UNPACKING_ERRORS):
        return packed.size == 0 or not any(chunks(directory, packed))
    return False


def same_file(state: os.stat_result, path: str | Path) -> bool:
    """Whether that file, and no other, stands at this path."""
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (state.st_dev, state.st_ino)
