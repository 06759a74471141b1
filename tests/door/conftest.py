"""Everything asynchronous at the door is tested on both event loops: asyncio's own and uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import uvloop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """pytest-asyncio's hook: each asynchronous test of this folder runs once under each."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
