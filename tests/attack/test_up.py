"""UP: the sidecar's own power over OpenBao. What needs the whole way of a request stands with the enforcement."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from sidecar.config import Upstream
from sidecar.errors import Code, Refused
from sidecar.surface.operation import UpstreamRequest
from sidecar.upstream.client import UpstreamClient, UpstreamFailure
from sidecar.upstream.headers import SENT
from sidecar.upstream.login import BrokerLogin
from sidecar.upstream.release import Release
from tests.real.openbao import OpenBao, TlsListener
from tests.upstream.certificates import Authority
from tests.upstream.raw_server import Exchange, FixedLogin, RawServer, answer, client_of, permit, plain

Make = Callable[..., UpstreamClient]


@pytest_asyncio.fixture
async def client_to() -> AsyncIterator[Make]:
    """Makes clients that are closed at the end."""
    made: list[UpstreamClient] = []

    def make(server: RawServer | str, **options: Any) -> UpstreamClient:
        made.append(client_of(server, **options))
        return made[-1]

    yield make
    for client in made:
        await client.close()


@pytest.mark.real
async def test_up_02_the_sidecars_token_and_accessor_leave_in_no_answer_of_openbao(openbao: OpenBao) -> None:
    """Canary: OpenBao is made to hand both out in every way it has, the sidecar's own token and others' logins."""
    openbao.policy("powerful", 'path "*" { capabilities = ["create", "read", "update", "list", "sudo"] }')
    token = openbao.token("powerful", period="1h")
    upstream = Upstream.model_validate({"address": openbao.address, "auth": {"method": "token", "token": token}})
    login = BrokerLogin(upstream)
    await login.start()
    client, release = UpstreamClient(upstream, login), Release(login)
    accessor = openbao.root().auth.token.lookup(token)["data"]["accessor"]
    openbao.put("up-02/copied", {"token": token, "accessor": accessor})
    try:
        for asked in (
            permit("/v1/auth/token/lookup-self"),
            permit("/v1/auth/token/renew-self", "POST"),
            permit("/v1/auth/token/lookup", "POST", body=b'{"token":"%b"}' % token.encode()),
            permit("/v1/auth/token/lookup-accessor", "POST", body=b'{"accessor":"%b"}' % accessor.encode()),
            permit("/v1/auth/token/accessors", "LIST"),
            permit("/v1/auth/token/create", "POST", body=b"{}"),
            permit("/v1/secret/data/up-02/copied"),
        ):
            received = await client.forward(asked)
            assert received.status == 200, asked
            raw = await received.read(100_000)
            with pytest.raises(Refused) as refused:
                release.body(asked, received.status, raw)
            assert refused.value.code is Code.UPSTREAM_ERROR
    finally:
        await client.close()
        await login.stop()


async def test_up_03_no_answer_is_ever_asked_for_wrapped_and_a_wrapped_one_does_not_leave(client_to: Make) -> None:
    wrapped = b'{"data":null,"wrap_info":{"token":"s.another","ttl":60},"auth":null}'

    async def script(exchange: Exchange) -> None:
        await exchange.send(answer(wrapped))

    async with RawServer(script) as server:
        received = await client_to(server).forward(permit())
        with pytest.raises(Refused):
            Release(FixedLogin()).body(permit(), received.status, await received.read(1000))
    assert "x-vault-wrap-ttl" not in server.exchanges[0].headers


async def test_up_04_only_headers_of_the_allow_list_reach_openbao(client_to: Make) -> None:
    """There is no way in for a caller's header: the permit has no place for one. This pins what goes out."""
    allowed = {name.lower() for name in SENT}
    seen: set[str] = set()
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with RawServer(plain) as server:
        client = client_to(server)
        for method in ("GET", "LIST", "POST", "PUT", "PATCH", "DELETE"):
            body = b"{}" if method.startswith("P") else None
            sent = permit(method=method, body=body, namespace="tenant")
            await (await client.forward(sent, traceparent=trace)).read(1000)
    for exchange in server.exchanges:
        assert exchange.headers.keys() <= allowed
        seen |= exchange.headers.keys()
    assert seen == allowed


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("to", ["another origin", "the same path", "another path", "nowhere"])
async def test_up_05_a_redirect_is_neither_followed_nor_handed_out(status: int, to: str, client_to: Make) -> None:
    async with RawServer(plain) as other:
        places = {
            "another origin": f"Location: {other.address}/v1/secret/data/app/db",
            "the same path": "Location: /v1/secret/data/app/db",
            "another path": "Location: /v1/secret/data/other",
            "nowhere": "X-No-Location: 1",
        }

        async def script(exchange: Exchange) -> None:
            await exchange.send(answer(b"", status, places[to]))

        async with RawServer(script) as server:
            client = client_to(server)
            for asked in (permit(), permit(method="POST", body=b"{}")):
                with pytest.raises(UpstreamFailure) as failed:
                    await client.forward(asked)
                assert failed.value.code is Code.UPSTREAM_ERROR
                assert other.address not in failed.value.message
            assert len(server.exchanges) == 2
        assert other.exchanges == []


@pytest.mark.real
async def test_up_06_a_wrong_certificate_of_openbao_gets_neither_token_nor_request(tmp_path: Path) -> None:
    """Each wrong thing apart stands in tests/upstream/test_tls.py; here: nothing at all was said to it."""
    right, wrong = Authority(tmp_path, "right"), Authority(tmp_path, "wrong")
    pair = wrong.issue("server")
    with OpenBao(tmp_path / "openbao", tls=TlsListener(pair.cert, pair.key)) as server:
        mark = server.mark()
        auth = {"method": "token", "token": server.root_token}
        tls = {"ca_file": right.file}
        upstream = Upstream.model_validate({"address": server.tls_address, "auth": auth, "tls": tls})
        login = BrokerLogin(upstream)
        await login.start()
        client = UpstreamClient(upstream, FixedLogin())
        for asking in (client.forward(permit()), client.public(UpstreamRequest("GET", "/v1/sys/health"))):
            with pytest.raises(UpstreamFailure) as failed:
                await asking
            assert (failed.value.code, failed.value.sent) == (Code.UPSTREAM_UNAVAILABLE, False)
        assert not login.ready
        await client.close()
        await login.stop()
        assert server.requests(since=mark) == []


async def test_up_08_a_half_read_answer_is_never_continued_for_the_next_caller(client_to: Make) -> None:
    """The storm of nasty answers stands in tests/upstream/test_pool.py; here: one caller leaves, the next comes."""

    async def script(exchange: Exchange) -> None:
        if exchange.number == 0:
            await exchange.send(answer(b'{"first":"half', length=100))
        else:
            await plain(exchange)

    async with RawServer(script) as server:
        client = client_to(server)
        leaving = (await client.forward(permit("/v1/secret/data/alice"))).stream()
        assert await anext(leaving) == b'{"first":"half'
        await leaving.aclose()
        received = await client.forward(permit("/v1/secret/data/bob"))
        assert await received.read(1000) == b'{"target":"/v1/secret/data/bob"}'
        assert server.connections == 2


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
async def test_up_10_a_connection_that_dies_after_openbao_ran_the_request_runs_it_once(
    method: str, client_to: Make
) -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.number == 1:
            exchange.end()
        else:
            await plain(exchange)

    async with RawServer(script) as server:
        client = client_to(server)
        await (await client.forward(permit())).read(1000)
        with pytest.raises(UpstreamFailure) as failed:
            await client.forward(permit("/v1/secret/data/once", method, body=b"{}" if method == "PUT" else None))
        assert failed.value.sent is True
        await (await client.forward(permit())).read(1000)
        assert [exchange.target for exchange in server.exchanges].count(b"/v1/secret/data/once") == 1
