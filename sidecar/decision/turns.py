"""How many may be at the PDP at once: few after an outage, twice as many with each answer, up to a limit."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

FIRST: Final = 2
"""Turns after an outage. A PDP that comes back has caches to fill, and everybody waits for it."""


class Turns:
    """Turns, given in the order in which they were asked for. Use within one event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open = most
        self._taken = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self.waiting = 0
        """How many wait for a turn."""

    async def take(self) -> None:
        """Waits for a turn, which `give_back` must end. Cancelled, it takes none."""
        if self._taken < self._open and not self.waiting:
            self._taken += 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self.waiting += 1
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.give_back()  # the turn came, too late
            raise
        finally:
            self.waiting -= 1

    def give_back(self) -> None:
        """A turn ends."""
        self._taken -= 1
        self._hand_out()

    def answered(self) -> None:
        """The PDP answers: twice as many may ask."""
        if self._open < self._most:
            self._open = min(self._open * 2, self._most)
            self._hand_out()

    def away(self) -> None:
        """The PDP is away: whoever asks next asks carefully."""
        self._open = min(FIRST, self._most)

    def _hand_out(self) -> None:
        while self._waiters and self._taken < self._open:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._taken += 1
                waiter.set_result(None)
