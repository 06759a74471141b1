"""The journal's thread: takes what is waiting, gives it its place in the chain, and makes it durable.

All that waits is stamped (`seq`, `prev`), written in one piece and made durable with one fsync. What the disk refuses
is refused to everybody who waited for it, and the next record tries the disk anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import orjson
import structlog

from sidecar.audit.checkpoint import Checkpoints
from sidecar.audit.handover import Entry, Handover, unavailable
from sidecar.audit.record import Event
from sidecar.audit.spool import Spool, SpoolTamperedError
from sidecar.audit.stamping import Body, Stamper, body
from sidecar.clock import Clock
from sidecar.errors import Refused
from sidecar.ops.metrics import AUDIT_RECORDS

PROBE_SECONDS: Final = 1.0

_RESERVE_BYTES: Final = 1024 * 1024  # the journal's own records (start, stop, truncated) still fit into a full spool
_INSPECT_SECONDS: Final = 1.0
_RETAIN_AGAIN_SECONDS: Final = 10.0
_WRITTEN: Final = {event: AUDIT_RECORDS.labels(event) for event in Event}

_log = structlog.get_logger("audit")


class Writer:
    """`run` is the thread's; what it notes here may be read from anywhere."""

    def __init__(
        self,
        spool: Spool,
        handover: Handover,
        max_spool_bytes: int,
        retention_bytes: int,
        clock: Clock,
        checkpoints: Checkpoints | None,
    ) -> None:
        self._spool = spool
        self._handover = handover
        self._max_spool_bytes = max_spool_bytes
        self._retention_bytes = retention_bytes
        self._clock = clock
        self._checkpoints = checkpoints
        self._stamper = Stamper(spool.instance, checkpoints.members if checkpoints is not None else None)
        self._started = False
        self._inspect_at = self._retain_at = 0.0
        self._told_through = 0
        self.durable = spool.tip
        """The last durable record."""
        self.extent = _extent(spool)
        """How far the segments may be read: the last one's first seq, and its durable bytes."""
        self.records = self.batches = 0
        self.failure = ""
        """Why the disk takes nothing; empty where it does."""
        self.tampered = ""
        """What somebody did to the spool. Stays until a restart."""
        self.full = False
        """Whether something was refused because the spool is full."""
        self.retained = ""
        """What is in the way of retention."""

    def run(self, settle: Callable[[Sequence[Entry]], None]) -> None:
        """Writes until the end has been written. `settle` tells those who wait; it raises RuntimeError where nobody is
        there any more."""
        running = True
        while running:
            entries = self._collect()
            if not entries and self.failure:
                self._probe()
                continue
            running = not any(entry.stop for entry in entries)
            try:
                self._commit(entries, stop=not running)
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for ever or be let through
                _fail(entries, f"unexpected {type(error).__name__}")
                with suppress(Exception):  # nor may what cannot be told end the thread
                    _log.exception("the audit journal failed unexpectedly")
            try:
                settle(entries)
            except RuntimeError:  # the loop was closed without `close`
                return

    def _collect(self) -> list[Entry]:
        """All that is waiting; nothing where nothing came until the disk is to be looked at, or a checkpoint due."""
        due = self._checkpoints.wait_seconds() if self._checkpoints is not None else None
        checkpoint = None if due is None else max(due, PROBE_SECONDS)
        return self._handover.take(PROBE_SECONDS if self.failure else checkpoint)

    def _commit(self, entries: Sequence[Entry], *, stop: bool) -> None:
        """Writes what fits into the spool, in order; an entry that was not written gets its error."""
        bodies: list[Body] = []
        room, full = self._max_spool_bytes - self._spool.total_bytes, False
        for entry in entries:
            if entry.size > room and entry.bodies:
                entry.error, full = unavailable("the spool is full"), True
                continue
            room -= entry.size
            bodies += entry.bodies
        if stop:
            bodies.append(body(Event.AUDIT_STOP, self._clock.wall()))
        elif self._checkpoints is not None and self._checkpoints.wait_seconds() == 0:
            bodies.append(self._checkpoints.body())
        self._note_full(full)
        if problem := self._begin() or self._write(bodies):
            _fail(entries, problem)
        for entry in entries:
            if entry.command is not None and not self.tampered:  # whatever the disk said: it may make room there
                entry.error = entry.command()
        if problem:
            return
        if self._retention_bytes and not stop:
            self._retain()
        if stop:
            self._spool.seal()

    def _begin(self) -> str:
        """AUDIT_START comes before anything else. Returns why it could not be written."""
        if self._started:
            return ""
        problem = self._write([body(Event.AUDIT_START, self._clock.wall(), self._start_members())])
        self._started = not problem
        return problem

    def _write(self, bodies: Sequence[Body]) -> str:
        """Stamps and writes. Returns why nothing was written, an empty text where all was."""
        if not bodies:
            return ""
        if self._checkpoints is not None:
            bodies = self._checkpoints.woven(bodies)
        lines, tip = self._stamper.lines(bodies, self.durable)
        if self._spool.total_bytes + len(lines) > self._max_spool_bytes + _RESERVE_BYTES:
            self._note_full(True)
            return "the spool is full"
        try:
            if self._clock.elapsed() >= self._inspect_at:
                self._inspect_at = self._clock.elapsed() + _INSPECT_SECONDS
                self._spool.inspect()
            self._spool.append(lines, self.durable.seq + 1)
        except SpoolTamperedError as error:
            return self._note_tampering(error)
        except OSError as error:
            return self._note_failure(error)
        self.durable, self.extent = tip, _extent(self._spool)  # at once: these seqs are given
        if self._checkpoints is not None:
            self._checkpoints.written(bodies)
        self.records += len(bodies)
        self.batches += 1
        events = [event for event, _, _ in bodies]
        for event in set(events):
            _WRITTEN[event].inc(events.count(event))
        self._note_recovery()
        return ""

    def _retain(self) -> None:
        """Drops what is beyond the retention. Whatever is in the way, no record is refused for it that is durable."""
        if self._spool.total_bytes <= self._retention_bytes or self._clock.elapsed() < self._retain_at:
            return
        refusal = self.truncate(self._spool.beyond(self._retention_bytes), "retention")
        self.retained = ""
        if refusal is not None or self._spool.total_bytes > self._retention_bytes + self._spool.segment_bytes:
            self.retained = "segments beyond retention_mib cannot be removed"
            self._retain_at = self._clock.elapsed() + _RETAIN_AGAIN_SECONDS

    def truncate(self, seq: int, reason: str, first: Callable[[], None] | None = None) -> Refused | None:
        """Drops the oldest segments through `seq`, after `first`, which may raise OSError; the chain says so before, so
        that their absence is no gap. On a full disk the reserve is for that."""
        if self.failure:
            self._spool.give_reserve()
        try:
            return self._truncate(seq, reason, first)
        finally:
            self._spool.keep_reserve()

    def _truncate(self, seq: int, reason: str, first: Callable[[], None] | None) -> Refused | None:
        try:
            if problem := self._begin():
                return unavailable(problem)
            if first is not None:
                first()
            self._spool.inspect()  # what stands there is about to count as told elsewhere, or as old enough
            count, last = self._spool.closed_through(seq)
            if count == 0:
                return None
            size = sum(segment.size for segment in self._spool.segments[:count])
            fields = {"reason": reason, "through_seq": last.seq, "through_hash": last.hash, "bytes": size}
            if last.seq > self._told_through:  # else it is told already, and they could not be removed
                problem = self._write([body(Event.AUDIT_TRUNCATED, self._clock.wall(), orjson.dumps(fields))])
                if problem:
                    return unavailable(problem)
                self._told_through = last.seq
            self._spool.drop(count)
        except SpoolTamperedError as error:
            return unavailable(self._note_tampering(error))
        except OSError as error:  # tried again later; the records are merely kept longer
            _log.error("segments could not be removed", reason=os.strerror(error.errno or 0))
            return unavailable("segments could not be removed")
        return None

    def take_packed(self, first_seq: int, size: int) -> Refused | None:
        """Puts a segment's compressed form into its place. Returns why it could not."""
        try:
            self._spool.take_packed(first_seq, size)
        except OSError as error:
            return unavailable(os.strerror(error.errno or 0))
        return None

    def _start_members(self) -> bytes:
        found = self._spool.recovery
        fields: dict[str, Any] = {
            "previous_run": found.previous_run,
            "torn_bytes": found.torn_bytes,
            "damaged": found.damaged,
            "lost_through": found.lost_through or None,
        }
        if found.torn_bytes or found.damaged or found.lost_through:
            _log.warning("the spool was repaired", **fields)
        return orjson.dumps(fields)

    def _note_failure(self, error: OSError) -> str:
        reason = os.strerror(error.errno or 0)
        if self.failure != reason:
            _log.error("the audit journal cannot be written; nothing is released", reason=reason)
        self.failure = reason
        return reason

    def _note_tampering(self, error: SpoolTamperedError) -> str:
        """Stays until a restart: records that were acknowledged may be gone, and somebody has to look."""
        if not self.tampered:
            _log.critical("the spool was tampered with; nothing is released until a restart", reason=str(error))
        self.tampered = str(error)
        return self.tampered

    def _note_recovery(self) -> None:
        if self.failure:
            self.failure = ""
            self._spool.keep_reserve()
            _log.warning("the audit disk is well again")

    def _note_full(self, full: bool) -> None:
        if full and not self.full:
            _log.error("the spool is full; nothing is released", bytes=self._spool.total_bytes)
        self.full = full

    def _probe(self) -> None:
        """Nobody asks while readiness is false, so the journal looks by itself whether the disk is well again."""
        try:
            self._spool.probe(self.durable.seq + 1)
        except SpoolTamperedError as error:
            self._note_tampering(error)
        except OSError as error:
            self._note_failure(error)
        else:
            self._note_recovery()


def _fail(entries: Sequence[Entry], reason: str) -> None:
    for entry in entries:
        entry.error = unavailable(reason)


def _extent(spool: Spool) -> tuple[int, int]:
    return (spool.segments[-1].first_seq, spool.segments[-1].size) if spool.segments else (0, 0)
