"""A backlog gives way to requests."""

from __future__ import annotations

import pytest

from sidecar.audit.pacing import Pace


@pytest.mark.parametrize(
    ("came", "pressed", "per_second"),
    [
        (0, False, 10_000),
        (1, False, 1_000),
        (50, False, 1_000),
        (300, False, 6_000),
        (5_000, False, 10_000),
        (50, True, 10_000),
    ],
    ids=["nobody asks", "hardly anybody", "some", "many", "more than may go", "no time to give way"],
)
def test_while_records_come_in_a_backlog_goes_twice_as_fast_as_they_do_within_bounds(
    came: int, pressed: bool, per_second: float
) -> None:
    pace = Pace(10_000, now=100.0, seq=7)
    assert pace.rest(250, took=0.0, now=100.1, seq=7 + came, pressed=pressed) == pytest.approx(250 / per_second)


def test_what_sending_took_is_no_longer_to_be_rested_and_each_rest_looks_at_its_own_time_alone() -> None:
    pace = Pace(1_000, now=0.0, seq=0)
    assert pace.rest(500, took=0.2, now=0.2, seq=900, pressed=False) == pytest.approx(0.3)
    assert pace.rest(500, took=0.6, now=0.8, seq=900, pressed=False) == 0
    busy = Pace(10_000, now=0.0, seq=0)
    assert busy.rest(100, took=0.0, now=1.0, seq=4_000, pressed=False) == pytest.approx(100 / 8_000)
    assert busy.rest(100, took=0.0, now=2.0, seq=4_000, pressed=False) == pytest.approx(100 / 10_000)
