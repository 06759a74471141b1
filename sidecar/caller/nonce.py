"""Nonces for DPoP proofs (RFC 9449, sections 8 and 9). Pure: elapsed time is passed in."""

from __future__ import annotations

import hmac
import secrets
from typing import Final

from sidecar.caller import jose

LIFETIME_SECONDS: Final = 300


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
        return jose.encode(hmac.digest(self._key, period.to_bytes(8, "big", signed=True), "sha256")[:18]).decode()
