"""How long the journal rests, at times the test chooses."""

from __future__ import annotations

import pytest

from sidecar.audit.resting import Rest


def rested(each: float, *counts: int) -> list[float]:
    """The rests after batches whose records each took so many CPU seconds."""
    cpu, rest, found = 100.0, Rest(100.0), []
    for count in counts:
        cpu += count * each
        found.append(rest.after(count, cpu))
    return found


def test_who_writes_alone_is_not_kept_waiting() -> None:
    assert rested(0.002, *[1] * 100) == [0.0] * 100


def test_nothing_written_is_no_reason_to_rest() -> None:
    assert rested(0.002, 0, 0) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("each", "found"),
    [(0.0, 0.0005), (0.0003, 0.0005), (0.0007, 0.0007), (0.001, 0.001), (0.5, 0.001)],
)
def test_it_rests_as_long_as_the_requests_took_within_bounds(each: float, found: float) -> None:
    assert rested(each, *[8] * 200)[-1] == pytest.approx(8 * found, rel=0.01)


def test_one_batch_that_took_long_changes_little() -> None:
    rest = Rest(0.0)
    assert rest.after(4, 60.0) == pytest.approx(4 * 0.000525)


def test_it_never_rests_long() -> None:
    assert rested(0.001, 10, 1_000, 100_000)[1:] == [0.02, 0.02]


def test_a_batch_of_none_between_two_does_not_hide_what_was_spent() -> None:
    rest = Rest(0.0)
    rest.after(0, 0.007)
    assert rest.after(10, 0.01) == pytest.approx(10 * (0.0005 + 0.0005 * 0.05))
