"""Waiting for what another task, thread or process does: it happens in time, or the test fails with its name."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

PATIENCE_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.005
_LOOK_AT_PROCESS_SECONDS: Final = 0.02


async def until(condition: Callable[[], object], what: str = "it", seconds: float = PATIENCE_SECONDS) -> None:
    """Waits on the event loop."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(_LOOK_SECONDS)


def wait_until(condition: Callable[[], object], what: str = "it", seconds: float = PATIENCE_SECONDS) -> float:
    """Waits in a test without a loop. Returns how many seconds it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"not within {seconds:g} s: {what}"
        time.sleep(_LOOK_AT_PROCESS_SECONDS)
    return time.monotonic() - started
