"""Threads for calls that cannot be interrupted, as hvac's: they do not hold up the end of the process, where those of
`concurrent.futures.ThreadPoolExecutor` are waited for, for as long as OpenBao takes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Any


class Workers(Executor):
    """At most so many calls at once; threads are begun as they are needed. Use from one thread."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._waiting: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See `Executor`."""
        future: Future[Any] = Future()
        self._waiting.put((future, lambda: call(*args, **kwargs)))
        if len(self._threads) < self._count:
            thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = True) -> None:
        """Whoever waits is cancelled; the threads end when what they do has ended, and nobody waits for that."""
        if wait or not cancel_futures:
            raise ValueError("calls that cannot be interrupted are not waited for")
        while not self._waiting.empty():
            left = self._waiting.get()
            if left is not None:
                left[0].cancel()
        for _ in self._threads:
            self._waiting.put(None)

    def _work(self) -> None:
        while (work := self._waiting.get()) is not None:
            future, call = work
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # noqa: BLE001 - it is the waiting one's
                    future.set_exception(error)
            del work, future, call  # they hold tokens
