"""The spool: a folder of append-only segments on disk, owned by one process, written by one thread.

    instance                      the spool's name, made once
    lock                          held (flock) by the process that writes
    00000000000000000001.segment  records, framed; the file's name is the seq of its first record
    ….segment.zst                 a closed segment, compressed
    kafka.position                how far Kafka has acknowledged (only where Kafka is configured)
    reserve                       room on the disk for what must be written before anything may be dropped

What a failed write or fsync leaves behind is cut off before anything else is written, so that a segment only ever
holds records that were acknowledged, and at most a torn tail that was not.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

import orjson
import structlog

from sidecar.audit import position, recovery, segments
from sidecar.audit.recovery import JournalError, Recovery
from sidecar.audit.segments import PACKED, SEGMENT_NAME, Segment, same_file
from sidecar.audit.stamping import Tip

_RESERVE: Final = "reserve"
_RESERVE_BYTES: Final = 64 * 1024

_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC

_log = structlog.get_logger("audit")


class SpoolTamperedError(JournalError):
    """A file of the spool was removed, replaced, cut or written to by somebody else while it was in use."""


class Spool:
    """Everything here may block; it belongs on the journal's own thread once opened."""

    def __init__(self, directory: Path, *, sync: bool, segment_bytes: int) -> None:
        self.directory = directory
        self._sync = sync
        self.segment_bytes = segment_bytes
        self._lock = -1
        self._active = -1
        self._active_path = ""
        self._active_file = (-1, -1)  # its device and inode, which no other file has while it is open
        self._dirty = False
        self._distrusted = False
        self._said: set[int] = set()
        self.segments: list[Segment] = []
        self.total_bytes = 0
        self.instance = ""
        self.tip = Tip()
        """The end of the chain as it was found at `open`."""
        self.recovery = Recovery()

    def open(self) -> None:
        """Takes the spool for this process and finds the end of its chain. Raises JournalError where it cannot."""
        try:
            recovery.prepare_directory(self.directory)
            self._lock = recovery.take_lock(self.directory)
            found = recovery.look(self.directory)
            self.instance, self.tip, self.recovery = found.instance, found.tip, found.recovery
            self.segments = found.segments
            if self.segments and not self.segments[-1].packed:
                self._open_active(self.segments[-1], found.end)
            self.total_bytes = sum(segment.size for segment in self.segments)
            self.keep_reserve()
        except OSError as error:
            self.close()
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise JournalError(f"spool_dir {self.directory}: {reason}") from error
        except JournalError:
            self.close()
            raise

    def _open_active(self, segment: Segment, end: int) -> None:
        """Opens the last segment to go on in, without the torn tail."""
        path = self.directory / segment.name
        self._take_active(os.open(path, _APPEND), path)
        if end != segment.size:
            os.ftruncate(self._active, end)
            os.fsync(self._active)
            segment.size = end

    # -- writing ---------------------------------------------------------------------------------------------------
    def append(self, lines: bytes | bytearray, first_seq: int) -> None:
        """Writes framed records, whole and durable, or not at all.

        Raises OSError where the disk refuses (the next call tries anew), SpoolTamperedError where somebody else
        changed the files.
        """
        self._mend(first_seq)
        self._check()
        if self._active < 0:
            self._begin_segment(first_seq)
        elif self.segments[-1].size >= self.segment_bytes:
            try:
                self._begin_segment(first_seq)
            except OSError as error:  # no inode left, say: the old segment still takes records
                _log.warning("no new segment can be begun", reason=os.strerror(error.errno or 0))
        segment = self.segments[-1]
        self._dirty = True
        try:
            _write_all(self._active, lines)
            if self._sync:
                self._make_durable()
        except OSError:
            self._try_to_mend(first_seq)
            raise
        self._dirty = False
        segment.size += len(lines)
        self.total_bytes += len(lines)

    def _make_durable(self) -> None:
        try:
            # The size is flushed too where it changed: fdatasync(2) leaves out only what reading back does not need.
            os.fdatasync(self._active)
        except OSError:
            # After a failed fsync the kernel may have dropped the pages and marked them clean: a later success would
            # say nothing about these bytes. They are cut off, and this file is written to no more.
            self._distrusted = True
            raise

    def _try_to_mend(self, first_seq: int) -> None:
        try:
            self._mend(first_seq)
        except OSError as error:
            _log.error("a failed write could not be cut off yet", reason=os.strerror(error.errno or 0))

    def _mend(self, first_seq: int) -> None:
        """Cuts off what a failed write left. Until that has worked nothing more is written."""
        if self._dirty:
            self._check(size_known=False)
            os.ftruncate(self._active, self.segments[-1].size)
            os.fsync(self._active)
            self._dirty = False
        if self._distrusted:
            self._begin_segment(first_seq)
            self._distrusted = False

    def _begin_segment(self, first_seq: int) -> None:
        """Goes on in a new file; where that fails, the old one stays open. The old one is durable then, whatever the
        durability of single records."""
        if self._active >= 0:
            os.fsync(self._active)
            if self.segments[-1].size == 0:  # holds nothing acknowledged, and has the very name needed now
                (self.directory / self.segments.pop().name).unlink()
                self._close_active()
        segment = Segment(first_seq, 0)
        path = self.directory / segment.name
        active = os.open(path, _APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            position.sync_directory(self.directory)
        except OSError:
            os.close(active)
            path.unlink()
            raise
        self._close_active()
        self._take_active(active, path)
        self.segments.append(segment)

    def _take_active(self, descriptor: int, path: Path) -> None:
        state = os.fstat(descriptor)
        self._active, self._active_path, self._active_file = descriptor, str(path), (state.st_dev, state.st_ino)

    def _close_active(self) -> None:
        if self._active >= 0:
            os.close(self._active)
            self._active = -1

    def _check(self, *, size_known: bool = True) -> None:
        """The open file must still be the one that stands in the spool, with nobody else's bytes in it."""
        if self._active < 0:
            return
        segment, path = self.segments[-1], self._active_path
        try:
            state = os.lstat(path)
        except FileNotFoundError:
            state = None
        if state is None or (state.st_dev, state.st_ino) != self._active_file:
            raise SpoolTamperedError(f"{path} was removed or replaced")
        if state.st_nlink != 1:
            raise SpoolTamperedError(f"{path} was linked to from elsewhere")
        if state.st_size < segment.size or (size_known and state.st_size != segment.size):
            raise SpoolTamperedError(f"{path} was cut or written to by somebody else")

    def inspect(self) -> None:
        """Looks at what `append` does not touch: the lock, the closed segments, and that no segment stands here but
        ours, which would be read with them or in their place. Raises SpoolTamperedError."""
        if not same_file(os.fstat(self._lock), self.directory / "lock"):
            raise SpoolTamperedError(f"{self.directory / 'lock'} was removed or replaced")
        strangers = {path.name for path in self.directory.iterdir() if SEGMENT_NAME.fullmatch(path.name)}
        for segment in self.segments[:-1]:
            path = self.directory / segment.name
            try:
                state = path.lstat()
            except FileNotFoundError:
                raise SpoolTamperedError(f"{path} was removed") from None
            if not stat.S_ISREG(state.st_mode) or state.st_size != segment.size:
                raise SpoolTamperedError(f"{path} was cut, replaced or written to by somebody else")
            strangers.discard(segment.name)
            if not segment.packed:  # the plain one could not be removed when its compressed form was in its place
                strangers.discard(segment.name + PACKED)
        strangers.difference_update(segment.name for segment in self.segments[-1:])
        if strangers:
            raise SpoolTamperedError(f"{self.directory / min(strangers)} was put there by somebody else")

    def probe(self, next_seq: int) -> None:
        """Finds out whether the disk takes bytes again, where nothing is waiting to be written. Raises OSError."""
        self._mend(next_seq)
        path = self.directory / "probe"
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            _write_all(descriptor, bytes(4096))
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
            path.unlink()

    # -- the reserve -----------------------------------------------------------------------------------------------
    def keep_reserve(self) -> None:
        """Takes some room while there is any. Without it a disk that the records have filled would stay full: none may
        be dropped before it is written down that it was."""
        path = self.directory / _RESERVE
        try:
            state = path.lstat()
            if stat.S_ISREG(state.st_mode) and state.st_nlink == 1 and state.st_size >= _RESERVE_BYTES:
                return
        except FileNotFoundError:
            pass
        self.give_reserve()
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, _RESERVE_BYTES)
            finally:
                os.close(descriptor)
        except OSError:  # tried again when there may be room
            self.give_reserve()

    def give_reserve(self) -> None:
        """Gives that room back to whoever writes next."""
        with suppress(OSError):
            (self.directory / _RESERVE).unlink(missing_ok=True)

    # -- dropping --------------------------------------------------------------------------------------------------
    def closed_through(self, seq: int) -> tuple[int, Tip]:
        """How many of the oldest closed segments hold nothing after `seq`, and the last record they hold.

        What cannot be read of a segment cannot be told in the chain: then fewer, perhaps none.
        """
        for count in range(len(self.segments) - 1, 0, -1):
            following = self.segments[count]
            if following.first_seq <= seq + 1 and (last := self._before(following)) is not None:
                return count, last
        return 0, Tip()

    def _before(self, segment: Segment) -> Tip | None:
        """The record before a segment's first one, as that one tells it; None where it cannot be read."""
        try:
            record = orjson.loads(segments.first_record(self.directory, segment) or b"")
            seq, prev = record["seq"], record["prev"]
        except (ValueError, KeyError, TypeError):
            seq = prev = None
        if seq == segment.first_seq and isinstance(prev, str):
            return Tip(seq - 1, prev)
        if segment.first_seq not in self._said:
            self._said.add(segment.first_seq)
            _log.error("the beginning of a segment cannot be read; what stands before it is kept", segment=segment.name)
        return None

    def beyond(self, limit_bytes: int) -> int:
        """The seq through which closed segments must go so that no more than `limit_bytes` stay; 0 for none."""
        excess, seq = self.total_bytes - limit_bytes, 0
        for segment, following in zip(self.segments, self.segments[1:], strict=False):
            if excess <= 0:
                break
            excess -= segment.size
            seq = following.first_seq - 1
        return seq

    def drop(self, count: int) -> None:
        """Removes the oldest segments. Raises OSError; what is gone by then is no longer counted."""
        for _ in range(count):
            segments.drop(self.directory, self.segments[0].first_seq)
            self.total_bytes -= self.segments.pop(0).size
        position.sync_directory(self.directory)

    def take_packed(self, first_seq: int, size: int) -> None:
        """Puts a segment's compressed form, `size` bytes, into its place. Raises OSError; then the plain one counts."""
        segment = next((one for one in self.segments[:-1] if one.first_seq == first_seq and not one.packed), None)
        if segment is None:  # dropped meanwhile
            segments.drop_draft(self.directory, first_seq)
            return
        segments.take_packed(self.directory, first_seq)
        self.total_bytes += size - segment.size
        segment.size, segment.packed = size, True

    def seal(self) -> None:
        """Makes everything written durable, whatever the durability of single records."""
        if self._active >= 0:
            os.fsync(self._active)

    def close(self) -> None:
        """Gives the spool back."""
        for descriptor in (self._active, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._active = self._lock = -1


def _write_all(descriptor: int, content: bytes | bytearray) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
