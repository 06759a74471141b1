"""A clock that tests set by hand."""

from __future__ import annotations

import time


class FakeClock:
    """Wall and elapsed time that move only when told to, and apart where a test sets the wall clock."""

    def __init__(self, wall: float | None = None, elapsed: float = 1_000.0) -> None:
        self._wall = time.time() if wall is None else wall
        self._elapsed = elapsed

    def wall(self) -> float:
        return self._wall

    def elapsed(self) -> float:
        return self._elapsed

    def advance(self, seconds: float) -> None:
        """Time passes."""
        self._wall += seconds
        self._elapsed += seconds

    def set_wall(self, seconds: float) -> None:
        """Somebody sets the wall clock; no time passes."""
        self._wall = seconds

    def step_wall(self, seconds: float) -> None:
        """Somebody sets the wall clock forward, or back where negative; no time passes."""
        self._wall += seconds


class RunningClock(FakeClock):
    """Goes on by itself, as a server's does that is asked beside it, and may be set like the other."""

    def __init__(self) -> None:
        super().__init__(wall=0.0, elapsed=0.0)

    def wall(self) -> float:
        return super().wall() + time.time()

    def elapsed(self) -> float:
        return super().elapsed() + time.monotonic()
