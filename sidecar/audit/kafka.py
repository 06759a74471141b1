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
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import structlog
from aiokafka.errors import KafkaError
from aiokafka.structs import RecordMetadata

from sidecar.audit import position
from sidecar.audit.chain import link
from sidecar.audit.journal import Journal
from sidecar.audit.kafka_producer import Producer, SendOtherwiseError, problem_of
from sidecar.audit.messages import CHUNK_BYTES, Chunk, Messages
from sidecar.audit.pacing import Pace
from sidecar.audit.position import Place, Position
from sidecar.clock import Clock
from sidecar.config import Kafka
from sidecar.errors import Refused
from sidecar.ops.metrics import AUDIT_BACKLOG_RECORDS, AUDIT_KAFKA_ERRORS, AUDIT_OLDEST_SECONDS

_FIRST_BACKOFF_SECONDS: Final = 0.5
_MAX_BACKOFF_SECONDS: Final = 10.0
_LINGER_SECONDS: Final = 0.1  # a batch costs about a millisecond of CPU, however small it is
_LOOK_SECONDS: Final = 1.0
_PERSIST_SECONDS: Final = 1.0
_LOOK_AT_TOPICS_SECONDS: Final = 30.0  # where nothing is sent

_log = structlog.get_logger("audit.kafka")


@dataclass(frozen=True, slots=True)
class ShipperStatus:
    """For `/readyz`: Kafka away is a warning, never a reason not to be ready."""

    warning: str
    acknowledged_seq: int
    backlog_records: int
    oldest_seconds: float


class _TopicReplacedError(Exception):
    """What was acknowledged before is not there any more; the text says how that was seen."""


class KafkaShipper:
    """One task on the event loop. `start` and `stop` it; it needs nothing else."""

    def __init__(self, config: Kafka, journal: Journal, clock: Clock) -> None:
        self._config = config
        self._journal = journal
        self._clock = clock
        self._messages = Messages(journal, config.topic_prefix)
        self._producer = Producer(config, journal.instance.encode(), self._say)
        self._acknowledged = Position(journal.instance, 0, "")
        self._persisted = self._acknowledged
        self._persist_at = self._look_at = 0.0
        self._pace = Pace(config.max_records_per_second, asyncio.get_running_loop().time(), journal.durable.seq)
        self._chunk: Chunk | None = None
        self._problem = ""
        self._replaced = ""
        self._closing = False
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to send, from the kept position on."""
        kept = position.load(self._journal.directory)
        if kept is not None and kept.instance == self._journal.instance:
            self._acknowledged = self._persisted = kept
        self._messages.begin_after(self._acknowledged.seq)
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
        await self._persist()  # first: a broker that hangs holds up the end of its connection
        await self._producer.disconnect()
        self._messages.close()

    def status(self) -> ShipperStatus:
        """How far it is, and what is in its way."""
        backlog = max(0, self._journal.durable.seq - self._acknowledged.seq)
        oldest = max(0.0, self._clock.wall() - self._chunk.oldest_at) if self._chunk is not None and backlog else 0.0
        warning = "; ".join(part for part in (self._problem, self._messages.missing, self._replaced) if part)
        return ShipperStatus(warning, self._acknowledged.seq, backlog, round(oldest, 3))

    # -- the task ----------------------------------------------------------------------------------------------------
    async def _run(self) -> None:
        backoff = _FIRST_BACKOFF_SECONDS
        while True:
            try:
                try:
                    sent = await self._ship_some()
                    if sent:
                        backoff = _FIRST_BACKOFF_SECONDS
                    elif self._closing:
                        return
                    if sent < CHUNK_BYTES and not self._closing:
                        await self._wait_for_more()
                    continue
                except SendOtherwiseError:
                    await self._producer.disconnect()
                    continue
                except _TopicReplacedError as error:
                    await self._begin_anew(str(error))
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # By aiokafka itself, where a connection ends under a call: it must not end us.
                await self._give_up(KafkaError("the client gave up a call"))
            except Exception as error:  # noqa: BLE001 - the shipper outlives whatever goes wrong, and says it
                await self._give_up(error)
            await asyncio.sleep(backoff * random.uniform(0.75, 1.25))  # noqa: S311 - jitter is no secret
            backoff = min(backoff * 2, _MAX_BACKOFF_SECONDS)

    async def _give_up(self, error: Exception) -> None:
        self._note(error)
        await self._producer.disconnect()

    async def _ship_some(self) -> int:
        """Sends the next chunk. Returns how many bytes of records these were, 0 where there are none."""
        if self._chunk is None:
            self._chunk = await self._messages.next_chunk()
        chunk = self._chunk
        if chunk is None:
            return 0
        loop = asyncio.get_running_loop()
        started = loop.time()
        await self._producer.connect()
        self._note_cluster()
        for outgoing in chunk.outgoing:
            while outgoing.sent < len(outgoing.messages):
                place, count = await self._producer.send(outgoing)
                outgoing.sent += count
                self._note_place(place, count)
        self._note_cluster()  # it may have been replaced while this waited, and there may be no next chunk for long
        if self._problem:
            _log.info("kafka takes records again", seq=chunk.last.seq)
            self._problem = ""
        self._acknowledged = replace(self._acknowledged, seq=chunk.last.seq, tip=link(chunk.last.value))
        self._chunk = None
        await self._release()
        now = loop.time()
        sent, pressed = len(chunk.audit.messages), self._closing or self._journal.nearly_full
        await asyncio.sleep(self._pace.rest(sent, now - started, now, self._journal.durable.seq, pressed=pressed))
        return chunk.size

    async def _wait_for_more(self) -> None:
        """Little or nothing to send: sleeps until there is more; many at once cost less than each."""
        await self._release()
        try:
            await asyncio.wait_for(self._more.wait(), _LOOK_SECONDS)
        except TimeoutError:
            return
        self._more.clear()
        if not self._closing:
            await asyncio.sleep(_LINGER_SECONDS)

    async def _release(self) -> None:
        """Keeps the position, and lets go of segments that are acknowledged as a whole; a damaged one is evidence. Once
        in a while: it costs two fsyncs, and what is sent twice after a crash is known by its `event_id`."""
        now = asyncio.get_running_loop().time()
        if now < self._persist_at:
            return
        self._persist_at = now + _PERSIST_SECONDS
        if self._persisted != self._acknowledged or now >= self._look_at:
            self._look_at = now + _LOOK_AT_TOPICS_SECONDS
            await self._note_topics()
        await self._persist()
        reached = self._acknowledged
        kept = not reached.tip or self._messages.damaged or self._closing
        if kept or not self._journal.droppable(reached.seq):
            return
        # On a full disk the position is kept with the room that the journal has for this.
        first = None if self._persisted == reached else partial(position.store, self._journal.directory, reached)
        try:
            await self._journal.drop_through(reached.seq, first)
            self._persisted = reached
        except Refused as refusal:
            _log.warning("acknowledged segments are kept for now", reason=refusal.detail)

    async def _persist(self) -> None:
        reached = self._acknowledged
        if self._persisted == reached or not reached.tip:
            return
        try:
            await asyncio.to_thread(position.store, self._journal.directory, reached)
            self._persisted = reached
        except OSError as error:  # a full disk: more will be sent twice after a restart, nothing is lost
            _log.warning("kafka's position could not be kept", reason=error.strerror)

    # -- what Kafka has ----------------------------------------------------------------------------------------------
    def _note_cluster(self) -> None:
        """Another cluster at the same address has nothing of what the one before acknowledged."""
        known, told = self._acknowledged.cluster, self._producer.cluster
        if told and told != known:
            self._acknowledged = replace(self._acknowledged, cluster=told)
            if known:
                raise _TopicReplacedError("another Kafka cluster answers")

    def _note_place(self, place: RecordMetadata, count: int) -> None:
        """A topic's offsets only grow. Where one falls back, records that were acknowledged are gone."""
        if place.offset < 0:
            return
        before = self._acknowledged.topics.get(place.topic, Place())
        self._keep(place.topic, replace(before, partition=place.partition, offset=place.offset + count - 1))
        if place.partition == before.partition and place.offset <= before.offset:
            raise _TopicReplacedError("the topic was replaced or lost records")

    async def _note_topics(self) -> None:
        """A topic made anew has another id, also where others have filled it so far that no offset falls back. Looked
        at before anything is let go of that its predecessor had acknowledged."""
        known = self._acknowledged.topics
        ids = await self._producer.topic_ids(known) if known else {}
        for topic, topic_id in ids.items():
            before = known[topic]
            self._keep(topic, replace(before, topic_id=topic_id))
            if before.topic_id not in ("", topic_id):
                raise _TopicReplacedError("the topic was replaced")

    def _keep(self, topic: str, place: Place) -> None:
        self._acknowledged = replace(self._acknowledged, topics={**self._acknowledged.topics, topic: place})

    async def _begin_anew(self, why: str) -> None:
        """Goes back to the first record that is still here: another broker stands at this address, the topic was made
        anew, or it lost its end. Consumers know what they have by `event_id`; what was dropped here is in the old one.
        """
        known = self._acknowledged
        ids = await self._producer.topic_ids(known.topics)  # of the topics that get it all now
        first = self._journal.first_seq
        gone = f"; records before {first} are not here any more" if first > 1 else ""
        self._replaced = f"{why}: sent again from record {first}{gone}"
        _log.error("kafka lost what it had acknowledged; all that is in the spool is sent again", reason=self._replaced)
        AUDIT_KAFKA_ERRORS.labels("topic_replaced").inc()
        self._chunk = None
        self._messages.begin_after(first - 1)
        topics = {topic: Place(topic_id=ids.get(topic, "")) for topic in known.topics}
        self._acknowledged = Position(self._journal.instance, first - 1, "", known.cluster, topics)

    def _note(self, error: Exception) -> None:
        reason, said = problem_of(self._producer.cause_of(error), self._config.username)
        AUDIT_KAFKA_ERRORS.labels(reason).inc()
        self._say(said)

    def _say(self, problem: str) -> None:
        if problem != self._problem:
            _log.warning("records cannot be sent to kafka; they stay in the spool", reason=problem)
        self._problem = problem
