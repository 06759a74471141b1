"""Nonces for DPoP proofs (RFC 9449, sections 8 and 9). Pure: elapsed time is passed in."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from typing import Final, Protocol

from sidecar.caller import jose

LIFETIME_SECONDS: Final = 300


class NonceSource(Protocol):
    """What takes nonces and hands them out."""

    def current(self, elapsed: float) -> str:
        """The nonce that a proof should carry now; empty where none is known."""

    def accepts(self, nonce: object, elapsed: float) -> bool:
        """Whether a proof may carry it now."""

    def renew(self, elapsed: float) -> None:
        """Our wall clock was set back: proofs forgotten as too old must not look young again."""


class Nonces:
    """The nonce of this process: a MAC of the current period under a key that never leaves it.

    The nonce before is still taken, so that a change in the middle of a burst loses nobody. A proof made for another
    process, or for this one before its restart, carries a nonce that is neither.
    """

    def __init__(self, elapsed: float) -> None:
        self._start = elapsed
        self.renew(elapsed)

    def renew(self, elapsed: float) -> None:
        """A new key: every nonce handed out so far is worthless."""
        self._key = secrets.token_bytes(32)
        self._period = self._period_at(elapsed)
        self._current = self._mac(self._period)
        # Under a new key there was no period before: the current nonce stands for both.
        self._before = self._current

    def current(self, elapsed: float) -> str:
        """The nonce that a proof should carry now."""
        period = self._period_at(elapsed)
        if period != self._period:
            self._before = self._mac(period - 1)
            self._current = self._mac(period)
            self._period = period
        return self._current

    def accepts(self, nonce: object, elapsed: float) -> bool:
        """Whether it is the current nonce, or the one before. Every answer carries the nonce: it is no secret to be
        compared in constant time."""
        return nonce == self.current(elapsed) or nonce == self._before

    def _period_at(self, elapsed: float) -> int:
        return int((elapsed - self._start) // LIFETIME_SECONDS)

    def _mac(self, period: int) -> str:
        return _mac(self._key, period)


class SharedNonces:
    """The nonce of all replicas that share a store: a MAC of the period of the store's clock, under its secret.

    `secret` is None while it is not known: then no nonce is handed out, and none is taken. `store_time` makes elapsed
    time the store's clock. The nonce of the next period is taken too, from a replica whose clock is a little ahead.
    """

    def __init__(self, secret: Callable[[], bytes | None], store_time: Callable[[float], float]) -> None:
        self._secret = secret
        self._store_time = store_time
        self._made_for: tuple[bytes, int] | None = None
        self._before = self._now = self._next = ""

    def current(self, elapsed: float) -> str:
        """The nonce that a proof should carry now; empty while the store is not known."""
        return self._now if self._made(elapsed) else ""

    def accepts(self, nonce: object, elapsed: float) -> bool:
        """Whether it is the current nonce, or a neighbour of it."""
        return self._made(elapsed) and nonce in (self._now, self._before, self._next)

    def renew(self, elapsed: float) -> None:
        """Nothing: in a shared store a proof is remembered for longer than its nonce lives, whatever our clock says."""

    def _made(self, elapsed: float) -> bool:
        secret = self._secret()
        if secret is None:
            return False
        period = int(self._store_time(elapsed) // LIFETIME_SECONDS)
        if self._made_for != (secret, period):
            self._made_for = (secret, period)
            self._before, self._now, self._next = (_mac(secret, at) for at in (period - 1, period, period + 1))
        return True


def _mac(key: bytes, period: int) -> str:
    return jose.encode(hmac.digest(key, period.to_bytes(8, "big", signed=True), "sha256")[:18]).decode()
