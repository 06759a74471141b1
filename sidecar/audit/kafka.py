"""The way to Kafka: follows the spool and sends every record's exact bytes, in order, at least once.

Requests never wait for Kafka. Where it is away the spool grows, and the shipper tries again for ever; what cannot be
sent (a topic that is not there, an ACL, a record the broker finds too large) is said and tried again, never skipped.
The position behind the last acknowledged record is kept in the spool; after a restart sending goes on from there, so
that a consumer may see records twice and tells them apart by `event_id`. Segments whose records are all acknowledged
are dropped, with an AUDIT_TRUNCATED in the chain.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

import orjson
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaConnectionError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    UnknownTopicOrPartitionError,
)
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.structs import RecordMetadata

from sidecar.audit import position
from sidecar.audit.chain import GENESIS, link
from sidecar.audit.journal import MAX_RECORD_BYTES, Journal
from sidecar.audit.kafka_producer import (
    RecordTooLargeError,
    TopicMissingError,
    UnacknowledgedError,
    credentials_state,
    new_producer,
    problem_of,
)
from sidecar.audit.position import Position
from sidecar.audit.reader import Line, SpoolReader
from sidecar.audit.record import tells_of_mutation
from sidecar.clock import Clock
from sidecar.config import Kafka
from sidecar.errors import Refused
from sidecar.ops.metrics import AUDIT_BACKLOG_RECORDS, AUDIT_KAFKA_ERRORS, AUDIT_OLDEST_SECONDS

SCHEMA: Final = b"openbao-sidecar.audit.v1"

_REQUEST_TIMEOUT_MS: Final = 10_000
_UNACKNOWLEDGED_SECONDS: Final = 5.0  # without an answer for so long, the status says so
_ABANDON_SECONDS: Final = 60.0  # then a new producer, with credentials and certificates read anew
_FIRST_BACKOFF_SECONDS: Final = 0.5
_MAX_BACKOFF_SECONDS: Final = 10.0
_LINGER_SECONDS: Final = 0.02
_LOOK_SECONDS: Final = 1.0
_PERSIST_SECONDS: Final = 1.0
_BATCH_BYTES: Final = 128 * 1024

_RETRY_BACKOFF_MS: Final = 500

_SCHEMA_HEADER: Final = ("schema", SCHEMA)

_log = structlog.get_logger("audit.kafka")


@dataclass(frozen=True, slots=True)
class ShipperStatus:
    """For `/readyz`: Kafka away is a warning, never a reason not to be ready."""

    warning: str
    acknowledged_seq: int
    backlog_records: int
    oldest_seconds: float


class _Message(NamedTuple):
    seq: int
    millis: int
    value: bytes
    headers: list[tuple[str, bytes]]
    mutation: bool
    notifies: bool


@dataclass(slots=True)
class _Outgoing:
    """What goes to one topic, and how much of it is acknowledged: a retry sends only the rest."""

    topic: str
    messages: Sequence[_Message]
    sent: int = 0


@dataclass(slots=True)
class _Chunk:
    """Records read and not yet acknowledged by all their topics."""

    last: _Message
    oldest: float
    outgoing: Sequence[_Outgoing] = field(default_factory=tuple)


class _TopicReplacedError(Exception):
    """What the topic had acknowledged before is not there any more."""


class _SendSmallerError(Exception):
    """The broker found a batch too large; a new producer sends smaller ones."""


class KafkaShipper:
    """One task on the event loop. `start` and `stop` it; it needs nothing else."""

    def __init__(self, config: Kafka, journal: Journal, clock: Clock) -> None:
        self._config = config
        self._journal = journal
        self._clock = clock
        prefix = f"{config.topic_prefix}.secrets"
        self._topics = (f"{prefix}.audit", prefix, f"{prefix}.notifications")
        self._key = journal.instance.encode()
        self._acknowledged = Position(journal.instance, 0, "")
        self._persisted = 0
        self._persist_at = 0.0
        self._reader = SpoolReader(journal.directory)
        self._read_seq = 0
        self._lines: list[Line] = []
        self._chunk: _Chunk | None = None
        self._producer: AIOKafkaProducer | None = None
        self._batch_bytes = _BATCH_BYTES
        self._problem = ""
        self._missing = ""
        self._replaced = ""
        self._offset = -1
        self._partition = -1
        self._credentials: object = None
        self._credentials_at = 0.0
        self._damaged = False
        self._second = ""
        self._second_millis = 0
        self._closing = False
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to send, from the kept position on."""
        kept = position.load(self._journal.directory)
        if kept is not None and kept.instance == self._journal.instance:
            self._acknowledged = kept
            self._offset, self._partition = kept.offset, kept.partition
        self._persisted = self._read_seq = self._acknowledged.seq
        self._reader = SpoolReader(self._journal.directory, self._read_seq)
        self._journal.on_durable = self._more.set
        AUDIT_BACKLOG_RECORDS.set_function(lambda: self.status().backlog_records)
        AUDIT_OLDEST_SECONDS.set_function(lambda: self.status().oldest_seconds)
        self._task = asyncio.create_task(self._run(), name="audit-kafka")

    async def stop(self, drain_seconds: float = 5.0) -> None:
        """Sends what is there for at most so long, and ends. After the journal's `stop`, before its `close`."""
        self._closing = True
        self._more.set()
        self._journal.on_durable = None
        if self._task is not None:
            await asyncio.wait([self._task], timeout=drain_seconds)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._disconnect()
        await self._persist()
        self._reader.close()

    def status(self) -> ShipperStatus:
        """How far it is, and what is in its way."""
        backlog = max(0, self._journal.durable.seq - self._acknowledged.seq)
        oldest = max(0.0, self._clock.wall() - self._chunk.oldest) if self._chunk is not None and backlog else 0.0
        warning = "; ".join(part for part in (self._problem, self._missing, self._replaced) if part)
        return ShipperStatus(warning, self._acknowledged.seq, backlog, round(oldest, 3))

    # -- the task ----------------------------------------------------------------------------------------------------
    async def _run(self) -> None:
        backoff = _FIRST_BACKOFF_SECONDS
        while True:
            try:
                while await self._ship_some():
                    backoff = _FIRST_BACKOFF_SECONDS
                if self._closing:
                    return
                await self._wait_for_more()
            except _SendSmallerError:
                await self._disconnect()
            except _TopicReplacedError:
                await asyncio.to_thread(self._begin_anew)
            except Exception as error:  # noqa: BLE001 - the shipper outlives whatever goes wrong, and says it
                self._note(error)
                await self._disconnect()
                await asyncio.sleep(backoff * random.uniform(0.75, 1.25))  # noqa: S311 - jitter is no secret
                backoff = min(backoff * 2, _MAX_BACKOFF_SECONDS)

    async def _ship_some(self) -> bool:
        """Sends the next chunk. Returns False where there is none."""
        if self._chunk is None:
            self._chunk = await self._next_chunk()
        chunk = self._chunk
        if chunk is None:
            return False
        started = asyncio.get_running_loop().time()
        producer = await self._connect()
        for outgoing in chunk.outgoing:
            try:
                await self._send(producer, outgoing)
            except UnknownTopicOrPartitionError as error:
                raise TopicMissingError(f"topic {outgoing.topic} is not there") from error
        if self._problem:
            _log.info("kafka takes records again", seq=chunk.last.seq)
            self._problem = ""
        self._acknowledged = Position(
            self._journal.instance, chunk.last.seq, link(chunk.last.value), self._offset, self._partition
        )
        self._chunk = None
        now = asyncio.get_running_loop().time()
        if now >= self._persist_at:
            self._persist_at = now + _PERSIST_SECONDS
            await self._release()
        await asyncio.sleep(
            max(0.0, len(chunk.outgoing[0].messages) / self._config.max_records_per_second - (now - started))
        )
        return True

    async def _wait_for_more(self) -> None:
        """Nothing to send: keeps the position, then sleeps until records come; a few at once cost less than each."""
        await self._release()
        if not self._closing:
            try:
                await asyncio.wait_for(self._more.wait(), _LOOK_SECONDS)
            except TimeoutError:
                return
            self._more.clear()
            await asyncio.sleep(_LINGER_SECONDS)

    async def _release(self) -> None:
        """Keeps the position, and lets go of segments that are acknowledged as a whole; a damaged one is evidence."""
        await self._persist()
        seq = self._acknowledged.seq
        kept = self._persisted != seq or self._damaged or self._closing
        if not kept and self._journal.droppable(seq):
            try:
                await self._journal.drop_through(seq)
            except Refused as refusal:
                _log.warning("acknowledged segments are kept for now", reason=refusal.detail)

    async def _persist(self) -> None:
        if self._persisted == self._acknowledged.seq:
            return
        kept = self._acknowledged
        try:
            await asyncio.to_thread(position.store, self._journal.directory, kept)
            self._persisted = kept.seq
        except OSError as error:  # a full disk: more will be sent twice after a restart, nothing is lost
            _log.warning("kafka's position could not be kept", reason=error.strerror)

    def _begin_anew(self) -> None:
        """Goes back to the first record that is still here: another broker stands at this address, the topic was made
        anew, or it lost its end. Consumers know what they have by `event_id`; what was dropped here is in the old one.
        """
        self._reader.close()
        self._reader = SpoolReader(self._journal.directory)
        self._lines, self._chunk = [], None
        first = self._journal.first_seq
        gone = f"; records before {first} are not here any more" if first > 1 else ""
        self._replaced = f"{self._topics[0]} was replaced or lost records: sent again from record {first}{gone}"
        _log.error("kafka lost what it had acknowledged; everything in the spool is sent again", first_seq=first)
        AUDIT_KAFKA_ERRORS.labels("topic_replaced").inc()
        self._read_seq = first - 1
        self._acknowledged = Position(self._journal.instance, first - 1, GENESIS)
        self._offset = -1

    # -- reading -----------------------------------------------------------------------------------------------------
    async def _next_chunk(self) -> _Chunk | None:
        messages: list[_Message] = []
        size = 0
        while size < _BATCH_BYTES:
            if not self._lines:
                if messages:
                    break
                self._lines = await asyncio.to_thread(self._read_lines)
                if not self._lines:
                    break
            line = self._lines.pop()
            message = self._message(line)
            if message is not None:
                messages.append(message)
                size += len(message.value)
        if not messages:
            return None
        audit, mutations, notifications = self._topics
        outgoing = [_Outgoing(audit, messages)]
        changing = [message for message in messages if message.mutation]
        notifying = [message for message in messages if message.notifies]
        if changing:
            outgoing.append(_Outgoing(mutations, changing))
        if notifying:
            outgoing.append(_Outgoing(notifications, notifying))
        return _Chunk(messages[-1], messages[0].millis / 1000, outgoing)

    def _read_lines(self) -> list[Line]:
        """The next lines of the spool, last first."""
        return self._reader.read(self._journal.extent)[::-1]

    def _message(self, line: Line) -> _Message | None:
        """The message of a line; None for one already sent, and for a damaged one, which is said and whose gap the
        chain shows: waiting for it would only lose the records behind it too."""
        try:
            fields = orjson.loads(line.record)
            seq, ref = fields["seq"], fields.get("resource_ref")
            millis = self._millis(fields["ts"])
            headers = [_SCHEMA_HEADER, ("resource_ref", ref.encode())] if ref else [_SCHEMA_HEADER]
            fresh = seq > self._read_seq
        except (ValueError, KeyError, TypeError, AttributeError):
            self._damaged = True
            self._say_missing(f"{line.path.name} line {line.number} cannot be read")
            return None
        if not fresh:
            return None
        if seq != self._read_seq + 1:
            self._damaged = True
            self._say_missing(f"records {self._read_seq + 1} to {seq - 1} are not in the spool")
        self._read_seq = seq
        return _Message(seq, millis, line.record, headers, tells_of_mutation(fields), bool(fields.get("notifications")))

    def _millis(self, ts: str) -> int:
        """Milliseconds since the epoch of a record's time. The second is remembered: neighbours share it."""
        second, fraction = ts[:19], ts[20:23]
        if second != self._second:
            self._second, self._second_millis = second, int(datetime.fromisoformat(f"{second}Z").timestamp()) * 1000
        return self._second_millis + int(fraction)

    def _say_missing(self, what: str) -> None:
        _log.error("records are missing for kafka; run `audit verify`", what=what)
        self._missing = f"{what}; run `sidecar audit verify`"

    # -- sending -----------------------------------------------------------------------------------------------------
    async def _connect(self) -> AIOKafkaProducer:
        """The producer, started; a new one after each failure, with credentials and certificates as they are now.

        An idempotent producer that lost a batch cannot go on: its next sequence number would leave a gap.
        """
        await self._look_at_credentials()
        if self._producer is None:
            producer = new_producer(
                self._config,
                max_bytes=_BATCH_BYTES + MAX_RECORD_BYTES,
                request_timeout_ms=_REQUEST_TIMEOUT_MS,
                retry_backoff_ms=_RETRY_BACKOFF_MS,
            )
            self._producer = producer
            await asyncio.wait_for(producer.start(), _ABANDON_SECONDS)
        return self._producer

    async def _look_at_credentials(self) -> None:
        """Connects anew where a password or a certificate was rotated, before the old one is refused."""
        now = asyncio.get_running_loop().time()
        if now < self._credentials_at:
            return
        self._credentials_at = now + _LOOK_SECONDS
        state = await asyncio.to_thread(credentials_state, self._config)
        if self._producer is not None and state != self._credentials:
            _log.info("kafka's credentials have changed; connecting anew")
            await self._disconnect()
        self._credentials = state

    async def _disconnect(self) -> None:
        producer, self._producer = self._producer, None
        if producer is None:
            return
        # aiokafka stops only after it has delivered everything, which without a broker is never.
        producer._message_accumulator.fail_all(KafkaConnectionError())  # noqa: SLF001 - it has no other way to give up
        try:
            await asyncio.wait_for(producer.stop(), _REQUEST_TIMEOUT_MS / 1000)
        except Exception:  # noqa: BLE001 - its own clean-up after the above may fail in many ways
            await producer.client.close()

    async def _send(self, producer: AIOKafkaProducer, outgoing: _Outgoing) -> None:
        """Sends what is left for one topic, one acknowledged batch after the other, so that order holds."""
        partitions = sorted(await producer.partitions_for(outgoing.topic))
        partition = DefaultPartitioner()(self._key, partitions, partitions)
        while outgoing.sent < len(outgoing.messages):
            part = self._part(outgoing)
            batch = producer.create_batch()
            for message in part:
                batch.append(timestamp=message.millis, key=self._key, value=message.value, headers=message.headers)
            batch.close()
            try:
                acknowledged = await producer.send_batch(batch, outgoing.topic, partition=partition)
                self._note_place(outgoing, await self._acknowledgement(acknowledged), len(part))
            except (MessageSizeTooLargeError, RecordListTooLargeError) as error:
                if len(part) == 1:
                    raise RecordTooLargeError(f"record {part[0].seq} is larger than {outgoing.topic} takes") from error
                self._batch_bytes = sum(len(message.value) for message in part) // 2
                raise _SendSmallerError from error
            outgoing.sent += len(part)

    def _note_place(self, outgoing: _Outgoing, place: RecordMetadata, count: int) -> None:
        """A topic's offsets only grow. Where one falls back, records that were acknowledged are gone."""
        if outgoing.topic != self._topics[0] or place.offset < 0:
            return
        fell_back = place.partition == self._partition and place.offset <= self._offset
        self._offset, self._partition = place.offset + count - 1, place.partition
        if fell_back:
            raise _TopicReplacedError

    def _part(self, outgoing: _Outgoing) -> Sequence[_Message]:
        """The next messages of at most `_batch_bytes`, at least one."""
        size, end = 0, outgoing.sent
        for message in outgoing.messages[outgoing.sent :]:
            size += len(message.value)
            if size > self._batch_bytes and end > outgoing.sent:
                break
            end += 1
        return outgoing.messages[outgoing.sent : end]

    async def _acknowledgement(self, acknowledged: asyncio.Future[RecordMetadata]) -> RecordMetadata:
        """Waits for the broker. aiokafka itself tries for ever; after a while a new producer is the better try."""
        waited = 0.0
        while waited < _ABANDON_SECONDS:
            await asyncio.wait([acknowledged], timeout=_UNACKNOWLEDGED_SECONDS)
            if acknowledged.done():
                return acknowledged.result()
            waited += _UNACKNOWLEDGED_SECONDS
            self._say(f"no acknowledgement for {waited:g} seconds")
        acknowledged.cancel()
        raise UnacknowledgedError(f"no acknowledgement for {waited:g} seconds")

    def _note(self, error: Exception) -> None:
        reason, said = problem_of(error, self._config.username)
        AUDIT_KAFKA_ERRORS.labels(reason).inc()
        self._say(said)

    def _say(self, problem: str) -> None:
        if problem != self._problem:
            _log.warning("records cannot be sent to kafka; they stay in the spool", reason=problem)
        self._problem = problem
