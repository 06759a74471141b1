"""Access taken back, on the whole chain: by the operations listener, a signal, a change of policies, and by Kafka in
every sidecar at once."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import requests
from aiokafka import AIOKafkaProducer

from tests.real.kafka import KafkaBroker
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.scripted_pdp import DENY, PERMIT, ScriptedAuthzen
from tests.support.tokens import Issuer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.real

PATH, OTHER = "/v1/secret/data/app/db", "/v1/secret/data/app/api"
PREFIX, TOPIC = "revoking", "revoking.revocations"
WITHIN_SECONDS = 1.0
PATIENCE_SECONDS = 30.0
_FETCH_SECONDS = 0.5  # a broker answers a fetch after so long where nothing comes (`fetch.max.wait.ms`)


@pytest.fixture(scope="module")
def pdp() -> Iterator[ScriptedAuthzen]:
    with ScriptedAuthzen() as server:
        yield server


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory,
    openbao: OpenBao,
    issuer: Issuer,
    kafka: KafkaBroker,
    pdp: ScriptedAuthzen,
) -> Iterator[list[SidecarProcess]]:
    """Two sidecars that read the same topic."""
    asyncio.run(kafka.create_topics(f"{PREFIX}.secrets.audit", TOPIC, partitions=1))
    overrides = {
        "identity": {"binding": "preferred"},
        "anti_replay": {"unbound_token": "off"},
        "authorization": {"pdp": "authzen", "authzen": {"url": pdp.url, "timeout_ms": 2000}},
        "grants": {"default_max_uses": 1000000, "default_ttl_seconds": 3000, "negative_ttl_seconds": 300},
        "audit": {"kafka": {"bootstrap_servers": kafka.plaintext, "topic_prefix": PREFIX}},
        "revocations": {"topic": TOPIC, "max_silence_seconds": 5},
    }
    folder = tmp_path_factory.mktemp("pair")
    with (
        SidecarProcess(folder / "one", openbao, issuer, overrides) as one,
        SidecarProcess(folder / "two", openbao, issuer, overrides) as two,
    ):
        for each in (one, two):  # each says so in its record when it reads from the topic's end on
            wait_until(partial(revoked, each), seconds=PATIENCE_SECONDS)
        yield [one, two]


def grants(sidecar: SidecarProcess) -> set[str]:
    shown = requests.get(f"http://127.0.0.1:{sidecar.ops_port}/debug/grants", timeout=5).json()["grants"]
    return {grant["subject"]["sub"] if isinstance(grant.get("subject"), dict) else grant["subject"] for grant in shown}


def lacks(sidecar: SidecarProcess, subject: str) -> bool:
    return subject not in grants(sidecar)


def warns(url: str) -> bool:
    return "no revocations" in requests.get(url, timeout=5).text


def revoked(sidecar: SidecarProcess) -> list[dict[str, Any]]:
    return [record for record in sidecar.records() if record["event"] == "GRANTS_REVOKED"]


def malformed(sidecar: SidecarProcess) -> float:
    (found,) = re.findall(r"^sidecar_revocations_malformed_total (.*)$", sidecar.metrics(), re.MULTILINE)
    return float(found)


def read(sidecar: SidecarProcess, subject: str, path: str = PATH) -> int:
    return sidecar.get(path, sidecar.issuer.token(sub=subject)).status_code


def revalidate(sidecar: SidecarProcess, body: Any, **headers: str) -> requests.Response:
    return requests.post(f"http://127.0.0.1:{sidecar.ops_port}/revalidate", json=body, headers=headers, timeout=5)


async def send(kafka: KafkaBroker, *messages: Any, partition: int = 0) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.plaintext)
    await producer.start()
    try:
        for message in messages:
            value = message if isinstance(message, bytes) else json.dumps(message).encode()
            await producer.send_and_wait(TOPIC, value, partition=partition)
    finally:
        await producer.stop()


# -- by the operations listener, a signal, a policy ------------------------------------------------------------------
def test_revalidate_ends_what_it_names_has_its_record_and_the_pdp_is_asked_anew(
    pair: list[SidecarProcess], pdp: ScriptedAuthzen
) -> None:
    one = pair[0]
    for subject in ("a", "b"):
        assert (read(one, subject), read(one, subject, OTHER)) == (200, 200)
    before = len(revoked(one))
    pdp.by_subject["a"] = DENY
    answer = revalidate(one, {"subject": "a", "uri_prefix": "openbao+kv2://secret/app/db"})
    assert (answer.status_code, answer.json()) == (200, {"grants_ended": 1})
    assert (read(one, "a"), read(one, "a", OTHER), read(one, "b")) == (403, 200, 200)
    pdp.by_subject["a"] = PERMIT
    assert read(one, "a") == 403  # the denial is remembered …
    assert revalidate(one, {"subject": "a", "issuer": "https://idp.example"}).json() == {"grants_ended": 1}
    assert read(one, "a") == 200  # … and forgotten
    first, second = revoked(one)[before:]
    assert (first["source"], first["grants_ended"]) == ("ops", 1)
    (shown,) = first["revocations"]
    assert shown == {"subject": "a", "prefix_ref": shown["prefix_ref"]}
    assert shown["prefix_ref"] in {record.get("resource_ref") for record in one.records()}
    assert second["revocations"] == [{"subject": "a", "issuer": "https://idp.example"}]
    assert b"app/db" not in one.spool_bytes()
    assert one.verify() == 0


@pytest.mark.parametrize(
    "body", [{}, [], {"all": False}, {"subject": 1}, {"uri_prefix": "/v1/secret"}, {"everyone": True}]
)
def test_revalidate_says_what_is_wrong_and_ends_nothing(pair: list[SidecarProcess], body: Any) -> None:
    assert read(pair[0], "kept") == 200
    assert revalidate(pair[0], body).status_code == 400
    assert "kept" in grants(pair[0])


def test_a_signal_ends_all_grants_once(pair: list[SidecarProcess]) -> None:
    one = pair[0]
    assert read(one, "a") == 200
    before = len(revoked(one))
    assert one.process is not None
    one.process.send_signal(signal.SIGHUP)
    wait_until(lambda: not grants(one), seconds=PATIENCE_SECONDS)
    wait_until(lambda: len(revoked(one)) > before, seconds=PATIENCE_SECONDS)
    wait_until(lambda: '"reloaded"' in one.log_tail(), seconds=PATIENCE_SECONDS)
    assert [record["source"] for record in revoked(one)[before:]] == ["signal"]


def test_a_change_of_policies_ends_all_grants_once_by_itself_and_by_a_signal(
    tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer
) -> None:
    with SidecarProcess(
        tmp_path_factory.mktemp("cedar"), openbao, issuer, {"identity": {"binding": "preferred"}}
    ) as one:
        assert read(one, "bulk") == 200
        policies = one.policies / "policies.cedar"
        policies.write_text(policies.read_text().replace('"bulk"', '"nobody"'))
        wait_until(lambda: revoked(one), seconds=PATIENCE_SECONDS)
        assert read(one, "bulk") == 403
        policies.write_text(policies.read_text().replace('"nobody"', '"bulk"'))
        assert one.process is not None
        one.process.send_signal(signal.SIGHUP)
        wait_until(lambda: '"reloaded"' in one.log_tail(), seconds=PATIENCE_SECONDS)
        assert read(one, "bulk") == 200
        assert [record["source"] for record in revoked(one)] == ["policy", "policy"]


# -- by Kafka ---------------------------------------------------------------------------------------------------------
async def test_a_revocation_reaches_every_sidecar_within_a_second(
    pair: list[SidecarProcess], kafka: KafkaBroker, pdp: ScriptedAuthzen
) -> None:
    def everywhere(subject: str) -> bool:
        return any(subject in grants(each) for each in pair)

    for round_number in range(5):
        gone, kept = f"gone{round_number}", f"kept{round_number}"
        for each in pair:
            for subject in (gone, kept):
                assert await asyncio.to_thread(read, each, subject) == 200
        await send(kafka, {"subject": gone})
        sent = time.monotonic()
        while everywhere(gone):
            assert time.monotonic() - sent < PATIENCE_SECONDS
            await asyncio.sleep(0.01)
        assert time.monotonic() - sent < WITHIN_SECONDS
        assert all(kept in grants(each) for each in pair)


MALFORMED = [
    b"",
    b"not JSON",
    b"[]",
    b"{}",
    b'{"subject":"x","subject":"y"}',
    b'{"all":false}',
    b'{"subject":"\xff"}',
    b" " * 70_000,
]


@pytest.mark.parametrize("message", MALFORMED, ids=lambda message: message[:20].decode("latin-1"))
async def test_a_message_that_is_no_revocation_takes_everything_away_and_is_counted(
    pair: list[SidecarProcess], kafka: KafkaBroker, message: bytes
) -> None:
    for each in pair:
        assert await asyncio.to_thread(read, each, "m") == 200
    counted = [malformed(each) for each in pair]
    await send(kafka, message)
    for each, before in zip(pair, counted, strict=True):
        await asyncio.to_thread(wait_until, partial(lacks, each, "m"), seconds=PATIENCE_SECONDS)
        assert malformed(each) == before + 1


async def test_what_is_revoked_while_a_sidecar_cannot_read_is_read_after_and_the_silence_is_said(
    pair: list[SidecarProcess], kafka: KafkaBroker
) -> None:
    for each in pair:
        for subject in ("away", "stays"):
            assert await asyncio.to_thread(read, each, subject) == 200
    kafka.kill()
    try:
        for each in pair:
            url = f"http://127.0.0.1:{each.ops_port}/readyz"
            await asyncio.to_thread(wait_until, partial(warns, url), seconds=PATIENCE_SECONDS)
            assert requests.get(url, timeout=5).status_code == 200  # a warning: its grants live out their ttl
            assert await asyncio.to_thread(read, each, "away") == 200
    finally:
        kafka.start()  # not in a thread: what it starts ends with the thread that started it
    await send(kafka, {"subject": "away"})
    for each in pair:
        await asyncio.to_thread(wait_until, partial(lacks, each, "away"), seconds=PATIENCE_SECONDS)
        assert "stays" in grants(each)  # it went on from where it was: nothing was lost, and nothing else ended


async def test_a_partition_that_was_added_is_read_and_messages_that_retention_took_end_all_grants(
    pair: list[SidecarProcess], kafka: KafkaBroker
) -> None:
    await kafka.add_partitions(TOPIC, 2)
    for each in pair:
        assert await asyncio.to_thread(read, each, "added") == 200
    await send(kafka, {"subject": "added"}, partition=1)
    for each in pair:
        await asyncio.to_thread(wait_until, partial(lacks, each, "added"), seconds=PATIENCE_SECONDS)

    # One sleeps while messages come and go: what they said is lost to it. Now and then a fetch is under way as it falls
    # asleep, and brings them when it wakes: once more, then.
    sleeper = pair[1]
    for _ in range(5):
        assert await asyncio.to_thread(read, sleeper, "sleeper") == 200
        assert sleeper.process is not None
        sleeper.process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(_FETCH_SECONDS * 2)
            await send(kafka, {"subject": "nobody"}, {"subject": "sleeper"})
            await kafka.drop_records(TOPIC, -1, -1)
        finally:
            sleeper.process.send_signal(signal.SIGCONT)
        await asyncio.to_thread(wait_until, lambda: "sleeper" not in grants(sleeper), seconds=PATIENCE_SECONDS)
        ended = revoked(sleeper)[-1]["revocations"]
        if ended == [{"all": True}]:
            break
        assert ended == [{"subject": "nobody"}, {"subject": "sleeper"}]
    else:
        pytest.fail("messages that were removed are always read")


async def test_a_topic_that_was_deleted_and_made_anew_ends_all_grants_however_full_it_is(
    pair: list[SidecarProcess], kafka: KafkaBroker
) -> None:
    """By its offsets the new topic could be the old one: messages before them would never be read."""
    for each in pair:
        assert await asyncio.to_thread(read, each, "anew") == 200
    await kafka.delete_topics(TOPIC)
    for each in pair:
        await asyncio.to_thread(
            wait_until, partial(warns, f"http://127.0.0.1:{each.ops_port}/readyz"), seconds=PATIENCE_SECONDS
        )
    await kafka.create_topics(TOPIC)
    for partition in (0, 1):
        await send(kafka, {"subject": "anew"}, *[{"subject": "nobody"}] * 60, partition=partition)
    for each in pair:
        await asyncio.to_thread(wait_until, partial(lacks, each, "anew"), seconds=PATIENCE_SECONDS)
