"""The adapters against a server that runs the real Authenticator."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import hvac
import jwt
import pytest
import requests

from sidecar.client import DPoPKey
from sidecar.client.aiohttp import DPoPMiddleware
from sidecar.client.httpx import DPoPAuth as HttpxAuth
from sidecar.client.requests import DPoPAuth
from sidecar.client.signer import Signer
from tests.support.desk import PATH, Desk, open_desk
from tests.support.guarded_server import GuardedServer
from tests.support.tokens import b64

KEY = DPoPKey.generate()
SUBJECT = {"data": {"data": {"sub": "app"}}}


class Place:
    """A server, and a token that is taken there."""

    def __init__(self, desk: Desk, server: GuardedServer) -> None:
        self.desk = desk
        self.server = server
        self.token = desk.issuer.bound_token(KEY.thumbprint)

    @property
    def url(self) -> str:
        """Of a secret."""
        return f"{self.server.url}{PATH}"

    def lose_nonces(self) -> None:
        """As after a restart of the server: the client's nonce is worthless."""
        clock = self.desk.clock
        self.desk.authenticator._nonces.renew(clock.elapsed())


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with open_desk(tmp_path) as desk, GuardedServer(desk.authenticator) as server:
        yield Place(desk, server)


def test_beside_openbao_s_own_token_the_proof_is_for_the_access_token() -> None:
    """As in passthrough mode, where `X-Vault-Token` is not the caller's access token."""
    given = {"Authorization": "DPoP access", "X-Vault-Token": "s.own"}
    for signer in (Signer(KEY), Signer(KEY, "access")):
        signed = signer.sign("GET", "http://127.0.0.1/v1/x", given)
        claims = jwt.decode(signed["DPoP"], options={"verify_signature": False})
        assert claims["ath"] == b64(hashlib.sha256(b"access").digest())
        assert signed.get("Authorization", "DPoP access") == "DPoP access"
        assert "X-Vault-Token" not in signed


@pytest.fixture
async def elsewhere(tmp_path: Path) -> AsyncIterator[Place]:
    """Another server, with another process's nonces."""
    (tmp_path / "elsewhere").mkdir()
    async with open_desk(tmp_path / "elsewhere") as desk, GuardedServer(desk.authenticator) as server:
        yield Place(desk, server)


# -- requests and hvac -----------------------------------------------------------------------------------------------
async def test_requests_learns_the_nonce_once_and_keeps_it(place: Place) -> None:
    with requests.Session() as session:
        session.auth = DPoPAuth(KEY, place.token)
        for _ in range(3):
            answer = await asyncio.to_thread(session.get, place.url, timeout=10)
            assert answer.json() | SUBJECT == answer.json()
    assert place.server.statuses == [401, 200, 200, 200]


async def test_requests_tries_again_once_and_no_more(place: Place) -> None:
    with requests.Session() as session:
        session.auth = DPoPAuth(KEY, place.token)
        place.lose_nonces()
        await asyncio.to_thread(session.get, place.url, timeout=10)
        assert place.server.statuses == [401, 200]
        answer = await asyncio.to_thread(session.get, f"{place.server.url}/v1/x", params={"a": "b"}, timeout=10)
        assert answer.status_code == 200
        place.server.seen.clear()

        def forget() -> None:
            place.desk.authenticator._nonces.renew(place.desk.clock.elapsed())

        original = place.desk.authenticator.authenticate

        async def forgetful(*args: Any, **kwargs: Any) -> Any:
            forget()  # whatever nonce the client has learnt is worthless when it comes back with it
            return await original(*args, **kwargs)

        place.desk.authenticator.authenticate = forgetful  # type: ignore[method-assign] # a server that never is content
        answer = await asyncio.to_thread(session.get, place.url, timeout=10)
        assert answer.status_code == 401
        assert len(place.server.seen) == 2


@pytest.mark.parametrize("body", [b"bytes", "text", io.BytesIO(b"a file"), {"a": "form"}, None])
async def test_requests_sends_the_whole_body_again(place: Place, body: Any) -> None:
    with requests.Session() as session:
        session.auth = DPoPAuth(KEY, place.token)
        if isinstance(body, io.BytesIO):
            body.seek(2)  # from where the application had it
        answer = await asyncio.to_thread(session.post, place.url, data=body, timeout=10)
        assert answer.status_code == 200
    first, second = place.server.seen
    assert (first.status, second.status) == (401, 200)
    assert first.body == second.body
    assert second.body in (b"bytes", b"text", b"file", b"a=form", b"")


async def test_requests_gives_up_on_a_body_that_cannot_be_sent_again(place: Place) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"a"
        yield b"b"

    with requests.Session() as session:
        session.auth = DPoPAuth(KEY, place.token)
        answer = await asyncio.to_thread(session.post, place.url, data=pieces(), timeout=10)
        assert answer.status_code == 401
        # But the nonce is learnt: the next one is taken.
        answer = await asyncio.to_thread(session.post, place.url, data=pieces(), timeout=10)
        assert answer.status_code == 200
    assert place.server.seen[-1].body == b"ab"


async def test_requests_from_many_threads(place: Place) -> None:
    with requests.Session() as session:
        session.auth = DPoPAuth(KEY, place.token)
        answers = await asyncio.gather(
            *(asyncio.to_thread(session.get, place.url, timeout=10) for _ in range(20)),
        )
    assert {answer.status_code for answer in answers} == {200}


async def test_requests_takes_its_token_to_no_other_server(place: Place, elsewhere: Place) -> None:
    place.server.redirect_to = elsewhere.url
    with requests.Session() as session:
        session.auth = DPoPAuth(KEY, place.token)
        answer = await asyncio.to_thread(session.get, place.url, timeout=10)
    assert answer.status_code == 401
    assert [seen.status for seen in elsewhere.server.seen] == [401]
    assert "authorization" not in elsewhere.server.seen[0].head.headers


async def test_hvac_reads_writes_and_lists(place: Place) -> None:
    client = hvac.Client(url=place.server.url, token=place.token)
    client.session.auth = DPoPAuth(KEY)

    def work() -> tuple[Any, Any]:
        read = client.secrets.kv.v2.read_secret_version("app/db", raise_on_deleted_version=False)
        client.secrets.kv.v2.create_or_update_secret("app/db", {"user": "x"})
        return read, client.secrets.kv.v2.list_secrets("app")

    read, listed = await asyncio.to_thread(work)
    assert read["data"]["data"] == {"sub": "app"}
    assert listed["method"] == "LIST"
    assert [(seen.head.method, seen.status) for seen in place.server.seen] == [
        ("GET", 401),
        ("GET", 200),
        ("POST", 200),
        ("LIST", 200),
    ]
    assert all("authorization" not in seen.head.headers for seen in place.server.seen)


async def test_a_function_gives_the_token_to_use_now(place: Place) -> None:
    tokens = [place.token, place.desk.issuer.bound_token(KEY.thumbprint, sub="later")]
    with requests.Session() as session:
        session.auth = DPoPAuth(KEY, lambda: tokens[min(len(place.server.seen) // 2, 1)])
        for _ in range(2):
            await asyncio.to_thread(session.get, place.url, timeout=10)
    subjects = [seen.caller.subject for seen in place.server.seen if seen.caller]
    assert subjects == ["app", "later"]


# -- httpx -----------------------------------------------------------------------------------------------------------
async def test_httpx_asynchronous(place: Place) -> None:
    async with httpx.AsyncClient(base_url=place.server.url, auth=HttpxAuth(KEY, place.token)) as client:
        for method in ("GET", "LIST", "POST", "DELETE"):
            answer = await client.request(method, f"{PATH}?version=1", json={"a": 1} if method == "POST" else None)
            assert answer.json()["method"] == method
    assert place.server.statuses == [401, 200, 200, 200, 200]


async def test_httpx_synchronous_with_a_body(place: Place) -> None:
    def work() -> httpx.Response:
        with httpx.Client(auth=HttpxAuth(KEY, place.token)) as client:
            return client.post(place.url, json={"a": 1})

    assert (await asyncio.to_thread(work)).status_code == 200
    assert [seen.body for seen in place.server.seen] == [b'{"a":1}', b'{"a":1}']


async def test_httpx_finds_the_token_in_x_vault_token(place: Place) -> None:
    async with httpx.AsyncClient(auth=HttpxAuth(KEY), headers={"X-Vault-Token": place.token}) as client:
        assert (await client.get(place.url)).status_code == 200
    assert "authorization" not in place.server.seen[-1].head.headers


async def test_httpx_gives_up_on_a_body_that_cannot_be_sent_again(place: Place) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"a"

    async with httpx.AsyncClient(auth=HttpxAuth(KEY, place.token)) as client:
        assert (await client.post(place.url, content=pieces())).status_code == 401
        assert (await client.post(place.url, content=pieces())).status_code == 200


async def test_httpx_takes_its_token_to_no_other_server(place: Place, elsewhere: Place) -> None:
    place.server.redirect_to = elsewhere.url
    async with httpx.AsyncClient(auth=HttpxAuth(KEY, place.token), follow_redirects=True) as client:
        answer = await client.get(place.url)
    assert answer.status_code == 401
    assert all("authorization" not in seen.head.headers for seen in elsewhere.server.seen)


# -- aiohttp ---------------------------------------------------------------------------------------------------------
async def test_aiohttp(place: Place) -> None:
    async with aiohttp.ClientSession(place.server.url, middlewares=[DPoPMiddleware(KEY, place.token)]) as session:
        for method in ("GET", "LIST", "POST", "DELETE"):
            async with session.request(method, PATH, params={"a": "b c"}, json={"a": 1}) as answer:
                assert (await answer.json())["method"] == method
    assert place.server.statuses == [401, 200, 200, 200, 200]
    assert {seen.body for seen in place.server.seen} == {b'{"a": 1}'}


async def test_aiohttp_finds_the_token_in_x_vault_token(place: Place) -> None:
    headers = {"X-Vault-Token": place.token}
    async with (
        aiohttp.ClientSession(headers=headers, middlewares=[DPoPMiddleware(KEY)]) as session,
        session.get(place.url) as answer,
    ):
        assert answer.status == 200
    assert "authorization" not in place.server.seen[-1].head.headers


async def test_aiohttp_gives_up_on_a_body_that_cannot_be_sent_again(place: Place) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"a"

    async with aiohttp.ClientSession(middlewares=[DPoPMiddleware(KEY, place.token)]) as session:
        for status in (401, 200):
            async with session.post(place.url, data=pieces()) as answer:
                assert answer.status == status


async def test_aiohttp_takes_its_token_to_no_other_server(place: Place, elsewhere: Place) -> None:
    place.server.redirect_to = elsewhere.url
    async with (
        aiohttp.ClientSession(middlewares=[DPoPMiddleware(KEY, place.token)]) as session,
        session.get(place.url) as answer,
    ):
        assert answer.status == 401
    assert [seen.status for seen in elsewhere.server.seen] == [401]
    assert "authorization" not in elsewhere.server.seen[0].head.headers


# -- all -------------------------------------------------------------------------------------------------------------
async def test_a_server_that_restarts_in_between_costs_one_challenge(place: Place) -> None:
    async with httpx.AsyncClient(auth=HttpxAuth(KEY, place.token)) as client:
        await client.get(place.url)
        place.lose_nonces()
        assert (await client.get(place.url)).status_code == 200
        assert (await client.get(place.url)).status_code == 200
    assert place.server.statuses == [401, 200, 401, 200, 200]


async def test_paths_that_need_escapes_are_signed_as_they_are_sent(place: Place) -> None:
    path = "/v1/secret/data/päth with spaces/a%20b/c+d"
    url = f"{place.server.url}{path}"
    with requests.Session() as session:
        session.auth = DPoPAuth(KEY, place.token)
        assert (await asyncio.to_thread(session.get, url, timeout=10)).status_code == 200
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(auth=HttpxAuth(KEY, place.token)))
        assert (await client.get(url)).status_code == 200
        middlewares = [DPoPMiddleware(KEY, place.token)]
        session2 = await stack.enter_async_context(aiohttp.ClientSession(middlewares=middlewares))
        async with session2.get(url) as answer:
            assert answer.status == 200


def test_without_a_token_nothing_is_signed() -> None:
    with pytest.raises(ValueError, match="no token"):
        Signer(KEY).sign("GET", "http://a/b", {})
    with pytest.raises(ValueError, match="no token"):
        Signer(KEY).sign("GET", "http://a/b", {"Authorization": "Bearer x"})


def test_each_server_has_its_own_nonce() -> None:
    signer = Signer(KEY, "token")
    signer.learn("http://a/x", {"DPoP-Nonce": "of a"})
    assert signer._nonces == {"http://a": "of a"}
    assert not signer.is_nonce_challenge(401, {"WWW-Authenticate": 'DPoP error="use_dpop_nonce"'})
    assert not signer.is_nonce_challenge(400, {"WWW-Authenticate": 'DPoP error="use_dpop_nonce"', "DPoP-Nonce": "x"})
    assert not signer.is_nonce_challenge(401, {"WWW-Authenticate": 'DPoP error="invalid_token"', "DPoP-Nonce": "x"})
