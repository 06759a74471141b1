"""What the journal has said is durable is there, in order and chained; what it cannot write it refuses."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import re
import stat
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar.audit import handover as handover_module
from sidecar.audit import journal as journal_module
from sidecar.audit import position
from sidecar.audit import segments as segments_module
from sidecar.audit import writer as writer_module
from sidecar.audit.handover import Handover
from sidecar.audit.journal import MAX_RECORD_BYTES, Journal, JournalError
from sidecar.audit.record import Event, Record
from sidecar.audit.segments import Segment
from sidecar.audit.stamping import body
from sidecar.errors import Code, Refused
from sidecar.ops.metrics import REGISTRY
from tests.audit.disks import small_disk
from tests.audit.spools import (
    MIB,
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
from tests.support.clock import FakeClock


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


async def refused(journal: Journal, record: Record | None = None) -> Refused:
    with pytest.raises(Refused) as caught:
        await journal.append(record or permit())
    assert caught.value.code is Code.AUDIT_UNAVAILABLE
    return caught.value


# -- records ----------------------------------------------------------------------------------------------------------
async def test_a_record_is_in_the_spool_when_append_returns(spool: Path) -> None:
    async with journal_in(spool) as journal:
        await journal.append(permit("one"))
        assert names(spool) == ["one"]


async def test_a_record_carries_its_stamp_first_and_then_its_own_members(spool: Path) -> None:
    async with journal_in(spool, clock=FakeClock(1_700_000_000.000001)) as journal:
        await journal.append(permit("é\n"))
    record = records(spool)[1]
    assert list(record) == [
        *("event_id", "ts", "instance", "seq", "prev", "event"),
        *("phase", "effect", "correlation_id"),
    ]
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-a[0-9a-f]{3}-[0-9a-f]{12}", record["event_id"])
    assert record["ts"] == "2023-11-14T22:13:20.000001Z"
    assert record["instance"] == (spool / "instance").read_text().strip() == journal.instance
    assert record["seq"] == 2
    assert record["correlation_id"] == "é\n"


async def test_a_segment_can_be_searched_line_by_line_and_each_line_has_its_checksum(spool: Path) -> None:
    async with journal_in(spool) as journal:
        await journal.append(permit("needle\n"))
    (segment,) = segments(spool)
    lines = segment.read_bytes().splitlines()
    assert len(lines) == 3
    assert all(re.fullmatch(rb"[0-9a-f]{8} \{.*\}", line) for line in lines)
    assert [line for line in lines if b"needle" in line] == [lines[1]]


@pytest.mark.parametrize("chance", [b"\x00", b"\xff", b""], ids=["least", "greatest", "real"])
async def test_event_ids_are_never_the_same_and_rise_within_a_batch(
    spool: Path, monkeypatch: pytest.MonkeyPatch, chance: bytes
) -> None:
    """Within one millisecond: there nothing but chance tells batches apart, and it is not asked again in a batch."""
    async with journal_in(spool, clock=FakeClock(1_700_000_000.0)) as journal:
        if chance:
            monkeypatch.setattr(os, "urandom", lambda size: chance * size)
        await journal.append_many([permit(str(n)) for n in range(500)])
        monkeypatch.undo()
    ids = [record["event_id"] for record in records(spool)]
    assert ids[1:-1] == sorted(set(ids[1:-1]))
    assert len(set(ids)) == len(ids) == 502
    assert {uuid.UUID(each).version for each in ids} == {7}
    assert all(str(uuid.UUID(each)) == each for each in ids)


async def test_many_at_once_are_all_there_in_one_chain_with_fewer_fsyncs_than_records(spool: Path) -> None:
    async with journal_in(spool) as journal:
        await asyncio.gather(*(journal.append(permit(str(n))) for n in range(500)))
        status = journal.status()
        assert status.records == 501
        assert status.batches < 250
    assert names(spool) == [str(n) for n in range(500)]
    assert verified(spool)[0] == 0


async def test_a_batch_stands_together_and_in_order(spool: Path) -> None:
    async with journal_in(spool) as journal:
        await asyncio.gather(
            *(journal.append_many([permit(f"{batch}-{n}") for n in range(5)]) for batch in range(20)),
            *(journal.append(permit(f"single-{n}")) for n in range(20)),
        )
    found = [name for name in names(spool) if not name.startswith("single")]
    assert found == [f"{batch}-{n}" for batch in range(20) for n in range(5)]


async def test_a_record_is_what_it_was_when_it_was_handed_over(spool: Path) -> None:
    fields: dict[str, Any] = {"correlation_id": "before"}
    async with journal_in(spool) as journal:
        waiting = asyncio.ensure_future(journal.append(Record(Event.SECRET_PERMIT, fields)))
        await asyncio.sleep(0)
        fields["correlation_id"] = "after"
        await waiting
    assert names(spool) == ["before"]


async def test_a_caller_who_goes_away_breaks_nothing(spool: Path) -> None:
    async with journal_in(spool) as journal:
        waiting = [asyncio.ensure_future(journal.append(permit(str(n)))) for n in range(50)]
        await asyncio.sleep(0)
        for task in waiting[::2]:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await journal.append(permit("last"))
    assert names(spool)[-1] == "last"
    assert verified(spool)[0] == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"subject": "\ud800"},
        {"subject": 2**64},
        {"subject": object()},
        {"seq": 1},
        {"prev": "0" * 64},
        {"event": "AUDIT_STOP"},
        {"subject": "x" * MAX_RECORD_BYTES},
    ],
)
async def test_a_record_that_cannot_be_written_as_it_is_is_refused_and_harms_no_other(
    spool: Path, fields: dict[str, Any]
) -> None:
    async with journal_in(spool) as journal:
        await refused(journal, Record(Event.SECRET_PERMIT, fields))
        await journal.append(permit("good"))
        assert journal.status().healthy
    assert names(spool) == ["good"]


async def test_the_metrics_count_records_and_show_the_spools_bytes(spool: Path) -> None:
    before = REGISTRY.get_sample_value("sidecar_audit_records_total", {"event": "SECRET_PERMIT"}) or 0
    async with journal_in(spool) as journal:
        await journal.append_many([permit(), permit()])
        assert REGISTRY.get_sample_value("sidecar_audit_records_total", {"event": "SECRET_PERMIT"}) == before + 2
        (segment,) = segments(spool)
        assert REGISTRY.get_sample_value("sidecar_audit_backlog_bytes") == segment.stat().st_size


# -- runs -------------------------------------------------------------------------------------------------------------
async def test_each_run_has_its_start_and_stop_and_the_chain_goes_on(spool: Path) -> None:
    for run in range(3):
        async with journal_in(spool) as journal:
            await journal.append(permit(str(run)))
    assert events(spool) == ["AUDIT_START", "SECRET_PERMIT", "AUDIT_STOP"] * 3
    assert [record["seq"] for record in records(spool)] == list(range(1, 10))
    starts = [record for record in records(spool) if record["event"] == "AUDIT_START"]
    assert [start["previous_run"] for start in starts] == ["none", "stopped", "stopped"]
    code, said = verified(spool)
    assert code == 0
    assert "crash" not in said


async def test_what_was_waiting_at_the_stop_is_written_before_it(spool: Path) -> None:
    journal = await opened(spool)
    waiting = [asyncio.ensure_future(journal.append(permit(str(n)))) for n in range(100)]
    await asyncio.sleep(0)
    await journal.close()
    await asyncio.gather(*waiting)
    assert events(spool)[-1] == "AUDIT_STOP"
    assert len(names(spool)) == 100


async def test_nothing_is_taken_after_the_stop_and_stopping_twice_is_no_harm(spool: Path) -> None:
    journal = await opened(spool)
    await asyncio.gather(journal.stop(), journal.stop())
    await refused(journal)
    await journal.close()
    await journal.close()
    assert events(spool) == ["AUDIT_START", "AUDIT_STOP"]


async def test_with_durability_write_records_are_there_too(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    async with journal_in(spool, durability="write") as journal:
        await journal.append(permit("one"))
        assert names(spool) == ["one"]
    assert synced == []


async def test_the_spool_is_for_its_owner_only(spool: Path) -> None:
    spool.mkdir(mode=0o755)
    async with journal_in(spool) as journal:
        await journal.append(permit())
        assert stat.S_IMODE(spool.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in spool.iterdir()} == {0o600}


async def test_a_folder_with_other_things_in_it_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "something").touch()
    async with journal_in(tmp_path):
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


# -- segments ---------------------------------------------------------------------------------------------------------
async def test_segments_are_named_by_their_first_seq_and_read_as_one(spool: Path) -> None:
    async with journal_in(spool, segment_bytes=2000) as journal:
        for n in range(50):
            await journal.append(permit(str(n)))
    assert len(segments(spool)) > 5
    for segment in segments(spool):
        assert int(segment.stem) == records(segment)[0]["seq"]
    assert names(spool) == [str(n) for n in range(50)]
    assert verified(spool)[0] == 0


async def test_a_spool_warns_at_80_percent_refuses_when_full_and_still_takes_the_stop(spool: Path) -> None:
    journal = await opened(spool, max_spool_bytes=20_000)
    while not journal.status().warning:
        await journal.append(permit())
    assert 16_000 <= journal.status().spool_bytes < 17_000
    assert journal.status().healthy
    await append_until_refused(journal)
    status = journal.status()
    assert not status.healthy
    assert "full" in status.message
    assert status.spool_bytes <= 20_000
    await journal.close()
    assert events(spool)[-1] == "AUDIT_STOP"
    assert verified(spool)[0] == 0


async def test_what_is_written_together_does_not_overfill_the_spool(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, real = threading.Event(), os.fdatasync

    def waits(descriptor: int) -> None:
        assert go.wait(30)
        real(descriptor)

    async with journal_in(spool, max_spool_bytes=400_000) as journal:
        monkeypatch.setattr(os, "fdatasync", waits)
        many = [permit(str(n)) for n in range(300)]
        waiting = [asyncio.ensure_future(journal.append_many(many)) for _ in range(5)]
        await asyncio.sleep(0)
        go.set()
        done = await asyncio.gather(*waiting, return_exceptions=True)
        assert [isinstance(each, Refused) for each in done] == [False, False, False, True, True]
        assert journal.status().spool_bytes <= 400_000
    assert len(names(spool)) == 900


async def test_a_full_spool_opens_and_says_that_it_is_full(spool: Path) -> None:
    async with journal_in(spool) as journal:
        await journal.append_many([permit() for _ in range(100)])
    async with journal_in(spool, max_spool_bytes=10_000) as journal:
        assert not journal.status().healthy
        await refused(journal)


async def test_acknowledged_segments_are_dropped_with_a_chained_word_of_it_and_make_room(spool: Path) -> None:
    async with journal_in(spool, max_spool_bytes=20_000, segment_bytes=4_000) as journal:
        await append_until_refused(journal)
        last = journal.durable.seq
        assert journal.droppable(last)
        await journal.drop_through(last)
        assert not journal.droppable(last)
        assert journal.status().healthy
        await journal.append(permit("after"))
        assert len(segments(spool)) <= 2
    cut = next(record for record in records(spool) if record["event"] == "AUDIT_TRUNCATED")
    assert cut["reason"] == "shipped"
    assert cut["through_seq"] == records(spool)[0]["seq"] - 1
    assert cut["through_hash"] == records(spool)[0]["prev"]
    code, said = verified(spool)
    assert code == 0
    assert "what came before was dropped" in said


async def test_a_segment_with_a_single_unacknowledged_record_is_kept(spool: Path) -> None:
    async with journal_in(spool, segment_bytes=1_000) as journal:
        for n in range(20):
            await journal.append(permit(str(n)))
        boundary = int(segments(spool)[2].stem)
        await journal.drop_through(boundary - 2)
        assert int(segments(spool)[0].stem) < boundary
        await journal.drop_through(boundary - 1)
        assert int(segments(spool)[0].stem) == boundary


async def test_retention_drops_the_oldest_segments_and_the_chain_stays_whole(spool: Path) -> None:
    async with journal_in(spool, retention_bytes=20_000, segment_bytes=4_000) as journal:
        for n in range(200):
            await journal.append(permit(str(n)))
        assert sum(path.stat().st_size for path in segments(spool)) < 26_000
    assert names(spool)[-1] == "199"
    assert "0" not in names(spool)
    assert verified(spool)[0] == 0
    while "AUDIT_TRUNCATED" in events(spool):
        segments(spool)[0].unlink()
    assert verified(spool)[0] == 1


class Unremovable:
    """`segments.drop` while the disk does not let go of files."""

    def __init__(self) -> None:
        self.tried = 0

    def __call__(self, directory: Path, first_seq: int) -> None:
        self.tried += 1
        raise OSError(errno.EPERM, "Operation not permitted")


async def test_segments_that_cannot_be_removed_cost_no_record_and_are_told_once(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, unremovable = FakeClock(), Unremovable()
    async with journal_in(spool, retention_bytes=20_000, segment_bytes=4_000, clock=clock) as journal:
        with monkeypatch.context() as patched:
            patched.setattr(segments_module, "drop", unremovable)
            for n in range(150):
                clock.advance(0.5)
                await journal.append(permit(str(n)))
            assert journal.status().healthy
            assert "retention_mib" in journal.status().warning
        assert 1 < unremovable.tried < 10
        told = [record["through_seq"] for record in records(spool) if record["event"] == "AUDIT_TRUNCATED"]
        assert told == sorted(set(told))
        clock.advance(10)
        await journal.append(permit("150"))
        assert "retention_mib" not in journal.status().warning
        assert journal.status().spool_bytes < 26_000
    assert names(spool)[-1] == "150"
    assert verified(spool)[0] == 0


@pytest.mark.parametrize("damage", ["unreadable", "changed", "another's"])
async def test_where_the_next_segments_beginning_cannot_be_read_retention_drops_less_and_refuses_nothing(
    spool: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """The chain must tell the hash of the last record dropped; it stands in the segment behind it."""
    real = segments_module.first_record

    def damaged(directory: Path, segment: Segment) -> bytes | None:
        if segment.first_seq != third:
            return real(directory, segment)
        return {"unreadable": None, "changed": b'{"seq": 1}', "another's": b"[]"}[damage]

    clock = FakeClock()
    async with journal_in(spool, retention_bytes=20_000, segment_bytes=4_000, clock=clock) as journal:
        for n in range(30):
            await journal.append(permit(str(n)))
        third = int(segments(spool)[2].stem)
        monkeypatch.setattr(segments_module, "first_record", damaged)
        for n in range(30, 60):
            await journal.append(permit(str(n)))
            clock.advance(1)
        for n in range(60, 200):
            await journal.append(permit(str(n)))
            clock.advance(1)
        assert journal.status().healthy
        assert journal.status().spool_bytes < 30_000, "what stands behind the damage is dropped with it"
    assert names(spool)[-1] == "199"
    assert verified(spool)[0] == 0


async def test_a_read_error_in_retention_refuses_no_record(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async with journal_in(spool, retention_bytes=20_000, segment_bytes=4_000) as journal:
        with monkeypatch.context() as patched:
            patched.setattr(segments_module, "chunks", fails)
            for n in range(100):
                await journal.append(permit(str(n)))
            assert journal.status().healthy
            assert "retention_mib" in journal.status().warning
            await journal.drop_through(journal.durable.seq)
    assert names(spool) == [str(n) for n in range(100)]
    assert verified(spool)[0] == 0


# -- a disk that fails ------------------------------------------------------------------------------------------------
async def test_a_full_disk_refuses_and_when_there_is_room_again_goes_on_without_a_restart(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        spool = disk.path / "spool"
        async with journal_in(spool) as journal:
            await journal.append(permit("before"))
            disk.fill_but(100)
            written = await append_until_refused(journal)  # the rest of the last page still takes some
            status = journal.status()
            assert not status.healthy
            assert status.message
            await refused(journal)
            disk.free()
            await journal.append(permit("after"))
            assert journal.status().healthy
        assert names(spool) == ["before", *["filling"] * written, "after"]
        assert verified(spool)[0] == 0


async def test_a_disk_that_is_well_again_is_noticed_without_a_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readiness is false meanwhile, so no request may ever come."""
    monkeypatch.setattr(writer_module, "PROBE_SECONDS", 0.05)
    with small_disk(tmp_path / "disk") as disk:
        async with journal_in(disk.path / "spool") as journal:
            disk.fill()
            await append_until_refused(journal)
            await asyncio.sleep(0.2)
            assert not journal.status().healthy
            disk.free()
            async with asyncio.timeout(5):
                while not journal.status().healthy:
                    await asyncio.sleep(0.01)


async def test_a_disk_full_at_the_start_makes_the_start_wait_for_its_place(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        spool = disk.path / "spool"
        async with journal_in(spool):
            pass
        disk.fill()
        journal = await opened(spool, max_spool_bytes=MIB)
        await append_until_refused(journal)  # the last page may have had room for the start
        disk.free()
        await journal.append(permit("after"))
        await journal.close()
        assert events(spool)[:3] == ["AUDIT_START", "AUDIT_STOP", "AUDIT_START"]
        assert events(spool).count("AUDIT_START") == 2
        assert verified(spool)[0] == 0


class FailingSync:
    """os.fdatasync that fails so often, as a disk does that loses pages."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.real = os.fdatasync

    def __call__(self, descriptor: int) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError(5, "Input/output error")
        self.real(descriptor)


async def test_after_a_failed_fsync_the_bytes_are_gone_and_another_segment_is_begun(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later fsync of the same file may succeed without those pages ever having reached the disk."""
    async with journal_in(spool) as journal:
        await journal.append(permit("before"))
        monkeypatch.setattr(os, "fdatasync", FailingSync(1))
        await refused(journal, permit("lost"))
        assert not journal.status().healthy
        assert names(spool) == ["before"]
        await journal.append(permit("after"))
        assert journal.status().healthy
    assert names(spool) == ["before", "after"]
    assert len(segments(spool)) == 2
    assert verified(spool)[0] == 0


async def test_when_the_very_first_fsync_fails_the_journal_still_begins(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fdatasync", FailingSync(1))
    journal = await opened(spool)
    assert not journal.status().healthy
    await journal.append(permit("one"))
    await journal.close()
    assert events(spool) == ["AUDIT_START", "SECRET_PERMIT", "AUDIT_STOP"]
    assert verified(spool)[0] == 0


@contextmanager
def uncuttable(monkeypatch: pytest.MonkeyPatch, number: int = errno.EIO) -> Iterator[None]:
    """The next sync fails, and what it leaves cannot be cut off."""

    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", FailingSync(1))
        broken.setattr(os, "ftruncate", fails)
        yield


async def test_nothing_is_written_while_a_failed_write_cannot_be_cut_off(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with journal_in(spool) as journal:
        await journal.append(permit("before"))
        with uncuttable(monkeypatch, errno.EROFS):
            await refused(journal, permit("lost"))
            await refused(journal, permit("lost too"))
        await journal.append(permit("after"))
    assert names(spool) == ["before", "after"]
    assert verified(spool)[0] == 0


async def test_a_segment_cut_while_a_failed_write_stands_in_it_is_not_filled_up_with_nothing(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with journal_in(spool) as journal:
        await journal.append(permit("before"))
        with uncuttable(monkeypatch):
            await refused(journal, permit("lost"))
            (segment,) = segments(spool)
            os.truncate(segment, 10)
        await refused(journal, permit("never"))
        assert "was cut" in journal.status().message
    assert segment.stat().st_size == 10


async def test_a_segment_begun_by_the_probe_is_named_by_the_record_it_will_begin_with(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "PROBE_SECONDS", 0.05)
    async with journal_in(spool) as journal:
        await journal.append_many([permit(str(n)) for n in range(10)])
        with uncuttable(monkeypatch):
            await refused(journal, permit("lost"))
        async with asyncio.timeout(5):
            while not journal.status().healthy:
                await asyncio.sleep(0.01)
        await journal.append(permit("after"))
    assert [int(segment.stem) for segment in segments(spool)] == [1, 12]
    assert verified(spool)[0] == 0
    assert names(spool)[-2:] == ["9", "after"]


class RestingLoop:
    """Time stands still, and what is to be done later is noted and done at once."""

    def __init__(self) -> None:
        self.rests: list[float] = []
        self._loop = asyncio.get_running_loop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def time(self) -> float:
        return 1_000.0

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> None:
        self.rests.append(delay)
        self._loop.call_soon(callback, *args)


async def test_only_after_many_records_at_once_the_next_sync_is_put_off_and_never_for_long(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover_module, "process_time", lambda: 1.0)  # nothing takes any
    async with journal_in(spool) as journal:
        loop = RestingLoop()
        monkeypatch.setattr(journal._handover, "_loop", loop)
        for n in range(9):
            await journal.append(permit(str(n)))
        assert loop.rests == []
        await asyncio.gather(*(journal.append(permit(str(n))) for n in range(9, 34)))
        await journal.append(permit("34"))
        assert loop.rests == [pytest.approx(0.0125)]
        await journal.append(permit("35"))
        assert len(loop.rests) == 1
        await journal.append_many([permit(str(n)) for n in range(36, 1_036)])
        await journal.append(permit("1036"))
        assert loop.rests[1:] == [pytest.approx(0.02)]
        monkeypatch.undo()
    assert names(spool) == [str(n) for n in range(1_037)]


@pytest.mark.parametrize("behind", ["the end", "a command", "many more"])
async def test_what_waits_for_the_rest_to_be_over_is_written_before_what_is_told_behind_it(
    spool: Path, monkeypatch: pytest.MonkeyPatch, behind: str
) -> None:
    async with journal_in(spool) as journal:
        loop = RestingLoop()
        monkeypatch.setattr(loop, "call_later", lambda *_: None)  # a rest without an end
        monkeypatch.setattr(journal._handover, "_loop", loop)
        await asyncio.gather(*(journal.append(permit(str(n))) for n in range(40)))
        waiting = [asyncio.ensure_future(journal.append(permit(str(n)))) for n in range(40, 43)]
        await asyncio.wait(waiting, timeout=0.05)
        assert not any(each.done() for each in waiting)
        if behind == "the end":
            await journal.stop()
        elif behind == "a command":
            await journal.drop_through(0)
        else:
            await journal.append_many([permit(str(n)) for n in range(43, 400)])
        assert all(each.done() for each in waiting)
        await asyncio.gather(*waiting)
        monkeypatch.undo()
    assert names(spool)[:43] == [str(n) for n in range(43)]
    assert verified(spool)[0] == 0


async def test_a_process_that_stood_still_while_the_journal_rested_does_not_blame_the_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handover, loop, rests = Handover(), RestingLoop(), list[Callable[[], None]]()
    monkeypatch.setattr(handover, "_loop", loop)
    monkeypatch.setattr(handover, "_rest_until", 1_000.02)
    monkeypatch.setattr(loop, "call_later", lambda _delay, callback, entry: rests.append(partial(callback, entry)))
    handover.add(body(Event.SECRET_PERMIT, 0.0))
    monkeypatch.setattr(loop, "time", lambda: 1_010.0)
    assert handover.waited_seconds() == 10
    rests[0]()
    assert handover.waited_seconds() == 0
    monkeypatch.setattr(loop, "time", lambda: 1_011.0)
    assert handover.waited_seconds() == 1


async def test_whoever_waits_in_a_batch_that_is_never_handed_over_is_refused_as_where_the_disk_hangs(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_STALL_SECONDS", 0.1)
    async with journal_in(spool) as journal:
        loop = RestingLoop()
        monkeypatch.setattr(loop, "call_later", lambda *_: None)  # the timer is lost
        monkeypatch.setattr(loop, "time", asyncio.get_running_loop().time)
        monkeypatch.setattr(journal._handover, "_loop", loop)
        monkeypatch.setattr(journal._handover, "_rest_until", math.inf)
        async with asyncio.timeout(5):
            await refused(journal, permit("written though refused"))
        assert not journal.status().healthy
    assert names(spool) == ["written though refused"]
    assert verified(spool)[0] == 0


async def test_the_chain_goes_on_where_it_was_though_telling_of_recovery_fails(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log on the same full disk, say: a record that is durable has its seq, whatever happens after that."""

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise OSError(errno.ENOSPC, "No space left on device")

    async with journal_in(spool) as journal:
        await journal.append(permit("before"))
        with monkeypatch.context() as broken:
            broken.setattr(os, "fdatasync", FailingSync(1))
            await refused(journal)
            broken.setattr(writer_module, "_log", Broken())
            for _ in range(3):
                with suppress(Refused):
                    await journal.append(permit("in between"))
        await journal.append(permit("after"))
        assert journal.status().healthy
    assert names(spool)[0] == "before"
    assert names(spool)[-1] == "after"
    assert verified(spool)[0] == 0


async def test_no_more_wait_than_there_is_room_for(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_MAX_WAITING", 10)
    async with journal_in(spool) as journal:
        results = await asyncio.gather(*(journal.append(permit(str(n))) for n in range(50)), return_exceptions=True)
        assert [isinstance(result, Refused) for result in results] == [False] * 10 + [True] * 40
        await journal.append(permit("after"))


async def test_whatever_goes_wrong_on_the_writers_thread_nobody_waits_for_ever(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with journal_in(spool) as journal:
        with monkeypatch.context() as broken:
            broken.setattr(os, "fdatasync", lambda _: 1 / 0)
            await refused(journal)
        await journal.append(permit("after"))
    assert names(spool) == ["after"]


# -- opening ----------------------------------------------------------------------------------------------------------
async def test_a_torn_tail_at_every_byte_is_cut_off_and_said(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    async with journal_in(spool) as journal:
        await journal.append(permit("kept"))
        await journal.append(permit("torn"))
    (segment,) = segments(spool)
    content = segment.read_bytes()
    lines = content.splitlines(keepends=True)
    whole = len(b"".join(lines[:2]))
    for length in range(whole, whole + len(lines[2])):
        segment.write_bytes(content[:length])
        journal = await opened(spool, durability="write")
        assert journal.recovery.torn_bytes == length - whole
        await journal.append(permit("after"))
        await journal.close()
        found = records(spool)
        assert [record["event"] for record in found][2:] == ["AUDIT_START", "SECRET_PERMIT", "AUDIT_STOP"]
        assert found[2]["previous_run"] == "crashed"
        assert found[2]["torn_bytes"] == length - whole
        assert verified(spool)[0] == 0


async def test_a_damaged_line_in_the_middle_is_kept_as_evidence_and_said(spool: Path) -> None:
    async with journal_in(spool) as journal:
        for name in ("a", "b", "c"):
            await journal.append(permit(name))
    (segment,) = segments(spool)
    segment.write_bytes(segment.read_bytes().replace(b'"b"', b'"x"'))
    async with journal_in(spool) as journal:
        assert "damaged" in journal.status().warning
        assert journal.recovery.damaged
        await journal.append(permit("d"))
    assert names(spool) == ["a", "c", "d"]
    code, said = verified(spool)
    assert code == 1
    assert f"{segment}:3" in said


async def test_an_empty_last_segment_left_by_a_crash_is_gone_on_in(spool: Path) -> None:
    async with journal_in(spool) as journal:
        await journal.append(permit("a"))
    (spool / f"{journal.durable.seq + 1:020d}.segment").touch()
    async with journal_in(spool) as journal:
        await journal.append(permit("b"))
    assert names(spool) == ["a", "b"]
    assert verified(spool)[0] == 0


async def test_where_kafka_has_more_than_the_spool_no_seq_is_given_twice(spool: Path) -> None:
    """Somebody cut the end off while nobody ran; what Kafka acknowledged proves it."""
    async with journal_in(spool) as journal:
        await journal.append_many([permit(str(n)) for n in range(10)])
        tip = journal.durable
    kept = {"instance": journal.instance, "seq": tip.seq, "tip": tip.hash}
    (spool / "kafka.position").write_bytes(orjson.dumps(kept))
    (segment,) = segments(spool)
    segment.write_bytes(b"".join(segment.read_bytes().splitlines(keepends=True)[:5]))
    async with journal_in(spool) as journal:
        assert journal.recovery.lost_through == tip.seq
        await journal.append(permit("after"))
    start = records(spool)[5]
    assert (start["seq"], start["prev"], start["lost_through"]) == (tip.seq + 1, tip.hash, tip.seq)
    code, said = verified(spool)
    assert code == 1
    assert f"records 6 to {tip.seq} are missing" in said


SOUND = b'{"instance":"x","seq":1,"tip":"%b","cluster":""' % (b"0" * 64)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{}", b"[]", b"\xff", b"null", b'{"instance":"x","seq":"1","tip":""}'),
        *(SOUND, SOUND + b',"topics":[]}', SOUND + b',"topics":{"t":1}}', SOUND + b',"topics":{"t":{"other":1}}}'),
        *(SOUND + b',"topics":{"t":{"offset":"1"}}}', SOUND + b',"topics":{"t":{"topic_id":1}}}'),
    ],
)
async def test_a_position_that_cannot_be_read_is_none(spool: Path, content: bytes) -> None:
    async with journal_in(spool):
        pass
    (spool / "kafka.position").write_bytes(content)
    assert position.load(spool) is None
    async with journal_in(spool) as journal:
        assert journal.recovery.lost_through == 0
    (spool / "kafka.position").write_bytes(SOUND + b',"topics":{"t":{"offset":1}}}')
    assert position.load(spool) is not None


async def test_segments_without_their_instance_are_not_taken_over(spool: Path) -> None:
    async with journal_in(spool):
        pass
    (spool / "instance").unlink()
    with pytest.raises(JournalError, match="instance"):
        await opened(spool)


@pytest.mark.parametrize("content", [b"", b"not-an-id\n", b"\xff\xfe"])
async def test_an_instance_file_that_holds_none_is_refused(spool: Path, content: bytes) -> None:
    async with journal_in(spool):
        pass
    (spool / "instance").write_bytes(content)
    with pytest.raises(JournalError, match="instance"):
        await opened(spool)


async def test_a_spool_that_is_another_instances_is_refused(spool: Path) -> None:
    async with journal_in(spool):
        pass
    (spool / "instance").write_text("11111111-2222-4333-8444-555555555555\n")
    with pytest.raises(JournalError, match="another instance"):
        await opened(spool)


async def test_a_spool_is_free_again_after_a_refused_open(spool: Path) -> None:
    async with journal_in(spool):
        pass
    instance = (spool / "instance").read_text()
    (spool / "instance").write_text("broken")
    with pytest.raises(JournalError):
        await opened(spool)
    (spool / "instance").write_text(instance)
    async with journal_in(spool) as journal:
        assert journal.status().healthy


async def test_records_of_one_turn_of_the_loop_become_durable_together_whoever_leaves_meanwhile(tmp_path: Path) -> None:
    async with journal_in(tmp_path) as journal:
        before = journal.status()
        waiting = [asyncio.ensure_future(journal.append(permit(f"c-{n}"))) for n in range(50)]
        await asyncio.sleep(0)
        waiting[7].cancel()
        done = await asyncio.gather(*waiting, return_exceptions=True)
        after = journal.status()
    assert [n for n, result in enumerate(done) if result is not None] == [7]
    assert (after.records - before.records, after.batches - before.batches) == (50, 1)
    assert names(tmp_path) == [f"c-{n}" for n in range(50)]


async def test_records_refused_together_are_each_refused_by_an_error_of_their_own(tmp_path: Path) -> None:
    async with journal_in(tmp_path, max_spool_bytes=64 * 1024) as journal:
        await append_until_refused(journal)
        done = await asyncio.gather(*(journal.append(permit("late")) for _ in range(5)), return_exceptions=True)
        assert all(isinstance(error, Refused) and error.code is Code.AUDIT_UNAVAILABLE for error in done)
        assert len({id(error) for error in done}) == 5
    assert "late" not in names(tmp_path)
