"""Closed segments are compressed, read back byte for byte, and a crash in the middle of it loses nothing."""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.audit import packing, segments
from sidecar.audit.journal import Journal
from sidecar.audit.reader import UNPACKABLE, SpoolReader, read_all
from sidecar.errors import Refused
from tests.audit.disks import small_disk
from tests.audit.killing import killed_writer
from tests.audit.spools import events, journal_in, names, permit, verified
from tests.support.clock import FakeClock
from tests.support.waiting import until

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_SETTLE_SECONDS", 0.0)


def packed(spool: Path) -> list[Path]:
    return sorted(spool.glob("*.segment.zst"))


def plain(spool: Path) -> list[Path]:
    return sorted(spool.glob("*.segment"))


def on_disk(spool: Path) -> int:
    return sum(path.stat().st_size for path in (*packed(spool), *plain(spool)))


async def packed_and_counted(journal: Journal) -> None:
    """Returns once all but the last segment are compressed, and their bytes counted."""
    await until(lambda: len(plain(journal.directory)) == 1, "closed segments to be compressed")
    await until(lambda: journal.status().spool_bytes == on_disk(journal.directory), "the bytes on disk to be counted")


async def filled(journal: Journal, count: int = 60) -> list[str]:
    """Enough records for several segments; returns once all but the last are compressed."""
    for n in range(count):
        await journal.append(permit(str(n)))
    await packed_and_counted(journal)
    return [str(n) for n in range(count)]


async def test_closed_segments_are_compressed_and_read_as_before(spool: Path) -> None:
    async with journal_in(spool, segment_bytes=2_000) as journal:
        written = await filled(journal)
        assert len(packed(spool)) > 5
        assert journal.status().spool_bytes == on_disk(spool)
    assert names(spool) == written
    assert verified(spool)[0] == 0
    assert verified(*packed(spool), *plain(spool))[0] == 0
    assert {path.stat().st_mode & 0o777 for path in spool.iterdir()} == {0o600}


async def test_what_is_compressed_is_the_segments_very_bytes(spool: Path) -> None:
    kept: dict[str, bytes] = {}
    async with journal_in(spool, segment_bytes=2_000) as journal:
        real = segments.pack

        def keeping(directory: Path, first_seq: int, size: int) -> int:
            name = segments.segment_name(first_seq)
            kept[name] = (directory / name).read_bytes()
            return real(directory, first_seq, size)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(segments, "pack", keeping)
            await filled(journal)
    assert len(kept) == len(packed(spool)) > 5
    for path in packed(spool):
        assert zstd.decompress(path.read_bytes()) == kept[path.stem]


async def test_a_new_run_goes_on_behind_compressed_segments_and_compresses_what_the_last_left(spool: Path) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(packing, "_SETTLE_SECONDS", 3_600.0)
        async with journal_in(spool, segment_bytes=2_000) as journal:
            for n in range(30):
                await journal.append(permit(str(n)))
    assert packed(spool) == []
    async with journal_in(spool, segment_bytes=2_000) as journal:
        await until(lambda: len(plain(spool)) == 1, "what the run before left to be compressed")
        await journal.append(permit("30"))
    assert names(spool) == [str(n) for n in range(31)]
    assert verified(spool)[0] == 0


async def test_where_only_compressed_segments_are_left_the_chain_goes_on_in_a_new_one(spool: Path) -> None:
    async with journal_in(spool, segment_bytes=2_000) as journal:
        await filled(journal)
    plain(spool)[0].unlink()
    async with journal_in(spool) as journal:
        await journal.append(permit("after"))
    assert names(spool)[-1] == "after"
    assert verified(spool)[0] == 0


async def test_a_follower_reads_on_while_segments_are_compressed_under_it(spool: Path) -> None:
    reader, seen = SpoolReader(spool), []
    async with journal_in(spool, segment_bytes=1_000) as journal:
        for n in range(60):
            await journal.append(permit(str(n)))
            if n % 7 == 0:
                await asyncio.sleep(0.01)
                seen += [line.record for line in reader.read(journal.extent)]
    while lines := reader.read():
        seen += [line.record for line in lines]
    reader.close()
    assert seen == [line.record for line in read_all([spool])]


# -- crashes ----------------------------------------------------------------------------------------------------------
def draft_torn(spool: Path) -> None:
    """While the compressed form was being written."""
    first = plain(spool)[0]
    (spool / f"{first.name}.zst.new").write_bytes(zstd.compress(first.read_bytes())[:40])


def draft_whole(spool: Path) -> None:
    """Before it took its place."""
    first = plain(spool)[0]
    (spool / f"{first.name}.zst.new").write_bytes(zstd.compress(first.read_bytes()))


def both_there(spool: Path) -> None:
    """Before the plain one was removed."""
    first = plain(spool)[0]
    (spool / f"{first.name}.zst").write_bytes(zstd.compress(first.read_bytes()))


def plain_gone(spool: Path) -> None:
    """At the end of it."""
    both_there(spool)
    plain(spool)[0].unlink()


@pytest.mark.parametrize("crash", [draft_torn, draft_whole, both_there, plain_gone])
async def test_a_crash_at_any_step_of_compressing_loses_and_repeats_nothing(
    spool: Path, crash: Callable[[Path], None]
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(packing, "_SETTLE_SECONDS", 3_600.0)
        async with journal_in(spool, segment_bytes=2_000) as journal:
            for n in range(30):
                await journal.append(permit(str(n)))
    crash(spool)
    assert names(spool) == [str(n) for n in range(30)]
    assert verified(spool)[0] == 0
    async with journal_in(spool, segment_bytes=2_000):
        await until(lambda: len(plain(spool)) == 1, "compression to be done again")
    assert names(spool) == [str(n) for n in range(30)]
    assert verified(spool)[0] == 0


async def test_kill_9_while_segments_are_compressed_all_the_time_loses_nothing(spool: Path) -> None:
    chance, told = random.Random(5), []
    for run in range(3):
        told += killed_writer(spool, run, chance, segment_bytes=20_000, at_least=2_000, at_most=8_000)
    async with journal_in(spool):
        pass
    assert packed(spool)
    assert set(told) <= set(names(spool))
    assert verified(spool)[0] == 0


# -- what is damaged, cut, or a bomb -----------------------------------------------------------------------------------
@pytest.mark.parametrize("change", [lambda raw: raw[:-9], lambda raw: raw[:60], lambda raw: raw[:40] + b"\0" * 40])
async def test_a_compressed_segment_that_was_cut_or_changed_is_found(
    spool: Path, change: Callable[[bytes], bytes]
) -> None:
    async with journal_in(spool, segment_bytes=2_000) as journal:
        await filled(journal)
    victim = packed(spool)[2]
    victim.write_bytes(change(victim.read_bytes()))
    code, said = verified(spool)
    assert code == 1
    assert str(victim) in said
    assert UNPACKABLE in said
    async with journal_in(spool) as journal:  # its records are kept as they are, and the chain goes on
        await journal.append(permit("after"))


async def test_a_compressed_segment_changed_under_us_stops_every_release(spool: Path) -> None:
    clock = FakeClock()
    async with journal_in(spool, segment_bytes=2_000, clock=clock) as journal:
        await filled(journal)
        with packed(spool)[1].open("ab") as file:
            file.write(b"x")
        clock.advance(1)
        with pytest.raises(Refused):
            await journal.append(permit("never"))
        assert not journal.status().healthy


async def test_a_compressed_file_of_nothing_but_zeros_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.audit.reader.MAX_LINE_BYTES", 500_000)
    bomb = tmp_path / "dump.jsonl.zst"
    bomb.write_bytes(zstd.compress(b"{" + bytes(200_000_000)))
    (line,) = read_all([bomb])
    assert "longer than any record" in line.fault


async def test_dumps_may_be_compressed_by_gzip_or_zstd_in_one_piece_or_several(tmp_path: Path, spool: Path) -> None:
    async with journal_in(spool) as journal:
        await journal.append_many([permit(str(n)) for n in range(10)])
    lines = [line.record + b"\n" for line in read_all([spool])]
    for name, pack in (("a.gz", gzip.compress), ("b.zst", zstd.compress)):
        (tmp_path / name).write_bytes(pack(b"".join(lines[:5])) + pack(b"".join(lines[5:])))
        assert verified(tmp_path / name)[0] == 0
        (tmp_path / name).write_bytes(pack(b"".join(lines))[:-12])
        assert verified(tmp_path / name)[0] == 1


# -- disks ------------------------------------------------------------------------------------------------------------
async def test_where_there_is_no_room_to_compress_segments_stay_plain_and_nothing_is_refused(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def full(_directory: Path, first_seq: int, _size: int) -> int:
        tried.append(first_seq)
        raise OSError(28, "No space left on device")

    async with journal_in(spool, segment_bytes=2_000) as journal:
        with monkeypatch.context() as patched:
            patched.setattr(segments, "pack", full)
            for n in range(30):
                await journal.append(permit(str(n)))
            await until(lambda: tried, "a try")
            assert journal.status().healthy
        await filled(journal, 30)
    assert verified(spool)[0] == 0


class Failing:
    """`segments.pack` that fails so often, or always for one segment."""

    def __init__(self, error: int, *, times: int = 1, only: int = 0) -> None:
        self.error, self.times, self.only, self.tried = error, times, only, list[int]()
        self.real = segments.pack

    def __call__(self, directory: Path, first_seq: int, size: int) -> int:
        self.tried.append(first_seq)
        if self.only == first_seq or (not self.only and len(self.tried) <= self.times):
            raise OSError(self.error, os.strerror(self.error))
        return self.real(directory, first_seq, size)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
async def test_a_compression_that_failed_is_tried_again_though_no_other_segment_is_closed(
    spool: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    monkeypatch.setattr(packing, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(segments, "pack", Failing(error))
    async with journal_in(spool, segment_bytes=2_000) as journal:
        await filled(journal, 7)
        assert len(packed(spool)) == 1
    assert verified(spool)[0] == 0


async def test_a_segment_that_cannot_be_compressed_is_in_no_others_way(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_RETRY_SECONDS", 0.01)
    failing = Failing(errno.EIO, only=1)
    monkeypatch.setattr(segments, "pack", failing)
    async with journal_in(spool, segment_bytes=2_000) as journal:
        for n in range(30):
            await journal.append(permit(str(n)))
        await until(lambda: len(plain(spool)) == 2, "all but the first and the last to be compressed")
        await until(lambda: failing.tried.count(1) > 3, "more tries")
        assert journal.status().healthy
    assert verified(spool)[0] == 0


@pytest.mark.parametrize("step", ["rename", "unlink"])
async def test_where_a_compressed_segment_cannot_take_its_place_both_are_accounted_for(
    spool: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The spool knows what stands there: it takes nothing for tampering, drops both forms, and tries again."""
    real, failed, clock = getattr(Path, step), list[Path](), FakeClock()

    def fails(path: Path, *args: Any, **options: Any) -> Any:
        if ".segment" in path.name and not path.name.endswith(".zst") and len(failed) < 2:
            failed.append(path)
            raise OSError(errno.EIO, "Input/output error")
        return real(path, *args, **options)

    async with journal_in(spool, segment_bytes=2_000, clock=clock) as journal:
        with monkeypatch.context() as patched:
            patched.setattr(Path, step, fails)
            for n in range(30):
                await journal.append(permit(str(n)))
            await until(lambda: failed, "a failure")
            clock.advance(1)
            await journal.append(permit("30"))
        await filled(journal, 10)
        await journal.drop_through(journal.durable.seq)
        assert len([*packed(spool), *plain(spool)]) <= 2  # the last one, and one that AUDIT_TRUNCATED began
    assert verified(spool)[0] == 0


async def test_a_disk_that_fills_up_with_compression_going_on_recovers_by_itself(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        spool = disk.path / "spool"
        async with journal_in(spool, segment_bytes=20_000) as journal:
            for n in range(200):
                await journal.append(permit(str(n), filler=os.urandom(200).hex()))
            disk.fill()
            taken = 200
            while journal.status().healthy and taken < 2_000:
                try:
                    await journal.append(permit(str(taken), filler=os.urandom(200).hex()))
                    taken += 1
                except Exception:
                    break
            disk.free()
            await journal.append(permit("after"))
        assert names(spool) == [*(str(n) for n in range(taken)), "after"]
        assert events(spool)[-1] == "AUDIT_STOP"
        assert verified(spool)[0] == 0


async def test_retention_and_max_spool_count_the_bytes_on_disk(spool: Path) -> None:
    async with journal_in(spool, retention_bytes=20_000, segment_bytes=4_000) as journal:
        for n in range(400):
            await journal.append(permit(str(n)))
            if n % 20 == 0:
                await until(lambda: len(plain(spool)) <= 2, "compression to keep up")
        await packed_and_counted(journal)
        assert on_disk(spool) <= 26_000
    kept = names(spool)
    assert len(kept) > 90, "compressed segments hold more than plain ones could"
    assert kept[-1] == "399"
    assert verified(spool)[0] == 0
