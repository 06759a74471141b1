"""A fault of ours on the operations listener: nobody who asks there is told what it quotes."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from sidecar.ops.health import Check, operations_app

CANARY = "the canary of a bug"


def faulty() -> Check:
    raise ValueError(CANARY)


@pytest.mark.parametrize("accept", ["*/*", "text/html"])
async def test_a_fault_is_answered_without_its_words_in_asyncios_debug_mode_too(accept: str) -> None:
    """aiohttp's own answer then holds the traceback."""
    asyncio.get_running_loop().set_debug(True)
    runner = web.AppRunner(operations_app({"part": faulty}, CollectorRegistry(), lambda: None), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/readyz"
        async with aiohttp.ClientSession() as session, session.get(url, headers={"Accept": accept}) as answer:
            told = await answer.text()
            assert (answer.status, answer.content_type) == (500, "application/json")
    finally:
        await runner.cleanup()
    assert "canary" not in told
    assert "Traceback" not in told
