"""The records of the audit's topic: each once, those of one instance in their order.

Reads without a group and commits nothing: the user needs `READ` and `DESCRIBE` on the topic alone, and whoever else
reads it is not disturbed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from sidecar.analytics.repeats import Repeats
from sidecar.audit.kafka_producer import CredentialsUnreadableError
from sidecar.audit.topic_ids import TopicIdsRequest, topic_ids
from sidecar.config import Kafka
from sidecar.kafka_connection import answered, connection, end

_POLL_MS: Final = 500
_REQUEST_TIMEOUT_MS: Final = 4_000  # less than `answered` waits: what aiokafka gives up by itself it closes
_FETCH_BYTES: Final = 4 * 1024 * 1024  # of all partitions; a slow line has them within that time
_WAIT_MS: Final = 100  # of a broker for more; what it is asked meanwhile waits as long
_STUCK_SECONDS: Final = 15.0
_LOOK_SECONDS: Final = 3.0  # between two looks at whether Kafka lives, and what partitions there are
_CONTROL: Final = re.compile(rb"[\x00-\x1f]")  # none stands in a record: between members they would drive a terminal

NO_RECORD: Final = "no record of the audit"
DROPPED: Final = "what stood from here on was dropped before it was read"


class TopicUnreadableError(Exception):
    """The topic is not there, not shown to this user, or not the one that was read (the next `read` begins with the new
    one); or what stands in it does not come."""


class Delivered(NamedTuple):
    """A message. `record` is its exact bytes; empty where `fault` says why it is none of ours."""

    place: str
    record: bytes
    fault: str = ""


class Consumer:
    """Reads the topic from its beginning. After an error `read` goes on behind what was read already."""

    def __init__(self, kafka: Kafka, repeats: Repeats | None = None) -> None:
        self.topic = f"{kafka.topic_prefix}.secrets.audit"
        self._kafka = kafka
        self._topic_id = ""
        self._next: dict[TopicPartition, int] = {}
        self.repeats = repeats or Repeats()

    async def read(self, *, follow: bool) -> AsyncGenerator[Delivered | None]:
        """The messages up to where the topic ends now, and perhaps some that come meanwhile; with `follow` all that
        come, and None whenever there are no more for the moment.

        Raises what is in the way: `TopicUnreadableError`, `CredentialsUnreadableError`, KafkaError, and OSError for a
        broker that does not answer.
        """
        try:
            options = connection(self._kafka)
        except OSError as error:  # ssl.SSLError is one too
            raise CredentialsUnreadableError(f"{type(error).__name__}: {error}") from error
        consumer = AIOKafkaConsumer(
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",  # retention may overtake who reads slowly: that is said
            isolation_level="read_uncommitted",  # else who leaves a transaction open would hide all that comes behind
            fetch_max_wait_ms=_WAIT_MS,
            metadata_max_age_ms=int(_LOOK_SECONDS * 1000),
            request_timeout_ms=_REQUEST_TIMEOUT_MS,
            fetch_max_bytes=_FETCH_BYTES,
            **options,
        )
        try:
            await answered(consumer.start())
            ends = await self._ends(consumer)
            loop = asyncio.get_running_loop()
            came_at = loop.time()
            while True:
                batch: dict[TopicPartition, list[Any]] = {}
                try:
                    batch = await answered(consumer.getmany(timeout_ms=_POLL_MS))
                except OffsetOutOfRangeError as error:
                    await self._look_at_topic_id(consumer)
                    for partition, offset in error.args[0].items():
                        yield Delivered(self._place(partition, offset), b"", DROPPED)
                        begins = await answered(consumer.beginning_offsets([partition]))
                        self._next[partition] = begins[partition]
                        consumer.seek(partition, begins[partition])
                except UnicodeDecodeError:
                    async for delivered in self._one_by_one(consumer):
                        yield delivered
                    continue
                for delivered in self._delivered(batch):
                    yield delivered
                if batch:
                    came_at = loop.time()
                    if follow or await _is_behind(consumer, ends):
                        continue
                now = await self._ends(consumer)
                if any(now.get(partition, 0) < until for partition, until in ends.items()):
                    raise TopicUnreadableError(f"topic {self.topic} was made anew, or has lost its end")
                if not await _is_behind(consumer, ends):
                    if not follow:
                        return
                    yield None
                    ends, came_at = now, loop.time()
                elif loop.time() - came_at > _STUCK_SECONDS:  # it answers and sends nothing: seen after a crash
                    raise TopicUnreadableError(f"what stands in topic {self.topic} does not come")
        finally:
            await end(consumer)

    async def _ends(self, consumer: AIOKafkaConsumer) -> dict[TopicPartition, int]:
        """Where each partition ends now: a sign of life, and how new partitions and another topic are found."""
        first = TopicPartition(self.topic, 0)
        if not consumer.assignment():
            consumer.assign([first])  # makes the client learn of the topic
            consumer.seek(first, 0)
            consumer.pause(first)
        ends: dict[TopicPartition, int] = {}
        try:
            ends = await answered(consumer.end_offsets(list(consumer.assignment())))
        except (KafkaError, OSError):
            if consumer.partitions_for_topic(self.topic):
                raise
        numbers = consumer.partitions_for_topic(self.topic)
        if not numbers:
            raise TopicUnreadableError(f"topic {self.topic} is not there, or this user may not see it")
        await self._look_at_topic_id(consumer)
        partitions = [TopicPartition(self.topic, number) for number in sorted(numbers)]
        if not consumer.paused() and ends.keys() == set(partitions):
            return ends
        begins = await answered(consumer.beginning_offsets(partitions))
        consumer.assign(partitions)
        for partition in partitions:
            consumer.seek(partition, self._next.setdefault(partition, begins[partition]))
        return await answered(consumer.end_offsets(partitions))

    async def _look_at_topic_id(self, consumer: AIOKafkaConsumer) -> None:
        """A topic made anew has another id; where others have filled it so far that no offset shows it, nothing else
        would. A broker before Kafka 3.1 tells no ids."""
        client = consumer._client  # noqa: SLF001 - aiokafka itself asks for no ids
        leader = client.cluster.leader_for_partition(TopicPartition(self.topic, 0))
        try:
            found = topic_ids(await answered(client.send(leader, TopicIdsRequest([self.topic])))).get(self.topic, "")
        except NotImplementedError:
            return
        before, self._topic_id = self._topic_id, found or self._topic_id
        if before not in ("", self._topic_id):
            self._next.clear()
            raise TopicUnreadableError(f"topic {self.topic} was made anew")

    def _delivered(self, batch: Mapping[TopicPartition, Sequence[Any]]) -> Iterator[Delivered]:
        """These messages, without what came before."""
        for partition, messages in batch.items():
            for message in messages:
                self._next[partition] = message.offset + 1
                place, record = self._place(partition, message.offset), message.value or b""
                if not _is_record(record):
                    yield Delivered(place, b"", NO_RECORD)
                elif not self.repeats.has(record):
                    yield Delivered(place, record)

    async def _one_by_one(self, consumer: AIOKafkaConsumer) -> AsyncGenerator[Delivered]:
        """Goes up to the next message with a header's name that is no UTF-8, and over it: aiokafka gives up all that it
        fetched with that one."""
        ends = await self._ends(consumer)
        for partition in ends:
            consumer.seek(partition, self._next[partition])
        for partition, until in ends.items():
            while self._next[partition] < until:
                try:
                    batch = await answered(consumer.getmany(partition, timeout_ms=_POLL_MS, max_records=1))
                except UnicodeDecodeError:
                    offset = await answered(consumer.position(partition))
                    self._next[partition] = offset + 1
                    consumer.seek(partition, offset + 1)
                    yield Delivered(self._place(partition, offset), b"", NO_RECORD)
                    return
                if not batch:
                    break
                for delivered in self._delivered(batch):
                    yield delivered

    def _place(self, partition: TopicPartition, offset: int) -> str:
        return f"{self.topic}/{partition.partition}:{offset}"


def _is_record(value: bytes) -> bool:
    try:
        members = orjson.loads(value)
    except orjson.JSONDecodeError:
        return False
    return isinstance(members, dict) and isinstance(members.get("event_id"), str) and not _CONTROL.search(value)


async def _is_behind(consumer: AIOKafkaConsumer, ends: Mapping[TopicPartition, int]) -> bool:
    """Whether something was not handed out yet. A position also passes what is no message: a transaction's end, what
    compaction removed."""
    for partition, until in ends.items():
        if await answered(consumer.position(partition)) < until:
            return True
    return False
