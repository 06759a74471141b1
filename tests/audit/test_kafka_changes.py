"""What changes under a running shipper: leaders, certificates, passwords, the cluster. Real brokers of its own."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from aiokafka import AIOKafkaProducer

from sidecar.audit import kafka as kafka_module
from sidecar.audit import kafka_producer, position
from sidecar.audit.record import Event, Record
from sidecar.ops.metrics import REGISTRY
from tests.audit.spools import journal_in, permit
from tests.audit.topics import Topics, caught_up, hurry, secured, shipping
from tests.real.kafka import OTHER_CLUSTER, KafkaBroker, User
from tests.real.kafka_users import allow_to_write, set_scram_password
from tests.support.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A broker that these tests may stop, and change."""
    with KafkaBroker(tmp_path_factory.mktemp("first")) as broker:
        yield broker


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def errors(reason: str) -> float:
    return REGISTRY.get_sample_value("sidecar_audit_kafka_errors_total", {"reason": reason}) or 0


async def test_a_leader_that_moves_is_followed_and_a_replica_that_is_missing_is_waited_for(
    first: KafkaBroker, spool: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two brokers. `acks=all` with `min.insync.replicas=2`: one of them alone acknowledges nothing."""
    topics, moved = Topics(first, "leaders"), errors("leader_moved")
    with KafkaBroker(tmp_path_factory.mktemp("second"), joins=first) as second:
        await first.create_topics(topics.audit, topics.mutations, replicas=(2, 1))
        async with journal_in(spool) as journal, shipping(journal, topics.config()) as shipper:
            await journal.append_many([permit(str(n)) for n in range(50)])
            await caught_up(journal, shipper)
            second.stop()
            await journal.append_many([permit(str(n)) for n in range(50, 100)])
            await caught_up(journal, shipper)
            assert shipper.status().warning == ""
            assert errors("leader_moved") > moved
            await first.change_topic(topics.audit, **{"min.insync.replicas": "2"})
            await journal.append(permit("100"))
            await until(lambda: "no acknowledgement" in shipper.status().warning, "a warning")
            assert shipper.status().backlog_records == 1
            second.start()
            await caught_up(journal, shipper)
            assert shipper.status().warning == ""
        assert list(dict.fromkeys(await topics.permits())) == [str(n) for n in range(101)]


async def test_rotated_certificates_and_passwords_are_said_by_name_and_taken_from_their_files(
    first: KafkaBroker, spool: Path, tmp_path: Path
) -> None:
    """The broker comes back under another CA, asks for a client certificate of it, and knows another password."""
    topics = Topics(first, "rotated")
    await topics.create()
    old, files = first.certificates, tmp_path / "files"
    files.mkdir()
    ca, cert, key = (files / name for name in ("ca", "cert", "key"))

    def provide() -> None:
        made = first.certificates
        for source, target in ((made.ca, ca), (made.client.cert, cert), (made.client.key, key)):
            shutil.copy(source, target)

    provide()
    refused = errors("certificate")
    mutual = topics.config(
        bootstrap_servers=first.mtls, security_protocol="SSL", ca_file=ca, cert_file=cert, key_file=key
    )
    password = secured(topics, tmp_path, first.plain, ca_file=ca)
    for run, config in enumerate((mutual, password)):
        secured(topics, tmp_path, first.plain)
        async with journal_in(spool) as journal, shipping(journal, config) as shipper:
            await journal.append(permit(f"{run}-before"))
            await caught_up(journal, shipper)
            first.stop()
            first.renew()
            first.start()
            assert first.certificates != old
            await journal.append(permit(f"{run}-after"))
            await until(lambda: "certificate is refused" in shipper.status().warning, "a warning")
            provide()
            if config is password:
                await until(lambda: "does not take the password of bob" in shipper.status().warning, "a warning")
                secured(topics, tmp_path, first.plain, ca_file=ca)
            await caught_up(journal, shipper)
            assert shipper.status().warning == ""
    assert errors("certificate") > refused
    assert list(dict.fromkeys(await topics.permits())) == ["0-before", "0-after", "1-before", "1-after"]


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_scram_password_is_rotated_under_a_running_shipper(
    first: KafkaBroker, spool: Path, tmp_path: Path, mechanism: str
) -> None:
    """In the file first, which the broker refuses; then on the broker first, where the connection stands."""
    topics, user = Topics(first, mechanism), User("dora", "first password", mechanism, may_write=False)
    await topics.create()
    await set_scram_password(first.plaintext, user.name, user.password, mechanism)
    await allow_to_write(first.plaintext, user.name, topics.prefix)
    async with journal_in(spool) as journal, shipping(journal, secured(topics, tmp_path, user)) as shipper:
        await journal.append(permit("one"))
        await caught_up(journal, shipper)
        secured(topics, tmp_path, user, password="second password")
        await asyncio.sleep(kafka_producer._LOOK_SECONDS)
        await journal.append(permit("two"))
        await until(lambda: "does not take the password of dora" in shipper.status().warning, "a warning")
        await set_scram_password(first.plaintext, user.name, "second password", mechanism)
        await caught_up(journal, shipper)
        assert shipper.status().warning == ""
        await set_scram_password(first.plaintext, user.name, "third password", mechanism)
        await journal.append(permit("three"))
        await caught_up(journal, shipper)
        secured(topics, tmp_path, user, password="third password")
        await asyncio.sleep(kafka_producer._LOOK_SECONDS)
        await journal.append(permit("four"))
        await caught_up(journal, shipper)
        assert shipper.status().warning == ""
    assert await topics.permits() == ["one", "two", "three", "four"]


async def filled(topics: Topics, topic: str, key: str) -> None:
    """Somebody else's messages, in the partition of this key."""
    producer = AIOKafkaProducer(bootstrap_servers=topics.broker.plaintext)
    await producer.start()
    try:
        for _ in range(50):
            await producer.send_and_wait(topic, b'{"event":"OTHER","instance":"other"}', key=key.encode())
    finally:
        await producer.stop()


async def test_a_topic_made_anew_is_known_by_its_id_and_gets_all_that_is_here(
    first: KafkaBroker, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where others have filled it, so that no offset falls back; and where nothing more is sent."""
    topics, replaced = Topics(first, "anew"), errors("topic_replaced")
    write = {"phase": "outcome", "purpose": "write", "operation": "kv2.write", "notifications": [{"to": "owner"}]}
    await topics.create()
    await first.create_topics(topics.notifications)
    async with journal_in(spool) as journal, shipping(journal, topics.config()) as shipper:

        async def sent(topic: str) -> list[int]:
            found = [orjson.loads(message.value) for message in await first.messages(topic)]
            return sorted({record["seq"] for record in found if record["instance"] == journal.instance})

        def ids() -> list[str]:
            kept = position.load(spool)
            return [place.topic_id for place in kept.topics.values()] if kept is not None else []

        async def made_anew(topic: str, times: int) -> None:
            await first.delete_topics(topic)
            await first.create_topics(topic)
            await until(lambda: errors("topic_replaced") == replaced + times, f"a word of {topic}")
            await caught_up(journal, shipper)
            assert await sent(topic) == [3]

        await journal.append_many([permit("1"), Record(Event.SECRET_PERMIT, write), permit("2")])
        await until(lambda: len(ids()) == 3 and all(ids()), "the topics' ids")
        monkeypatch.setattr(kafka_module, "_LOOK_AT_TOPICS_SECONDS", 0.1)
        await first.delete_topics(topics.audit)
        await first.create_topics(topics.audit)
        await filled(topics, topics.audit, journal.instance)
        await journal.append(permit("3"))
        await until(lambda: errors("topic_replaced") == replaced + 1, "a word of the audit's topic")
        assert "the topic was replaced: sent again from record 1" in shipper.status().warning
        await caught_up(journal, shipper)
        assert await sent(topics.audit) == [1, 2, 3, 4, 5]
        await made_anew(topics.mutations, 2)
        await made_anew(topics.notifications, 3)


async def test_another_cluster_at_the_same_address_is_known_by_its_id_and_gets_all_that_is_here(
    first: KafkaBroker, spool: Path
) -> None:
    """Also where its topic holds more than the old one did, so that no offset falls back.

    The shipper starts after the other cluster is filled: before that, its offsets would tell it.
    """
    topics, replaced = Topics(first, "replaced"), errors("topic_replaced")
    await topics.create()
    async with journal_in(spool) as journal:
        async with shipping(journal, topics.config()) as shipper:
            await journal.append_many([permit(str(n)) for n in range(3)])
            await caught_up(journal, shipper)
        first.stop()
        first.replace(OTHER_CLUSTER)
        first.start()
        await topics.create()
        async with journal_in(spool.with_name("other")) as other:
            await other.append_many([permit("other") for _ in range(50)])
            for _ in range(2):  # both partitions hold more than the old cluster's
                async with shipping(other, topics.config()) as filling:
                    await caught_up(other, filling)
        await journal.append(permit("3"))
        async with shipping(journal, topics.config()) as shipper:
            await until(lambda: "another Kafka cluster answers" in shipper.status().warning, "a warning")
            await caught_up(journal, shipper)
        assert errors("topic_replaced") == replaced + 1
    found = [orjson.loads(value) for value in await topics.values()]
    mine = [record["seq"] for record in found if record["instance"] == journal.instance]
    assert list(dict.fromkeys(sorted(mine))) == [1, 2, 3, 4, 5]
