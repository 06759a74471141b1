"""Who may look at the live grants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from unittest.mock import Mock

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from sidecar.ops.debug import add_debug


async def asked(peer: object, path: str = "/debug/grants", **headers: str) -> web.StreamResponse:
    app = web.Application()
    asked_for: list[int] = []

    def grants(limit: int) -> list[Mapping[str, Any]]:
        asked_for.append(limit)
        return [{"resource_ref": "r"}]

    add_debug(app, grants)
    transport = Mock()
    transport.get_extra_info.side_effect = lambda name, default=None: peer if name == "peername" else default
    request = make_mocked_request(
        "GET", path, headers={"Host": "127.0.0.1:9102"} | headers, transport=transport, app=app
    )
    match = await app.router.resolve(request)
    answer = await match.handler(request)
    assert (answer.status == 200) is bool(asked_for)
    return answer


@pytest.mark.parametrize("peer", [("127.0.0.1", 1), ("127.0.0.9", 1), ("::1", 1, 0, 0)])
async def test_loopback_may(peer: object) -> None:
    answer = await asked(peer)
    assert answer.status == 200
    assert isinstance(answer, web.Response)
    assert isinstance(answer.body, bytes)
    assert orjson.loads(answer.body) == {"grants": [{"resource_ref": "r"}], "truncated": False}


@pytest.mark.parametrize("peer", [("192.0.2.2", 1), ("::ffff:192.0.2.2", 1, 0, 0), ("10.0.0.1", 1), None, "", ("x", 1)])
async def test_audit_08_nobody_else_may_whatever_their_headers_say(peer: object) -> None:
    answer = await asked(peer, **{"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1", "X-Real-IP": "::1"})
    assert answer.status == 403


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example:9102"}, {"Host": ""}, {"Host": "["}, {"Origin": "http://127.0.0.1:9102"}]
)
async def test_audit_08_no_browser_may(headers: dict[str, str]) -> None:
    assert (await asked(("127.0.0.1", 1), **headers)).status == 403


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", "", "1e3", "99999999999"])
async def test_the_list_is_bounded(limit: str) -> None:
    assert (await asked(("127.0.0.1", 1), f"/debug?limit={limit}")).status == 400
