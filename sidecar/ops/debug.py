"""`/debug/grants` on the operations listener: the live grants, for somebody inside the pod.

In the chart that listener binds the pod's address, for the kubelet's probes; what stands here is for loopback alone,
whatever the listener binds, and for no browser.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from aiohttp import web

MAX_GRANTS: Final = 1000

Grants = Callable[[int], Sequence[Mapping[str, Any]]]
"""The live grants, at most so many."""


def add_debug(app: web.Application, grants: Grants) -> None:
    """Serves `/debug/grants` (and `/debug`, the same): `?limit=N`, at most 1,000."""

    async def debug(request: web.Request) -> web.Response:
        if not from_loopback(request):
            return _json(403, {"error": "for callers on loopback only"})
        text = request.query.get("limit", str(MAX_GRANTS))
        if not (text.isascii() and text.isdecimal() and len(text) <= 4 and 1 <= int(text) <= MAX_GRANTS):
            return _json(400, {"error": f"limit is a number from 1 to {MAX_GRANTS}"})
        shown = grants(int(text))
        return _json(200, {"grants": shown, "truncated": len(shown) == int(text)})

    app.router.add_get("/debug", debug, allow_head=False)
    app.router.add_get("/debug/grants", debug, allow_head=False)


def from_loopback(request: web.Request) -> bool:
    """By the connection's own address, and by the name that was asked for: a web page whose name was made to resolve
    to loopback comes from there too. No header can say otherwise."""
    peer: Any = request.transport.get_extra_info("peername") if request.transport is not None else None
    try:
        name = urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
        return (
            ipaddress.ip_address(peer[0]).is_loopback
            and (name == "localhost" or ipaddress.ip_address(name).is_loopback)
            and "Origin" not in request.headers
        )
    except (ValueError, TypeError, IndexError):
        return False


def _json(status: int, body: Mapping[str, object]) -> web.Response:
    headers = {"Cache-Control": "no-store"}
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json", headers=headers)
