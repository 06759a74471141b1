"""Between the event loop and the journal's thread: who waits for what, and when it is handed over.

What is ready in the same turn of the loop goes together, as waking the thread costs more than a record does; and what
comes while the journal rests (`Rest`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from time import process_time
from typing import Final

from sidecar.audit.resting import Rest
from sidecar.audit.stamping import STAMP_BYTES, Body
from sidecar.errors import Code, Refused

_MAX_TOGETHER: Final = 256  # records handed over at once, and refused at once where they do not fit
_MIN_REST_SECONDS: Final = 0.001  # a timer knows no shorter time

Command = Callable[[], Refused | None]
"""What the journal's thread does besides writing; returns why it could not."""


def unavailable(detail: str) -> Refused:
    """What a caller gets whose record is not durable, or may not be."""
    return Refused(Code.AUDIT_UNAVAILABLE, "the audit record could not be written, so nothing was done", detail=detail)


@dataclass(slots=True)
class Entry:
    """What becomes durable together: records with those who wait for them; or a command, or the end, which
    stand alone. `since` it was handed over (opened, until then), in the loop's seconds; no stamped record takes more of
    `size`."""

    since: float
    command: Command | None = None
    stop: bool = False
    futures: list[asyncio.Future[None]] = field(default_factory=list)
    bodies: list[Body] = field(default_factory=list)
    size: int = 0
    error: Refused | None = None


class Handover:
    """`take` is the thread's, everything else the event loop's."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[Entry] = SimpleQueue()
        self._outstanding: deque[Entry] = deque()
        self._open: Entry | None = None
        self._rest = Rest(process_time())
        self._rest_until = 0.0
        self.waiting = 0
        """How many callers wait."""

    def add(self, *bodies: Body) -> asyncio.Future[None]:
        """Gives these records to the thread, in the order of the calls. The future is done by `settle`."""
        entry = self._open
        if entry is None:
            entry = self._open = self._new(Entry(self._loop.time()))
            if (rest := self._rest_until - entry.since) >= _MIN_REST_SECONDS:
                self._loop.call_later(rest, self._hand_over, entry)
            else:
                self._loop.call_soon(self._hand_over, entry)
        future = self._loop.create_future()
        self.waiting += 1
        entry.futures.append(future)
        for body in bodies:
            entry.bodies.append(body)
            entry.size += len(body[2]) + STAMP_BYTES
        if len(entry.bodies) >= _MAX_TOGETHER:
            self._hand_over(entry)
        return future

    def command(self, command: Command) -> asyncio.Future[None]:
        """Has the thread do this when everything before it is written."""
        return self._alone(Entry(self._loop.time(), command))

    def end(self) -> asyncio.Future[None]:
        """Has the thread write the end, and nothing after it."""
        return self._alone(Entry(self._loop.time(), stop=True))

    def _alone(self, entry: Entry) -> asyncio.Future[None]:
        if self._open is not None:
            self._hand_over(self._open)
        future = self._loop.create_future()
        self.waiting += 1
        entry.futures.append(future)
        self._queue.put(self._new(entry))
        return future

    def _new(self, entry: Entry) -> Entry:
        self._outstanding.append(entry)
        return entry

    def _hand_over(self, entry: Entry) -> None:
        if self._open is entry:
            self._open = None
            entry.since = now = self._loop.time()  # the disk is not to blame for what came before
            self._rest_until = now + self._rest.after(len(entry.bodies), process_time())
            self._queue.put(entry)

    def take(self, timeout: float | None) -> list[Entry]:
        """All that was handed over, waited for at most so many seconds; nothing where nothing came."""
        try:
            first = self._queue.get(timeout=timeout)
        except Empty:
            return []
        return [first, *(self._queue.get_nowait() for _ in range(self._queue.qsize()))]

    def settle(self, entries: Sequence[Entry]) -> None:
        """These, the oldest ones, are done: tells those who wait."""
        for entry in entries:
            self._outstanding.popleft()
            self.waiting -= len(entry.futures)
            for future in entry.futures:
                if future.done():  # the caller went away, or was refused while the disk hung
                    continue
                if entry.error is None:
                    future.set_result(None)
                else:
                    future.set_exception(unavailable(entry.error.detail))  # its own: each gets another traceback

    def waited_seconds(self) -> float:
        """How long the oldest has waited."""
        return self._loop.time() - self._outstanding[0].since if self._outstanding else 0.0

    def refuse_all(self, detail: str) -> None:
        """Whoever waits now does so no longer, though it may yet be done."""
        for future in [future for entry in self._outstanding for future in entry.futures if not future.done()]:
            future.set_exception(unavailable(detail))
