"""How a connection to a real Kafka ends."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from sidecar.config import Kafka
from sidecar.kafka_connection import answered, connection, end
from tests.real.kafka import KafkaBroker

pytestmark = pytest.mark.real


async def test_a_consumer_that_ends_while_the_broker_is_away_leaves_nothing_that_connects_again(
    kafka: KafkaBroker,
) -> None:
    """aiokafka's own `stop` is cut short by the fetch that is under way: its client would look for brokers for ever."""
    topic = "ends-while-it-is-away"
    await kafka.create_topics(topic)
    before = asyncio.all_tasks()
    consumer = AIOKafkaConsumer(auto_offset_reset="earliest", **connection(Kafka(bootstrap_servers=kafka.plaintext)))
    await answered(consumer.start())
    consumer.assign([TopicPartition(topic, 0)])
    await consumer.getmany(timeout_ms=1_000)
    kafka.kill()
    try:
        await consumer.getmany(timeout_ms=500)
        await end(consumer)
        assert asyncio.all_tasks() <= before
    finally:
        kafka.start()
