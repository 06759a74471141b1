"""THREATS, group AUDIT, as far as the journal and its way to Kafka meet them."""

from __future__ import annotations

import asyncio
import base64
import errno
import hmac
import io
import logging
import os
import random
import resource
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import requests
import structlog
from aiokafka.structs import RecordMetadata

from sidecar.audit import journal as journal_module
from sidecar.audit import kafka_producer, packing, position, writer
from sidecar.audit.chain import link
from sidecar.audit.commands import cat
from sidecar.audit.framing import frame, unframe
from sidecar.audit.journal import MAX_RECORD_BYTES, Journal, JournalError
from sidecar.audit.kafka_producer import Producer
from sidecar.audit.messages import Outgoing
from sidecar.audit.reader import read_all
from sidecar.audit.record import Event, Record, ResourceRefs
from sidecar.audit.stamping import STAMPED, Tip, body
from sidecar.config import Config, ConfigError, load, split_address
from sidecar.config.checks import is_loopback
from sidecar.errors import Code, Refused
from sidecar.surface.secret_uri import SecretUri
from tests.audit.chains import chained
from tests.audit.disks import read_only, small_disk
from tests.audit.keys import Keys
from tests.audit.killing import killed_writer
from tests.audit.spools import (
    append_until_refused,
    events,
    journal_in,
    names,
    opened,
    permit,
    records,
    segments,
    verified,
)
from tests.audit.topics import Topics, caught_up, secured, shipping
from tests.chaos.network import Network
from tests.real.kafka import KafkaBroker
from tests.real.kafka_users import allow_to_write
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.clock import FakeClock
from tests.support.tokens import Issuer
from tests.support.waiting import until

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ROUNDS = 8
PATH = "/v1/secret/data/app/db"


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed segments are compressed without waiting."""
    monkeypatch.setattr(packing, "_SETTLE_SECONDS", 0.0)


@pytest.fixture
def topics(kafka: KafkaBroker, request: pytest.FixtureRequest) -> Topics:
    return Topics(kafka, request.node.name)


async def refused_by(journal: Journal, name: str) -> None:
    with pytest.raises(Refused) as refused:
        await journal.append(permit(name))
    assert refused.value.code is Code.AUDIT_UNAVAILABLE


# -- 01: crash between release and record; between forward and outcome --------------------
async def test_audit_01_every_record_acknowledged_before_a_kill_9_is_there_in_order(spool: Path) -> None:
    chance = random.Random(8)
    told: list[str] = []
    for run in range(ROUNDS):
        acknowledged = killed_writer(spool, run, chance)
        assert acknowledged
        told += acknowledged
    async with journal_in(spool):
        pass
    found = names(spool)
    assert set(told) <= set(found)
    assert len(found) == len(set(found))
    places = {name: place for place, name in enumerate(found)}
    for run in range(ROUNDS):  # a caller's own records stand in the order in which it wrote them
        mine = [name for name in told if name.startswith(f"{run}-1-")]
        assert [places[name] for name in mine] == sorted(places[name] for name in mine)
    assert events(spool).count("AUDIT_START") == ROUNDS + 1
    code, said = verified(spool)
    assert code == 0, said
    assert said.count("a crash") == ROUNDS


@pytest.mark.real
async def test_audit_01_every_secret_that_reached_a_client_has_its_record_after_kill_9(
    tmp_path: Path, openbao: OpenBao, issuer: Issuer
) -> None:
    process = SidecarProcess(tmp_path, openbao, issuer, {"identity": {"binding": "preferred"}})
    received: set[str] = set()
    try:
        for round_number in range(3):
            process.start()
            token = issuer.token(sub="endless")
            stop = asyncio.Event()

            async def reader(
                number: int, token: str = token, stop: asyncio.Event = stop, round_number: int = round_number
            ) -> None:
                async with aiohttp.ClientSession() as session:
                    count = 0
                    while not stop.is_set():
                        correlation = f"reader-{round_number}-{number}-{count}"
                        headers = {"X-Vault-Token": token, "X-Correlation-ID": correlation}
                        try:
                            async with session.get(process.url + PATH, headers=headers) as answer:
                                # The first byte of the secret counts, whatever becomes of the rest.
                                if answer.status == 200 and await answer.content.readany():
                                    received.add(correlation)
                        except aiohttp.ClientError:
                            return
                        count += 1

            readers = [asyncio.create_task(reader(number)) for number in range(8)]
            goal = len(received) + 300
            while len(received) < goal:
                await asyncio.sleep(0.01)
                assert not all(task.done() for task in readers), process.log_tail()
            process.kill()
            stop.set()
            await asyncio.gather(*readers)
        process.start()
        assert process.terminate() == 0
        recorded = {record["correlation_id"] for record in process.records() if record["event"] == "SECRET_PERMIT"}
        assert len(received) >= 900
        assert received <= recorded
        assert process.verify() == 0
    finally:
        process.kill()


@pytest.mark.real
def test_audit_01_a_mutation_that_a_kill_9_cut_off_stands_there_as_an_intent_without_an_outcome(
    tmp_path: Path, issuer: Issuer
) -> None:
    """Whether it was carried out cannot be known; that it may have been must be."""
    with OpenBao(tmp_path / "openbao", persistent=False) as openbao:
        openbao.put("app/db", {"a": "1"})
        overrides = {"identity": {"binding": "preferred"}, "anti_replay": {"unbound_token": "off"}}
        process = SidecarProcess(tmp_path / "sidecar", openbao, issuer, overrides)
        process.start()
        try:
            assert process.get(PATH, issuer.token(sub="endless")).status_code == 200
            openbao.pause()

            def write() -> None:
                headers = {"X-Vault-Token": issuer.token(sub="endless"), "X-Correlation-ID": "cut-off-write"}
                with pytest.raises(requests.ConnectionError):
                    requests.post(process.url + PATH, json={"data": {"a": "2"}}, headers=headers, timeout=60)

            with ThreadPoolExecutor(1) as crowd:
                cut = crowd.submit(write)
                while not any(record.get("phase") == "intent" for record in process.records()):
                    assert not cut.done()
                    time.sleep(0.02)
                process.kill()
                cut.result()
            openbao.resume()
            process.start()
            assert process.terminate() == 0
        finally:
            process.kill()
            openbao.resume()
    (intent,) = [record for record in process.records() if record.get("correlation_id") == "cut-off-write"]
    assert (intent["event"], intent["phase"], intent["upstream"]) == ("SECRET_PERMIT", "intent", None)
    assert process.records()[-2]["previous_run"] == "crashed"
    assert process.verify() == 0


# -- 02: disk full, slow, read-only; inode full; files deleted, truncated, replaced --------------------
async def test_audit_02_a_full_disk_releases_nothing_and_is_left_without_a_restart(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        async with journal_in(disk.path / "spool") as journal:
            disk.fill()
            await append_until_refused(journal)  # the last page still takes a few
            with pytest.raises(Refused) as refused:
                await journal.append(permit("never"))
            assert refused.value.code is Code.AUDIT_UNAVAILABLE
            assert not journal.status().healthy
            disk.free()
            await journal.append(permit("after"))
            assert journal.status().healthy
        assert "never" not in names(disk.path / "spool")


async def test_audit_02_on_a_slow_disk_callers_wait_share_what_they_wait_for_and_none_is_refused(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let, entered, real = threading.Semaphore(0), threading.Event(), os.fdatasync

    def slow(descriptor: int) -> None:
        entered.set()
        assert let.acquire(timeout=30)
        real(descriptor)

    async with journal_in(spool) as journal:
        before = journal.status().batches
        monkeypatch.setattr(os, "fdatasync", slow)
        first = asyncio.ensure_future(journal.append(permit("first")))
        await until(entered.is_set, "the disk to be asked")
        others = [asyncio.ensure_future(journal.append(permit(str(n)))) for n in range(50)]
        await asyncio.sleep(0.05)
        assert not any(one.done() for one in (first, *others))
        assert journal.status().healthy
        let.release()
        await first
        assert not any(one.done() for one in others)
        let.release()
        await asyncio.gather(*others)
        assert journal.status().batches == before + 2
        let.release(10)
    assert names(spool) == ["first", *map(str, range(50))]


async def test_audit_02_a_disk_that_hangs_is_refused_after_a_while_and_taken_again_when_it_answers(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_STALL_SECONDS", 0.2)
    answers = threading.Event()
    real = os.fdatasync

    def hangs(descriptor: int) -> None:
        assert answers.wait(30)
        real(descriptor)

    async with journal_in(spool) as journal:
        monkeypatch.setattr(os, "fdatasync", hangs)
        gone = asyncio.ensure_future(journal.append(permit("gone")))
        await asyncio.sleep(0)
        gone.cancel()
        async with asyncio.timeout(5):
            await refused_by(journal, "hung")
        assert not journal.status().healthy
        assert "answer" in journal.status().message
        await refused_by(journal, "at once")
        answers.set()
        async with asyncio.timeout(5):
            while not journal.status().healthy:
                await asyncio.sleep(0.01)
        await journal.append(permit("after"))
    # A record of what was not done harms nobody; the other way round it would.
    assert names(spool) == ["gone", "hung", "after"]


async def test_audit_02_without_a_free_inode_the_last_segment_goes_on(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=4m,nr_inodes=8") as disk:
        spool = disk.path / "spool"
        async with journal_in(spool, segment_bytes=2_000) as journal:
            for n in range(40):
                await journal.append(permit(str(n)))
            assert journal.status().healthy
        assert names(spool) == [str(n) for n in range(40)]
        assert verified(spool)[0] == 0


async def test_audit_02_without_a_free_inode_segments_stay_plain_and_without_any_the_start_is_refused(
    tmp_path: Path, at_once: None
) -> None:
    with small_disk(tmp_path / "disk", "size=4m,nr_inodes=16") as disk:
        if not disk.mounted:
            pytest.fail("a tmpfs with few inodes can only be mounted by root")
        spool = disk.path / "spool"
        async with journal_in(spool, segment_bytes=2_000) as journal:
            for n in range(200):
                await journal.append(permit(str(n)))
            assert journal.status().healthy
        assert names(spool) == [str(n) for n in range(200)]
        assert verified(spool)[0] == 0
        for n in range(16):
            with suppress(OSError):
                (disk.path / str(n)).touch()
        with pytest.raises(JournalError, match="No space left"):
            await opened(disk.path / "another")


async def test_audit_02_a_disk_that_becomes_read_only_under_us_is_refused_and_left_without_a_restart(
    spool: Path, monkeypatch: pytest.MonkeyPatch, at_once: None
) -> None:
    """As the kernel makes one after an error (`errors=remount-ro`), files that are open included. A mount with open
    files cannot be made so by hand, so the system calls that would fail fail here."""

    def fails(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(writer, "PROBE_SECONDS", 0.02)
    real, writing = os.open, os.O_WRONLY | os.O_RDWR

    def opens(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & writing:
            fails()
        return real(path, flags, *arguments, **options)

    async with journal_in(spool, segment_bytes=2_000) as journal:
        for n in range(30):
            await journal.append(permit(str(n)))
        with monkeypatch.context() as broken:
            for name in ("write", "ftruncate", "fdatasync", "rename", "unlink"):
                broken.setattr(os, name, fails)
            broken.setattr(os, "open", opens)
            for _ in range(3):
                with pytest.raises(Refused) as refused:
                    await journal.append(permit("never"))
                assert refused.value.code is Code.AUDIT_UNAVAILABLE
            assert "Read-only" in journal.status().message
        await until(lambda: journal.status().healthy, "the disk to be found well again")
        await journal.append(permit("after"))
    assert names(spool) == [*map(str, range(30)), "after"]
    assert verified(spool)[0] == 0


@pytest.mark.parametrize("seed", range(4))
async def test_audit_02_a_disk_that_fills_up_at_any_moment_loses_nothing_and_leaves_a_whole_signed_chain(
    tmp_path: Path, at_once: None, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """While records, checkpoints, new segments, compressed ones and truncations are written, in any order."""
    monkeypatch.setattr(writer, "PROBE_SECONDS", 0.005)
    monkeypatch.setattr(packing, "_RETRY_SECONDS", 0.005)
    chance, keys, acknowledged = random.Random(seed), Keys(tmp_path), list[str]()
    with small_disk(tmp_path / "disk") as disk:
        spool = disk.path / "spool"
        for _ in range(4):
            options = {"segment_bytes": 3_000, "retention_bytes": 60_000, "checkpoints": keys.checkpoints(every=10)}
            async with journal_in(spool, **options) as journal:
                for _ in range(60):
                    name = f"{seed}-{len(acknowledged)}-{chance.random()}"
                    match chance.randrange(12):
                        case 0:
                            disk.fill()
                        case 1 | 2:
                            disk.free()
                        case 3:
                            await asyncio.sleep(0.01)
                    with suppress(Refused):
                        await journal.append_many([permit(name, filler="x" * chance.randrange(1, 3_000))])
                        acknowledged.append(name)
                disk.free()
        assert len(acknowledged) > 60
        kept = [name for name in names(spool) if name in set(acknowledged)]
        assert kept == acknowledged[len(acknowledged) - len(kept) :], "the oldest were dropped, and no other"
        code, said = verified(spool, checkpoint_keys=[keys.public])
        assert code == 0, said


async def test_audit_02_kill_9_while_old_segments_are_dropped_leaves_a_whole_chain(spool: Path) -> None:
    chance, told = random.Random(2), list[str]()
    for run in range(4):
        told += killed_writer(spool, run, chance, segment_bytes=20_000, retention_bytes=100_000, at_least=2_000)
    async with journal_in(spool):
        pass
    kept = names(spool)
    assert "AUDIT_TRUNCATED" in events(spool)
    code, said = verified(spool)
    assert code == 0, said
    for caller in range(0, 32, 5):  # of each caller's records the oldest are gone, and no other
        for run in range(4):
            mine = [name for name in told if name.startswith(f"{run}-{caller}-")]
            left = [name for name in kept if name in set(mine)]
            assert left == mine[len(mine) - len(left) :]


async def test_audit_02_a_clock_set_back_and_forth_breaks_no_chain(spool: Path, tmp_path: Path) -> None:
    clock, keys = FakeClock(1_700_000_000.0), Keys(tmp_path)
    async with journal_in(
        spool, clock=clock, checkpoints=keys.checkpoints(clock=clock), segment_bytes=2_000
    ) as journal:
        for n, wall in enumerate((1_700_000_000.0, 1_600_000_000.5, 0.0, 4_000_000_000.0, 1_700_000_001.0)):
            clock.set_wall(wall)
            await journal.append_many([permit(f"{n}-{part}") for part in range(7)])
        clock.set_wall(-1.0)
        await journal.append(permit("before 1970"))
        clock.set_wall(1e12)
        with suppress(Refused):
            await journal.append(permit("beyond year 9999"))
        clock.set_wall(1_700_000_002.0)
        await journal.append(permit("after"))
    assert names(spool)[-1] == "after"
    assert len({record["event_id"] for record in records(spool)}) == len(records(spool))
    assert verified(spool, checkpoint_keys=[keys.public])[0] == 0


async def test_audit_02_the_largest_records_are_taken_many_at_once_and_a_larger_one_is_refused(spool: Path) -> None:
    largest = "x" * (MAX_RECORD_BYTES - 200)
    async with journal_in(spool, segment_bytes=300_000) as journal:
        await journal.append_many([permit(str(n), filler=largest) for n in range(40)])
        with pytest.raises(Refused):
            await journal.append(permit("larger", filler="x" * MAX_RECORD_BYTES))
        await journal.append(permit("after"))
        assert journal.status().healthy
    assert names(spool) == [*map(str, range(40)), "after"]
    assert verified(spool)[0] == 0


@pytest.mark.parametrize("name", ["instance", "kafka.position", f"{1:020d}.segment", f"{9:020d}.segment.zst"])
async def test_audit_02_a_pipe_in_place_of_a_file_does_not_hold_up_the_start(spool: Path, name: str) -> None:
    """Opening one to read waits for a writer, for ever."""
    async with journal_in(spool):
        pass
    (spool / name).unlink(missing_ok=True)
    os.mkfifo(spool / name)
    async with asyncio.timeout(20):
        with suppress(JournalError):
            await (await opened(spool)).close()


@pytest.mark.parametrize("written", [0, 10])
async def test_audit_02_a_small_file_cut_in_its_middle_does_not_replace_the_whole_one(
    spool: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    spool.mkdir()
    kept = position.Position("i", 7, "0" * 64)
    position.store(spool, kept)
    monkeypatch.setattr(os, "write", lambda _descriptor, _content: written)
    with pytest.raises(OSError, match="No space"):
        position.store(spool, position.Position("i", 8, "1" * 64))
    assert position.load(spool) == kept


async def test_audit_02_a_read_only_disk_is_refused_at_the_start(tmp_path: Path) -> None:
    unwritable = r"Read-only file system|Permission denied|Operation not permitted"
    with read_only(tmp_path / "disk") as folder, pytest.raises(JournalError, match=unwritable):
        await opened(folder / "spool")


def deleted(segment: Path) -> None:
    segment.unlink()


def truncated(segment: Path) -> None:
    os.truncate(segment, 10)


def emptied_and_refilled_with_nothing(segment: Path) -> None:
    segment.write_bytes(bytes(segment.stat().st_size + 1))


def replaced_by_a_copy(segment: Path) -> None:
    copy = segment.with_name("copy")
    copy.write_bytes(segment.read_bytes())
    copy.rename(segment)


def replaced_by_a_symlink(segment: Path) -> None:
    segment.rename(segment.with_name("moved"))
    segment.symlink_to("moved")


def replaced_by_a_device(segment: Path) -> None:
    segment.unlink()
    segment.symlink_to("/dev/null")


def linked_to(segment: Path) -> None:
    segment.with_name("second-name").hardlink_to(segment)


def written_to(segment: Path) -> None:
    with segment.open("ab") as file:
        file.write(frame(b'{"forged":true}'))


def moved_with_its_folder(segment: Path) -> None:
    segment.parent.rename(segment.parent.with_name("elsewhere"))
    segment.parent.mkdir()


@pytest.mark.parametrize(
    "attack",
    [
        deleted,
        truncated,
        emptied_and_refilled_with_nothing,
        replaced_by_a_copy,
        replaced_by_a_symlink,
        replaced_by_a_device,
        linked_to,
        written_to,
        moved_with_its_folder,
    ],
)
async def test_audit_02_a_segment_changed_under_us_stops_every_release(
    spool: Path, attack: Callable[[Path], None]
) -> None:
    async with journal_in(spool) as journal:
        await journal.append(permit("before"))
        attack(segments(spool)[0])
        for _ in range(2):
            with pytest.raises(Refused) as refused:
                await journal.append(permit("never"))
            assert refused.value.code is Code.AUDIT_UNAVAILABLE
            assert str(spool) not in refused.value.message
        assert not journal.status().healthy


@pytest.mark.parametrize("attack", [deleted, truncated, written_to, replaced_by_a_symlink])
async def test_audit_02_a_closed_segment_changed_under_us_stops_every_release_within_a_second(
    spool: Path, attack: Callable[[Path], None]
) -> None:
    clock = FakeClock()
    async with journal_in(spool, segment_bytes=500, clock=clock) as journal:
        for _ in range(5):
            await journal.append(permit("before"))
        attack(segments(spool)[1])
        clock.advance(1)
        with pytest.raises(Refused) as refused:
            await journal.append(permit("never"))
        assert refused.value.code is Code.AUDIT_UNAVAILABLE
        assert not journal.status().healthy


async def test_audit_02_a_lock_taken_away_under_us_stops_every_release_within_a_second(spool: Path) -> None:
    """Else a second process could lock a new one, and write to the same spool."""
    clock = FakeClock()
    async with journal_in(spool, clock=clock) as journal:
        (spool / "lock").unlink()
        clock.advance(1)
        with pytest.raises(Refused):
            await journal.append(permit("never"))


@pytest.mark.parametrize("name", ["lock", "instance", "00000000000000000001.segment", "00000000000000000005.segment"])
async def test_audit_02_a_symlink_in_place_of_a_file_of_the_spool_is_not_followed(spool: Path, name: str) -> None:
    async with journal_in(spool):
        pass
    elsewhere = spool.parent / "elsewhere"
    elsewhere.write_bytes((spool / name).read_bytes() if (spool / name).exists() else b"")
    before = elsewhere.read_bytes()
    (spool / name).unlink(missing_ok=True)
    (spool / name).symlink_to(elsewhere)
    with pytest.raises(JournalError):
        await opened(spool)
    assert elsewhere.read_bytes() == before


@pytest.mark.parametrize("name", ["instance.new", "reserve"])
async def test_audit_02_a_symlink_where_a_draft_will_be_written_is_not_followed(spool: Path, name: str) -> None:
    spool.mkdir()
    elsewhere = spool.parent / "elsewhere"
    elsewhere.write_text("untouched")
    (spool / name).symlink_to(elsewhere)
    async with journal_in(spool) as journal:
        await journal.append(permit())
    assert elsewhere.read_text() == "untouched"
    assert not (spool / name).is_symlink()


async def compressed(spool: Path) -> list[Path]:
    """Leaves a spool of closed segments, compressed, and one plain; the compressed ones."""
    async with journal_in(spool, segment_bytes=2_000) as journal:
        for n in range(30):
            await journal.append(permit(str(n)))
        await until(lambda: len(list(spool.glob("*.segment"))) == 1, "closed segments to be compressed")
    return sorted(spool.glob("*.segment.zst"))


def twin_of(packed: Path) -> Path:
    return packed.with_suffix("")


@pytest.mark.parametrize("place", [0, 3, -1])
async def test_audit_02_an_empty_segment_planted_beside_a_compressed_one_deletes_no_record(
    spool: Path, at_once: None, place: int
) -> None:
    """Or left by a crash: the one that holds the records stays, and it is said that something stood there."""
    victim = (await compressed(spool))[place]
    content = victim.read_bytes()
    twin_of(victim).touch()
    async with journal_in(spool) as journal:
        assert victim.read_bytes() == content
        assert not twin_of(victim).exists()
        assert "damaged" in journal.status().warning
        await journal.append(permit("after"))
    assert names(spool) == [*map(str, range(30)), "after"]
    assert [record["damaged"] for record in records(spool) if record["event"] == "AUDIT_START"] == [False, True]
    assert verified(spool)[0] == 0


def a_forged_record(packed: Path) -> bytes:
    return frame(b'{"forged":true}')


def its_first_half(packed: Path) -> bytes:
    whole = zstd.decompress(packed.read_bytes())
    return whole[: len(whole) // 2]


def itself_and_more(packed: Path) -> bytes:
    return zstd.decompress(packed.read_bytes()) + frame(b'{"forged":true}')


@pytest.mark.parametrize("planted", [a_forged_record, its_first_half, itself_and_more])
async def test_audit_02_where_two_forms_of_a_segment_differ_the_start_is_refused_and_both_are_kept(
    spool: Path, at_once: None, planted: Callable[[Path], bytes]
) -> None:
    victim = (await compressed(spool))[1]
    twin_of(victim).write_bytes(planted(victim))
    before = {path: path.read_bytes() for path in segments(spool)}
    with pytest.raises(JournalError, match="differ") as refused:
        await opened(spool)
    assert str(victim) in str(refused.value)
    assert {path: path.read_bytes() for path in segments(spool)} == before
    twin_of(victim).unlink()
    async with journal_in(spool) as journal:
        await journal.append(permit("after"))
    assert names(spool) == [*map(str, range(30)), "after"]


async def planted_beside_a_plain_one(spool: Path, content: bytes) -> Path:
    """A compressed form where the second segment has none."""
    async with journal_in(spool, segment_bytes=2_000) as journal:
        for n in range(30):
            await journal.append(permit(str(n)))
    planted = segments(spool)[1].with_suffix(".segment.zst")
    planted.write_bytes(content)
    return planted


@pytest.mark.parametrize("content", [b"", zstd.compress(b"")], ids=["no-bytes", "no-content"])
async def test_audit_02_a_compressed_form_that_holds_nothing_is_removed_and_said(spool: Path, content: bytes) -> None:
    planted = await planted_beside_a_plain_one(spool, content)
    async with journal_in(spool) as journal:
        assert not planted.exists()
        assert "damaged" in journal.status().warning
    assert names(spool) == [str(n) for n in range(30)]
    assert verified(spool)[0] == 0


@pytest.mark.parametrize("content", [b"not zstd", zstd.compress(frame(b"{}")), zstd.compress(bytes(400_000_000))])
async def test_audit_02_a_compressed_form_that_holds_something_else_is_kept_and_the_start_refused(
    spool: Path, content: bytes
) -> None:
    """Nor does one that is a bomb fill the memory."""
    planted = await planted_beside_a_plain_one(spool, content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(JournalError, match="differ"):
        await opened(spool)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
    assert planted.read_bytes() == content
    planted.unlink()
    assert names(spool) == [str(n) for n in range(30)]
    assert verified(spool)[0] == 0


async def test_audit_02_a_symlink_as_the_other_form_of_a_segment_is_not_followed(spool: Path, at_once: None) -> None:
    victim = (await compressed(spool))[1]
    elsewhere = spool.parent / "elsewhere"
    elsewhere.touch()
    twin_of(victim).symlink_to(elsewhere)
    with pytest.raises(JournalError, match="plain file of its own"):
        await opened(spool)
    assert victim.exists()
    assert elsewhere.exists()


@pytest.mark.parametrize("cut", [lambda raw: raw[:-9], lambda raw: raw[:20], lambda raw: b""])
async def test_audit_02_where_the_last_segment_is_a_damaged_compressed_one_no_seq_is_given_twice(
    spool: Path, at_once: None, cut: Callable[[bytes], bytes]
) -> None:
    """Where its records end can no longer be known: going on would give a seq a second time."""
    victim = (await compressed(spool))[-1]
    victim.write_bytes(cut(victim.read_bytes()))
    (spool / f"{segments(spool)[-1].stem}.segment").unlink()
    with pytest.raises(JournalError, match="cannot go on"):
        await opened(spool)


@pytest.mark.parametrize("first_seq", [5, 31, 9_999])
async def test_audit_02_an_empty_segment_planted_at_another_place_is_not_gone_on_in(
    spool: Path, first_seq: int
) -> None:
    """Segments are read in the order of their names: what is written into a later one, and then into new ones, would
    be read in another order than it was written in."""
    async with journal_in(spool) as journal:
        for n in range(28):
            await journal.append(permit(str(n)))
    (spool / f"{first_seq:020d}.segment").touch()
    if first_seq == 31:  # that is where a crash leaves one
        async with journal_in(spool) as journal:
            await journal.append(permit("after"))
        assert verified(spool)[0] == 0
        return
    with pytest.raises(JournalError, match="cannot go on"):
        await opened(spool)


async def test_audit_02_a_copy_of_the_last_segment_under_a_later_name_is_not_gone_on_in(spool: Path) -> None:
    async with journal_in(spool) as journal:
        await journal.append(permit("one"))
    (spool / f"{9_999:020d}.segment").write_bytes(segments(spool)[0].read_bytes())
    with pytest.raises(JournalError, match="cannot go on"):
        await opened(spool)


async def test_audit_02_a_segment_planted_under_us_stops_every_release_within_a_second(
    spool: Path, at_once: None
) -> None:
    """It would be read in place of the one that holds the records, by whoever sends them to Kafka too."""
    clock = FakeClock()
    async with journal_in(spool, segment_bytes=2_000, clock=clock) as journal:
        for n in range(30):
            await journal.append(permit(str(n)))
        await until(lambda: len(list(spool.glob("*.segment"))) == 1, "closed segments to be compressed")
        twin_of(sorted(spool.glob("*.segment.zst"))[1]).touch()
        clock.advance(1)
        with pytest.raises(Refused):
            await journal.append(permit("never"))
        assert not journal.status().healthy


async def test_audit_02_nothing_is_dropped_from_a_spool_that_somebody_planted_in(spool: Path, at_once: None) -> None:
    """Not even within that second: what was acknowledged may be what stands in the planted one."""
    async with journal_in(spool, segment_bytes=2_000, clock=FakeClock()) as journal:
        for n in range(30):
            await journal.append(permit(str(n)))
        await until(lambda: len(list(spool.glob("*.segment"))) == 1, "closed segments to be compressed")
        before = sorted(spool.glob("*.segment.zst"))
        twin_of(before[1]).touch()
        with pytest.raises(Refused):
            await journal.drop_through(journal.durable.seq)
        assert sorted(spool.glob("*.segment.zst")) == before


# -- 03: edited, dropped, reordered, forged tail; two processes --------------------
def rewritten(segment: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """What a patient attacker does: changes the records and makes every checksum right again."""
    kept = [record for line in segment.read_bytes().splitlines() if (record := unframe(line)) is not None]
    segment.write_bytes(b"".join(frame(record) for record in change(kept)))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda kept: [*kept[:2], kept[2].replace(b'"one"', b'"two"'), *kept[3:]], id="edited"),
        pytest.param(lambda kept: [*kept[:2], *kept[3:]], id="dropped"),
        pytest.param(lambda kept: kept[1:], id="head-dropped"),
        pytest.param(lambda kept: [*kept[:2], kept[3], kept[2], *kept[4:]], id="reordered"),
        pytest.param(lambda kept: [*kept[:3], kept[2], *kept[3:]], id="repeated"),
        pytest.param(lambda kept: [*kept[:2], b"{}", *kept[2:]], id="inserted"),
        pytest.param(lambda kept: [*kept, kept[-1].replace(b"AUDIT_STOP", b"SECRET_PERMIT")], id="appended"),
    ],
)
async def test_audit_03_a_changed_spool_does_not_verify(
    spool: Path, change: Callable[[list[bytes]], list[bytes]]
) -> None:
    async with journal_in(spool) as journal:
        for name in ("zero", "one", "three"):
            await journal.append(permit(name))
    assert verified(spool)[0] == 0
    rewritten(segments(spool)[0], change)
    code, said = verified(spool)
    assert code == 1
    assert said.startswith(f"BROKEN {segments(spool)[0]}:")


async def test_audit_03_a_spool_cut_in_the_middle_of_a_record_does_not_verify(spool: Path) -> None:
    async with journal_in(spool) as journal:
        await journal.append(permit())
    (segment,) = segments(spool)
    os.truncate(segment, segment.stat().st_size - 5)
    assert verified(spool)[0] == 1


async def test_audit_03_a_tail_forged_with_a_right_chain_disagrees_with_its_copy(spool: Path) -> None:
    """The chain is no signature: who can write the spool can write a new end. The copy in Kafka gives it away."""
    async with journal_in(spool) as journal:
        await journal.append(permit("true"))
    copy = spool.parent / "topic.jsonl"
    copy.write_bytes(b"".join(line.record + b"\n" for line in read_all([spool])))

    def forged(kept: list[bytes]) -> list[bytes]:
        bodies = [body(Event.SECRET_PERMIT, 1.0, b'{"correlation_id":"forged"}'), body(Event.AUDIT_STOP, 1.0)]
        return [kept[0], *chained(bodies, journal.instance, Tip(1, link(kept[0])))]

    rewritten(segments(spool)[0], forged)
    assert verified(spool)[0] == 0
    assert verified(spool, copy, allow_repeats=True)[0] == 1


async def test_audit_03_a_second_process_on_the_same_spool_is_refused_and_harms_nothing(spool: Path) -> None:
    async with journal_in(spool) as journal:
        await journal.append(permit("before"))
        second = subprocess.run(
            [sys.executable, "-m", "tests.audit.writer", str(spool), "0"], capture_output=True, text=True, timeout=60
        )
        assert second.returncode == 1
        assert "in use by another process" in second.stderr
        assert second.stdout == ""
        with pytest.raises(JournalError, match="in use"):
            await opened(spool)
        await journal.append(permit("after"))
    assert names(spool) == ["before", "after"]
    assert verified(spool)[0] == 0


# -- 04: log injection --------------------
NASTY = '\r\n{"event":"SECRET_PERMIT","seq":1}\x00\x1b[2J\x9b31m\u2028\u202e","effect":"permit","x":"'


async def test_audit_04_nothing_a_caller_sends_makes_a_second_record_a_second_line_or_another_member(
    spool: Path,
) -> None:
    fields: dict[str, Any] = {
        "effect": "deny",
        "subject": {"sub": NASTY, "act": {NASTY: NASTY, "resource_ref": "forged"}},
        "correlation_id": NASTY,
    }
    async with journal_in(spool) as journal:
        await journal.append(Record(Event.SECRET_DENY, fields))
    assert segments(spool)[0].read_bytes().count(b"\n") == 3
    record = records(spool)[1]
    assert {name: record[name] for name in fields} == fields
    assert record["event"] == "SECRET_DENY"
    assert verified(spool)[0] == 0
    piped = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    assert cat([spool], piped) == 0
    piped.seek(0)
    assert len(piped.buffer.read().split(b"\n")) == 4


@pytest.mark.parametrize("name", sorted(STAMPED))
async def test_audit_04_a_record_brings_no_member_of_its_own_stamp(spool: Path, name: str) -> None:
    """The one that stands last is the one that counts for who reads it."""
    async with journal_in(spool) as journal:
        with pytest.raises(Refused) as refused:
            await journal.append(permit(**{name: "forged"}))
        assert refused.value.code is Code.AUDIT_UNAVAILABLE
    assert names(spool) == []


async def test_audit_04_a_forged_instance_does_not_drive_the_verifiers_terminal(tmp_path: Path) -> None:
    dump = tmp_path / "dump.jsonl"
    dump.write_bytes(orjson.dumps({"instance": "\x1b[2J", "seq": 1, "prev": "0" * 64}))
    code, said = verified(dump)
    assert code == 1
    assert "\x1b" not in said


# -- 05: Kafka: certificate, ACL, topic gone, oversize, duplicate, reorder (more in tests/audit/test_kafka*.py) -----
@pytest.mark.real
async def test_audit_05_a_broker_with_a_certificate_of_another_ca_gets_nothing(topics: Topics, spool: Path) -> None:
    await topics.create()
    config = secured(topics, spool.parent, topics.broker.scram, ca_file=topics.broker.foreign_ca)
    async with journal_in(spool) as journal, shipping(journal, config) as shipper:
        await journal.append(permit("one"))
        await until(lambda: "the broker's certificate is refused: " in shipper.status().warning, "the warning")
        assert journal.status().healthy
    assert await topics.values() == []
    assert names(spool) == ["one"]


@pytest.mark.real
async def test_audit_05_a_broker_under_another_name_gets_nothing(topics: Topics, spool: Path) -> None:
    """The certificate names localhost and 127.0.0.1; 0.0.0.0 leads here too (Linux), but is not named."""
    await topics.create()
    port = topics.broker.sasl_ssl.rpartition(":")[2]
    config = secured(topics, spool.parent, topics.broker.scram, bootstrap_servers=f"0.0.0.0:{port}")
    async with journal_in(spool) as journal, shipping(journal, config) as shipper:
        await journal.append(permit("one"))
        await until(lambda: "is refused: IP address mismatch" in shipper.status().warning, "the warning")
    assert await topics.values() == []


@pytest.mark.real
async def test_audit_05_without_an_acl_nothing_is_lost_and_it_is_said_until_it_is_granted(
    topics: Topics, spool: Path
) -> None:
    await topics.create()
    config = secured(topics, spool.parent, topics.broker.powerless)
    async with journal_in(spool) as journal, shipping(journal, config) as shipper:
        await journal.append(permit("one"))
        await until(lambda: "does not let mallory write" in shipper.status().warning, "a warning")
        assert shipper.status().acknowledged_seq == 0
        await allow_to_write(topics.broker.plaintext, "mallory", topics.prefix)
        await caught_up(journal, shipper)
        assert shipper.status().warning == ""
    assert await topics.permits() == ["one"]


@pytest.mark.real
async def test_audit_05_a_record_larger_than_the_topic_takes_is_said_and_waits_and_nothing_overtakes_it(
    topics: Topics, spool: Path
) -> None:
    """Those before it, which do not fit into one batch either, are sent all the same."""
    await topics.create(**{"max.message.bytes": "5000"})
    before = [permit(name, subject="x" * 3_000) for name in ("one", "two")]
    async with journal_in(spool) as journal, shipping(journal, topics.config()) as shipper:
        await journal.append_many([*before, permit("large", subject="x" * 8_000), permit("after")])
        await until(lambda: "record 4 is larger" in shipper.status().warning, "a warning")
        assert await topics.permits() == ["one", "two"]
        await topics.broker.change_topic(topics.audit, **{"max.message.bytes": "100000"})
        await caught_up(journal, shipper)
    assert await topics.permits() == ["one", "two", "large", "after"]


@pytest.mark.real
async def test_audit_05_a_clock_that_once_was_ahead_holds_up_no_record(
    topics: Topics, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker takes no time more than an hour from now (`message.timestamp.after.max.ms`). The record's own stays."""
    monkeypatch.setattr(kafka_producer, "_TIMELESS_SECONDS", 1.0)
    await topics.create()
    clock = FakeClock(time.time())
    async with journal_in(spool, clock=clock) as journal, shipping(journal, topics.config()) as shipper:
        for name, ahead in (("one", 0), ("ahead", 10_000), ("two", 0)):
            clock.set_wall(time.time() + ahead)
            await journal.append(permit(name))
            await caught_up(journal, shipper)
            await asyncio.sleep(1.0 if ahead else 0)
        assert shipper.status().warning == ""
    assert await topics.permits() == ["one", "ahead", "two"]
    times = [message.timestamp for message in await topics.broker.messages(topics.audit)]
    assert times[2] == -1
    assert all(abs(each / 1000 - time.time()) < 60 for each in (times[1], times[3]))


@pytest.mark.real
async def test_audit_05_a_disk_that_the_backlog_itself_has_filled_is_free_again_when_kafka_is_back(
    topics: Topics, tmp_path: Path
) -> None:
    """Not a byte fits any more, though nothing may be dropped before that is written down. Also after a restart, whose
    AUDIT_START does not fit either, and while records come in that would take whatever room there is."""
    await topics.create()
    spool, taken = tmp_path / "disk" / "spool", list[str]()

    async def filled(journal: Journal) -> None:
        for size in (8_000, 0):  # large ones to be quick, small ones to the last byte
            with suppress(Refused):
                while True:
                    await journal.append(permit(str(len(taken)), filler=secrets.token_hex(size)))
                    taken.append(str(len(taken)))
        assert not journal.status().healthy

    async def emptied(journal: Journal) -> None:
        async with shipping(journal, topics.config()) as shipper, asyncio.timeout(30):
            while len(segments(spool)) > 3:
                with suppress(Refused):
                    await journal.append(permit(str(len(taken))))
                    taken.append(str(len(taken)))
                await asyncio.sleep(0.01)
            await caught_up(journal, shipper)

    with small_disk(tmp_path / "disk", "size=2m") as disk:
        if not disk.mounted:
            pytest.fail("a disk that fills up by itself can only be mounted by root")
        async with journal_in(spool, segment_bytes=100_000) as journal:
            await filled(journal)
            await emptied(journal)
            await filled(journal)
        async with journal_in(spool, segment_bytes=100_000) as journal:
            assert not journal.status().healthy
            await emptied(journal)
        assert verified(spool)[0] == 0
    assert await topics.permits() == taken


@pytest.mark.real
async def test_audit_05_what_was_acknowledged_but_not_yet_noted_is_sent_again_and_known_by_its_event_id(
    topics: Topics, spool: Path
) -> None:
    """As after `kill -9`: the position on disk is older than what the broker has."""
    await topics.create()
    async with journal_in(spool) as journal:
        async with shipping(journal, topics.config()) as shipper:
            await journal.append(permit("0"))
            await caught_up(journal, shipper)
            await until(lambda: position.load(spool) is not None, "a position")
        kept = (spool / position.NAME).read_bytes()
        async with shipping(journal, topics.config()) as shipper:
            await journal.append_many([permit(str(n)) for n in range(1, 20)])
            await caught_up(journal, shipper)
        (spool / position.NAME).write_bytes(kept)
        async with shipping(journal, topics.config()) as shipper:
            await journal.append(permit("20"))
            await caught_up(journal, shipper)
    found = [orjson.loads(value) for value in await topics.values()]
    assert len(found) == 2 + 19 + 20
    once = {record["event_id"]: record for record in found}
    assert [record["seq"] for record in once.values()] == list(range(1, 23))


@pytest.mark.real
async def test_audit_05_a_topic_taken_away_is_said_and_what_is_here_is_sent_again_when_it_is_there(
    topics: Topics, spool: Path
) -> None:
    await topics.create()
    async with journal_in(spool) as journal, shipping(journal, topics.config()) as shipper:
        await journal.append(permit("one"))
        await caught_up(journal, shipper)
        await topics.broker.delete_topics(topics.audit, topics.mutations)
        await journal.append(permit("two"))
        await until(lambda: f"{topics.audit} is not there" in shipper.status().warning, "a warning")
        await topics.create()
        await caught_up(journal, shipper)
    # That it was made anew is seen by the first offset it gives, so that one comes before all is sent again.
    assert set(await topics.permits()) == {"one", "two"}
    assert (await topics.permits())[-2:] == ["one", "two"]


@pytest.mark.real
async def test_audit_05_a_topic_whose_records_were_reordered_dropped_or_edited_does_not_verify(
    topics: Topics, spool: Path, tmp_path: Path
) -> None:
    """What somebody with write access to Kafka may do; a repeated record is no break."""
    await topics.create()
    async with journal_in(spool) as journal, shipping(journal, topics.config()) as shipper:
        await journal.append_many([permit(str(n)) for n in range(5)])
        await caught_up(journal, shipper)
    sent = await topics.values()

    def verdict(values: list[bytes]) -> int:
        dump = tmp_path / "dump.jsonl"
        dump.write_bytes(b"\n".join(values))
        return verified(dump, allow_repeats=True)[0]

    assert verdict(sent) == verdict([*sent, *sent[2:]]) == 0
    assert verdict([*sent[:2], sent[3], sent[2], *sent[4:]]) == 1
    assert verdict([*sent[:2], *sent[3:]]) == 1
    assert verdict([*sent[:2], sent[2].replace(b"permit", b"deny"), *sent[3:]]) == 1


@pytest.mark.real
async def test_audit_05_a_broker_that_lies_about_offsets_loses_nothing_and_makes_nobody_send_without_a_pause(
    topics: Topics, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says of each batch that it stands at the topic's beginning: all is sent again, with a pause each time."""
    await topics.create()
    honest, sent = Producer.send, 0

    async def lying(self: Producer, outgoing: Outgoing) -> tuple[RecordMetadata, int]:
        nonlocal sent
        place, count = await honest(self, outgoing)
        sent += 1
        return place._replace(offset=0), count

    monkeypatch.setattr(Producer, "send", lying)
    async with journal_in(spool, segment_bytes=500) as journal, shipping(journal, topics.config()) as shipper:
        for n in range(10):
            await journal.append(permit(str(n)))
            await asyncio.sleep(0.15)
        await until(lambda: "replaced or lost" in shipper.status().warning, "a warning")
        before = sent
        await asyncio.sleep(1)
        assert sent - before < 10, "it is made to send without a pause"
    assert {*names(spool), *await topics.permits()} == {str(n) for n in range(10)}


@pytest.mark.real
async def test_audit_05_a_connection_cut_in_the_middle_of_a_batch_loses_and_disorders_nothing(
    topics: Topics, spool: Path
) -> None:
    await topics.create()
    config = topics.config(bootstrap_servers=topics.broker.proxied)
    async with (
        Network(topics.broker.proxied, topics.broker.behind_proxy) as network,
        journal_in(spool) as journal,
        shipping(journal, config) as shipper,
    ):
        for turn in range(8):
            await journal.append_many([permit(f"{turn}-{n}", filler="x" * 2_000) for n in range(100)])
            await asyncio.sleep(0.05)
            network.cut()
        await caught_up(journal, shipper)
    wanted = [f"{turn}-{n}" for turn in range(8) for n in range(100)]
    assert list(dict.fromkeys(await topics.permits())) == wanted


# -- 06: secret material anywhere but in the answer --------------------
async def test_audit_06_a_record_that_cannot_be_written_is_not_shown_in_the_refusal(spool: Path) -> None:
    canary = "canary-7f3a91"
    async with journal_in(spool) as journal:
        for value in (f"{canary}\ud800", {canary: object()}, canary * 100_000):
            with pytest.raises(Refused) as refused:
                await journal.append(Record(Event.SECRET_PERMIT, {"subject": value}))
            assert canary not in refused.value.message + refused.value.detail + str(refused.value)
    assert not any(canary.encode() in path.read_bytes() for path in spool.iterdir())


@pytest.mark.real
async def test_audit_06_kafkas_password_is_in_no_log_no_status_and_no_file(
    topics: Topics, spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await topics.create()
    caplog.set_level(logging.DEBUG)
    wrong = "wrong-canary-password"
    config = secured(topics, spool.parent, topics.broker.scram, password=wrong)
    with structlog.testing.capture_logs() as logged:
        async with journal_in(spool) as journal, shipping(journal, config) as shipper:
            await journal.append(permit("one"))
            await until(lambda: shipper.status().warning, "a warning")
            said = shipper.status().warning
            (spool.parent / "password").write_text(topics.broker.scram.password)
            await caught_up(journal, shipper)
    everything = (
        said + caplog.text + repr(logged) + "".join(path.read_text(errors="replace") for path in spool.iterdir())
    )
    assert "AUDIT_START" in everything
    assert caplog.text
    for password in (wrong, topics.broker.scram.password):
        assert password not in everything


# -- 07: resource_ref correlated across tenants; salt missing --------------------
def test_audit_07_the_same_secret_has_another_name_under_another_salt() -> None:
    uri = SecretUri("openbao", "kv2", "secret", ("app", "db"), fragment="password")
    one, other = (ResourceRefs("acme", salt) for salt in (b"0123456789abcdef", b"0123456789abcdeF"))
    assert one.key_id != other.key_id
    assert not {one.of(uri).resource_ref, one.of(uri).parent_ref} & {
        other.of(uri).resource_ref,
        other.of(uri).parent_ref,
    }


def test_audit_07_a_name_is_the_whole_hmac_sha256_of_the_canonical_uri() -> None:
    """Of fewer bits two secrets could have one name; with another key, or none, a name could be guessed from a path."""
    salt = b"salt-salt-salt-salt"
    names = ResourceRefs("acme", salt).of(SecretUri("openbao", "kv2", "secret", ("app", "db"), "password", 3))

    def name_of(uri: bytes) -> str:
        return base64.urlsafe_b64encode(hmac.new(salt, uri, "sha256").digest()).decode().rstrip("=")

    assert names.resource_ref == name_of(b"openbao+kv2://secret/app/db#password")
    assert names.parent_ref == name_of(b"openbao+kv2://secret/app/db")


def test_audit_07_a_name_tells_neither_path_nor_salt_and_versions_share_it() -> None:
    refs = ResourceRefs("acme", b"salt-salt-salt-salt")
    uri = SecretUri("openbao", "kv2", "secret", ("app", "db"))
    versioned = SecretUri("openbao", "kv2", "secret", ("app", "db"), version=3)
    assert refs.of(uri) == refs.of(versioned)
    shown = repr(refs.of(uri))
    assert not any(word in shown for word in ("app", "db", "salt"))


def test_audit_07_a_short_salt_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        ResourceRefs("acme", b"short")


@pytest.mark.parametrize("content", [None, b"", b"\n", b"short\n"], ids=["missing", "empty", "blank", "short"])
def test_audit_07_without_a_salt_the_sidecar_does_not_start(tmp_path: Path, content: bytes | None) -> None:
    """Neither where none is named, nor where its file holds none."""
    file, salts = tmp_path / "config.yaml", tmp_path / "salts"
    if content is not None:
        salts.write_bytes(content)
    for salt, key in (("", "tenant.salt"), (f", salt_file: {salts}", "tenant.salt_file")):
        file.write_text(f"tenant: {{id: acme, allowed_mounts: [secret]{salt}}}\n")
        with pytest.raises(ConfigError) as refused:
            load(file, {})
        assert key in {problem.key for problem in refused.value.problems}


# -- 08: the operations listener from elsewhere; labels that callers choose (more in tests/ops/test_debug.py) ----------
def test_audit_08_the_operations_listener_is_on_loopback_where_nothing_is_said() -> None:
    assert is_loopback(split_address(Config().ops.address)[0])


@pytest.mark.real
def test_audit_08_no_metric_takes_a_label_from_what_a_caller_sends(
    tmp_path: Path, openbao: OpenBao, issuer: Issuer
) -> None:
    """However many paths, subjects, methods and ids are tried: the series stay those of the first of each kind."""
    overrides = {"identity": {"binding": "preferred"}, "anti_replay": {"unbound_token": "off"}}

    def bearer(token: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {token}"}

    def tried(process: SidecarProcess, word: str) -> set[str]:
        for subject in ("endless", word):
            token = issuer.token(sub=subject)
            others = {"X-Correlation-ID": f"{word}-{word}", "X-Vault-Namespace": ""}
            by_path = {"X-Vault-Token": token, **others}
            for method, path, headers in (
                ("GET", f"/v1/secret/data/{word}", by_path),
                ("GET", f"/v1/{word}/x", by_path),
                ("GET", "/v1/secret/data/a", by_path | {"X-Vault-Namespace": word}),
                (word.upper(), "/v1/secret/data/a", by_path),
                ("GET", f"/api/secrets/value?uri=openbao%2Bkv2://secret/{word}", others | bearer(token)),
                ("GET", f"/api/secrets/{word}", others | bearer(token)),
            ):
                requests.request(method, f"{process.url}{path}", headers=headers, timeout=30)
        process.get("/v1/secret/data/a", word)
        return {line.rpartition(" ")[0] for line in process.metrics().splitlines() if line.startswith("sidecar_")}

    with SidecarProcess(tmp_path, openbao, issuer, overrides) as process:
        tried(process, "canaryfirst")
        series = tried(process, "canaryzero")
        for number in range(8):
            assert tried(process, f"canary{'abcdefgh'[number]}") == series
        assert len(series) > 50
        assert "canary" not in process.metrics().lower()
