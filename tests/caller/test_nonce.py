"""Nonces belong to one process and to elapsed time."""

from __future__ import annotations

from sidecar.caller.nonce import LIFETIME_SECONDS, Nonces


def test_a_nonce_is_taken_for_its_period_and_the_next_and_no_longer() -> None:
    nonces = Nonces(1000.0)
    first = nonces.current(1000.0)
    assert nonces.current(1000.0 + LIFETIME_SECONDS - 1) == first
    second = nonces.current(1000.0 + LIFETIME_SECONDS)
    assert second != first
    assert nonces.accepts(first, 1000.0 + 2 * LIFETIME_SECONDS - 1)
    assert nonces.accepts(second, 1000.0 + 2 * LIFETIME_SECONDS)
    assert not nonces.accepts(first, 1000.0 + 2 * LIFETIME_SECONDS)


def test_two_processes_do_not_take_each_others_nonces() -> None:
    one, other = Nonces(0.0), Nonces(0.0)
    assert not one.accepts(other.current(0.0), 0.0)


def test_a_new_key_makes_every_nonce_worthless() -> None:
    nonces = Nonces(0.0)
    before, now = nonces.current(0.0), nonces.current(float(LIFETIME_SECONDS))
    nonces.renew(float(LIFETIME_SECONDS))
    assert not nonces.accepts(before, float(LIFETIME_SECONDS))
    assert not nonces.accepts(now, float(LIFETIME_SECONDS))
    assert nonces.accepts(nonces.current(float(LIFETIME_SECONDS)), float(LIFETIME_SECONDS))


def test_what_is_no_nonce_is_not_taken() -> None:
    nonces = Nonces(0.0)
    for other in ("", None, 0, True, [nonces.current(0.0)], nonces.current(0.0)[:-1]):
        assert not nonces.accepts(other, 0.0)
