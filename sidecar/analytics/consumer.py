"""The records of the audit's topic: each once, those of one instance in their order.

Reads without a group and commits nothing: the user needs `READ` and `DESCRIBE` on the topic alone, and whoever else
reads it is not disturbed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final, NamedTuple

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from sidecar.analytics.repeats import Repeats
from sidecar.audit.kafka_producer import CredentialsUnreadableError
from sidecar.config import Kafka
from sidecar.kafka_connection import answered, connection, end

_POLL_MS: Final = 500
_REQUEST_TIMEOUT_MS: Final = 4_000  # less than `answered` waits: what aiokafka gives up by itself it closes
_FETCH_BYTES: Final = 4 * 1024 * 1024  # of all partitions; a slow line has them within that time
_LOOK_SECONDS: Final = 3.0  # between two looks at whether Kafka lives, and what partitions there are


class TopicMissingError(Exception):
    """The topic is not there, or not shown to this user: Kafka does not tell the two apart."""


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
        self._next: dict[TopicPartition, int] = {}
        self.repeats = repeats or Repeats()

    async def read(self, *, follow: bool) -> AsyncGenerator[Delivered | None]:
        """The messages up to where the topic ends now; with `follow` also those that come, and None whenever there are
        no more for the moment.

        Raises what is in the way: `TopicMissingError`, `CredentialsUnreadableError`, KafkaError, and OSError for a
        broker that does not answer.
        """
        try:
            options = connection(self._kafka)
        except OSError as error:  # ssl.SSLError is one too
            raise CredentialsUnreadableError(f"{type(error).__name__}: {error}") from error
        consumer = AIOKafkaConsumer(
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # retention may drop the beginning while it is read
            metadata_max_age_ms=int(_LOOK_SECONDS * 1000),
            request_timeout_ms=_REQUEST_TIMEOUT_MS,
            fetch_max_bytes=_FETCH_BYTES,
            **options,
        )
        try:
            await answered(consumer.start())
            ends = await self._ends(consumer)
            while True:
                batch = await answered(consumer.getmany(timeout_ms=_POLL_MS))
                for partition, messages in batch.items():
                    for message in messages:
                        self._next[partition] = message.offset + 1
                        if (delivered := self._delivered(message)) is not None:
                            yield delivered
                if batch:
                    continue
                if follow:
                    yield None
                    ends = await self._ends(consumer)
                elif await self._is_read(consumer, ends):
                    return
        finally:
            await end(consumer)

    async def _ends(self, consumer: AIOKafkaConsumer) -> dict[TopicPartition, int]:
        """Where each partition ends now: a sign of life, and how new partitions are found."""
        if not consumer.assignment():
            consumer.assign([TopicPartition(self.topic, 0)])  # makes the client learn of the topic
            consumer.pause(TopicPartition(self.topic, 0))
        try:
            await answered(consumer.end_offsets(list(consumer.assignment())))
        except (KafkaError, OSError):
            if consumer.partitions_for_topic(self.topic):
                raise
        numbers = consumer.partitions_for_topic(self.topic)
        if not numbers:
            raise TopicMissingError(f"topic {self.topic} is not there, or this user may not see it")
        partitions = [TopicPartition(self.topic, number) for number in sorted(numbers)]
        if consumer.paused() or consumer.assignment() != set(partitions):
            consumer.assign(partitions)
            begins = await answered(consumer.beginning_offsets(partitions))
            for partition in partitions:
                consumer.seek(partition, self._next.setdefault(partition, begins[partition]))
        return await answered(consumer.end_offsets(partitions))

    async def _is_read(self, consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int]) -> bool:
        """Whether all was handed out. A position also passes what is no message: a transaction's end, what compaction
        removed."""
        left = [each for each, end in ends.items() if await answered(consumer.position(each)) < end]
        if left:
            await answered(consumer.end_offsets(left))  # nothing came: does Kafka answer at all?
        return not left

    def _delivered(self, message: Any) -> Delivered | None:
        """None for what came before."""
        place, record = f"{self.topic}/{message.partition}:{message.offset}", message.value or b""
        try:
            members = orjson.loads(record)
        except orjson.JSONDecodeError:
            members = None
        if b"\n" in record or not isinstance(members, dict) or not isinstance(members.get("event_id"), str):
            return Delivered(place, b"", "no record of the audit")
        return None if self.repeats.has(record) else Delivered(place, record)
