"""The journal: takes records from the event loop, gives each its place in the chain, and says when it is durable.

One thread writes. It takes all that is waiting, stamps it (`seq`, `prev`), writes it in one piece and makes it
durable with one fsync; then all who waited go on. Nothing is released for a record that is not durable: where the
disk refuses, everybody waiting gets `Refused(AUDIT_UNAVAILABLE)`, and the next record tries the disk anew.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import orjson
import structlog

from sidecar.audit.checkpoint import Checkpoints
from sidecar.audit.handover import Command, Entry, Handover, unavailable
from sidecar.audit.packing import Packer
from sidecar.audit.record import Event, Record
from sidecar.audit.recovery import JournalError as JournalError
from sidecar.audit.recovery import Recovery
from sidecar.audit.spool import Spool, SpoolTamperedError
from sidecar.audit.stamping import STAMP_BYTES, STAMPED, Body, Stamper, Tip
from sidecar.audit.status import JournalStatus
from sidecar.clock import Clock
from sidecar.errors import Refused
from sidecar.ops.metrics import AUDIT_BACKLOG_BYTES, AUDIT_LIMIT_BYTES, AUDIT_RECORDS

MAX_RECORD_BYTES: Final = 256 * 1024
"""A larger record is refused: a Kafka broker takes no message over 1 MiB by default."""

_MAX_SEGMENT_BYTES: Final = 16 * 1024 * 1024
_MIN_SEGMENT_BYTES: Final = 64 * 1024
_RESERVE_BYTES: Final = 1024 * 1024  # the journal's own records (start, stop, truncated) still fit into a full spool
_MAX_WAITING: Final = 16_384  # callers; far beyond what `limits.max_in_flight` lets wait
_STALL_SECONDS: Final = 5.0
_PROBE_SECONDS: Final = 1.0
_INSPECT_SECONDS: Final = 1.0
_RETAIN_AGAIN_SECONDS: Final = 10.0
_WARN_FRACTION: Final = 0.8
_WRITTEN: Final = {event: AUDIT_RECORDS.labels(event) for event in Event}

_log = structlog.get_logger("audit")


class Journal:
    """Made by `open`, used from one event loop, ended by `stop` and `close`."""

    def __init__(
        self,
        spool: Spool,
        max_spool_bytes: int,
        retention_bytes: int,
        clock: Clock,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self._spool = spool
        self._max_spool_bytes = max_spool_bytes
        self._retention_bytes = retention_bytes
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._handover = Handover()
        self._checkpoints = checkpoints
        self._stamper = Stamper(spool.instance, checkpoints.members if checkpoints is not None else None)
        self._packer = Packer(spool.directory, lambda: spool.segments[:-1], self._take_packed)
        self._tip = spool.tip
        self._durable = spool.tip
        self._extent = _extent(spool)
        self._last_closed = self._extent[0]
        self._started = False
        self._stopping = False
        self._stop_once = asyncio.Lock()
        self._inspect_at = self._retain_at = 0.0
        self._told_through = 0
        self._retained = ""
        self._failure = ""
        self._tampered = ""
        self._stalled = False
        self._full = False
        self._records = 0
        self._batches = 0
        self._thread = threading.Thread(target=self._run, name="audit-journal", daemon=True)
        self._watch: asyncio.TimerHandle | None = None
        self.on_durable: Callable[[], None] | None = None
        """Called on the event loop after records have become durable."""

    @classmethod
    async def open(
        cls,
        spool_dir: Path,
        durability: Literal["fsync", "write"],
        max_spool_bytes: int,
        clock: Clock,
        *,
        retention_bytes: int = 0,
        segment_bytes: int | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> Journal:
        """Takes the spool and writes AUDIT_START.

        Raises `JournalError` where the spool cannot be used at all. A disk that is merely full or failing is no error
        here: the journal then refuses records until the disk is well, and AUDIT_START comes first.
        """
        smaller = min(max_spool_bytes, retention_bytes or max_spool_bytes) // 8
        size = segment_bytes or max(_MIN_SEGMENT_BYTES, min(_MAX_SEGMENT_BYTES, smaller))
        spool = Spool(spool_dir, sync=durability == "fsync", segment_bytes=size)
        await asyncio.to_thread(spool.open)
        journal = cls(spool, max_spool_bytes, retention_bytes, clock, checkpoints)
        journal._begin()
        try:
            await journal._submit(())
        except Refused:  # said in the log and in `status`
            pass
        return journal

    # -- on the event loop -----------------------------------------------------------------------------------------
    async def append(self, record: Record) -> None:
        """Returns once the record is durable. Raises Refused(AUDIT_UNAVAILABLE) where it is not, or may not be."""
        await self._submit((self._body(record),))

    async def append_many(self, records: Iterable[Record]) -> None:
        """The same for several records that stand in this order, durable together or refused together."""
        await self._submit([self._body(record) for record in records])

    async def drop_through(self, seq: int) -> None:
        """Drops closed segments that hold nothing after `seq`, leaving an AUDIT_TRUNCATED: Kafka has them."""
        await self._submit((), partial(self._truncate, seq, "shipped"))

    def droppable(self, seq: int) -> bool:
        """Whether `drop_through` would drop anything."""
        return not self._stopping and any(segment.first_seq <= seq + 1 for segment in self._spool.segments[1:2])

    async def stop(self) -> None:
        """Writes what is waiting and AUDIT_STOP. The spool stays this process's until `close`."""
        async with self._stop_once:
            if self._stopping:
                return
            stopped = self._submit((), stop=True)
            self._stopping = True
            try:
                await stopped
            except Refused as refusal:
                _log.error("AUDIT_STOP could not be written", reason=refusal.detail)
            if self._watch is not None:
                self._watch.cancel()
            await self._packer.stop()
            await asyncio.to_thread(self._thread.join, _STALL_SECONDS)

    async def close(self) -> None:
        """`stop`, and gives the spool back."""
        await self.stop()
        if not self._thread.is_alive():  # else the disk hangs; the spool is given back when the process ends
            self._spool.close()

    def status(self) -> JournalStatus:
        """How the journal is now."""
        message = self._tampered or self._failure
        if not message and self._stalled:
            message = f"the disk has not answered for {_STALL_SECONDS:g} seconds"
        used, limit = self._spool.total_bytes, self._max_spool_bytes
        if not message and (self._full or used >= limit):
            message = f"the spool is full: {used} of {limit} bytes"
        warnings = []
        if used >= limit * _WARN_FRACTION:
            warnings.append(f"the spool is {used * 100 // limit} % full")
        if self._retained:
            warnings.append(self._retained)
        if self._spool.recovery.damaged:
            warnings.append("the spool holds a damaged line; run `sidecar audit verify`")
        return JournalStatus(
            not message, message, "; ".join(warnings), used, limit, self._durable.seq, self._records, self._batches
        )

    @property
    def instance(self) -> str:
        """The spool's id, in every record."""
        return self._spool.instance

    @property
    def directory(self) -> Path:
        """The spool's folder."""
        return self._spool.directory

    @property
    def recovery(self) -> Recovery:
        """What was found at start."""
        return self._spool.recovery

    @property
    def durable(self) -> Tip:
        """The last durable record."""
        return self._durable

    @property
    def first_seq(self) -> int:
        """The oldest record that is still here."""
        return self._spool.segments[0].first_seq if self._spool.segments else self._durable.seq + 1

    @property
    def extent(self) -> tuple[int, int]:
        """How far the segments may be read: the last one's first seq, and its durable bytes."""
        return self._extent

    def _body(self, record: Record) -> Body:
        """The record as JSON, at once: its holder may change it, and is told here what JSON cannot say."""
        if not record.fields.keys().isdisjoint(STAMPED):
            raise unavailable("a record may not bring what the journal stamps")
        try:
            body = orjson.dumps(record.fields)
        except TypeError as error:  # orjson.JSONEncodeError: a lone surrogate, an integer beyond 64 bits, depth
            raise unavailable(f"the record cannot be written as JSON: {error}") from None
        if len(body) > MAX_RECORD_BYTES:
            raise unavailable(f"the record has {len(body)} bytes")
        return Body(record.event, self._clock.wall(), body)

    async def _take_packed(self, first_seq: int, size: int) -> None:
        await self._submit((), partial(self._replace_by_packed, first_seq, size))

    def _submit(
        self, bodies: Sequence[Body], command: Command | None = None, stop: bool = False
    ) -> asyncio.Future[None]:
        if (self._tampered or self._stalled or self._stopping or self._handover.waiting >= _MAX_WAITING) and not stop:
            raise unavailable(self._tampered or ("stopped" if self._stopping else "the disk does not keep up"))
        return self._handover.add(bodies, command, stop=stop)

    def _begin(self) -> None:
        AUDIT_BACKLOG_BYTES.set_function(lambda: self._spool.total_bytes)
        AUDIT_LIMIT_BYTES.set(self._max_spool_bytes)
        self._thread.start()
        self._packer.start()
        self._watch = self._loop.call_later(_STALL_SECONDS / 5, self._watch_for_stall)

    def _watch_for_stall(self) -> None:
        """A disk that hangs must not make callers hang: what waits too long is refused, though it may yet be
        written. A record of what never happened is harmless; the other way round is not."""
        if self._handover.waited_seconds() > _STALL_SECONDS:
            if not self._stalled:
                _log.error("the audit disk does not answer", seconds=_STALL_SECONDS)
            self._stalled = True
            self._handover.refuse_all("the disk does not answer")
        self._watch = self._loop.call_later(_STALL_SECONDS / 5, self._watch_for_stall)

    def _settle(self, entries: Sequence[Entry]) -> None:
        self._stalled = False
        if self._extent[0] != self._last_closed:
            self._last_closed = self._extent[0]
            self._packer.look()
        self._handover.settle(entries)
        if self.on_durable is not None:
            self.on_durable()

    # -- on the writer's thread ------------------------------------------------------------------------------------
    def _run(self) -> None:
        running = True
        while running:
            entries = self._collect()
            if not entries and self._failure:
                self._probe()
                continue
            running = not any(entry.stop for entry in entries)
            try:
                self._commit(entries, stop=not running)
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for ever or be let through
                self._fail(entries, f"unexpected {type(error).__name__}")
                _log.exception("the audit journal failed unexpectedly")
            try:
                self._loop.call_soon_threadsafe(self._settle, entries)
            except RuntimeError:  # the loop was closed without `close`
                return

    def _collect(self) -> list[Entry]:
        """All that is waiting; nothing where nothing came until the disk is to be looked at, or a checkpoint due."""
        due = self._checkpoints.wait_seconds() if self._checkpoints is not None else None
        checkpoint = None if due is None else max(due, _PROBE_SECONDS)
        return self._handover.take(_PROBE_SECONDS if self._failure else checkpoint)

    def _commit(self, entries: Sequence[Entry], *, stop: bool) -> None:
        """Writes what fits into the spool, in order; an entry that was not written gets its error."""
        bodies: list[Body] = []
        if not self._started:
            bodies.append(Body(Event.AUDIT_START, self._clock.wall(), self._start_members()))
        room, full = self._max_spool_bytes - self._spool.total_bytes, False
        for entry in entries:
            size = sum(len(body.members) + STAMP_BYTES for body in entry.bodies)
            if size > room and entry.bodies:
                entry.error, full = unavailable("the spool is full"), True
                continue
            room -= size
            bodies += entry.bodies
        if stop:
            bodies.append(Body(Event.AUDIT_STOP, self._clock.wall(), b"{}"))
        elif self._checkpoints is not None and self._checkpoints.wait_seconds() == 0:
            bodies.append(self._checkpoints.body())
        self._note_full(full)
        problem = self._write(bodies)
        if problem:
            self._fail(entries, problem)
            return
        self._started = True
        for entry in entries:
            if entry.command is not None:
                entry.error = entry.command()
        if self._retention_bytes and not stop:
            self._retain()
        if stop:
            self._spool.seal()

    def _write(self, bodies: Sequence[Body]) -> str:
        """Stamps and writes. Returns why nothing was written, an empty text where all was."""
        if not bodies:
            return ""
        if self._checkpoints is not None:
            bodies = self._checkpoints.woven(bodies)
        lines, tip = self._stamper.lines(bodies, self._tip)
        content = b"".join(lines)
        if self._spool.total_bytes + len(content) > self._max_spool_bytes + _RESERVE_BYTES:
            self._note_full(True)
            return "the spool is full"
        try:
            if self._clock.elapsed() >= self._inspect_at:
                self._inspect_at = self._clock.elapsed() + _INSPECT_SECONDS
                self._spool.inspect()
            self._spool.append(content, self._tip.seq + 1)
        except SpoolTamperedError as error:
            return self._note_tampering(error)
        except OSError as error:
            return self._note_failure(error)
        self._note_recovery()
        self._tip = self._durable = tip
        self._extent = _extent(self._spool)
        if self._checkpoints is not None:
            self._checkpoints.written(bodies)
        self._records += len(lines)
        self._batches += 1
        for event, count in Counter([body.event for body in bodies]).items():
            _WRITTEN[event].inc(count)
        return ""

    def _retain(self) -> None:
        """Drops what is beyond the retention. Whatever is in the way, no record is refused for it that is durable."""
        if self._spool.total_bytes <= self._retention_bytes or self._clock.elapsed() < self._retain_at:
            return
        refusal = self._truncate(self._spool.beyond(self._retention_bytes), "retention")
        self._retained = ""
        if refusal is not None or self._spool.total_bytes > self._retention_bytes + self._spool.segment_bytes:
            self._retained = "segments beyond retention_mib cannot be removed"
            self._retain_at = self._clock.elapsed() + _RETAIN_AGAIN_SECONDS

    def _truncate(self, seq: int, reason: str) -> Refused | None:
        """Drops the oldest segments through `seq`; the chain says so first, so that their absence is no gap."""
        try:
            self._spool.inspect()  # what stands there is about to count as told elsewhere, or as old enough
            count, last = self._spool.closed_through(seq)
            if count == 0:
                return None
            size = sum(segment.size for segment in self._spool.segments[:count])
            fields = {"reason": reason, "through_seq": last.seq, "through_hash": last.hash, "bytes": size}
            if last.seq > self._told_through:  # else it is told already, and they could not be removed
                problem = self._write([Body(Event.AUDIT_TRUNCATED, self._clock.wall(), orjson.dumps(fields))])
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

    def _replace_by_packed(self, first_seq: int, size: int) -> Refused | None:
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

    def _fail(self, entries: Sequence[Entry], reason: str) -> None:
        for entry in entries:
            entry.error = unavailable(reason)

    def _note_failure(self, error: OSError) -> str:
        reason = os.strerror(error.errno or 0)
        if self._failure != reason:
            _log.error("the audit journal cannot be written; nothing is released", reason=reason)
        self._failure = reason
        return reason

    def _note_tampering(self, error: SpoolTamperedError) -> str:
        """Stays until a restart: records that were acknowledged may be gone, and somebody has to look."""
        if not self._tampered:
            _log.critical("the spool was tampered with; nothing is released until a restart", reason=str(error))
        self._tampered = str(error)
        return self._tampered

    def _note_recovery(self) -> None:
        if self._failure:
            _log.warning("the audit disk is well again")
        self._failure = ""

    def _note_full(self, full: bool) -> None:
        if full and not self._full:
            _log.error("the spool is full; nothing is released", bytes=self._spool.total_bytes)
        self._full = full

    def _probe(self) -> None:
        """Nobody asks while readiness is false, so the journal looks by itself whether the disk is well again."""
        try:
            self._spool.probe(self._tip.seq + 1)
        except SpoolTamperedError as error:
            self._note_tampering(error)
        except OSError as error:
            self._note_failure(error)
        else:
            self._note_recovery()


def _extent(spool: Spool) -> tuple[int, int]:
    return (spool.segments[-1].first_seq, spool.segments[-1].size) if spool.segments else (0, 0)
