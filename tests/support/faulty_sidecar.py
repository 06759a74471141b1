"""The sidecar with faults inside: `python faulty_sidecar.py serve --config FILE`.

A request's `X-Fault` header names one, which quotes the request's whole head, as the worst message of a bug could. The
rest is the sidecar as it is. No test can make its code fail in these ways from outside, or there would be a bug.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
import threading
import warnings
from typing import Any

import structlog

from sidecar import app, cli
from sidecar.door.head import Head
from sidecar.ops.tracing import Span
from sidecar.surface.vault_api import VaultApi

route = VaultApi.route


class Cycle:
    """Raises where nobody can catch it."""

    def __init__(self, text: str) -> None:
        self.text, self.me = text, self

    def __repr__(self) -> str:
        return f"Cycle({self.text})"

    def __del__(self) -> None:
        raise RuntimeError(self.text)


def fail(text: str) -> None:
    """The bug."""
    try:
        raise KeyError(text)
    except KeyError as error:
        raise ValueError(text) from error


async def fail_later(text: str) -> None:
    """The bug, in a task that nobody waits for."""
    fail(text)


kept: list[Any] = []


def forget() -> None:
    """Nobody knows of the tasks any more."""
    kept.clear()
    gc.collect()


def faulty(self: VaultApi, head: Head) -> Any:
    fault, text = head.headers.get("x-fault", ""), repr((head, dict(head.headers)))
    loop = asyncio.get_running_loop()
    if fault == "handler":
        fail(text)
    elif fault == "group":
        raise ExceptionGroup(text, [ValueError(text)])
    elif fault == "task":
        kept.append(loop.create_task(fail_later(text)))
        loop.call_later(0.05, forget)
    elif fault == "callback":
        loop.call_soon(fail, text)
    elif fault == "thread":
        threading.Thread(target=fail, args=(text,)).start()
    elif fault == "unraisable":
        Cycle(text)
        gc.collect()
    elif fault == "warning":
        warnings.warn(text, UserWarning, stacklevel=1)
    elif fault == "log":
        structlog.get_logger("fault").error("an error as a value", error=ValueError(text), token=text)
    elif fault == "foreign log":
        import logging

        logging.getLogger("library").error("failed: %s", ValueError(text))
        logging.getLogger("library").debug("sending %s", text)
    elif fault == "census":
        imported = [name for name in sys.modules if name.startswith("opentelemetry")]
        spans = sum(isinstance(each, Span) for each in gc.get_objects())
        structlog.get_logger("fault").warning("census", imported=len(imported), spans=spans)
    elif fault == "segmentation":
        ctypes.string_at(0)
    elif fault == "uncaught":
        app.Sidecar._take_everything_back = lambda _self: fail_later(text)  # type: ignore[assignment,method-assign]
    return route(self, head)


if __name__ == "__main__":
    VaultApi.route = faulty  # type: ignore[method-assign]
    cli.main()
