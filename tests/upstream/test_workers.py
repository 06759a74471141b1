"""Threads that the end of the process does not wait for."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from sidecar.upstream.workers import Workers


def test_no_more_than_so_many_calls_run_at_once_and_each_gets_its_outcome() -> None:
    workers, may_end, running = Workers(2, "test"), threading.Event(), threading.Semaphore(0)

    def call(number: int) -> int:
        running.release()
        may_end.wait()
        return 1 // number

    calls = [workers.submit(call, number) for number in (1, 0, 2)]
    for _ in range(2):
        running.acquire()
    assert [each.running() for each in calls] == [True, True, False]
    may_end.set()
    assert calls[0].result() == 1
    assert calls[2].result() == 0
    with pytest.raises(ZeroDivisionError):
        calls[1].result()
    workers.shutdown()


def test_who_waits_when_they_are_shut_down_is_cancelled() -> None:
    workers, may_end, begun = Workers(1, "test"), threading.Event(), threading.Event()

    def call() -> bool:
        begun.set()
        return may_end.wait()

    running, waiting = workers.submit(call), workers.submit(call)
    begun.wait()
    workers.shutdown()
    assert waiting.cancelled()
    may_end.set()
    assert running.result()


def test_a_process_ends_while_a_call_never_does() -> None:
    program = (
        "import threading; from sidecar.upstream.workers import Workers; "
        "workers = Workers(1, 'test'); workers.submit(threading.Event().wait); workers.shutdown(); print('ends')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "ends\n"
