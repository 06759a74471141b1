"""Revocations from Kafka: every sidecar reads the whole topic, and ends the grants that a message names.

Whoever can write the topic can only take away. What cannot be read takes everything away: a message that is no
revocation, and a gap (messages that retention removed before they were read, a topic made anew). A sidecar begins at
the topic's end, since it begins without grants; after that it goes on from where it was, over any absence of Kafka.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from sidecar.clock import Clock
from sidecar.config import Kafka
from sidecar.config import Revocations as RevocationsConfig
from sidecar.decision.revocation import EVERYTHING, Revocation, RevocationError, parse
from sidecar.errors import Refused
from sidecar.kafka_connection import answered, connection, end
from sidecar.ops import metrics
from sidecar.revocations import Revocations
from sidecar.surface.json_body import read_object

MAX_MESSAGE_BYTES: Final = 64 * 1024

_POLL_MS: Final = 1000
_LOOK_SECONDS: Final = 3.0  # between two looks at whether Kafka lives, and what partitions there are
_BACKOFF_SECONDS: Final = 1.0

_log = structlog.get_logger(__name__)


class _GapError(Exception):
    """Messages may have been lost."""


class RevocationFeed:
    """One task on the event loop: `run` it until it is cancelled."""

    def __init__(self, config: RevocationsConfig, kafka: Kafka, revocations: Revocations, clock: Clock) -> None:
        self._config = config
        self._kafka = kafka
        self._revocations = revocations
        self._clock = clock
        self._next: dict[TopicPartition, int] = {}
        self._unread: dict[TopicPartition, int] = {}
        self._alive_at = clock.elapsed()
        self._problem = ""
        self._knew_topic = False

    @property
    def warning(self) -> str:
        """For readiness: Kafka has been silent for too long, so that what is revoked may not have arrived."""
        silent = self._clock.elapsed() - self._alive_at
        if silent < self._config.max_silence_seconds:
            return ""
        reason = f" ({self._problem})" if self._problem else ""
        return f"no revocations can be read for {silent:.0f} seconds{reason}: grants live out their ttl"

    async def run(self) -> None:
        """Follows the topic, for ever."""
        while True:
            try:
                await self._follow()
            except (_GapError, OffsetOutOfRangeError):
                _log.error("revocations may have been lost; all grants end", topic=self._config.topic)
                self._next.clear()
            except Exception as error:  # noqa: BLE001 - the feed outlives whatever goes wrong, and says it
                self._say(f"{type(error).__name__}: {error}")
                await asyncio.sleep(_BACKOFF_SECONDS)

    # -- following ---------------------------------------------------------------------------------------------------
    async def _follow(self) -> None:
        self._unread = {}
        consumer = AIOKafkaConsumer(
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            metadata_max_age_ms=int(_LOOK_SECONDS * 1000),
            **connection(self._kafka),
        )
        try:
            await answered(consumer.start())
            await self._look(consumer)
            look_at = self._clock.elapsed() + _LOOK_SECONDS
            while True:
                await self._take(await answered(consumer.getmany(timeout_ms=_POLL_MS)))
                if self._clock.elapsed() >= look_at:
                    await self._look(consumer)
                    look_at = self._clock.elapsed() + _LOOK_SECONDS
        finally:
            await end(consumer)

    async def _look(self, consumer: AIOKafkaConsumer) -> None:
        """Asks Kafka for the partitions and their ends: a sign of life, new partitions, and gaps."""
        topic = self._config.topic
        first = TopicPartition(topic, 0)
        if not consumer.assignment():
            # Makes the client learn of the topic. A partition without a position would have one guessed, or fail.
            consumer.assign(list(self._next) or [first])
            for partition in consumer.assignment():
                consumer.seek(partition, self._next.get(partition, 0))
            if not self._next:
                consumer.pause(first)
        await self._pass_markers(consumer)
        try:
            await answered(consumer.end_offsets([first]))
        finally:
            numbers = consumer.partitions_for_topic(topic)
            if self._knew_topic and not numbers:
                # It was deleted. Another of its name counts anew, and may pass where we were before we look again.
                self._next.clear()
            self._knew_topic = bool(numbers)
        if not numbers:
            raise KafkaError(f"topic {topic} is not there")
        ends = await answered(consumer.end_offsets([TopicPartition(topic, number) for number in sorted(numbers)]))
        if any(ends.get(partition, 0) < offset for partition, offset in self._next.items()):
            raise _GapError
        unread = {partition: offset for partition, offset in self._next.items() if ends[partition] > offset}
        if any(self._unread.get(partition) == offset for partition, offset in unread.items()):
            # Seen after a broker's crash: the consumer answers, and fetches no more. A new one does.
            self._unread = {}
            raise KafkaError("messages wait and do not come")
        self._unread = unread
        begins = not self._next
        new = ends.keys() - self._next.keys()
        # A partition that was added later is read from its beginning: all in it came after we began.
        self._next |= {partition: ends[partition] if begins else 0 for partition in new}
        if new or consumer.assignment() != self._next.keys():
            consumer.assign(list(self._next))
            for partition, offset in self._next.items():
                consumer.seek(partition, offset)  # before anything is fetched: no position is ever guessed
        self._alive_at = self._clock.elapsed()
        if self._problem:
            _log.info("revocations are read again", topic=topic)
            self._problem = ""
        if begins:
            # Grants may have been opened while Kafka could not be reached, and what was revoked then was not seen.
            await self._apply([EVERYTHING])

    async def _pass_markers(self, consumer: AIOKafkaConsumer) -> None:
        """Goes on behind what is no message: the marker with which a producer ends a transaction. The consumer passes
        it once all that came before was handed out, and so was taken."""
        for partition in consumer.assignment():
            if partition in self._next and not consumer.paused():
                self._next[partition] = max(self._next[partition], await answered(consumer.position(partition)))

    async def _take(self, batch: dict[TopicPartition, list[Any]]) -> None:
        messages = [message for part in batch.values() for message in part]
        if not messages:
            return
        await self._apply([_read(message.value) for message in messages])
        self._next |= {partition: part[-1].offset + 1 for partition, part in batch.items() if part}
        self._alive_at = self._clock.elapsed()

    async def _apply(self, revocations: Iterable[Revocation]) -> None:
        try:
            await self._revocations.apply(list(dict.fromkeys(revocations)), "kafka")
        except Refused as refusal:
            _log.error("a revocation could not be recorded", reason=refusal.detail)

    def _say(self, problem: str) -> None:
        if problem != self._problem:
            _log.warning("revocations cannot be read", reason=problem)
        self._problem = problem


def _read(value: bytes | None) -> Revocation:
    """A message's revocation; of everything where it is none, since somebody meant to take something away."""
    try:
        if value is None or len(value) > MAX_MESSAGE_BYTES:
            raise RevocationError("an empty message, or one too large")
        return parse(read_object(value))
    except (RevocationError, Refused) as error:
        metrics.REVOCATIONS_MALFORMED.inc()
        _log.error("a message that is no revocation; all grants end", reason=str(error))
        return EVERYTHING
