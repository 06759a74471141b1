"""A test's own topics on a real Kafka, and short ways to a shipper."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar.audit import kafka as kafka_module
from sidecar.audit import kafka_producer
from sidecar.audit.journal import Journal
from sidecar.audit.kafka import KafkaShipper
from sidecar.clock import SystemClock
from sidecar.config import Kafka
from tests.real.kafka import KafkaBroker, User
from tests.support.waiting import until


@dataclass(frozen=True, slots=True)
class Topics:
    """This test's own topics on the shared broker."""

    broker: KafkaBroker
    prefix: str

    @property
    def audit(self) -> str:
        return f"{self.prefix}.secrets.audit"

    @property
    def mutations(self) -> str:
        return f"{self.prefix}.secrets"

    @property
    def notifications(self) -> str:
        return f"{self.prefix}.secrets.notifications"

    def config(self, **changed: Any) -> Kafka:
        return Kafka(**({"bootstrap_servers": self.broker.plaintext, "topic_prefix": self.prefix} | changed))

    async def create(self, **configs: Any) -> None:
        await self.broker.create_topics(self.audit, self.mutations, **configs)

    async def remake(self) -> None:
        """Deletes the audit's topic and makes it anew."""
        await self.broker.delete_topics(self.audit)
        await self.broker.create_topics(self.audit)

    async def values(self) -> list[bytes]:
        return [message.value for message in await self.broker.messages(self.audit)]

    async def permits(self) -> list[str]:
        found = map(orjson.loads, await self.values())
        return [record["correlation_id"] for record in found if record["event"] == "SECRET_PERMIT"]


def topics_of(broker: KafkaBroker, request: pytest.FixtureRequest, prefix: str = "") -> Topics:
    """This test's, named after it; not yet made."""
    name = request.node.name.replace("[", "-").replace("]", "").replace(" ", "-")
    return Topics(broker, prefix + name[:150])


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipper waits for less long than in life, so that tests need not."""
    monkeypatch.setattr(kafka_module, "_FIRST_BACKOFF_SECONDS", 0.05)
    monkeypatch.setattr(kafka_module, "_MAX_BACKOFF_SECONDS", 0.3)
    monkeypatch.setattr(kafka_producer, "_REQUEST_TIMEOUT_MS", 2_000)
    monkeypatch.setattr(kafka_producer, "_RETRY_BACKOFF_MS", 100)
    monkeypatch.setattr(kafka_producer, "_UNACKNOWLEDGED_SECONDS", 0.5)
    monkeypatch.setattr(kafka_producer, "_ABANDON_SECONDS", 3.0)


@asynccontextmanager
async def shipping(journal: Journal, config: Kafka) -> AsyncIterator[KafkaShipper]:
    shipper = KafkaShipper(config, journal, SystemClock())
    shipper.start()
    try:
        yield shipper
    finally:
        await shipper.stop(0.1)


async def caught_up(journal: Journal, shipper: KafkaShipper) -> None:
    await until(lambda: shipper.status().acknowledged_seq == journal.durable.seq, str(shipper.status()))


def secured(topics: Topics, tmp_path: Path, user: User, password: str | None = None, **more: Any) -> Kafka:
    file = tmp_path / "password"
    file.write_text(f"{user.password if password is None else password}\n")
    settings: dict[str, Any] = {
        "bootstrap_servers": topics.broker.sasl_ssl,
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": user.mechanism,
        "username": user.name,
        "password_file": file,
        "ca_file": topics.broker.certificates.ca,
    }
    return topics.config(**(settings | more))
