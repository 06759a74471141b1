"""Who may take grants back by the operations listener."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from sidecar.errors import Code, Refused
from sidecar.ops.revalidate import add_revalidate

TOKEN = "operations-token-of-enough-bytes"


class Listener:
    """The listener with what it was told to take back."""

    def __init__(self, token_file: Path | None = None) -> None:
        self.bodies: list[bytes] = []
        self.error: Exception | None = None
        self.app = web.Application()
        add_revalidate(self.app, self._revalidate, token_file)

    async def _revalidate(self, body: bytes) -> int:
        if self.error is not None:
            raise self.error
        self.bodies.append(body)
        return 7

    async def __aenter__(self) -> Listener:
        self._runner = web.AppRunner(self.app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._runner.cleanup()

    async def post(self, body: bytes = b'{"all":true}', method: str = "POST", **headers: str) -> tuple[int, Any]:
        given = {"Content-Type": "application/json"} | {n.replace("_", "-"): v for n, v in headers.items()}
        url = f"http://127.0.0.1:{self.port}/revalidate"
        async with aiohttp.ClientSession() as http, http.request(method, url, data=body, headers=given) as answer:
            return answer.status, await answer.json() if "json" in answer.content_type else await answer.text()


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    async with Listener() as made:
        yield made


async def test_loopback_may_and_is_told_how_many_grants_ended(listener: Listener) -> None:
    assert await listener.post() == (200, {"grants_ended": 7})
    assert listener.bodies == [b'{"all":true}']


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://127.0.0.1"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 403),
        ({"Host": "rebound.example"}, 403),
        ({"Host": "10.0.0.7:9102"}, 403),
        ({"Content_Type": "text/plain"}, 400),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 400),
    ],
)
async def test_a_browser_or_another_name_may_not(listener: Listener, headers: dict[str, str], status: int) -> None:
    assert (await listener.post(b"{}", "POST", **headers))[0] == status
    assert listener.bodies == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
async def test_only_post_does_anything(listener: Listener, method: str) -> None:
    assert (await listener.post(method=method))[0] == 405
    assert listener.bodies == []


async def test_a_large_body_is_refused_unread(listener: Listener) -> None:
    assert (await listener.post(b" " * 20_000))[0] == 413
    assert listener.bodies == []


async def test_with_a_token_configured_nobody_may_without_it(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    async with Listener(file) as listener:
        for value in ("", TOKEN, f"Basic {TOKEN}", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"):
            assert (await listener.post(Authorization=value))[0] == 401, value
        assert (await listener.post())[0] == 401
        # With it from any name; a rotated file counts at once, an empty or missing one lets nobody in.
        assert (await listener.post(Authorization=f"Bearer {TOKEN}", Host="10.0.0.7:9102"))[0] == 200
        assert (await listener.post(Authorization=f"Bearer {TOKEN}", Origin="http://a.example"))[0] == 403
        file.write_text("another-token-of-enough-bytes")
        assert (await listener.post(Authorization=f"Bearer {TOKEN}"))[0] == 401
        file.write_text("")
        assert (await listener.post(Authorization="Bearer "))[0] == 401
        file.unlink()
        assert (await listener.post(Authorization=f"Bearer {TOKEN}"))[0] == 401
        assert len(listener.bodies) == 1


async def test_what_is_wrong_is_said_and_a_record_that_failed_too(listener: Listener) -> None:
    listener.error = ValueError("nothing is named")
    assert await listener.post() == (400, {"error": "nothing is named"})
    listener.error = Refused(Code.AUDIT_UNAVAILABLE, "no")
    assert await listener.post() == (503, {"error": "done, but it could not be recorded", "code": "AUDIT_UNAVAILABLE"})
