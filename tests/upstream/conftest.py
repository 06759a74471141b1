"""Where connections are what a test is about, it runs on both event loops: the product's own, and asyncio's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
import pytest_asyncio
import uvloop

from sidecar.config import Upstream
from sidecar.upstream.client import UpstreamClient
from sidecar.upstream.login import BrokerLogin
from tests.upstream.raw_server import RawServer, client_of


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Both loops; with real servers, which take their time, the product's only."""
    both = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return {"uvloop": uvloop.new_event_loop} if item.get_closest_marker("real") else both


@pytest_asyncio.fixture
async def client_to() -> AsyncIterator[Callable[..., UpstreamClient]]:
    """Makes clients that are closed at the end."""
    made: list[UpstreamClient] = []

    def make(server: RawServer | str, **options: Any) -> UpstreamClient:
        made.append(client_of(server, **options))
        return made[-1]

    yield make
    for client in made:
        await client.close()


@pytest_asyncio.fixture
async def log_in() -> AsyncIterator[Callable[..., Any]]:
    """Starts logins that are stopped at the end."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(
            address: str, auth: dict[str, Any], clock: Any = None, tls: dict[str, Any] | None = None
        ) -> BrokerLogin:
            upstream = Upstream.model_validate({"address": address, "auth": auth, "tls": tls or {}})
            login = BrokerLogin(upstream, clock)
            await login.start()
            stack.push_async_callback(login.stop)
            return login

        yield start
