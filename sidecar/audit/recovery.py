"""What a start finds in a spool: whose it is, where its chain ends, and what a crash or a person left there.

Nothing that holds a record is removed here. Where it cannot be known where the chain ends the start is refused: to go
on anywhere else would give a `seq` twice.
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
from sidecar.audit.framing import Scan
from sidecar.audit.segments import READ, UNREADABLE, Segment, SegmentError
from sidecar.audit.stamping import Tip

INSTANCE: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LOCK_ATTEMPTS: Final = 5  # `audit verify` holds the lock for an instant to see whether the spool is in use

_log = structlog.get_logger("audit")


class JournalError(Exception):
    """The spool cannot be used. The message tells an operator why and what to do."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was found at start. `previous_run` is `none`, `stopped` or `crashed`; `torn_bytes` were cut from the end;
    `damaged` says that a line before the end cannot be read, or that an empty file stood beside a segment's other
    form; `lost_through` is the seq up to which Kafka had acknowledged records that are no longer here (0 for none)."""

    previous_run: str = "none"
    torn_bytes: int = 0
    damaged: bool = False
    lost_through: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """A spool as it was found. `end`: how many bytes of the last segment are whole records, where it is plain."""

    instance: str
    segments: list[Segment]
    tip: Tip
    end: int
    recovery: Recovery


def prepare_directory(directory: Path) -> None:
    """Makes the spool's folder, ours alone. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = directory.stat()
    present = {path.name for path in directory.iterdir()}
    mode = stat.S_IMODE(state.st_mode)
    if state.st_uid == os.geteuid() and (not present or "lock" in present):
        if mode != 0o700:
            directory.chmod(0o700)
    elif state.st_uid != os.geteuid() or mode & 0o077:
        # A volume of somebody else's, or a folder that is not only ours: not changed, but others may take records
        # away there.
        _log.warning("spool_dir is open to other users", owner=state.st_uid, mode=oct(mode))


def take_lock(directory: Path) -> int:
    """The descriptor that holds the spool for this process. Raises OSError, JournalError."""
    path = directory / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        for attempt in range(_LOCK_ATTEMPTS):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == _LOCK_ATTEMPTS - 1:
                    raise JournalError(
                        f"spool_dir {directory} is in use by another process; each sidecar needs its own"
                    ) from None
                time.sleep(0.02)
        if not segments.same_file(os.fstat(descriptor), path):
            raise JournalError(f"{path} was replaced while it was being locked")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def look(directory: Path) -> Found:
    """What is in a spool that is locked. Raises OSError, and JournalError where the chain cannot go on here."""
    instance = _instance(directory)
    try:
        there, damaged = segments.found(directory)
    except SegmentError as error:
        raise JournalError(str(error)) from None
    end, last, holder = 0, None, None
    for segment in reversed(there):
        scan = _scanned(directory, segment)
        if segment is there[-1]:
            end = scan.end
        if segment.packed or segment is not there[-1]:  # only what is written to can be torn
            scan.sound = scan.sound and scan.end == scan.read
        damaged = damaged or not scan.sound
        if segment is there[-1] and segment.packed and not scan.sound:
            raise _lost(directory, f"{segment.name} cannot be read to its end")
        if scan.last is not None:
            last, holder = scan.last, segment
            break
    tip, previous_run = _tip(directory, instance, last)
    lost = _lost_through(directory, instance, tip)
    if holder is not None and tip.seq < holder.first_seq:
        raise _lost(directory, f"{holder.name} ends with record {tip.seq}")
    if there and holder is not there[-1] and there[-1].first_seq not in (tip.seq + 1, lost.seq + 1):
        raise _lost(directory, f"{there[-1].name} holds nothing, and what stands before it ends with record {tip.seq}")
    torn = there[-1].size - end if there and not there[-1].packed else 0
    recovery = Recovery(previous_run, torn, damaged, 0 if lost is tip else lost.seq)
    return Found(instance, there, lost, end, recovery)


def _instance(directory: Path) -> str:
    path = directory / "instance"
    try:
        descriptor = os.open(path, READ)
    except FileNotFoundError:
        if segments.segment_paths(directory):
            raise JournalError(
                f"{path} is missing but there are segments: put it back, or give the sidecar an empty spool_dir"
            ) from None
        instance = str(uuid.uuid4())
        position.replace(directory, "instance", "instance.new", instance.encode() + b"\n")
        return instance
    try:
        instance = os.read(descriptor, 64).decode("ascii", "replace").strip()
    finally:
        os.close(descriptor)
    if not INSTANCE.fullmatch(instance):
        raise JournalError(f"{path} does not hold an instance id")
    return instance


def _scanned(directory: Path, segment: Segment) -> Scan:
    scan = Scan()
    try:
        for chunk in segments.chunks(directory, segment):
            scan.feed(chunk)
    except UNREADABLE:
        if not segment.packed:
            raise
        scan.sound = False
    return scan


def _tip(directory: Path, instance: str, last: bytes | None) -> tuple[Tip, str]:
    """The end of the chain in the spool, and how the run before ended."""
    if last is None:
        return Tip(), "none"
    try:
        record = orjson.loads(last)
        seq, event, whose = record["seq"], record["event"], record["instance"]
    except (ValueError, KeyError, TypeError):
        raise JournalError(f"{directory}: the last record cannot be read; run `audit verify`") from None
    if whose != instance or type(seq) is not int:
        raise JournalError(f"{directory}: the last record belongs to another instance; run `audit verify`")
    return Tip(seq, link(last)), "stopped" if event == "AUDIT_STOP" else "crashed"


def _lost_through(directory: Path, instance: str, tip: Tip) -> Tip:
    """Where Kafka has acknowledged more than is here, the end was cut off: the chain goes on behind what Kafka has, so
    that `verify` shows the gap and no seq is given twice. Else `tip` itself."""
    acknowledged = position.load(directory)
    if acknowledged is None or acknowledged.instance != instance or acknowledged.seq <= tip.seq:
        return tip
    return Tip(acknowledged.seq, acknowledged.tip)


def _lost(directory: Path, what: str) -> JournalError:
    return JournalError(
        f"{directory}: {what}: the chain cannot go on; run `audit verify`, move the spool away and keep it"
    )
