"""Every record reaches a real Kafka, byte for byte and in order, whatever happens to the broker on the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError

from sidecar.audit import kafka as kafka_module
from sidecar.audit import kafka_producer
from sidecar.audit.kafka import KafkaShipper
from sidecar.audit.kafka_producer import Producer
from sidecar.audit.messages import SCHEMA, Messages
from sidecar.audit.reader import Line, read_all
from sidecar.audit.record import Event, Record
from sidecar.clock import SystemClock
from sidecar.ops.metrics import REGISTRY
from tests.audit.spools import journal_in, names, opened, permit, records, segments, verified
from tests.audit.topics import Topics, caught_up, hurry, secured, shipping, topics_of
from tests.real.kafka import KafkaBroker
from tests.support.waiting import until

pytestmark = pytest.mark.real


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture
def topics(kafka: KafkaBroker, request: pytest.FixtureRequest) -> Topics:
    return topics_of(kafka, request)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


async def test_every_record_arrives_as_it_stands_in_the_spool(topics: Topics, spool: Path) -> None:
    await topics.create()
    async with journal_in(spool) as journal, shipping(journal, topics.config()) as shipper:
        await journal.append_many([permit(f"é-{n}", resource_ref="r" * 43) for n in range(300)])
        await caught_up(journal, shipper)
        found = await topics.broker.messages(topics.audit)
        assert [message.value for message in found] == [line.record for line in read_all([spool])]
        assert {message.key for message in found} == {journal.instance.encode()}
        assert len({message.partition for message in found}) == 1
        assert found[0].headers == (("schema", SCHEMA),)
        assert found[1].headers == (("schema", SCHEMA), ("resource_ref", b"r" * 43))
        assert abs(found[1].timestamp / 1000 - time.time()) < 60
        assert shipper.status().warning == ""
        assert shipper.status().backlog_records == 0
        assert REGISTRY.get_sample_value("sidecar_audit_backlog_records") == 0


async def test_mutations_go_to_their_own_topic_too(topics: Topics, spool: Path) -> None:
    await topics.create()
    about = [
        Record(Event.SECRET_PERMIT, {"phase": "intent", "purpose": "write", "operation": "kv2.write"}),
        Record(Event.SECRET_PERMIT, {"phase": "outcome", "purpose": "write", "operation": "kv2.write"}),
        Record(Event.SECRET_PERMIT, {"phase": "outcome", "purpose": "read", "operation": "kv2.read"}),
        Record(Event.SECRET_ERROR, {"phase": "outcome", "purpose": "read", "operation": "database.creds"}),
        Record(Event.SECRET_ROTATED, {"phase": "outcome", "purpose": "rotate", "operation": "transit.rotate"}),
        Record(Event.SECRET_DENY, {"phase": "outcome", "purpose": "delete", "operation": "kv2.delete"}),
    ]
    async with journal_in(spool) as journal, shipping(journal, topics.config()) as shipper:
        await journal.append_many(about)
        await caught_up(journal, shipper)
        changed = [orjson.loads(message.value) for message in await topics.broker.messages(topics.mutations)]
        assert [(record["phase"], record["operation"]) for record in changed] == [
            ("intent", "kv2.write"),
            ("outcome", "kv2.write"),
            ("outcome", "database.creds"),
            ("outcome", "transit.rotate"),
        ]
        assert len(await topics.values()) == 7


async def test_what_was_written_before_a_stop_is_sent_with_the_stop(topics: Topics, spool: Path) -> None:
    await topics.create()
    journal = await opened(spool)
    shipper = KafkaShipper(topics.config(), journal, SystemClock())
    shipper.start()
    await journal.append(permit("last words"))
    await journal.stop()
    await shipper.stop(20)
    await journal.close()
    assert [orjson.loads(value)["event"] for value in await topics.values()] == [
        *("AUDIT_START", "SECRET_PERMIT", "AUDIT_STOP")
    ]


async def test_while_the_broker_is_killed_requests_go_on_and_afterwards_everything_arrives_in_order(
    topics: Topics, spool: Path, tmp_path: Path
) -> None:
    await topics.create()
    broker, sent, slowest = topics.broker, 0, 0.0
    async with journal_in(spool) as journal, shipping(journal, topics.config()) as shipper:

        async def requests(count: int) -> None:
            nonlocal sent, slowest
            for _ in range(count):
                started = time.monotonic()
                await journal.append(permit(str(sent)))
                slowest = max(slowest, time.monotonic() - started)
                sent += 1

        await requests(200)
        broker.kill()
        try:
            await requests(500)
            await until(lambda: shipper.status().warning, "a warning")
            assert shipper.status().backlog_records > 0
            await until(lambda: shipper.status().oldest_seconds > 0, "the age of the oldest record")
            assert REGISTRY.get_sample_value("sidecar_audit_backlog_records") == shipper.status().backlog_records
            assert journal.status().healthy
        finally:
            broker.start()
        await requests(200)
        await caught_up(journal, shipper)
        assert shipper.status().warning == ""
    assert slowest < 2, "a request waited for Kafka"
    permits = await topics.permits()
    assert list(dict.fromkeys(permits)) == [str(n) for n in range(900)]
    dump = tmp_path / "dump.jsonl"
    dump.write_bytes(b"\n".join(await topics.values()))
    code, said = verified(dump, allow_repeats=True)
    assert code == 0, said


async def test_a_broker_that_hangs_is_said_and_everything_arrives_when_it_answers(topics: Topics, spool: Path) -> None:
    await topics.create()
    async with journal_in(spool) as journal, shipping(journal, topics.config()) as shipper:
        await caught_up(journal, shipper)
        topics.broker.pause()
        try:
            await journal.append_many([permit(str(n)) for n in range(50)])
            await until(lambda: "acknowledgement" in shipper.status().warning, "a warning")
            await journal.append(permit("50"))
        finally:
            topics.broker.resume()
        await caught_up(journal, shipper)
    assert list(dict.fromkeys(await topics.permits())) == [str(n) for n in range(51)]


@pytest.mark.parametrize("how", ["cancelled", "not-closed", "not-anew"])
async def test_nothing_that_goes_wrong_in_the_client_ends_the_shipper(
    topics: Topics, spool: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A task that ended would leave the backlog to grow until requests are refused, without a word."""
    await topics.create()
    sends, faults = AIOKafkaProducer.send_batch, iter(range(1))

    async def fails_once(self: Any, *given: Any, **named: Any) -> Any:
        if next(faults, None) is None:
            return await sends(self, *given, **named)
        if how == "cancelled":  # as aiokafka does to its callers where a connection ends
            raise asyncio.CancelledError
        if how == "not-closed":
            for part, name in ((AIOKafkaProducer, "stop"), (AIOKafkaClient, "close")):
                monkeypatch.setattr(part, name, _fails_after(getattr(part, name)))
            raise KafkaConnectionError
        raise kafka_module._TopicReplacedError("another topic")

    if how == "not-anew":
        asks, lost = Producer.topic_ids, iter(range(1))

        async def lost_once(self: Producer, *given: Any) -> Any:
            return await asks(self, *given) if next(lost, None) is None else await _raises()

        monkeypatch.setattr(Producer, "topic_ids", lost_once)
    monkeypatch.setattr(AIOKafkaProducer, "send_batch", fails_once)
    async with journal_in(spool) as journal, shipping(journal, topics.config()) as shipper:
        await journal.append(permit("1"))
        await caught_up(journal, shipper)
    assert next(faults, None) is None
    monkeypatch.undo()  # the test's own reader closes, too
    assert await topics.permits() == ["1"]


async def _raises(*_given: Any) -> Any:
    raise OSError("the connection is gone")


def _fails_after(work: Callable[..., Any]) -> Callable[..., Any]:
    async def fails(*given: Any) -> None:
        await work(*given)
        await _raises()

    return fails


async def test_a_new_shipper_goes_on_where_the_one_before_stopped(topics: Topics, spool: Path) -> None:
    await topics.create()
    for run in range(3):
        journal = await opened(spool)
        shipper = KafkaShipper(topics.config(), journal, SystemClock())
        shipper.start()
        await journal.append_many([permit(f"{run}-{n}") for n in range(20)])
        await journal.stop()
        await shipper.stop(20)
        await journal.close()
    assert await topics.permits() == [f"{run}-{n}" for run in range(3) for n in range(20)]


async def test_acknowledged_segments_are_dropped_and_both_the_rest_and_the_topic_verify(
    topics: Topics, spool: Path, tmp_path: Path
) -> None:
    await topics.create()
    async with (
        journal_in(spool, segment_bytes=5_000) as journal,
        shipping(journal, topics.config()) as shipper,
    ):
        for n in range(100):
            await journal.append(permit(str(n)))
        await until(lambda: len(segments(spool)) < 3, "segments to be dropped")
        await caught_up(journal, shipper)
    assert records(spool)[0]["seq"] > 1
    assert verified(spool)[0] == 0
    dump = tmp_path / "dump.jsonl"
    dump.write_bytes(b"\n".join(await topics.values()))
    assert verified(dump)[0] == 0
    assert await topics.permits() == [str(n) for n in range(100)]


async def test_unsent_segments_are_never_dropped(topics: Topics, spool: Path) -> None:
    async with journal_in(spool, segment_bytes=2_000) as journal, shipping(journal, topics.config()) as shipper:
        for n in range(50):
            await journal.append(permit(str(n)))
        await until(lambda: shipper.status().warning, "a warning")
        assert names(spool) == [str(n) for n in range(50)]


async def test_a_topic_that_is_not_there_is_said_and_used_as_soon_as_it_is(topics: Topics, spool: Path) -> None:
    async with journal_in(spool) as journal, shipping(journal, topics.config()) as shipper:
        await journal.append(permit("one"))
        await until(lambda: f"{topics.audit} is not there" in shipper.status().warning, "a warning")
        await topics.create()
        await caught_up(journal, shipper)
    assert await topics.permits() == ["one"]


async def test_smaller_batches_are_sent_where_the_topic_takes_no_larger(topics: Topics, spool: Path) -> None:
    await topics.create(**{"max.message.bytes": "5000"})
    async with journal_in(spool) as journal, shipping(journal, topics.config()) as shipper:
        await journal.append_many([permit(str(n)) for n in range(200)])
        await caught_up(journal, shipper)
    assert await topics.permits() == [str(n) for n in range(200)]


@pytest.mark.parametrize(
    "how",
    [lambda raw: raw.replace(b'"a"', b'"x"'), lambda raw: b"\n" * len(raw)],
    ids=["one-byte", "nothing-but-newlines"],
)
async def test_a_damaged_line_is_said_the_others_are_sent_and_it_is_kept(
    topics: Topics, spool: Path, how: Callable[[bytes], bytes]
) -> None:
    """However many there are, it is not said of each."""
    await topics.create()
    async with journal_in(spool, segment_bytes=600) as journal:
        for name in ("a", "b", "c", "d"):
            await journal.append(permit(name))
        damaged = segments(spool)[0]
        damaged.write_bytes(how(damaged.read_bytes()))
        with structlog.testing.capture_logs() as said:
            async with shipping(journal, topics.config()) as shipper:
                await caught_up(journal, shipper)
                assert "sidecar audit verify" in shipper.status().warning
        assert len([entry for entry in said if entry["log_level"] == "error"]) == 2  # the line, and the gap it leaves
        assert damaged.exists()
    assert await topics.permits() == ["b", "c", "d"]


def reads_as(monkeypatch: pytest.MonkeyPatch, other: Callable[[bytes], bytes]) -> None:
    """The shipper finds other records in the spool than were written there."""
    real = Messages._read_lines

    def read(self: Messages) -> list[Line]:
        return [msgspec.structs.replace(line, record=other(line.record)) for line in real(self)]

    monkeypatch.setattr(Messages, "_read_lines", read)


@pytest.mark.parametrize(
    "instead",
    [
        b"[" * 100_000,
        b'{"seq":3,"ts":"2026-01-01T00:00:00.000000Z","event":"SECRET_DENY","subject":' + b'{"act":' * 100_000,
        b'{"seq":true,"ts":"2026-01-01T00:00:00.000000Z","event":"SECRET_DENY"}',
        b'{"seq":3,"ts":"2026","event":"SECRET_DENY"}',
        b'{"seq":3,"ts":"2026-01-01T00:00:00.000000Z"}',
        b'{"seq":3,"ts":"2026-01-01T00:00:00.000000Z","event":"SECRET_DENY","resource_ref":["x"]}',
        b'{"seq":3,"ts":"2026-01-01T00:00:00.000000Z","event":"SECRET_DENY","other":"\xff"}',
        b'{"seq":3,"ts":"2026-01-01T00:00:00.000000Z","event":"SECRET_DENY"} {}',
        b'{"seq":1180591620717411303424,"ts":"2026-01-01T00:00:00.000000Z","event":"SECRET_DENY"}',
        b'{"seq":0,"ts":"2026-01-01T00:00:00.000000Z","event":"SECRET_DENY"}',
        b'{"seq":3,"ts":"2026-01-01T00:00:00.000000Z","event":"SECRET_DENY","other":"' + b"x" * 2**20 + b'"}',
    ],
    ids=[
        *("nested", "nested where it does not matter", "bool", "time", "no event", "ref", "not UTF-8", "two"),
        *("a seq not yet given", "no seq", "larger than ours"),
    ],
)
async def test_what_is_no_record_of_ours_holds_up_none_behind_it(
    topics: Topics, spool: Path, monkeypatch: pytest.MonkeyPatch, instead: bytes
) -> None:
    await topics.create()
    reads_as(monkeypatch, lambda record: instead if b'"b"' in record else record)
    async with journal_in(spool) as journal:
        for name in ("a", "b", "c"):
            await journal.append(permit(name))
        async with shipping(journal, topics.config()) as shipper:
            await caught_up(journal, shipper)
            assert "sidecar audit verify" in shipper.status().warning
    assert await topics.permits() == ["a", "c"]
    assert len(await topics.values()) == 3


@pytest.mark.parametrize("seq", [1, 5])
async def test_a_record_under_another_seq_withholds_none_behind_it(
    topics: Topics, spool: Path, monkeypatch: pytest.MonkeyPatch, seq: int
) -> None:
    """What stands in the spool is sent as it stands there; the chain tells."""
    await topics.create()
    reads_as(monkeypatch, lambda record: record.replace(b'"seq":3,', f'"seq":{seq},'.encode()))
    async with journal_in(spool) as journal:
        for name in ("a", "b", "c", "d", "e"):
            await journal.append(permit(name))
        async with shipping(journal, topics.config()) as shipper:
            await caught_up(journal, shipper)
            assert "sidecar audit verify" in shipper.status().warning
    assert await topics.permits() == ["a", "b", "c", "d", "e"]


async def test_where_records_were_missing_when_they_were_read_nothing_is_dropped(
    topics: Topics, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that stood there for an instant may have been read in place of the one that holds them."""
    await topics.create()
    real = Messages._read_lines
    monkeypatch.setattr(
        Messages, "_read_lines", lambda self: [line for line in real(self) if b'"b"' not in line.record]
    )
    async with journal_in(spool, segment_bytes=600) as journal:
        for name in ("a", "b", "c", "d"):
            await journal.append(permit(name))
        before = segments(spool)
        async with shipping(journal, topics.config()) as shipper:
            await caught_up(journal, shipper)
            assert "not in the spool" in shipper.status().warning
            await journal.append(permit("e"))
            await caught_up(journal, shipper)
        assert set(before[1:]) <= set(segments(spool))  # the first may have been dropped before the gap
    assert await topics.permits() == ["a", "c", "d", "e"]


@pytest.mark.parametrize("compression", ["gzip", "lz4", "zstd"])
async def test_batches_are_compressed_as_configured_and_the_records_stay_what_they_are(
    topics: Topics, spool: Path, compression: str
) -> None:
    await topics.create(**{"compression.type": "producer", "max.message.bytes": "20000"})
    async with journal_in(spool) as journal, shipping(journal, topics.config(compression=compression)) as shipper:
        await journal.append_many([permit(str(n), filler="x" * 1_000) for n in range(100)])
        await caught_up(journal, shipper)
        found = await topics.broker.messages(topics.audit)
    assert [message.value for message in found] == [line.record for line in read_all([spool])][: len(found)]
    assert len(found) == 101
    stored = sum(path.stat().st_size for path in topics.broker.folder.glob(f"data/{topics.audit}-*/*.log"))
    assert stored < 60_000, "the broker stores what it got"


async def test_a_backlog_drains_no_faster_than_allowed(topics: Topics, spool: Path) -> None:
    await topics.create()
    async with journal_in(spool) as journal:
        await journal.append_many([permit(str(n), filler="x" * 3_000) for n in range(400)])
        started = time.monotonic()
        async with shipping(journal, topics.config(max_records_per_second=200)) as shipper:
            await caught_up(journal, shipper)
        assert time.monotonic() - started > 1.0, "400 records at 200 a second, the last chunk not waited for"
    assert await topics.permits() == [str(n) for n in range(400)]


async def test_a_topic_that_lost_what_it_acknowledged_gets_everything_that_is_here_again(
    topics: Topics, spool: Path
) -> None:
    """Another broker at the same address, a topic made anew, an end that was lost: the offsets fall back."""
    await topics.create()
    before = REGISTRY.get_sample_value("sidecar_audit_kafka_errors_total", {"reason": "topic_replaced"}) or 0
    async with journal_in(spool) as journal, shipping(journal, topics.config()) as shipper:
        await journal.append_many([permit(str(n)) for n in range(20)])
        await caught_up(journal, shipper)
        await topics.broker.delete_topics(topics.audit, topics.mutations)
        await journal.append(permit("20"))
        await until(lambda: shipper.status().warning, "the topic to be missed")
        await topics.create()
        await until(lambda: "was replaced or lost records" in shipper.status().warning, "a warning")
        await caught_up(journal, shipper)
    assert REGISTRY.get_sample_value("sidecar_audit_kafka_errors_total", {"reason": "topic_replaced"}) == before + 1
    sent = [orjson.loads(value)["seq"] for value in await topics.values()]
    assert list(dict.fromkeys(seq for seq in sorted(sent))) == list(range(1, 23))


async def test_what_is_in_the_way_is_counted_by_its_reason(topics: Topics, spool: Path) -> None:
    def count() -> float:
        return REGISTRY.get_sample_value("sidecar_audit_kafka_errors_total", {"reason": "topic_missing"}) or 0

    before = count()
    async with journal_in(spool) as journal, shipping(journal, topics.config()):
        await journal.append(permit("one"))
        await until(lambda: count() > before, "the metric")


# -- who we are, and who the broker is ---------------------------------------------------------------------------------
@pytest.mark.parametrize("who", ["scram", "scram_256", "plain"])
async def test_a_password_over_tls_is_taken(topics: Topics, spool: Path, tmp_path: Path, who: str) -> None:
    await topics.create()
    config = secured(topics, tmp_path, getattr(topics.broker, who))
    async with journal_in(spool) as journal, shipping(journal, config) as shipper:
        await journal.append(permit("one"))
        await caught_up(journal, shipper)
    assert await topics.permits() == ["one"]


async def test_a_client_certificate_is_taken_and_needed(topics: Topics, spool: Path) -> None:
    await topics.create()
    made = topics.broker.certificates
    without = topics.config(bootstrap_servers=topics.broker.mtls, security_protocol="SSL", ca_file=made.ca)
    async with journal_in(spool) as journal:
        await journal.append(permit("one"))
        async with shipping(journal, without) as shipper:
            await until(lambda: shipper.status().warning, "a warning")
        assert await topics.values() == []
        own = without.model_copy(update={"cert_file": made.client.cert, "key_file": made.client.key})
        async with shipping(journal, own) as shipper:
            await caught_up(journal, shipper)
    assert await topics.permits() == ["one"]


async def test_a_password_that_is_corrected_in_its_file_is_read_anew(
    topics: Topics, spool: Path, tmp_path: Path
) -> None:
    await topics.create()
    user = topics.broker.scram
    config = secured(topics, tmp_path, user, password="wrong-password")
    async with journal_in(spool) as journal, shipping(journal, config) as shipper:
        await journal.append(permit("one"))
        await until(lambda: shipper.status().warning, "a warning")
        assert await topics.values() == []
        (tmp_path / "password").write_text(user.password)
        await caught_up(journal, shipper)
    assert await topics.permits() == ["one"]


async def test_a_rotated_password_is_taken_before_the_old_one_is_refused(
    topics: Topics, spool: Path, tmp_path: Path
) -> None:
    """The connection stands, so only looking at the file tells: a wrong one written there is noticed at once."""
    await topics.create()
    user = topics.broker.scram
    config = secured(topics, tmp_path, user)
    async with journal_in(spool) as journal, shipping(journal, config) as shipper:
        await journal.append(permit("one"))
        await caught_up(journal, shipper)
        (tmp_path / "password").write_text("not-the-password-any-more")
        await asyncio.sleep(kafka_producer._LOOK_SECONDS)
        await journal.append(permit("two"))
        await until(lambda: shipper.status().warning, "a warning")
        (tmp_path / "password").write_text(user.password)
        await caught_up(journal, shipper)
        assert shipper.status().warning == ""
    assert await topics.permits() == ["one", "two"]
