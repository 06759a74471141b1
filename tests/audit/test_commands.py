"""`sidecar audit verify`, `cat` and `ref`, as an operator meets them."""

from __future__ import annotations

import asyncio
import io
import threading
import unicodedata
from pathlib import Path

import orjson
import pytest

from sidecar.audit.commands import cat, ref
from sidecar.audit.reader import read_all
from sidecar.audit.record import ResourceRefs
from sidecar.surface.secret_uri import SecretUri
from tests.audit.chains import OTHER, run
from tests.audit.spools import journal_in, permit, segments, verified


def drives_a_terminal(character: str) -> bool:
    """Controls, line and paragraph separators, and what turns the direction of the text behind it (UAX 9)."""
    turning = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return (
        unicodedata.category(character) in {"Cc", "Zl", "Zp"}
        or unicodedata.bidirectional(character) in turning
        or character in "\u061c\u200e\u200f"
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_a_spool_a_segment_and_a_dump_verify(tmp_path: Path) -> None:
    spool, dump = tmp_path / "spool", tmp_path / "dump.jsonl"
    async with journal_in(spool) as journal:
        await journal.append(permit())
    dump.write_bytes(b"".join(line.record + b"\n" for line in read_all([spool])))
    for path in (spool, dump, segments(spool)[0]):
        code, said = verified(path)
        assert code == 0
        assert said.endswith("OK 3 records, 1 instance\n")
        assert f"instance {journal.instance}: records 1 to 3, 1 run, tip {journal.durable.hash}" in said


async def test_a_spool_and_its_copy_agree_where_repeats_are_allowed(tmp_path: Path) -> None:
    spool, dump = tmp_path / "spool", tmp_path / "dump.jsonl"
    async with journal_in(spool) as journal:
        await journal.append(permit())
    dump.write_bytes(b"".join(line.record + b"\n" for line in read_all([spool])))
    assert verified(spool, dump)[0] == 1
    code, said = verified(spool, dump, allow_repeats=True)
    assert code == 0
    assert "3 records stand more than once" in said


async def test_several_instances_in_one_file_verify(tmp_path: Path) -> None:
    dump = tmp_path / "dump.jsonl"
    mixed = [record for pair in zip(run(3), run(3, OTHER), strict=True) for record in pair]
    dump.write_bytes(b"\n".join(mixed))
    assert verified(dump)[1].endswith("OK 10 records, 2 instances\n")


def test_the_first_break_is_said_with_file_line_instance_and_seq(tmp_path: Path) -> None:
    dump = tmp_path / "dump.jsonl"
    records = run(5)
    dump.write_bytes(b"\n".join(records[:2] + records[3:]))
    code, said = verified(dump)
    assert code == 1
    assert said.splitlines()[0] == (
        f"BROKEN {dump}:3: instance 11111111-2222-4333-8444-555555555555 seq 4: record 3 is missing"
    )


async def test_a_crash_is_said_and_is_no_break(tmp_path: Path) -> None:
    dump = tmp_path / "dump.jsonl"
    dump.write_bytes(b"\n".join(run(2, stopped=False)))
    code, said = verified(dump)
    assert code == 0
    assert "last run has no AUDIT_STOP" in said


@pytest.mark.parametrize("name", ["missing", "empty", "folder"])
def test_nothing_to_verify_is_not_all_well(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    assert verified(tmp_path / name)[0] == 1


async def test_cat_prints_the_exact_bytes(tmp_path: Path) -> None:
    async with journal_in(tmp_path / "spool") as journal:
        await journal.append(permit("é\u2028\x9b"))
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    assert cat([tmp_path / "spool"], out) == 0
    assert raw.getvalue().splitlines(keepends=False) == [line.record for line in read_all([tmp_path / "spool"])]


async def test_cat_on_a_terminal_escapes_what_would_drive_it(tmp_path: Path) -> None:
    name = "".join(filter(drives_a_terminal, map(chr, range(0x10000)))) + "é"
    assert len(name) > 70
    async with journal_in(tmp_path / "spool") as journal:
        await journal.append(permit(name))
    out = Terminal()
    assert cat([tmp_path / "spool"], out) == 0
    printed = out.getvalue().split("\n")
    assert len(printed) == 4
    assert not any(map(drives_a_terminal, "".join(printed)))
    assert orjson.loads(printed[1])["correlation_id"] == name


def test_cat_of_a_file_that_somebody_made_does_not_drive_a_terminal_either(tmp_path: Path) -> None:
    """Where nobody looks what stands in it: between members JSON lets a carriage return stand, which hides them."""
    dump, out = tmp_path / "dump.jsonl", Terminal()
    dump.write_bytes(b'{"sub":"canary",\r"x":"\x1b[2J"}\n')
    assert cat([dump], out) == 0
    assert out.getvalue() == '{"sub":"canary",\\u000d"x":"\\u001b[2J"}\n'


async def test_cat_says_which_line_it_cannot_read_and_prints_the_others(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    async with journal_in(spool) as journal:
        await journal.append(permit("bad"))
    (segment,) = segments(spool)
    segment.write_bytes(segment.read_bytes().replace(b"bad", b"bed"))
    out, errors = io.StringIO(), io.StringIO()
    assert cat([spool], out, errors=errors) == 1
    assert f"{segment}:2" in errors.getvalue()
    assert len(out.getvalue().splitlines()) == 2


async def test_cat_follows_a_spool_as_it_grows(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    out, stop = io.StringIO(), threading.Event()
    async with journal_in(spool, segment_bytes=500) as journal:
        following = asyncio.create_task(asyncio.to_thread(cat, [spool], out, follow=True, stopped=stop.is_set))
        for n in range(5):
            await journal.append(permit(f"name-{n}"))
            async with asyncio.timeout(10):
                while f"name-{n}" not in out.getvalue():
                    await asyncio.sleep(0.01)
    stop.set()
    assert await following == 0
    assert [orjson.loads(line)["seq"] for line in out.getvalue().splitlines()] == list(range(1, 8))


def test_cat_of_what_is_not_there_says_so(tmp_path: Path) -> None:
    errors = io.StringIO()
    assert cat([tmp_path / "missing"], io.StringIO(), errors=errors) == 1
    assert "missing" in errors.getvalue()


def test_ref_prints_what_the_audit_calls_a_secret() -> None:
    refs = ResourceRefs("acme", b"0123456789abcdef")
    uri = SecretUri("openbao", "kv2", "secret", ("app", "db"), fragment="password")
    out = io.StringIO()
    assert ref(uri, refs, out) == 0
    shown = orjson.loads(out.getvalue())
    names = refs.of(uri)
    assert shown["resource_ref"] == names.resource_ref
    assert shown["parent_ref"] == names.parent_ref != names.resource_ref
    assert shown["resource_arn"] == f"auth:v1:resource:secret:acme:{names.resource_ref}"
