"""The two clocks, passed in wherever time decides something, so that tests can set them."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time for claims and records, elapsed time for everything that must not follow a clock set by hand."""

    def wall(self) -> float:
        """Seconds since the epoch."""

    def elapsed(self) -> float:
        """Seconds since some fixed point; never steps back, and goes on while the machine is suspended."""


class SystemClock:
    """The machine's clocks. CLOCK_BOOTTIME counts a suspended machine's time, CLOCK_MONOTONIC would stretch a ttl."""

    def wall(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def elapsed(self) -> float:
        """Seconds since boot."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)
