"""What was used once and must not be used again: proofs and tokens, in memory.

The window runs on elapsed time, so that a wall clock set by hand does not reopen it. A full store refuses rather
than forgets.
"""

from __future__ import annotations

import secrets
from hashlib import blake2b
from heapq import heappop, heappush
from math import ceil
from typing import Final

from sidecar.clock import Clock
from sidecar.errors import Code, Refused

PROOF: Final = "proof"
TOKEN: Final = "token"


class ReplayStore:
    """Remembers keys for their time to live. Only what was verified may enter.

    A key is kept as a keyed 128-bit hash, about 100 bytes of memory in all, since proofs come one a request and stay
    for minutes: cachetools' timed tables take five times that, and make room by forgetting. Used within one event
    loop: between the look and the mark nothing else runs.
    """

    def __init__(self, clock: Clock, max_entries: int = 1_000_000) -> None:
        self._clock = clock
        self._max_entries = max_entries
        self._secret = secrets.token_bytes(32)
        self._seen: set[bytes] = set()
        # Entries by the second in which they may go, and those seconds in order.
        self._going: dict[int, list[bytes]] = {}
        self._seconds: list[int] = []

    def __len__(self) -> int:
        return len(self._seen)

    def use_once(self, kind: str, key: str, ttl: float) -> bool:
        """True the first time within `ttl` seconds of elapsed time, False from then on.

        Raises:
            Refused: OVERLOADED where the store is full.
        """
        now = self._clock.elapsed()
        if self._seconds and self._seconds[0] <= now:
            self._forget(now)
        digest = blake2b(key.encode(), key=self._secret, digest_size=16, person=kind.encode()).digest()
        if digest in self._seen:
            return False
        if len(self._seen) >= self._max_entries:
            raise Refused(
                Code.OVERLOADED,
                "too many proofs or tokens are remembered; try again later",
                headers={"Retry-After": "5"},
                detail="the replay store is full",
            )
        self._seen.add(digest)
        second = ceil(now + ttl)
        going = self._going.get(second)
        if going is None:
            self._going[second] = [digest]
            heappush(self._seconds, second)
        else:
            going.append(digest)
        return True

    def _forget(self, now: float) -> None:
        while self._seconds and self._seconds[0] <= now:
            self._seen.difference_update(self._going.pop(heappop(self._seconds)))
