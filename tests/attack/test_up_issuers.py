"""UP 05: where an issuer's URLs, metadata and redirects may send the sidecar. Nowhere but to the issuer, or out."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from tests.caller.metadata import JWKS, OPENID, MetadataServer, fetched, reason

NEIGHBOURS = [
    "http://127.0.0.1:1/jwks",
    "https://127.0.0.1:1/jwks",
    "https://[::1]/jwks",
    "https://[::ffff:127.0.0.1]/jwks",
    "https://[::127.0.0.1]/jwks",
    "https://[64:ff9b::7f00:1]/jwks",  # NAT64
    "https://[2002:7f00:1::]/jwks",  # 6to4
    "https://[2001:0:a00:1::]/jwks",  # Teredo
    "https://[fe80::1]/jwks",
    "https://[fe80::1%25lo]/jwks",
    "https://[fd00:ec2::254]/latest/meta-data",
    "https://[ff02::1]/jwks",
    "https://169.254.169.254/latest/meta-data",
    "https://10.0.0.1/jwks",
    "https://192.168.0.1/jwks",
    "https://0.0.0.0/jwks",
    "https://0/jwks",
    "https://100.64.0.1/jwks",
    "https://224.0.0.1/jwks",
    "https://localhost/jwks",
    "https://a.localhost/jwks",
    "https://LOCALHOST/jwks",
    "http://8.8.8.8/jwks",
]
SPELLINGS = [
    f"https://{host}/jwks"
    for host in ("127.1", "127.0.1", "2130706433", "0177.0.0.1", "0x7f.1", "0x7f000001", "127.0.0.1.", "localhost.")
]
"""Addresses as inet_aton reads them, which nothing but the connecting itself takes for addresses."""


@pytest.mark.parametrize("uri", [None, 1, "", "/jwks", "file:///etc/shadow", "ftp://idp.example/jwks"])
async def test_up_05_metadata_that_name_no_url_or_a_file(uri: Any) -> None:
    async with MetadataServer() as server:
        server.metadata = {"issuer": server.issuer, "jwks_uri": uri}
        assert "jwks_uri" in await reason(server.issuer)


@pytest.mark.parametrize("uri", [*NEIGHBOURS, "https://user@idp.example/jwks", "https://8.8.8.8@127.0.0.1/jwks"])
async def test_up_05_metadata_do_not_lead_to_neighbours(uri: str) -> None:
    async with MetadataServer() as server:
        server.metadata = {"issuer": server.issuer, "jwks_uri": uri}
        assert "jwks_uri" in await reason(server.issuer)


@pytest.mark.parametrize("uri", SPELLINGS)
async def test_up_05_nor_by_another_spelling_of_their_address(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connected: list[object] = []

    async def connect(*args: object, **_options: object) -> None:
        connected.append(args)
        raise OSError

    async with MetadataServer() as server:
        server.metadata = {"issuer": server.issuer, "jwks_uri": uri}
        original = aiohttp.TCPConnector._wrap_create_connection

        async def watched(self: aiohttp.TCPConnector, *args: Any, **options: Any) -> Any:
            if isinstance(self._resolver, aiohttp.ThreadedResolver):
                return await original(self, *args, **options)
            return await connect(*args)

        monkeypatch.setattr(aiohttp.TCPConnector, "_wrap_create_connection", watched)
        await reason(server.issuer)
        assert connected == []


@pytest.mark.parametrize("private", ["10.0.0.1", "127.0.0.1", "169.254.169.254", "::1", "64:ff9b::a00:1"])
async def test_up_05_a_public_name_with_a_private_address(private: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The addresses looked at are those connected to: a name cannot change its mind in between (DNS rebinding)."""
    asked: list[str] = []

    async def resolve(self: object, host: str, port: int = 0, family: int = 0) -> list[dict[str, Any]]:
        asked.append(host)
        found = {"hostname": host, "host": private, "port": port, "family": 2, "proto": 0, "flags": 0}
        return [found | {"host": "8.8.8.8"}, found]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    async with MetadataServer() as server:
        server.metadata = {"issuer": server.issuer, "jwks_uri": "https://keys.example/jwks"}
        assert "cannot be reached" in await reason(server.issuer)
        assert asked == ["keys.example"]


async def test_up_05_no_redirect_of_metadata_or_of_keys_is_followed() -> None:
    async with MetadataServer() as server:
        server.redirects = True
        assert await reason(server.issuer) == "the issuer answered 302"
        assert [place for place, _ in server.seen] == [OPENID]
        server.seen.clear()
        assert await reason("https://idp.example", jwks_uri=f"{server.issuer}{OPENID}") == "the issuer answered 302"
        assert [place for place, _ in server.seen] == [OPENID]


async def test_up_05_what_is_configured_may_lie_anywhere() -> None:
    async with MetadataServer() as server:
        jwks_uri = f"{server.issuer}/jwks"
        assert await fetched("https://idp.example", jwks_uri=jwks_uri) == JWKS
