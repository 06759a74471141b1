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
from contextlib import suppress
from dataclasses import dataclass
from gzip import GzipFile
from pathlib import Path
from typing import Final

from sidecar.audit import position

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SEGMENT_NAME: Final = re.compile(r"(\d{20})\.segment(\.zst)?")
PACKED: Final = ".zst"
READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
UNREADABLE: Final = (zstd.ZstdError, zlib.error, EOFError, OSError)
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


def content(directory: Path, segment: Segment) -> bytes:
    """All bytes of a segment; of a compressed one what can still be read. Raises OSError where it cannot be opened."""
    descriptor = os.open(directory / segment.name, READ)
    with os.fdopen(descriptor, "rb") as file:
        if not segment.packed:
            return file.read()
        source, read = unpacking(descriptor), bytearray()
        with suppress(*UNREADABLE):
            while source is not None and (chunk := source.read(_CHUNK_BYTES)):
                read += chunk
        return bytes(read)


def first_line(directory: Path, segment: Segment) -> bytes:
    """A segment's first line, without its newline; empty where it cannot be read. Raises OSError."""
    descriptor = os.open(directory / segment.name, READ)
    with os.fdopen(descriptor, "rb") as file:
        source = (unpacking(descriptor) if segment.packed else None) or file
        with suppress(zstd.ZstdError, EOFError):
            return source.readline().rstrip(b"\n")
    return b""


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
    """Puts a finished compressed segment into the plain one's place. Raises OSError; one of the two stands anyway."""
    packed = directory / (segment_name(first_seq) + PACKED)
    packed.with_name(packed.name + _DRAFT).rename(packed)
    position.sync_directory(directory)
    (directory / segment_name(first_seq)).unlink()
    position.sync_directory(directory)


def drop_draft(directory: Path, first_seq: int) -> None:
    """Removes a compressed segment that is not wanted any more."""
    (directory / (segment_name(first_seq) + PACKED + _DRAFT)).unlink(missing_ok=True)


def found(directory: Path) -> list[Segment]:
    """The segments of a spool, oldest first, as files of their own; what a crash left of compressing is removed.

    Raises OSError, and ValueError with the path of what is no plain file of its own (a link, say).
    """
    segments = []
    for first_seq, path in segment_paths(directory):
        state = path.lstat()
        if not stat.S_ISREG(state.st_mode) or state.st_nlink != 1:
            raise ValueError(str(path))
        packed = path.suffix == PACKED
        if not packed:
            path.with_name(path.name + PACKED).unlink(missing_ok=True)
        drop_draft(directory, first_seq)
        segments.append(Segment(first_seq, state.st_size, packed))
    return segments
