"""Records are read back byte for byte, from segments and from plain files, whole lines only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.audit import reader as reader_module
from sidecar.audit.framing import OVERHEAD, Scan, frame, unframe
from sidecar.audit.reader import DAMAGED, TOO_LONG, UNFINISHED, FileReader, Line, SpoolReader, in_use, read_all
from sidecar.audit.stamping import Tip
from tests.audit.chains import OTHER, run
from tests.audit.spools import journal_in, names, opened, permit, segments


def texts(lines: list[Line]) -> list[bytes]:
    return [line.record for line in lines]


@given(st.binary().filter(lambda record: b"\n" not in record))
def test_a_frame_gives_its_record_back(record: bytes) -> None:
    line = frame(record)
    assert len(line) == len(record) + OVERHEAD
    assert line.endswith(b"\n")
    assert unframe(line[:-1]) == record


@given(st.binary(max_size=40))
def test_no_bytes_make_unframing_fail(line: bytes) -> None:
    record = unframe(line)
    assert record is None or frame(record) == line + b"\n"


@given(
    st.lists(st.sampled_from([frame(b"{1}"), frame(b"{22}"), b"torn\n", b"\n"])),
    st.binary(max_size=9),
    st.integers(1, 40),
)
def test_the_whole_part_ends_behind_the_last_whole_record(lines: list[bytes], tail: bytes, piece: int) -> None:
    scan, content = Scan(), b"".join(lines) + tail.replace(b"\n", b"")
    for start in range(0, len(content), piece):
        scan.feed(content[start : start + piece])
    end, last, sound = scan.end, scan.last, scan.sound
    assert scan.read == len(content)
    good = [index for index, line in enumerate(lines) if unframe(line[:-1]) is not None]
    if not good:
        assert (end, last, sound) == (0, None, True)
        return
    assert end == len(b"".join(lines[: good[-1] + 1]))
    assert last == unframe(lines[good[-1]][:-1])
    assert sound == (len(good) == good[-1] + 1)


def test_a_plain_file_is_read_with_and_without_its_last_newline(tmp_path: Path) -> None:
    file = tmp_path / "dump.jsonl"
    for ending in (b"", b"\n", b"\n\n"):
        file.write_bytes(b'{"a":1}\n\n{"b":2}' + ending)
        assert [(line.number, line.record) for line in read_all([file])] == [(1, b'{"a":1}'), (3, b'{"b":2}')]


def test_a_framed_file_is_known_by_its_first_byte_wherever_it_lies(tmp_path: Path) -> None:
    file = tmp_path / "copy"
    file.write_bytes(frame(b'{"a":1}'))
    assert texts(list(read_all([file]))) == [b'{"a":1}']


def test_a_line_that_does_not_match_its_checksum_is_a_fault_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "copy"
    file.write_bytes(frame(b"{1}") + frame(b"{2}").replace(b"2", b"3", 1) + frame(b"{3}"))
    found = list(read_all([file]))
    assert [(line.number, line.fault) for line in found] == [(1, ""), (2, DAMAGED), (3, "")]


def test_a_line_without_its_end_is_a_fault_in_a_segment(tmp_path: Path) -> None:
    file = tmp_path / "copy"
    file.write_bytes(frame(b"{1}") + frame(b"{2}")[:-1])
    assert [line.fault for line in read_all([file])] == ["", UNFINISHED]


def test_an_endless_line_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "READ_BYTES", 1_000)
    monkeypatch.setattr(reader_module, "MAX_LINE_BYTES", 5_000)
    file = tmp_path / "dump.jsonl"
    file.write_bytes(b'{"a":1}\n{' + b"x" * 50_000)
    found = list(read_all([file]))
    assert [line.fault for line in found] == ["", TOO_LONG]


def test_a_record_longer_than_a_chunk_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "READ_BYTES", 10)
    file = tmp_path / "dump.jsonl"
    long = b'{"a":"' + b"x" * 95 + b'"}'
    file.write_bytes(long + b"\n" + long + b"\n")
    assert texts(list(read_all([file]))) == [long, long]


def test_a_file_is_followed_as_it_grows_whole_lines_only(tmp_path: Path) -> None:
    file = tmp_path / "dump.jsonl"
    file.write_bytes(b"")
    reader = FileReader(file)
    with file.open("ab", buffering=0) as growing:
        assert reader.read() == []
        growing.write(b'{"a":')
        assert reader.read() == []
        growing.write(b'1}\n{"b"')
        assert texts(reader.read()) == [b'{"a":1}']
        growing.write(b":2}\n")
        assert texts(reader.read()) == [b'{"b":2}']
    reader.close()


async def test_a_spool_is_followed_from_segment_to_segment(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    async with journal_in(spool, segment_bytes=1_000) as journal:
        reader = SpoolReader(spool)
        seen: list[bytes] = []
        for n in range(30):
            await journal.append(permit(str(n)))
            if n % 3 == 0:
                while lines := reader.read(journal.extent):
                    seen += texts(lines)
                assert len(seen) == n + 2
    while lines := reader.read():
        seen += texts(lines)
    reader.close()
    assert seen == texts(list(read_all([spool])))
    assert len(segments(spool)) > 5


async def test_nothing_behind_the_durable_extent_is_read(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    async with journal_in(spool) as journal:
        await journal.append(permit("durable"))
        first, size = journal.extent
        with (spool / f"{first:020d}.segment").open("ab") as written_but_not_durable:
            written_but_not_durable.write(frame(b"{}"))
        (spool / f"{first + 5:020d}.segment").write_bytes(frame(b"{}"))
        reader = SpoolReader(spool)
        assert len(reader.read((first, size))) == 2
        assert reader.read((first, size)) == []
        reader.close()


async def test_a_spool_is_read_from_the_segment_that_holds_the_next_record(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    async with journal_in(spool, segment_bytes=1_000) as journal:
        for n in range(30):
            await journal.append(permit(str(n)))
    third = segments(spool)[2]
    for after in (int(third.stem) - 1, int(third.stem)):
        reader = SpoolReader(spool, after)
        assert reader.read()[0].path == third
        reader.close()


async def test_an_unfinished_record_is_no_fault_while_the_spool_is_written_to(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    journal = await opened(spool)
    with segments(spool)[0].open("ab") as writing:
        writing.write(b"0123")
    assert in_use(spool)
    assert [line.fault for line in read_all([spool])] == [""]
    await journal.close()
    assert not in_use(spool)
    assert [line.fault for line in read_all([spool])] == ["", UNFINISHED]


def test_files_are_read_oldest_first_and_those_of_one_instance_by_seq_whatever_its_clock_said(tmp_path: Path) -> None:
    old, new = run(3, OTHER), run(3)
    clock_set_back = run(3, tip=Tip(len(new), "0" * 64))
    paths = []
    for name, content, ts in (
        ("a", clock_set_back, b"2023-11-14T00"),
        ("b", new, b"2023-11-15T00"),
        ("c", old, b"2023-11-13T00"),
    ):
        file = tmp_path / name
        file.write_bytes(b"\n".join(content).replace(b"2023-11-14T22", ts))
        paths.append(file)
    read = list(dict.fromkeys(line.path.name for line in read_all(paths)))
    assert read == ["c", "b", "a"]


def test_a_pipe_can_be_read(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b'{"a":1}\n')
    os.close(writing)
    assert texts(list(read_all([Path(f"/proc/self/fd/{reading}")]))) == [b'{"a":1}']
    os.close(reading)


async def test_a_folder_and_a_file_may_be_read_together(tmp_path: Path) -> None:
    async with journal_in(tmp_path / "spool") as journal:
        await journal.append(permit("in the spool"))
    (tmp_path / "dump").write_bytes(b"\n".join(run(1, OTHER)))
    assert names(tmp_path / "dump", tmp_path / "spool") == ["in the spool", "c-0"]
