"""The journal: takes records from the event loop, gives each its place in the chain, and says when it is durable.

One thread writes (`Writer`): all that is waiting with one fsync; then all who waited go on. Nothing is released for a
record that is not durable: where the disk refuses, everybody waiting gets `Refused(AUDIT_UNAVAILABLE)`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Literal

import orjson
import structlog

from sidecar.audit.checkpoint import Checkpoints
from sidecar.audit.handover import Command, Entry, Handover, unavailable
from sidecar.audit.packing import Packer
from sidecar.audit.record import Record
from sidecar.audit.recovery import JournalError as JournalError
from sidecar.audit.recovery import Recovery
from sidecar.audit.spool import Spool
from sidecar.audit.stamping import STAMPED, Body, Tip, body
from sidecar.audit.status import JournalStatus
from sidecar.audit.writer import Writer
from sidecar.clock import Clock
from sidecar.errors import Refused
from sidecar.ops.metrics import AUDIT_BACKLOG_BYTES, AUDIT_LIMIT_BYTES

MAX_RECORD_BYTES: Final = 256 * 1024
"""A larger record is refused: a Kafka broker takes no message over 1 MiB by default."""

_MAX_SEGMENT_BYTES: Final = 16 * 1024 * 1024
_MIN_SEGMENT_BYTES: Final = 64 * 1024
_MAX_WAITING: Final = 16_384  # callers; far beyond what `limits.max_in_flight` lets wait
_STALL_SECONDS: Final = 5.0
_WARN_FRACTION: Final = 0.8

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
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._handover = Handover()
        self._writer = Writer(spool, self._handover, max_spool_bytes, retention_bytes, clock, checkpoints)
        self._packer = Packer(spool.directory, lambda: spool.segments[:-1], self._take_packed)
        self._last_closed = self._writer.extent[0]
        self._stopping = False
        self._stop_once = asyncio.Lock()
        self._stalled = False
        self._thread = threading.Thread(
            target=self._writer.run, args=(self._settle_soon,), name="audit-journal", daemon=True
        )
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
            await journal._obeyed(_nothing)
        except Refused:  # said in the log and in `status`
            pass
        except BaseException:  # told to stop meanwhile
            await journal.close()
            raise
        return journal

    async def append(self, record: Record) -> None:
        """Returns once the record is durable. Raises Refused(AUDIT_UNAVAILABLE) where it is not, or may not be."""
        body = self._body(record)
        self._check_open()
        await self._handover.add(body)

    async def append_many(self, records: Iterable[Record]) -> None:
        """The same for several records that stand in this order, durable together or refused together."""
        bodies = [self._body(record) for record in records]
        self._check_open()
        if bodies:
            await self._handover.add(*bodies)

    async def drop_through(self, seq: int, first: Callable[[], None] | None = None) -> None:
        """Drops closed segments that hold nothing after `seq`, leaving an AUDIT_TRUNCATED: Kafka has them. `first` is
        done before, on the journal's thread, and may raise OSError: then nothing is dropped."""
        await self._obeyed(partial(self._writer.truncate, seq, "shipped", first))

    def droppable(self, seq: int) -> bool:
        """Whether `drop_through` would drop anything."""
        return not self._stopping and any(segment.first_seq <= seq + 1 for segment in self._spool.segments[1:2])

    async def stop(self) -> None:
        """Writes what is waiting and AUDIT_STOP. The spool stays this process's until `close`."""
        async with self._stop_once:
            if self._stopping:
                return
            stopped = self._handover.end()
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
        writer, used, limit = self._writer, self._spool.total_bytes, self._max_spool_bytes
        message = writer.tampered or writer.failure
        if not message and self._stalled:
            message = f"the disk has not answered for {_STALL_SECONDS:g} seconds"
        if not message and (writer.full or used >= limit):
            message = f"the spool is full: {used} of {limit} bytes"
        warnings = []
        if self.nearly_full:
            warnings.append(f"the spool is {used * 100 // limit} % full")
        if writer.retained:
            warnings.append(writer.retained)
        if self._spool.recovery.damaged:
            warnings.append("the spool holds a damaged line; run `sidecar audit verify`")
        return JournalStatus(
            not message, message, "; ".join(warnings), used, limit, writer.durable.seq, writer.records, writer.batches
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
        return self._writer.durable

    @property
    def nearly_full(self) -> bool:
        """Whether the spool is as full as is warned of."""
        return self._spool.total_bytes >= self._max_spool_bytes * _WARN_FRACTION

    @property
    def first_seq(self) -> int:
        """The oldest record that is still here."""
        return self._spool.segments[0].first_seq if self._spool.segments else self.durable.seq + 1

    @property
    def extent(self) -> tuple[int, int]:
        """How far the segments may be read: the last one's first seq, and its durable bytes."""
        return self._writer.extent

    def _body(self, record: Record) -> Body:
        """The record as JSON, at once: its holder may change it, and is told here what JSON cannot say."""
        if not record.fields.keys().isdisjoint(STAMPED):
            raise unavailable("a record may not bring what the journal stamps")
        try:
            members = orjson.dumps(record.fields)
        except TypeError as error:  # orjson.JSONEncodeError: a lone surrogate, an integer beyond 64 bits, depth
            raise unavailable(f"the record cannot be written as JSON: {error}") from None
        if len(members) > MAX_RECORD_BYTES:
            raise unavailable(f"the record has {len(members)} bytes")
        return body(record.event, self._clock.wall(), members)

    async def _take_packed(self, first_seq: int, size: int) -> None:
        await self._obeyed(partial(self._writer.take_packed, first_seq, size))

    async def _obeyed(self, command: Command) -> None:
        self._check_open()
        await self._handover.command(command)

    def _check_open(self) -> None:
        if self._stopping or self._stalled or self._writer.tampered or self._handover.waiting >= _MAX_WAITING:
            reason = "stopped" if self._stopping else self._writer.tampered or "the disk does not keep up"
            raise unavailable(reason)

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

    def _settle_soon(self, entries: Sequence[Entry]) -> None:
        """The writer's thread calls this. Raises RuntimeError where the loop was closed without `close`."""
        self._loop.call_soon_threadsafe(self._settle, entries)

    def _settle(self, entries: Sequence[Entry]) -> None:
        self._stalled = False
        if self._writer.extent[0] != self._last_closed:
            self._last_closed = self._writer.extent[0]
            self._packer.look()
        self._handover.settle(entries)
        if self.on_durable is not None:
            self.on_durable()


def _nothing() -> None:
    """A command that only waits for its turn."""
