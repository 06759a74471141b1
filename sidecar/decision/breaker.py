"""A circuit breaker: while nobody would get an answer, nobody waits for one. Pure; the time is passed in."""

from __future__ import annotations

from typing import Final

FAILURES: Final = 5
"""Outages in a row that open it."""

FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 15.0


class CircuitBreaker:
    """Closed while answers come; open, for a pause that doubles, after outages in a row; then half-open: one call
    goes through as a probe, and its outcome closes or opens it again."""

    def __init__(self) -> None:
        self._failures = 0
        self._pause = FIRST_PAUSE_SECONDS
        self._held_until: float | None = None
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether calls are held back."""
        return self._held_until is not None

    def held_seconds(self, now: float) -> float:
        """How long no call may go out, not even a probe; 0 where one may, of which `wait_seconds` decides."""
        return 0.0 if self._held_until is None else max(0.0, self._held_until - now)

    def wait_seconds(self, now: float) -> float:
        """0 where a call may go out, which must end in `succeeded`, `failed` or `abandoned`; else how long not."""
        if self._held_until is None:
            return 0.0
        if now < self._held_until:
            return self._held_until - now
        if self._probing:
            return FIRST_PAUSE_SECONDS
        self._probing = True
        return 0.0

    def succeeded(self) -> None:
        """An answer came, whatever it said."""
        self._failures = 0
        self._pause = FIRST_PAUSE_SECONDS
        self._held_until = None
        self._probing = False

    def failed(self, now: float, at_least: float = 0.0) -> None:
        """Nobody would have got an answer. `at_least` is what the PDP itself asks for (`Retry-After`)."""
        if self._held_until is not None and not self._probing:
            return  # a call from before it opened: known already
        self._failures += 1
        if self._failures >= FAILURES or self._probing or at_least:
            pause = min(max(self._pause, at_least), LONGEST_PAUSE_SECONDS)
            self._held_until = now + pause
            self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)
        self._probing = False

    def abandoned(self) -> None:
        """The call ended without telling anything."""
        self._probing = False
