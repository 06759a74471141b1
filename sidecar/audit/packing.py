"""Compresses closed segments in the background, one at a time, oldest first."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from sidecar.audit import segments
from sidecar.audit.segments import Segment
from sidecar.errors import Refused

_SETTLE_SECONDS: Final = 2.0  # what Kafka acknowledges within this time is dropped without having been compressed
_RETRY_SECONDS: Final = 60.0
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

_log = structlog.get_logger("audit")


class Packer:
    """One task on the event loop; the work is done by a thread. `take` puts a finished one (seq, size) into place."""

    def __init__(
        self, directory: Path, closed: Callable[[], Sequence[Segment]], take: Callable[[int, int], Awaitable[None]]
    ) -> None:
        self._directory = directory
        self._closed = closed
        self._take = take
        self._look = asyncio.Event()
        self._look.set()  # what an earlier run left
        self._task: asyncio.Task[None] | None = None
        self._work: asyncio.Future[int] | None = None

    def start(self) -> None:
        """Begins to look for closed segments."""
        self._task = asyncio.create_task(self._run(), name="audit-packer")

    def look(self) -> None:
        """There is a newly closed segment."""
        self._look.set()

    async def stop(self) -> None:
        """Ends; a compressed segment that was not finished is dropped at the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._work is not None:  # a thread cannot be cancelled; it is done within a fraction of a second
            await asyncio.wait([self._work], timeout=5)

    async def _run(self) -> None:
        left = False
        while True:
            with suppress(TimeoutError):  # not `wait_for`, which may swallow the cancellation that ends this (3.11)
                async with asyncio.timeout(_RETRY_SECONDS if left else None):
                    await self._look.wait()
            await asyncio.sleep(_SETTLE_SECONDS)
            self._look.clear()
            left = await self._pack_all()

    async def _pack_all(self) -> bool:
        """Compresses what is closed. Returns whether something is left that could not be, and is to be tried again."""
        left = False
        for segment in [one for one in self._closed() if not one.packed]:
            try:
                await self._pack(segment.first_seq, segment.size)
            except Refused:  # the journal is not well, and says so
                return True
            except OSError as error:
                _log.warning("a closed segment could not be compressed", segment=segment.name, reason=error.strerror)
                left = True
                if error.errno in _NO_ROOM:  # nor will the next one be; what room is left is the journal's
                    return True
        return left

    async def _pack(self, first_seq: int, size: int) -> None:
        self._work = asyncio.ensure_future(asyncio.to_thread(segments.pack, self._directory, first_seq, size))
        with suppress(FileNotFoundError):  # dropped meanwhile
            await self._take(first_seq, await asyncio.shield(self._work))
