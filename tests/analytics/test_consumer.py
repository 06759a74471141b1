"""`sidecar audit cat --kafka` against a real Kafka: each record once, whatever was delivered, and in order."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.record.util import calc_crc32c

from sidecar.analytics import commands
from sidecar.analytics import consumer as consumer_module
from sidecar.analytics.commands import cat
from sidecar.analytics.consumer import Consumer, Delivered, TopicUnreadableError
from sidecar.config import Kafka
from tests.audit.spools import journal_in, permit, verified
from tests.audit.topics import Topics, caught_up, hurry, secured, shipping, topics_of
from tests.real.kafka import KafkaBroker
from tests.real.kafka_users import allow_to_read, allow_to_write
from tests.support.waiting import until
from tests.test_config import minimal, with_

pytestmark = pytest.mark.real


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture
async def topics(kafka: KafkaBroker, request: pytest.FixtureRequest) -> Topics:
    made = topics_of(kafka, request, "read-")
    await made.create()
    return made


async def ship(topics: Topics, spool: Path, count: int = 0, crash: bool = False) -> str:
    """Writes so many records and has Kafka acknowledge all of the spool; returns the instance. With `crash` it is not
    noted that Kafka did."""
    async with journal_in(spool) as journal, shipping(journal, topics.config()) as shipper:
        await journal.append_many([permit(f"{spool.name}-{number}") for number in range(count)])
        await caught_up(journal, shipper)
    if crash:
        (spool / "kafka.position").unlink()
    return journal.instance


async def send(topics: Topics, *values: bytes | None, partition: int = 0) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=topics.broker.plaintext)
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait(topics.audit, value, key=b"somebody", partition=partition)
    finally:
        await producer.stop()


async def printed(config: Kafka) -> tuple[int, str, str]:
    """Exit code, what was printed, and what was said of errors."""
    out, errors = io.StringIO(), io.StringIO()
    code = await asyncio.to_thread(cat, config, out, errors)
    return code, out.getvalue(), errors.getvalue()


class Following:
    """Reads on as records come."""

    def __init__(self, config: Kafka) -> None:
        self.consumer = Consumer(config)
        self.out, self.errors = io.StringIO(), io.StringIO()

    async def run(self) -> None:
        await commands._cat(self.consumer, None, self.out, self.errors, follow=True)

    @property
    def seqs(self) -> list[int]:
        return [json.loads(line)["seq"] for line in self.out.getvalue().splitlines()]


@asynccontextmanager
async def following(config: Kafka) -> AsyncIterator[Following]:
    reading = Following(config)
    task = asyncio.create_task(reading.run())
    try:
        yield reading
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_what_was_sent_again_after_a_crash_is_there_once_and_in_order(topics: Topics, tmp_path: Path) -> None:
    await ship(topics, tmp_path / "spool", 1_500, crash=True)
    instance = await ship(topics, tmp_path / "spool", 10, crash=True)
    await ship(topics, tmp_path / "spool")
    delivered = await topics.values()
    code, out, errors = await printed(topics.config())
    assert (code, errors) == (0, "")
    lines = out.splitlines()
    assert len(delivered) > 2 * len(lines) > 3_000
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert {json.loads(line)["instance"] for line in lines} == {instance}
    dump = tmp_path / "dump.jsonl"
    dump.write_text(out)
    assert verified(dump)[0] == 0
    assert {line.encode() for line in lines} == set(delivered)


async def test_instances_are_each_in_their_order(topics: Topics, tmp_path: Path) -> None:
    spools = [tmp_path / name for name in "abcd"]
    for spool, digit in zip(spools, "1256", strict=True):  # whose hashes fall into both partitions
        spool.mkdir(mode=0o700)
        (spool / "instance").write_text("-".join(digit * count for count in (8, 4, 4, 4, 12)))
    instances = await asyncio.gather(*(ship(topics, spool, 20, crash=True) for spool in spools))
    await asyncio.gather(*(ship(topics, spool) for spool in spools))
    assert len({message.partition for message in await topics.broker.messages(topics.audit)}) == 2
    code, out, _ = await printed(topics.config())
    assert code == 0
    for instance in instances:
        seqs = [record["seq"] for record in map(json.loads, out.splitlines()) if record["instance"] == instance]
        assert seqs == list(range(1, 24))  # each with two starts, and the end of the first run


async def test_it_follows_over_a_broker_s_end_without_a_gap_or_a_repeat(
    topics: Topics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(consumer_module, "_REQUEST_TIMEOUT_MS", 1_000)
    async with journal_in(tmp_path / "spool") as journal, shipping(journal, topics.config()) as shipper:
        await journal.append_many([permit(str(number)) for number in range(50)])
        await caught_up(journal, shipper)
        async with following(topics.config()) as reading:
            await until(lambda: len(reading.seqs) == 51, "what was there")
            await journal.append(permit("live"))
            await until(lambda: len(reading.seqs) == 52, "what came")
            topics.broker.kill()
            try:
                await journal.append(permit("while it is away"))
                await until(reading.errors.getvalue, "it says so")
            finally:
                topics.broker.start()
            await until(lambda: len(reading.seqs) == 53, "what came meanwhile")
            assert reading.seqs == list(range(1, 54))
            assert topics.audit in reading.errors.getvalue()
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()}, "no client to go on connecting")


async def test_partitions_that_are_added_are_followed_too(
    topics: Topics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "_LOOK_SECONDS", 0.2)
    await send(topics, record(1))
    async with following(topics.config()) as reading:
        await until(lambda: reading.seqs == [1])
        await topics.broker.add_partitions(topics.audit, 3)
        await send(topics, record(2), partition=2)
        await until(lambda: reading.seqs == [1, 2])


def record(seq: int, **more: Any) -> bytes:
    return orjson.dumps({"event_id": f"id-{seq}", "seq": seq} | more)


async def test_what_is_no_record_is_told_by_its_place_and_nothing_of_it_printed(topics: Topics) -> None:
    bad = [
        None,
        b"",
        b"canary",
        b'["canary"]',
        b'{"canary":1}',
        b'{"event_id":1}',
        b'{"event_id":"canary"}\n{}',
        b'{"event_id":"canary",\r"seq":1}',
        b"\xff",
    ]
    await send(topics, record(1), *bad, record(2))
    code, out, errors = await printed(topics.config())
    assert code == 1
    assert out.encode() == record(1) + b"\n" + record(2) + b"\n"
    assert errors.splitlines() == [
        f"{topics.audit}/0:{offset}: no record of the audit" for offset in range(1, len(bad) + 1)
    ]


async def test_another_record_under_the_id_of_one_that_came_is_shown(topics: Topics) -> None:
    await send(topics, record(1), record(1), record(1, forged=True))
    code, out, _ = await printed(topics.config())
    assert (code, out.encode()) == (0, record(1) + b"\n" + record(1, forged=True) + b"\n")


async def test_a_header_that_is_no_text_hides_nothing_that_stands_beside_it(topics: Topics) -> None:
    """aiokafka gives up all that it fetched with such a one, and the broker takes it from anybody who may write."""
    await send(topics, record(10), partition=1)
    await send(topics, record(1), record(2))
    producer = AIOKafkaProducer(bootstrap_servers=topics.broker.plaintext)
    await producer.start()
    try:
        for name in ("good", "evil", "evil", "good"):
            batch = producer.create_batch()
            batch.append(timestamp=None, key=b"somebody", value=record(3), headers=[(name, b"")])
            batch.close()
            content = batch._buffer = bytearray(batch._build().replace(b"evil", b"\xff\xff\xff\xff"))
            content[17:21] = calc_crc32c(bytes(content[21:])).to_bytes(4)  # the batch's checksum, of what follows it
            await (await producer.send_batch(batch, topics.audit, partition=0))
    finally:
        await producer.stop()
    await send(topics, record(4))
    code, out, errors = await printed(topics.config())
    assert code == 1
    assert sorted(json.loads(line)["seq"] for line in out.splitlines()) == [1, 2, 3, 4, 10]
    assert errors.splitlines() == [f"{topics.audit}/0:{offset}: no record of the audit" for offset in (3, 4)]


async def test_who_leaves_a_transaction_open_hides_nothing_and_its_end_is_no_reason_to_wait(topics: Topics) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=topics.broker.plaintext, transactional_id=topics.prefix)
    await producer.start()
    try:
        await producer.begin_transaction()
        await producer.send_and_wait(topics.audit, record(1), partition=0)
        await send(topics, record(2))
        assert (await printed(topics.config()))[1].encode() == record(1) + b"\n" + record(2) + b"\n"
        await producer.abort_transaction()
    finally:
        await producer.stop()
    assert (await printed(topics.config()))[:2] == (0, f"{record(1).decode()}\n{record(2).decode()}\n")


async def test_it_ends_where_the_topic_ended_though_records_come_without_a_pause(topics: Topics) -> None:
    await send(topics, record(0))
    found = []
    async for delivered in Consumer(topics.config()).read(follow=False):
        found.append(delivered)
        assert len(found) < 10
        await send(topics, record(len(found)))


async def test_what_retention_dropped_is_no_reason_to_wait(topics: Topics) -> None:
    await send(topics, *(record(number) for number in range(5)))
    await topics.broker.drop_records(topics.audit, 3)
    code, out, _ = await printed(topics.config())
    assert (code, out.encode()) == (0, record(3) + b"\n" + record(4) + b"\n")


@pytest.mark.parametrize("lost", ["by retention", "with the topic"])
async def test_what_is_lost_while_it_is_read_is_said(topics: Topics, lost: str) -> None:
    await send(topics, *(record(number, filler="x" * 600_000) for number in range(8)))  # several fetches
    found: list[Delivered] = []

    async def read() -> None:
        async for delivered in Consumer(topics.config()).read(follow=False):
            assert delivered is not None
            found.append(delivered)
            if len(found) > 1:
                continue
            if lost == "by retention":
                await topics.broker.drop_records(topics.audit, 7)
            else:
                await topics.remake()
                await send(topics, record(100))

    async with asyncio.timeout(20):
        if lost == "by retention":
            await read()
            assert json.loads(found[-1].record)["seq"] == 7
            (place,) = [each.place for each in found if each.fault == consumer_module.DROPPED]
            assert place in {f"{topics.audit}/0:{offset}" for offset in range(1, 7)}
        else:
            with pytest.raises(TopicUnreadableError):
                await read()
            assert not any(each.fault for each in found)


async def test_a_topic_made_anew_is_read_from_its_beginning_though_it_is_longer_than_what_was_read(
    topics: Topics,
) -> None:
    await send(topics, *(record(number) for number in range(3)))
    consumer = Consumer(topics.config())
    assert len([each async for each in consumer.read(follow=False)]) == 3
    await topics.remake()
    await send(topics, *(record(number) for number in range(2, 8)))
    with pytest.raises(TopicUnreadableError, match="made anew"):
        await anext(consumer.read(follow=False))
    found = [each.record async for each in consumer.read(follow=False) if each]
    assert found == [record(number) for number in range(3, 8)]


async def test_it_needs_to_read_its_topic_and_nothing_else(topics: Topics, tmp_path: Path) -> None:
    await send(topics, record(1))
    config = secured(topics, tmp_path, topics.broker.powerless)
    code, out, errors = await printed(config)
    assert (code, out) == (1, "")
    assert errors == f"{topics.audit}: topic {topics.audit} is not there, or this user may not see it\n"
    await allow_to_write(topics.broker.plaintext, "mallory", topics.audit)
    code, out, errors = await printed(config)
    assert (code, out) == (1, "")
    assert "does not let mallory read" in errors
    readable = Topics(topics.broker, f"{topics.prefix}-2")
    await readable.create()
    await send(readable, record(1))
    await allow_to_read(topics.broker.plaintext, "mallory", readable.audit)
    config = secured(readable, tmp_path, topics.broker.powerless)
    assert await printed(config) == (0, record(1).decode() + "\n", "")


@pytest.mark.parametrize("follow", [False, True], ids=["once", "following"])
async def test_a_broker_that_answers_and_sends_nothing_is_not_waited_for_for_ever(
    topics: Topics, monkeypatch: pytest.MonkeyPatch, follow: bool
) -> None:
    """Seen of aiokafka after a broker's crash, and not to be had at will: here its consumer fetches nothing."""

    async def nothing(*_: Any, **__: Any) -> dict[Any, Any]:
        await asyncio.sleep(0.01)
        return {}

    monkeypatch.setattr(consumer_module, "_STUCK_SECONDS", 0.2)
    monkeypatch.setattr(AIOKafkaConsumer, "getmany", nothing)
    await send(topics, record(1))
    async with aclosing(Consumer(topics.config()).read(follow=follow)) as messages:
        with pytest.raises(TopicUnreadableError, match="does not come"):
            assert [each async for each in messages] == []


async def test_what_is_in_the_way_is_said(topics: Topics, tmp_path: Path) -> None:
    user = topics.broker.scram
    missing = topics.config(topic_prefix="elsewhere")
    unreadable = secured(topics, tmp_path, user).model_copy(update={"password_file": tmp_path / "none"})
    foreign = secured(topics, tmp_path, user, ca_file=topics.broker.foreign_ca)
    for config, said in (
        (topics.config(bootstrap_servers="127.0.0.1:1"), "no broker can be reached"),
        (missing, "topic elsewhere.secrets.audit is not there, or this user may not see it"),
        (unreadable, "FileNotFoundError"),
        (foreign, "certificate is refused"),
        (secured(topics, tmp_path, user, "wrong-canary"), "does not take the password of alice"),
    ):
        code, out, errors = await printed(config)
        assert (code, out) == (1, "")
        assert said in errors
        assert len(errors.splitlines()) == 1
        assert "canary" not in errors


class Refusing(io.StringIO):
    """Takes nothing."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error

    def write(self, _text: str) -> int:
        raise self._error


@pytest.mark.parametrize("follow", [False, True])
async def test_what_cannot_be_printed_ends_it_and_is_said(topics: Topics, follow: bool) -> None:
    """A full disk is not tried again: the records in between would be missing, and nobody told."""
    await send(topics, b"canary", record(1))
    gone, full = Refusing(BrokenPipeError()), Refusing(OSError(errno.ENOSPC, "said by nobody"))
    errors = io.StringIO()
    async with asyncio.timeout(20):
        assert await commands._cat(Consumer(topics.config()), None, full, errors, follow=follow) == 1
        assert errors.getvalue().splitlines()[1:] == ["cannot be printed: No space left on device"]
        with pytest.raises(BrokenPipeError):  # nobody hears of the fault, so that it must not look well
            await commands._cat(Consumer(topics.config()), None, io.StringIO(), gone, follow=follow)


@pytest.fixture
def _heeding_interrupts() -> Iterator[None]:
    """A shell has what it starts in the background ignore SIGINT, and what that starts."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_heeding_interrupts")
async def test_as_a_command_it_ends_as_it_should(topics: Topics, tmp_path: Path) -> None:
    tree = minimal(tmp_path)
    with_(tree, "audit.kafka", {"bootstrap_servers": topics.broker.plaintext, "topic_prefix": topics.prefix})
    (tmp_path / "sidecar.yaml").write_text(yaml.safe_dump(tree))
    await send(topics, *(record(number, filler="x" * 1_000) for number in range(400)))  # more than a pipe holds

    def command(out: Any, *words: str) -> subprocess.Popen[bytes]:
        words = ("-m", "sidecar", "audit", "cat", "--kafka", "--config", str(tmp_path / "sidecar.yaml"), *words)
        buffered = {"PATH": os.environ["PATH"]}  # without PYTHONUNBUFFERED
        return subprocess.Popen([sys.executable, *words], stdout=out, stderr=subprocess.PIPE, env=buffered)

    def line(process: subprocess.Popen[bytes]) -> bytes:
        assert process.stdout is not None
        return process.stdout.readline()

    with Path("/dev/full").open("wb") as full, command(full) as process:
        errors = (await asyncio.to_thread(process.communicate))[1]
    assert (process.returncode, errors) == (1, b"cannot be printed: No space left on device\n")
    with command(subprocess.PIPE) as process:  # as `| head -1`
        assert await asyncio.to_thread(line, process) == record(0, filler="x" * 1_000) + b"\n"
        assert process.stdout is not None
        process.stdout.close()
        assert await asyncio.to_thread(process.stderr.read) == b""  # type: ignore[union-attr]
    assert process.returncode == 0
    for words, code in ((), 1), (("--follow",), 0):
        with command(subprocess.PIPE, *words) as process:
            assert await asyncio.to_thread(line, process)
            if words:
                for _ in range(399):
                    assert await asyncio.to_thread(line, process)
                await send(topics, record(400))  # shown at once, as small as it is
                assert await asyncio.to_thread(line, process) == record(400) + b"\n"
            process.send_signal(signal.SIGINT)
            errors = (await asyncio.to_thread(process.communicate))[1]
        assert (process.returncode, errors) == (code, b""), words


async def test_what_was_handed_out_is_not_read_again_after_an_error(topics: Topics) -> None:
    await send(topics, *(record(number) for number in range(3)))
    consumer = Consumer(topics.config())
    found: list[Delivered | None] = []
    for _ in range(2):
        async with aclosing(consumer.read(follow=False)) as messages:
            async for delivered in messages:
                found.append(delivered)
                if len(found) == 2:
                    break
    assert [each.record for each in found if each] == [record(0), record(1), record(2)]
    assert consumer.repeats.dropped == 0
