"""While nobody would get an answer, nobody waits for one; recovery begins with one probe."""

from __future__ import annotations

from sidecar.decision.breaker import FAILURES, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, CircuitBreaker


def opened(now: float = 0.0) -> CircuitBreaker:
    breaker = CircuitBreaker()
    for _ in range(FAILURES):
        assert breaker.wait_seconds(now) == 0
        breaker.failed(now)
    return breaker


def test_single_failures_do_not_open_it() -> None:
    breaker = CircuitBreaker()
    for _ in range(20):
        breaker.failed(0.0)
        breaker.succeeded()
    assert not breaker.is_open


def test_failures_in_a_row_open_it_for_a_while() -> None:
    breaker = opened()
    assert breaker.wait_seconds(0.0) == FIRST_PAUSE_SECONDS
    assert breaker.wait_seconds(FIRST_PAUSE_SECONDS / 2) == FIRST_PAUSE_SECONDS / 2


def test_one_probe_goes_through_after_the_pause_and_the_others_wait() -> None:
    breaker = opened()
    assert breaker.wait_seconds(1.0) == 0
    assert [breaker.wait_seconds(1.0) > 0 for _ in range(50)] == [True] * 50
    breaker.succeeded()
    assert breaker.wait_seconds(1.0) == 0
    assert not breaker.is_open


def test_a_failed_probe_doubles_the_pause_up_to_a_bound() -> None:
    breaker, now, pauses = opened(), 0.0, []
    for _ in range(10):
        pause = breaker.wait_seconds(now)
        pauses.append(pause)
        now += pause
        assert breaker.wait_seconds(now) == 0
        breaker.failed(now)
    assert pauses[:3] == [FIRST_PAUSE_SECONDS, 2 * FIRST_PAUSE_SECONDS, 4 * FIRST_PAUSE_SECONDS]
    assert pauses[-1] == LONGEST_PAUSE_SECONDS


def test_an_abandoned_probe_lets_the_next_one_go() -> None:
    breaker = opened()
    assert breaker.wait_seconds(1.0) == 0
    breaker.abandoned()
    assert breaker.wait_seconds(1.0) == 0


def test_late_failures_of_calls_from_before_do_not_lengthen_the_pause() -> None:
    breaker = opened()
    for _ in range(60):
        breaker.failed(0.1)
    assert breaker.wait_seconds(0.0) == FIRST_PAUSE_SECONDS


def test_a_pause_that_the_pdp_asks_for_is_kept() -> None:
    breaker = CircuitBreaker()
    breaker.failed(0.0, at_least=3.0)
    assert breaker.wait_seconds(0.0) == 3.0
