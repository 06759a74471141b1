"""An issuer's metadata, served."""

from __future__ import annotations

import json
import ssl
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from sidecar.caller.key_fetch import KeyFetcher, Unreadable
from sidecar.config import Issuer as IssuerConfig

OPENID = "/.well-known/openid-configuration"
RFC_8414 = "/.well-known/oauth-authorization-server"
JWKS = b'{"keys":[]}'


class MetadataServer:
    """An issuer with metadata that say what they are told to; `path` is its issuer's."""

    def __init__(self, path: str = "", tls: ssl.SSLContext | None = None, *, openid: bool = True) -> None:
        self.seen: list[tuple[str, str]] = []
        self.redirects = False
        self.metadata: dict[str, Any] | bytes = {}
        self._path = path
        self._tls = tls
        app = web.Application()
        places = [f"{RFC_8414}{path}"] + ([f"{path}{OPENID}"] if openid else [])
        for place in places:
            app.router.add_get(place, self._answer)
        app.router.add_get("/elsewhere", self._answer)
        app.router.add_get("/jwks", self._keys)
        self._server = TestServer(app, host="127.0.0.1", scheme="https" if tls else "http")

    @property
    def issuer(self) -> str:
        """Its identifier."""
        return f"{str(self._server.make_url('/')).rstrip('/')}{self._path}"

    async def _answer(self, request: web.Request) -> web.Response:
        self._note(request)
        if self.redirects and request.path != "/elsewhere":
            raise web.HTTPFound("/elsewhere")
        body = self.metadata if isinstance(self.metadata, bytes) else json.dumps(self.metadata).encode()
        return web.Response(body=body)

    async def _keys(self, request: web.Request) -> web.Response:
        self._note(request)
        return web.Response(body=JWKS)

    def _note(self, request: web.Request) -> None:
        self.seen.append((request.path, request.headers.get("Authorization", "")))

    async def __aenter__(self) -> MetadataServer:
        await self._server.start_server(ssl=self._tls)
        self.metadata = {"issuer": self.issuer, "jwks_uri": str(self._server.make_url("/jwks"))}
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._server.close()


async def fetched(issuer: str, **config: Any) -> bytes:
    async with aiohttp.ClientSession() as session:
        return await KeyFetcher(IssuerConfig(issuer=issuer, **config), session).fetch()


async def reason(issuer: str, **config: Any) -> str:
    with pytest.raises(Unreadable) as caught:
        await fetched(issuer, **config)
    return str(caught.value)
