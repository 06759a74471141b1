"""What a process is told by signals: SIGTERM and SIGINT stop it, SIGHUP makes it read its files again."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


class Signals:
    """Takes the signals from when it is made, on the running event loop: what comes during a start is not lost."""

    def __init__(self) -> None:
        self._stop, self._reload = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)

    async def started(self, start: Coroutine[Any, Any, _T]) -> _T | None:
        """What a start gives, and raises; None where the process was told to stop before that."""
        starting = asyncio.create_task(start)
        await self._done_or_stopped(starting)
        try:
            return await starting
        except asyncio.CancelledError:
            _log.info("told to stop before it served")
            return None

    async def _done_or_stopped(self, work: asyncio.Task[Any]) -> None:
        """Waits until the work is done. Where the process is to stop, the work is cancelled: it may wait for a
        dependency, for as long as the grace period."""
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait([stopping, work], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        work.cancel()  # of no effect where it is done

    async def until_stopped(self, reload: Callable[[], Awaitable[object]]) -> None:
        """Returns when the process is to stop; calls `reload` for the SIGHUPs until then, one at a time."""
        reloading = asyncio.create_task(self._reloads(reload))
        await self._done_or_stopped(reloading)
        with contextlib.suppress(asyncio.CancelledError):
            await reloading

    async def _reloads(self, reload: Callable[[], Awaitable[object]]) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            await reload()
