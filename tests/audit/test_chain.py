"""Nobody changes, removes, moves, adds or repeats a record in a chain without it being found."""

from __future__ import annotations

from hashlib import sha256

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.audit.chain import GENESIS, Break, Verifier, link
from sidecar.audit.record import Event
from sidecar.audit.stamping import Tip
from tests.audit.chains import INSTANCE, OTHER, body, chained, first_break, placed, run

COUNT = 7
RECORDS = run(COUNT - 2)
ANY = st.integers(0, COUNT - 1)
NOT_LAST = st.integers(0, COUNT - 2)


def tip_of(records: list[bytes]) -> Tip:
    return Tip(orjson.loads(records[-1])["seq"], link(records[-1]))


def test_an_untouched_chain_has_no_break() -> None:
    assert first_break(RECORDS) is None


def test_the_first_record_follows_64_zeros_and_each_other_the_sha256_of_the_one_before() -> None:
    previous = GENESIS
    for seq, record in enumerate(RECORDS, 1):
        members = orjson.loads(record)
        assert (members["seq"], members["prev"]) == (seq, previous)
        previous = sha256(record).hexdigest()


@given(NOT_LAST, st.data())
def test_any_changed_byte_is_found(index: int, data: st.DataObject) -> None:
    """In the last record it is not, by the chain alone: nothing follows that would tell. Its checksum and its copy in
    Kafka do."""
    record = RECORDS[index]
    at = data.draw(st.integers(0, len(record) - 1))
    changed = (
        record[:at] + bytes([data.draw(st.integers(0, 255).filter(lambda byte: byte != record[at]))]) + record[at + 1 :]
    )
    assert first_break([*RECORDS[:index], changed, *RECORDS[index + 1 :]]) is not None


@given(NOT_LAST)
def test_any_removed_record_is_found(index: int) -> None:
    found = first_break(RECORDS[:index] + RECORDS[index + 1 :])
    assert found is not None
    assert "missing" in found.reason
    assert (found.instance, found.seq) == (INSTANCE, index + 2)
    assert found.place.line == index + 1


@given(ANY, ANY)
def test_any_two_records_that_changed_places_are_found(one: int, other: int) -> None:
    moved = list(RECORDS)
    moved[one], moved[other] = moved[other], moved[one]
    assert (first_break(moved) is None) == (one == other)


@given(ANY, st.integers(0, COUNT))
def test_any_repeated_record_is_found(index: int, at: int) -> None:
    assert first_break([*RECORDS[:at], RECORDS[index], *RECORDS[at:]]) is not None


@given(st.integers(1, COUNT - 1))
def test_a_forged_record_put_between_is_found_although_it_fits_what_is_before_it(at: int) -> None:
    forged = chained([body(Event.SECRET_PERMIT, {"correlation_id": "forged"})], tip=tip_of(RECORDS[:at]))
    assert first_break([*RECORDS[:at], *forged, *RECORDS[at:]]) is not None


def test_a_record_hung_on_after_the_stop_is_found() -> None:
    forged = chained([body(Event.SECRET_PERMIT)], tip=tip_of(RECORDS))
    found = first_break([*RECORDS, *forged])
    assert found is not None
    assert "AUDIT_START" in found.reason


@given(st.permutations([0] * COUNT + [1] * COUNT))
def test_the_chains_of_several_instances_may_be_mixed(order: list[int]) -> None:
    queues = [list(RECORDS), run(COUNT - 2, OTHER)]
    assert first_break([queues[which].pop(0) for which in order]) is None


def test_a_record_moved_into_another_instances_chain_is_found() -> None:
    stolen = RECORDS[2].replace(INSTANCE.encode(), OTHER.encode())
    found = first_break([*run(1, OTHER)[:2], stolen])
    assert found is not None
    assert (found.instance, found.seq) == (OTHER, 3)


def test_a_run_without_a_stop_is_shown_as_a_crash_and_is_no_break() -> None:
    crashed = run(2, stopped=False)
    verifier = Verifier()
    for record, place in placed([*crashed, *run(1, tip=tip_of(crashed), stopped=False)]):
        assert verifier.feed(record, place) is None
    assert verifier.finish() is None
    chain = verifier.chains[INSTANCE]
    assert (chain.runs, chain.crashes, chain.running) == (2, [3], True)


@pytest.mark.parametrize("kept", [1, 3, 6])
def test_a_missing_head_is_found(kept: int) -> None:
    found = first_break(RECORDS[kept:])
    assert found is not None
    assert (found.place.line, found.seq) == (1, kept + 1)
    assert "AUDIT_TRUNCATED" in found.reason


def cut_to(kept: int, cut: dict[str, object]) -> Break | None:
    """What is found where the first records are gone, and a sixth says what was cut."""
    records = [*RECORDS[:5], *chained([body(Event.AUDIT_TRUNCATED, cut)], tip=tip_of(RECORDS[:5]))]
    return first_break(records[kept:])


@pytest.mark.parametrize("kept", [3, 1, 0])
def test_a_head_that_an_audit_truncated_covers_is_no_break(kept: int) -> None:
    """Also where less was dropped than it says: it is written first."""
    assert cut_to(kept, {"through_seq": 3, "through_hash": link(RECORDS[2])}) is None


@pytest.mark.parametrize(
    ("kept", "cut"),
    [
        (3, {"through_seq": 2, "through_hash": link(RECORDS[1])}),
        (3, {"through_seq": 3, "through_hash": "0" * 64}),
        (3, {"through_seq": "3", "through_hash": link(RECORDS[2])}),
        (1, {"through_seq": True, "through_hash": link(RECORDS[0])}),
        (3, {}),
    ],
)
def test_an_audit_truncated_that_does_not_cover_the_head_excuses_nothing(kept: int, cut: dict[str, object]) -> None:
    found = cut_to(kept, cut)
    assert found is not None
    assert "no AUDIT_TRUNCATED covers" in found.reason


def test_a_redelivered_record_is_counted_where_that_is_allowed_and_a_different_one_never_is() -> None:
    verifier = Verifier(allow_repeats=True)
    for record, place in placed([*RECORDS[:4], *RECORDS[2:]]):
        assert verifier.feed(record, place) is None
    assert verifier.chains[INSTANCE].repeats == 2
    forged = RECORDS[1].replace(b"c-0", b"c-9")
    found = verifier.feed(forged, placed([forged])[0][1])
    assert found is not None
    assert "another record" in found.reason


def test_a_later_start_is_taken_where_that_is_allowed() -> None:
    verifier = Verifier(allow_later_start=True)
    for record, place in placed(RECORDS[3:]):
        assert verifier.feed(record, place) is None
    assert verifier.finish() is None


def placed_as(instance: str = '"a"', seq: str = "1", prev: str = GENESIS) -> bytes:
    """A start as it must be, but for one member."""
    return f'{{"instance":{instance},"seq":{seq},"prev":"{prev}","event":"AUDIT_START"}}'.encode()


def test_a_start_as_it_must_be_is_no_break() -> None:
    assert first_break([placed_as()]) is None


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (b"", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b"{", "not a JSON object"),
        (b"[" * 100_000, "not a JSON object"),
        (b"{}", "instance"),
        (placed_as(instance="1"), "instance"),
        (placed_as(instance='"a b"'), "instance"),
        (placed_as(instance='"a\\u001b[2J"'), "instance"),
        (placed_as(instance='"a\\n"'), "instance"),
        (placed_as(seq="0"), "seq"),
        (placed_as(seq="-1"), "seq"),
        (placed_as(seq="true"), "seq"),
        (placed_as(seq="1.0"), "seq"),
        (placed_as(seq=str(2**70)), "seq"),
        (placed_as(prev="0" * 63), "not a SHA-256"),
        (placed_as(prev="F" * 64), "not a SHA-256"),
        (placed_as(prev="f" * 64), "not 64 zeros"),
    ],
)
def test_what_is_no_record_is_a_break(record: bytes, why: str) -> None:
    found = first_break([record])
    assert found is not None
    assert why in found.reason


@given(st.binary() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda x: repr(x).encode()))
def test_no_bytes_make_the_verifier_fail(record: bytes) -> None:
    assert first_break([record]) is not None
