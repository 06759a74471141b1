"""The audit in Kafka, by the whole product: real broker, real sidecar, and the broker away for a while."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer

from tests.real.kafka import KafkaBroker
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer

pytestmark = [
    pytest.mark.real,
    pytest.mark.filterwarnings("ignore:The raise_on_deleted_version parameter:DeprecationWarning"),
]

DEADLINE_SECONDS = 60.0


@pytest.fixture
async def topics(kafka: KafkaBroker) -> str:
    """The prefix of two fresh topics."""
    prefix = f"crud{time.monotonic_ns()}"
    await kafka.create_topics(f"{prefix}.secrets.audit", f"{prefix}.secrets")
    return prefix


async def consume(kafka: KafkaBroker, topic: str, until_seq: int) -> list[dict[str, Any]]:
    """All records of a topic, from its beginning until a sequence number has come."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=kafka.plaintext, auto_offset_reset="earliest", group_id=None)
    await consumer.start()
    found: list[dict[str, Any]] = []
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not found or found[-1]["seq"] < until_seq:
                message = await consumer.getone()
                record = json.loads(message.value)
                assert message.key == record["instance"].encode()
                found.append(record)
    finally:
        await consumer.stop()
    return found


async def test_records_reach_both_topics_and_a_broker_that_was_away_gets_all_of_them(
    kafka: KafkaBroker, topics: str, tmp_path: Path, openbao: OpenBao, issuer: Issuer
) -> None:
    overrides = {"audit": {"kafka": {"bootstrap_servers": kafka.plaintext, "topic_prefix": topics}}}
    with SidecarProcess(tmp_path, openbao, issuer, overrides) as process:
        kv = process.hvac().secrets.kv.v2
        await asyncio.to_thread(kv.read_secret_version, path="app/db")
        await asyncio.to_thread(kv.create_or_update_secret, path="kafka/one", secret={"a": "1"})
        first = await consume(kafka, f"{topics}.secrets.audit", process.records()[-1]["seq"])
        assert [record["operation"] for record in first if record["event"] == "SECRET_PERMIT"] == [
            "kv2.read",
            "kv2.write",
            "kv2.write",
        ]

        kafka.kill()
        try:
            # The sidecar serves on; the journal bridges the gap.
            await asyncio.to_thread(kv.create_or_update_secret, path="kafka/two", secret={"a": "1"})
            await asyncio.to_thread(kv.read_secret_version, path="app/api")
            process.wait_until_ready()
        finally:
            kafka.start()
        last = process.records()[-1]["seq"]
        everything = await consume(kafka, f"{topics}.secrets.audit", last)
        assert process.terminate() == 0
    seqs = sorted({record["seq"] for record in everything})
    assert seqs == list(range(1, last + 1))
    mutations = await consume(
        kafka, f"{topics}.secrets", max(r["seq"] for r in everything if r.get("purpose") == "write")
    )
    assert {record["purpose"] for record in mutations} == {"write"}
    assert {record["phase"] for record in mutations} == {"intent", "outcome"}
