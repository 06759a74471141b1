"""The spool: a folder of append-only segments on disk, owned by one process, written by one thread.

    instance                      the spool's name, made once
    lock                          held (flock) by the process that writes
    00000000000000000001.segment  records, framed; the file's name is the seq of its first record
    ….segment.zst                 a closed segment, compressed
    kafka.position                how far Kafka has acknowledged (only where Kafka is configured)

What a failed write or fsync leaves behind is cut off before anything else is written, so that a segment only ever
holds records that were acknowledged, and at most a torn tail that was not.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson
import structlog

from sidecar.audit import position, segments
from sidecar.audit.chain import link
from sidecar.audit.framing import unframe, whole
from sidecar.audit.segments import READ, Segment, segment_name
from sidecar.audit.stamping import Tip

INSTANCE: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK_ATTEMPTS: Final = 5  # `audit verify` holds the lock for an instant to see whether the spool is in use

_log = structlog.get_logger("audit")


class JournalError(Exception):
    """The spool cannot be used. The message tells an operator why and what to do."""


class SpoolTamperedError(JournalError):
    """A file of the spool was removed, replaced, cut or written to by somebody else while it was in use."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was found at start. `previous_run` is `none`, `stopped` or `crashed`; `torn_bytes` were cut from the end;
    `damaged` says that a line before the end cannot be read; `lost_through` is the seq up to which Kafka had
    acknowledged records that are no longer here (0 for none)."""

    previous_run: str = "none"
    torn_bytes: int = 0
    damaged: bool = False
    lost_through: int = 0


class Spool:
    """Everything here may block; it belongs on the journal's own thread once opened."""

    def __init__(self, directory: Path, *, sync: bool, segment_bytes: int) -> None:
        self.directory = directory
        self._sync = sync
        self._segment_bytes = segment_bytes
        self._lock = -1
        self._active = -1
        self._active_path = ""
        self._dirty = False
        self._distrusted = False
        self.segments: list[Segment] = []
        self.total_bytes = 0
        self.instance = ""
        self.tip = Tip()
        """The end of the chain as it was found at `open`."""
        self.recovery = Recovery()

    # -- opening ---------------------------------------------------------------------------------------------------
    def open(self) -> None:
        """Takes the spool for this process and finds the end of its chain. Raises JournalError where it cannot."""
        try:
            self._open_directory()
            self._take_lock()
            self.instance = self._read_instance()
            self._find_end()
        except OSError as error:
            self.close()
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise JournalError(f"spool_dir {self.directory}: {reason}") from error
        except JournalError:
            self.close()
            raise

    def _open_directory(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = self.directory.stat()
        present = {path.name for path in self.directory.iterdir()}
        mode = stat.S_IMODE(state.st_mode)
        if state.st_uid == os.geteuid() and (not present or "lock" in present):
            if mode != 0o700:
                self.directory.chmod(0o700)
        elif state.st_uid != os.geteuid() or mode & 0o077:
            # A volume of somebody else's, or a folder that is not only ours: not changed, but others may take records
            # away there.
            _log.warning("spool_dir is open to other users", owner=state.st_uid, mode=oct(mode))

    def _take_lock(self) -> None:
        path = self.directory / "lock"
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        for attempt in range(_LOCK_ATTEMPTS):
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == _LOCK_ATTEMPTS - 1:
                    raise JournalError(
                        f"spool_dir {self.directory} is in use by another process; each sidecar needs its own"
                    ) from None
                time.sleep(0.02)
        if not _same_file(os.fstat(self._lock), path):
            raise JournalError(f"{path} was replaced while it was being locked")

    def _read_instance(self) -> str:
        path = self.directory / "instance"
        try:
            descriptor = os.open(path, READ)
        except FileNotFoundError:
            if segments.segment_paths(self.directory):
                raise JournalError(
                    f"{path} is missing but there are segments: put it back, or give the sidecar an empty spool_dir"
                ) from None
            instance = str(uuid.uuid4())
            position.replace(self.directory, "instance", "instance.new", instance.encode() + b"\n")
            return instance
        try:
            instance = os.read(descriptor, 64).decode("ascii", "replace").strip()
        finally:
            os.close(descriptor)
        if not INSTANCE.fullmatch(instance):
            raise JournalError(f"{path} does not hold an instance id")
        return instance

    def _find_end(self) -> None:
        try:
            self.segments = segments.found(self.directory)
        except ValueError as path:
            raise JournalError(f"{path} is not a plain file of its own (a link?); remove it") from None
        torn, damaged, last = 0, False, None
        for segment in reversed(self.segments):
            content = segments.content(self.directory, segment)
            end, last, sound = whole(content)
            if segment is self.segments[-1] and not segment.packed:
                self._open_active(segment, end)
                torn = len(content) - end
            elif end != len(content):  # only the last segment can be torn: the others were closed durably
                sound = False
            damaged = damaged or not sound
            if last is not None:
                break
        self.total_bytes = sum(segment.size for segment in self.segments)
        self.tip, previous_run = self._read_tip(last)
        lost_through = self._continue_after_kafka()
        self.recovery = Recovery(previous_run, torn, damaged, lost_through)

    def _open_active(self, segment: Segment, end: int) -> None:
        """Opens the last segment to go on in, without the torn tail."""
        self._active_path = str(self.directory / segment.name)
        self._active = os.open(self._active_path, _APPEND)
        if end != segment.size:
            os.ftruncate(self._active, end)
            os.fsync(self._active)
            segment.size = end

    def _read_tip(self, last: bytes | None) -> tuple[Tip, str]:
        """The end of the chain and how the run before ended."""
        if last is None:
            if self.segments and self.segments[-1].first_seq != 1:
                raise JournalError(
                    f"{self.directory}: no record can be read, the chain cannot go on; move the spool away and keep it"
                )
            return Tip(), "none"
        try:
            record = orjson.loads(last)
            seq, event, instance = record["seq"], record["event"], record["instance"]
        except (ValueError, KeyError, TypeError):
            raise JournalError(f"{self.directory}: the last record cannot be read; run `audit verify`") from None
        if instance != self.instance or type(seq) is not int:
            raise JournalError(f"{self.directory}: the last record belongs to another instance; run `audit verify`")
        return Tip(seq, link(last)), "stopped" if event == "AUDIT_STOP" else "crashed"

    def _continue_after_kafka(self) -> int:
        """Where Kafka has acknowledged more than is here, the end was cut off: the chain goes on behind what Kafka
        has, so that `verify` shows the gap and no seq is given twice."""
        acknowledged = position.load(self.directory)
        if acknowledged is None or acknowledged.instance != self.instance or acknowledged.seq <= self.tip.seq:
            return 0
        self.tip = Tip(acknowledged.seq, acknowledged.tip)
        return acknowledged.seq

    # -- writing ---------------------------------------------------------------------------------------------------
    def append(self, lines: bytes, first_seq: int) -> None:
        """Writes framed records, whole and durable, or not at all.

        Raises OSError where the disk refuses (the next call tries anew), SpoolTamperedError where somebody else
        changed the files.
        """
        self._mend(first_seq)
        self._check()
        if self._active < 0:
            self._begin_segment(first_seq)
        elif self.segments[-1].size >= self._segment_bytes:
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
        self._active, self._active_path = active, str(path)
        self.segments.append(segment)

    def _close_active(self) -> None:
        if self._active >= 0:
            os.close(self._active)
            self._active = -1

    def _check(self, *, size_known: bool = True) -> None:
        """The open file must still be the one that stands in the spool, with nobody else's bytes in it."""
        if self._active < 0:
            return
        segment, state, path = self.segments[-1], os.fstat(self._active), self._active_path
        if not _same_file(state, path):
            raise SpoolTamperedError(f"{path} was removed or replaced")
        if state.st_nlink != 1:
            raise SpoolTamperedError(f"{path} was linked to from elsewhere")
        if state.st_size < segment.size or (size_known and state.st_size != segment.size):
            raise SpoolTamperedError(f"{path} was cut or written to by somebody else")

    def inspect(self) -> None:
        """Looks at what `append` does not touch: the lock and the closed segments. Raises SpoolTamperedError."""
        if not _same_file(os.fstat(self._lock), self.directory / "lock"):
            raise SpoolTamperedError(f"{self.directory / 'lock'} was removed or replaced")
        for segment in self.segments[:-1]:
            path = self.directory / segment.name
            try:
                state = path.lstat()
            except FileNotFoundError:
                raise SpoolTamperedError(f"{path} was removed") from None
            if not stat.S_ISREG(state.st_mode) or state.st_size != segment.size:
                raise SpoolTamperedError(f"{path} was cut, replaced or written to by somebody else")

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

    # -- dropping --------------------------------------------------------------------------------------------------
    def closed_through(self, seq: int) -> tuple[int, Tip]:
        """How many of the oldest closed segments hold nothing after `seq`, and the last record they hold."""
        count = 0
        while count + 1 < len(self.segments) and self.segments[count + 1].first_seq <= seq + 1:
            count += 1
        if count == 0:
            return 0, Tip()
        following = self.segments[count]
        record = unframe(segments.first_line(self.directory, following))
        if record is None:
            return 0, Tip()
        return count, Tip(following.first_seq - 1, orjson.loads(record)["prev"])

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
            segment = self.segments[0]
            (self.directory / segment.name).unlink(missing_ok=True)
            if segment.packed:  # had the plain one not gone away
                (self.directory / segment_name(segment.first_seq)).unlink(missing_ok=True)
            self.segments.pop(0)
            self.total_bytes -= segment.size
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


def _same_file(state: os.stat_result, path: str | Path) -> bool:
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (state.st_dev, state.st_ino)


def _write_all(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
