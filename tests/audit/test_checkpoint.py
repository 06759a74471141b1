"""Signed checkpoints: who rewrites the end of a chain without the key is found; what they cannot show is said."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar.audit.chain import link
from sidecar.audit.checkpoint import CheckpointKeyError, Checkpoints
from sidecar.audit.framing import frame, unframe
from sidecar.audit.reader import read_all
from sidecar.audit.record import Event
from sidecar.audit.stamping import Body, Tip, body
from sidecar.clock import SystemClock
from tests.audit.chains import chained
from tests.audit.keys import Keys
from tests.audit.spools import events, journal_in, permit, records, segments, verified
from tests.support.waiting import until


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


async def written(spool: Path, keys: Keys, count: int = 35, *, stopped: bool = True) -> None:
    async with journal_in(spool, checkpoints=keys.checkpoints()) as journal:
        for n in range(count):
            await journal.append(permit(str(n)))
    if not stopped:
        rewritten(segments(spool)[-1], lambda kept: kept[:-1])


def rewritten(segment: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    kept = [record for line in segment.read_bytes().splitlines() if (record := unframe(line)) is not None]
    segment.write_bytes(b"".join(frame(record) for record in change(kept)))


def forged_from(kept: list[bytes], start: int, bodies: list[Body], checkpoints: Checkpoints | None) -> list[bytes]:
    """The chain up to `start`, then what somebody else wants to have stood there, chained as it must be."""
    last = orjson.loads(kept[start - 1])
    tip, signing = Tip(last["seq"], link(kept[start - 1])), checkpoints.members if checkpoints else None
    return [*kept[:start], *chained(bodies, last["instance"], tip, signing)]


def permits(count: int) -> list[Body]:
    return [body(Event.SECRET_PERMIT, 1.0, b'{"correlation_id":"forged"}')] * count


CHECKPOINT = body(Event.AUDIT_CHECKPOINT, 1.0)
STOP = body(Event.AUDIT_STOP, 1.0)


# -- signing ----------------------------------------------------------------------------------------------------------
async def test_of_so_many_records_one_is_signed_and_start_and_stop_are(spool: Path, keys: Keys) -> None:
    await written(spool, keys)
    kinds = ["checkpoint" if event == "AUDIT_CHECKPOINT" else event for event in events(spool)]
    assert kinds == [
        *("AUDIT_START", "checkpoint"),
        *([*["SECRET_PERMIT"] * 10, "checkpoint"] * 3),
        *["SECRET_PERMIT"] * 5,
        "AUDIT_STOP",
    ]
    code, said = verified(spool, checkpoint_keys=[keys.public])
    assert code == 0, said
    assert f"signed through seq {len(kinds)}" in said
    assert "0 records follow" in said


async def test_a_batch_larger_than_the_promise_is_signed_in_its_middle_too(spool: Path, keys: Keys) -> None:
    async with journal_in(spool, checkpoints=keys.checkpoints()) as journal:
        await journal.append_many([permit(str(n)) for n in range(95)])
    assert events(spool).count("AUDIT_CHECKPOINT") == 10
    assert verified(spool, checkpoint_keys=[keys.public])[0] == 0


async def test_after_a_while_the_end_is_signed_though_nothing_more_comes(
    spool: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.audit.writer.PROBE_SECONDS", 0.05)
    async with journal_in(spool, checkpoints=keys.checkpoints(seconds=0.1)) as journal:
        await until(lambda: events(spool).count("AUDIT_CHECKPOINT") == 1, "the start to be signed")
        await journal.append(permit())
        await until(lambda: events(spool)[-1] == "AUDIT_CHECKPOINT", "the record to be signed")
        signed = events(spool)
        await asyncio.sleep(0.3)
        assert events(spool) == signed, "what is signed already is not signed again"
    assert verified(spool, checkpoint_keys=[keys.public])[0] == 0


async def test_over_crashes_and_new_keys_the_chain_stays_signed(spool: Path, keys: Keys, tmp_path: Path) -> None:
    new = Keys(tmp_path, "new")
    await written(spool, keys, 13, stopped=False)
    await written(spool, new, 10, stopped=False)
    await written(spool, new, 1)
    code, said = verified(spool, checkpoint_keys=[keys.public, new.public])
    assert code == 0, said
    assert said.count("a crash") == 2
    assert "was not given" in verified(spool, checkpoint_keys=[new.public])[1]


async def test_records_from_before_the_first_key_are_covered_by_its_first_checkpoint(spool: Path, keys: Keys) -> None:
    async with journal_in(spool) as journal:
        await journal.append_many([permit(str(n)) for n in range(50)])
    assert verified(spool, checkpoint_keys=[keys.public])[0] == 1
    await written(spool, keys, 1)
    assert verified(spool, checkpoint_keys=[keys.public])[0] == 0


async def test_without_the_public_key_checkpoints_are_counted_and_not_called_checked(spool: Path, keys: Keys) -> None:
    await written(spool, keys)
    code, said = verified(spool)
    assert code == 0
    assert "not checked" in said


# -- attacks ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("tail", "why"),
    [
        pytest.param([*permits(11)], "without another one", id="no-checkpoint-any-more"),
        pytest.param([*permits(5), CHECKPOINT], "checkpoint without its members|was not given", id="unsigned"),
        pytest.param([*permits(3), STOP, body(Event.AUDIT_START, 1.0), *permits(9)], "without another", id="run"),
    ],
)
async def test_audit_03_a_tail_rewritten_without_the_key_is_found(
    spool: Path, keys: Keys, tail: list[Body], why: str
) -> None:
    await written(spool, keys)
    (segment,) = segments(spool)
    rewritten(segment, lambda kept: forged_from(kept, 13, tail, None))
    assert verified(spool)[0] == 0, "the chain alone does not show it"
    code, said = verified(spool, checkpoint_keys=[keys.public])
    assert code == 1
    assert any(part in said for part in why.split("|")), said


async def test_audit_03_a_tail_signed_with_another_key_is_found(spool: Path, keys: Keys, tmp_path: Path) -> None:
    await written(spool, keys)
    (segment,) = segments(spool)
    other = Keys(tmp_path, "other").checkpoints()
    rewritten(segment, lambda kept: forged_from(kept, 13, [*permits(3), CHECKPOINT, STOP], other))
    assert "was not given" in verified(spool, checkpoint_keys=[keys.public])[1]


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record | {"signature": "A" * 86},
        lambda record: record | {"signature": ""},
        lambda record: record | {"signature": "*" * 86},
        lambda record: record | {"signature": None},
        lambda record: record | {"every_records": 1_000_000},
        lambda record: record | {"every_records": True},
        lambda record: record | {"every_records": 0},
        lambda record: record | {"ts": "2030-01-01T00:00:00.000000Z"},
        lambda record: record | {"event": "AUDIT_STOP"},
        lambda record: record | {"key_id": None},
        lambda record: {name: value for name, value in record.items() if name != "signature"},
    ],
)
async def test_audit_03_a_checkpoint_changed_in_any_member_is_found(
    spool: Path, keys: Keys, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """The last record of all, so that no chain gives it away."""
    await written(spool, keys)
    (segment,) = segments(spool)
    rewritten(segment, lambda kept: [*kept[:12], orjson.dumps(change(orjson.loads(kept[12])))])
    assert verified(spool, checkpoint_keys=[keys.public])[0] == 1


async def test_audit_03_a_checkpoint_of_one_chain_is_worth_nothing_in_another(
    spool: Path, keys: Keys, tmp_path: Path
) -> None:
    await written(spool, keys)
    await written(tmp_path / "other", keys)
    stolen = [record for record in read_all([spool]) if b"AUDIT_CHECKPOINT" in record.record][-1].record
    other = records(tmp_path / "other")[0]["instance"].encode()
    mine = records(spool)[0]["instance"].encode()
    (segment,) = segments(tmp_path / "other")
    seq = orjson.loads(stolen)["seq"]

    def change(kept: list[bytes]) -> list[bytes]:
        prev, old = link(kept[seq - 2]).encode(), orjson.loads(stolen)["prev"].encode()
        return [*kept[: seq - 1], stolen.replace(mine, other).replace(old, prev)]

    rewritten(segment, change)
    assert verified(tmp_path / "other")[0] == 0
    assert "signature is wrong" in verified(tmp_path / "other", checkpoint_keys=[keys.public])[1]


async def test_audit_03_what_a_cut_back_to_a_checkpoint_shows_is_a_crash_and_no_more(spool: Path, keys: Keys) -> None:
    """The limit, kept here so that nobody believes otherwise: only a copy elsewhere shows what was cut off."""
    await written(spool, keys)
    copy = spool.parent / "topic.jsonl"
    copy.write_bytes(b"".join(line.record + b"\n" for line in read_all([spool])))
    (segment,) = segments(spool)
    rewritten(segment, lambda kept: kept[:13])
    code, said = verified(spool, checkpoint_keys=[keys.public])
    assert code == 0
    assert "still running, or crashed" in said
    _, both = verified(copy, spool, allow_repeats=True, checkpoint_keys=[keys.public])
    assert "13 records stand more than once" in both
    assert f"records 1 to {len(copy.read_bytes().splitlines())}" in both


# -- keys -------------------------------------------------------------------------------------------------------------
def test_a_key_made_as_the_page_says_is_taken(tmp_path: Path) -> None:
    private, public = tmp_path / "checkpoint.pem", tmp_path / "checkpoint.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    assert len(Checkpoints(private, 10, 60, SystemClock()).key_id) == 16
    assert verified(tmp_path, checkpoint_keys=[public]) == (1, "BROKEN no record found\n")


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_what_is_no_key_is_refused_with_a_word(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(CheckpointKeyError, match="no private key"):
        Checkpoints(file, 10, 60, SystemClock())
    code, said = verified(tmp_path, checkpoint_keys=[file])
    assert code == 1
    assert "no public key" in said
