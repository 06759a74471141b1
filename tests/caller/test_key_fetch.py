"""Keys found by an issuer's metadata, and where metadata may not lead."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sidecar.caller import key_fetch
from sidecar.caller.key_fetch import metadata_urls
from tests.caller.metadata import JWKS, OPENID, RFC_8414, MetadataServer, fetched, reason
from tests.support.certificates import Authority


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
