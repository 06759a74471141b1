"""Used once is used."""

from __future__ import annotations

import pytest

from sidecar.caller.replay import PROOF, TOKEN, ReplayStore
from sidecar.errors import Code, Refused
from tests.support.clock import FakeClock


def test_a_key_is_used_once_within_its_time() -> None:
    clock = FakeClock()
    store = ReplayStore(clock)
    assert store.use_once(PROOF, "a", 300)
    assert not store.use_once(PROOF, "a", 300)
    clock.advance(299.9)
    assert not store.use_once(PROOF, "a", 300)
    clock.advance(1.2)
    assert store.use_once(PROOF, "a", 300)


def test_kinds_do_not_meet() -> None:
    store = ReplayStore(FakeClock())
    assert store.use_once(PROOF, "a", 300)
    assert store.use_once(TOKEN, "a", 300)


def test_the_wall_clock_does_not_reopen_the_window() -> None:
    clock = FakeClock()
    store = ReplayStore(clock)
    assert store.use_once(PROOF, "a", 300)
    clock.step_wall(86_400)
    assert not store.use_once(PROOF, "a", 300)
    clock.step_wall(-2 * 86_400)
    assert not store.use_once(PROOF, "a", 300)


def test_a_full_store_refuses_rather_than_forgets() -> None:
    clock = FakeClock()
    store = ReplayStore(clock, max_entries=3)
    for key in "abc":
        assert store.use_once(PROOF, key, 300)
    with pytest.raises(Refused) as caught:
        store.use_once(PROOF, "d", 300)
    assert caught.value.code is Code.OVERLOADED
    assert "Retry-After" in caught.value.headers
    for key in "abc":
        assert not store.use_once(PROOF, key, 300)
    clock.advance(301)
    assert store.use_once(PROOF, "d", 300)
    assert len(store) == 1


def test_entries_of_different_lives_go_in_their_own_time() -> None:
    clock = FakeClock()
    store = ReplayStore(clock)
    store.use_once(TOKEN, "long", 10_000)
    for second in range(100):
        store.use_once(PROOF, str(second), 10)
        clock.advance(1)
    assert not store.use_once(TOKEN, "long", 10_000)
    assert len(store) <= 13
