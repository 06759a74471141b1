"""Keys found by an issuer's metadata, and where metadata may not lead."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from sidecar.caller import key_fetch
from sidecar.caller.key_fetch import KeyFetcher, Unreadable, metadata_urls
from sidecar.config import Issuer as IssuerConfig
from tests.support.certificates import Authority

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


@pytest.mark.parametrize(
    ("issuer", "openid", "oauth"),
    [
        ("https://idp.example", OPENID, RFC_8414),
        ("https://idp.example/", OPENID, RFC_8414),
        ("https://idp.example/tenant/1", f"/tenant/1{OPENID}", f"{RFC_8414}/tenant/1"),
        ("https://idp.example:8443/t/", f"/t{OPENID}", f"{RFC_8414}/t"),
    ],
)
def test_where_metadata_lie(issuer: str, openid: str, oauth: str) -> None:
    origin = "/".join(issuer.split("/")[:3])
    assert metadata_urls(issuer) == (f"{origin}{openid}", f"{origin}{oauth}")


@pytest.mark.parametrize("path", ["", "/tenant"])
async def test_keys_are_found_by_either_document(path: str) -> None:
    async with MetadataServer(path) as server:
        assert await fetched(server.issuer) == JWKS
        assert [place for place, _ in server.seen] == [f"{path}{OPENID}", "/jwks"]
    async with MetadataServer(path, openid=False) as server:
        assert await fetched(server.issuer) == JWKS
        assert [place for place, _ in server.seen] == [f"{RFC_8414}{path}", "/jwks"]


@pytest.mark.parametrize("bent", ["/", "https://other.example", None, 1, ["x"]])
async def test_metadata_of_another_issuer(bent: Any) -> None:
    async with MetadataServer() as server:
        assert isinstance(server.metadata, dict)
        server.metadata["issuer"] = f"{server.issuer}/" if bent == "/" else bent
        assert await reason(server.issuer) == "the metadata are another issuer's"
        assert [place for place, _ in server.seen] == [OPENID]


@pytest.mark.parametrize(
    "document", [b"", b"[]", b"<html>", b'{"issuer":"a","issuer":"b"}', b'{"x":"' + b"y" * 70_000 + b'"}']
)
async def test_metadata_that_are_none(document: bytes) -> None:
    async with MetadataServer() as server:
        server.metadata = document
        assert "metadata" in await reason(server.issuer)


@pytest.mark.parametrize(
    "uri",
    [
        None,
        1,
        "",
        "/jwks",
        "file:///etc/shadow",
        "ftp://idp.example/jwks",
        "https://user@idp.example/jwks",
        "http://127.0.0.1:1/jwks",
        "https://127.0.0.1:1/jwks",
        "https://[::1]/jwks",
        "https://[::ffff:127.0.0.1]/jwks",
        "https://169.254.169.254/latest/meta-data",
        "https://10.0.0.1/jwks",
        "https://192.168.0.1/jwks",
        "https://0.0.0.0/jwks",
        "https://100.64.0.1/jwks",
        "https://localhost/jwks",
        "https://a.localhost/jwks",
        "https://LOCALHOST/jwks",
        "http://8.8.8.8/jwks",
    ],
)
async def test_metadata_do_not_lead_to_neighbours(uri: Any) -> None:
    async with MetadataServer() as server:
        assert isinstance(server.metadata, dict)
        server.metadata["jwks_uri"] = uri
        assert "jwks_uri" in await reason(server.issuer)


async def test_a_public_name_with_a_private_address_is_not_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """The addresses looked at are those connected to: a name cannot change its mind in between."""
    asked: list[str] = []

    async def resolve(self: object, host: str, port: int = 0, family: int = 0) -> list[dict[str, Any]]:
        asked.append(host)
        private = {"hostname": host, "host": "10.0.0.1", "port": port, "family": 2, "proto": 0, "flags": 0}
        return [private | {"host": "8.8.8.8"}, private]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    async with MetadataServer() as server:
        assert isinstance(server.metadata, dict)
        server.metadata["jwks_uri"] = "https://keys.example/jwks"
        assert "cannot be reached" in await reason(server.issuer)
        assert asked == ["keys.example"]


async def test_no_redirect_is_followed() -> None:
    async with MetadataServer() as server:
        server.redirects = True
        assert await reason(server.issuer) == "the issuer answered 302"
        assert [place for place, _ in server.seen] == [OPENID]


async def test_the_bearer_token_goes_to_the_issuer_and_is_read_anew(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    async with MetadataServer() as server:
        for token in ("one", "two"):
            token_file.write_text(f"{token}\n")
            await fetched(server.issuer, token_file=token_file)
            assert {bearer for _, bearer in server.seen} == {f"Bearer {token}"}
            server.seen.clear()
        token_file.unlink()
        assert "cannot be reached" in await reason(server.issuer, token_file=token_file)
        assert not server.seen


async def test_what_is_configured_may_lie_anywhere() -> None:
    async with MetadataServer() as server:
        jwks_uri = f"{server.issuer}/jwks"
        assert await fetched("https://idp.example", jwks_uri=jwks_uri) == JWKS


@asynccontextmanager
async def tls_server(folder: Path, authority: Authority) -> AsyncIterator[MetadataServer]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue_server().write(folder, "server"))
    async with MetadataServer(tls=context) as server:
        yield server


async def test_metadata_are_fetched_by_tls_that_is_verified(tmp_path: Path) -> None:
    authority = Authority()
    async with tls_server(tmp_path, authority) as server:
        assert await fetched(server.issuer, ca_file=authority.write(tmp_path, "ca")) == JWKS
        assert "cannot be reached" in await reason(server.issuer)
        stranger = Authority("Another CA").write(tmp_path, "stranger")
        assert "cannot be reached" in await reason(server.issuer, ca_file=stranger)
        # https does not fall to http on the way.
        assert isinstance(server.metadata, dict)
        server.metadata["jwks_uri"] = server.metadata["jwks_uri"].replace("https", "http")
        assert "point to where" in await reason(server.issuer, ca_file=tmp_path / "ca.pem")


async def test_an_issuer_that_is_slow_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_fetch, "FETCH_TIMEOUT_SECONDS", 0.0001)
    async with MetadataServer() as server:
        assert await reason(server.issuer) == "the issuer did not answer in time"
