"""A JWKS endpoint on loopback that does what it is told."""

from __future__ import annotations

import asyncio
import json
import ssl
from types import TracebackType
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer


class JwksServer:
    """Serves a key set, well or badly, and counts."""

    def __init__(self, document: dict[str, Any], tls: ssl.SSLContext | None = None) -> None:
        self.document = document
        self.fetches = 0
        self._how = "well"
        self._tls = tls
        self._ended = asyncio.Event()
        app = web.Application()
        app.router.add_get("/jwks.json", self._answer)
        app.router.add_get("/elsewhere.json", self._well)
        self._server = TestServer(app, host="127.0.0.1", scheme="https" if tls else "http")

    @property
    def url(self) -> str:
        """The `jwks_uri`."""
        return str(self._server.make_url("/jwks.json"))

    def serve(self, how: str) -> None:
        """How to answer from now on."""
        self._how = how

    async def __aenter__(self) -> JwksServer:
        await self._server.start_server(ssl=self._tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        await self._server.close()

    async def _well(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response(self.document)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.fetches += 1
        match self._how:
            case "none":
                return web.json_response({"keys": []})
            case "ten thousand":
                return web.json_response({"keys": self.document["keys"] * 200})
            case "oversize":
                return web.json_response(self.document | {"padding": "x" * 300_000})
            case "garbage":
                return web.Response(body=b"<html>")
            case "redirect":
                raise web.HTTPFound("/elsewhere.json")
            case "slow":
                await self._ended.wait()
            case "error":
                return web.json_response(self.document, status=500)
            case "gone":
                if request.transport is not None:
                    request.transport.abort()
            case "twice":
                return web.Response(text=f'{{"keys":[],"keys":{json.dumps(self.document["keys"])}}}')
        return await self._well(request)
