"""`POST /revalidate` on the operations listener: ends grants, so that the PDP is asked anew.

In the chart that listener binds the pod's address. Without `ops.token_file` this is for loopback alone; with it, for
whoever has the token, which is read anew for each call. Never for a browser: any `Origin` is refused, and the body must
be said to be JSON, which no page may send to another site unasked.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import orjson
from aiohttp import web

from sidecar.errors import Refused
from sidecar.ops.debug import from_loopback
from sidecar.ops.logs import register_secret

MAX_BODY_BYTES: Final = 16 * 1024
PATH: Final = "/revalidate"

Revalidate = Callable[[bytes], Awaitable[int]]
"""Applies the revocation that a body holds; how many grants ended. Raises `ValueError` with what is wrong with it, or
`Refused` where it was done and could not be recorded."""


def add_revalidate(app: web.Application, revalidate: Revalidate, token_file: Path | None) -> None:
    """Serves it."""

    async def handle(request: web.Request) -> web.Response:
        if "Origin" in request.headers or "Sec-Fetch-Site" in request.headers:
            return _json(403, {"error": "not for browsers"})
        if token_file is None:
            if not from_loopback(request):
                return _json(403, {"error": "for callers on loopback only, unless ops.token_file is configured"})
        elif not await _has_token(request, token_file):
            return _json(401, {"error": "needs the operations token"}, {"WWW-Authenticate": "Bearer"})
        if request.content_type != "application/json":
            return _json(400, {"error": "the body is application/json"})
        body = await request.content.read(MAX_BODY_BYTES + 1)
        while len(body) <= MAX_BODY_BYTES and (more := await request.content.read(MAX_BODY_BYTES)):
            body += more
        if len(body) > MAX_BODY_BYTES:
            return _json(413, {"error": f"the body has more than {MAX_BODY_BYTES} bytes"})
        try:
            ended = await revalidate(body)
        except ValueError as error:
            return _json(400, {"error": str(error)})
        except Refused as refused:
            return _json(refused.status, {"error": "done, but it could not be recorded", "code": refused.code})
        return _json(200, {"grants_ended": ended})

    app.router.add_post(PATH, handle)


async def _has_token(request: web.Request, token_file: Path) -> bool:
    """A file that cannot be read lets nobody in; nor does an empty one."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    try:
        wanted = (await asyncio.to_thread(token_file.read_bytes)).strip()
    except OSError:
        return False
    register_secret(wanted.decode("utf-8", "replace"), token_file)
    presented = given.strip().encode("utf-8", "surrogateescape")
    return scheme.lower() == "bearer" and bool(wanted) and hmac.compare_digest(presented, wanted)


def _json(status: int, body: dict[str, object], headers: dict[str, str] | None = None) -> web.Response:
    given = {"Cache-Control": "no-store", **(headers or {})}
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json", headers=given)
