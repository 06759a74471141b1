"""What all connections of one door share: who is in, how many requests are in flight, whether it is closing."""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol

from sidecar.config import Limits
from sidecar.errors import Code, Refused

SURPLUS: Final = 32
"""Connections taken beyond `max_connections`, for as long as it takes to tell them so; further ones are cut."""


class Guest(Protocol):
    """A connection, as its host sees it."""

    def look_at_deadlines(self, now: float) -> None:
        """Ends what waited too long. `now` is the loop's time."""

    def leave_when_idle(self) -> None:
        """The door closes: go now where no request is being read or answered, else after its answer."""

    def cut(self) -> asyncio.Task[Any] | None:
        """Go now. Gives the task that answered a request, cancelled."""


class Admission:
    """The door's guest list and counters."""

    def __init__(self, limits: Limits) -> None:
        self.max_header_bytes = limits.max_header_kib * 1024
        self.max_uri_bytes = limits.max_uri_bytes
        self.in_flight = 0
        self.closing = False
        self.guests: set[Guest] = set()
        self._max_connections = limits.max_connections
        self._max_in_flight = limits.max_in_flight
        self._empty: asyncio.Event | None = None

    @property
    def is_full(self) -> bool:
        """True where one more connection is a surplus one: its first request is answered OVERLOADED."""
        return len(self.guests) >= self._max_connections

    @property
    def is_overrun(self) -> bool:
        """True where one more connection is not even answered."""
        return len(self.guests) >= self._max_connections + SURPLUS

    def enter(self, guest: Guest) -> None:
        """A connection opened."""
        self.guests.add(guest)

    def leave(self, guest: Guest) -> None:
        """A connection is closed and none of its requests is being answered any more."""
        self.guests.discard(guest)
        if self._empty is not None and not self.guests:
            self._empty.set()

    def begin(self) -> Refused | None:
        """Counts one more request in flight; says why it will not be had where there are too many."""
        self.in_flight += 1
        return overloaded("too many requests are in flight") if self.in_flight > self._max_in_flight else None

    def end(self) -> None:
        """The request was answered, or its caller is gone."""
        self.in_flight -= 1

    async def wait_empty(self, seconds: float) -> None:
        """Waits until every connection has left, at most `seconds`."""
        self._empty = asyncio.Event()
        if self.guests:
            try:
                await asyncio.wait_for(self._empty.wait(), seconds)
            except TimeoutError:
                pass  # the caller looks at who is left


def overloaded(message: str) -> Refused:
    """Come again in a second."""
    return Refused(Code.OVERLOADED, message, headers={"Retry-After": "1"})
