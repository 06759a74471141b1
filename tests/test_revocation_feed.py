"""Where a reader of revocations goes on, without a broker; what needs one is in tests/e2e/test_revocations.py."""

from __future__ import annotations

from typing import Any, cast

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from sidecar.config import Kafka
from sidecar.config import Revocations as RevocationsConfig
from sidecar.revocation_feed import RevocationFeed
from tests.decision.making import clock

FIRST, SECOND = TopicPartition("revocations", 0), TopicPartition("revocations", 1)


class Consumer:
    """What a consumer says of its positions."""

    def __init__(self, positions: dict[TopicPartition, int]) -> None:
        self.positions = positions

    def assignment(self) -> set[TopicPartition]:
        return set(self.positions)

    def paused(self) -> set[TopicPartition]:
        return set()

    async def position(self, partition: TopicPartition) -> int:
        return self.positions[partition]


@pytest.mark.parametrize(("position", "goes_on"), [(12, 12), (10, 10), (3, 10)])
async def test_what_is_no_message_is_passed_and_nothing_is_read_twice(position: int, goes_on: int) -> None:
    """The marker at a transaction's end counts an offset and never comes: waiting for it, the feed would begin anew
    every few seconds. A partition that is not followed yet keeps no position."""
    feed = RevocationFeed(RevocationsConfig(topic="revocations"), Kafka(), cast("Any", None), clock())
    feed._next = {FIRST: 10}
    await feed._pass_markers(cast("AIOKafkaConsumer", Consumer({FIRST: position, SECOND: 7})))
    assert feed._next == {FIRST: goes_on}
