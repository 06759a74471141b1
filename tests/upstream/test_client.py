"""What goes to OpenBao, what comes back from it, and what becomes of an OpenBao that does not answer as one."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.caller.identity import Credential
from sidecar.errors import Code, Refused
from sidecar.surface.operation import UpstreamRequest
from sidecar.upstream.client import UpstreamClient, UpstreamFailure
from sidecar.upstream.headers import RELEASED
from tests.support.waiting import until
from tests.upstream.raw_server import TOKEN, Exchange, FixedLogin, RawServer, answer, permit, plain

Make = Callable[..., UpstreamClient]


# -- what goes out -------------------------------------------------------------------------------------------------
async def test_a_read_carries_exactly_these_headers(client_to: Make) -> None:
    async with RawServer(plain) as server:
        await (await client_to(server).forward(permit())).read(1000)
    assert server.exchanges[0].headers == {
        "host": f"127.0.0.1:{server.port}",
        "user-agent": "openbao-sidecar",
        "accept-encoding": "identity",
        "x-vault-request": "true",
        "x-vault-token": TOKEN,
    }


async def test_a_write_carries_its_body_namespace_and_trace_besides(client_to: Make) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with RawServer(plain) as server:
        sent = permit(method="POST", body=b'{"data":{}}', namespace="team/a")
        await (await client_to(server).forward(sent, traceparent=trace)).read(1000)
    exchange = server.exchanges[0]
    assert exchange.body == b'{"data":{}}'
    assert exchange.headers == {
        "host": f"127.0.0.1:{server.port}",
        "user-agent": "openbao-sidecar",
        "accept-encoding": "identity",
        "x-vault-request": "true",
        "x-vault-token": TOKEN,
        "x-vault-namespace": "team/a",
        "traceparent": trace,
        "content-type": "application/json",
        "content-length": "11",
    }


async def test_a_write_without_a_body_says_so(client_to: Make) -> None:
    async with RawServer(plain) as server:
        await (await client_to(server).forward(permit(method="POST"))).read(1000)
    assert server.exchanges[0].headers["content-length"] == "0"
    assert "content-type" not in server.exchanges[0].headers


@pytest.mark.parametrize("size", [1, 2**16, 2**20, 2**20 + 1, 5 * 2**20])
async def test_a_body_of_any_size_arrives_whole(size: int, client_to: Make) -> None:
    body = b"x" * size
    async with RawServer(plain) as server:
        await (await client_to(server).forward(permit(method="PUT", body=body))).read(1000)
    assert server.exchanges[0].body == body


async def test_public_paths_go_out_without_any_token(client_to: Make) -> None:
    async with RawServer(plain) as server:
        client = client_to(server)
        for path in ("/v1/sys/health", "/v1/sys/seal-status", "/v1/sys/leader"):
            await (await client.public(UpstreamRequest("GET", path, "standbyok=true"))).read(1000)
    for exchange in server.exchanges:
        assert exchange.headers.keys() == {"host", "user-agent", "accept-encoding", "x-vault-request"}
        assert exchange.target.endswith(b"?standbyok=true")


async def test_a_trace_goes_along_with_what_needs_no_permit(client_to: Make) -> None:
    trace = f"00-{'1' * 32}-{'2' * 16}-01"
    async with RawServer(plain) as server:
        client = client_to(server)
        asked = UpstreamRequest("GET", "/v1/sys/health"), UpstreamRequest("GET", "/v1/auth/token/lookup-self")
        await (await client.public(asked[0], traceparent=trace)).read(1000)
        await (await client.token_call(asked[1], Credential(TOKEN), traceparent=trace)).read(1000)
    assert [exchange.headers["traceparent"] for exchange in server.exchanges] == [trace, trace]


@pytest.mark.parametrize(
    "request_",
    [
        UpstreamRequest("GET", "/v1/secret/data/a"),
        UpstreamRequest("GET", "/v1/sys/seal"),
        UpstreamRequest("GET", "/v1/sys/health/"),
        UpstreamRequest("POST", "/v1/sys/health"),
        UpstreamRequest("GET", "/v1/sys/leader", body=b"{}"),
    ],
)
async def test_nothing_else_goes_out_without_a_permit(request_: UpstreamRequest, client_to: Make) -> None:
    async with RawServer(plain) as server:
        with pytest.raises(ValueError, match="without a permit"):
            await client_to(server).public(request_)
    assert server.exchanges == []


async def test_neither_proxies_nor_netrc_of_the_environment_have_a_say(
    client_to: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login thief password thief\n")
    async with RawServer(plain) as server, RawServer(plain) as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.address)
        monkeypatch.setenv("NETRC", str(netrc))
        await (await client_to(server).forward(permit())).read(1000)
        assert proxy.exchanges == []
    assert "authorization" not in server.exchanges[0].headers


async def test_cookies_of_openbao_are_not_kept(client_to: Make) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(answer(b"{}", 200, "Set-Cookie: session=1; Path=/"))

    async with RawServer(script) as server:
        client = client_to(server)
        for _ in range(2):
            received = await client.forward(permit())
            await received.read(1000)
            assert "Set-Cookie" not in received.headers
    assert "cookie" not in server.exchanges[1].headers


# -- what comes back -----------------------------------------------------------------------------------------------
async def test_only_headers_of_the_table_come_back(client_to: Make) -> None:
    kept = {"Content-Type": "application/json", "Retry-After": "7"}
    dropped = [
        "Set-Cookie: a=b",
        "Location: https://elsewhere/",
        "X-Vault-Token: s.x",
        "X-Vault-Index: abc",
        "Strict-Transport-Security: max-age=1",
        "WWW-Authenticate: Bearer",
        "Cache-Control: public",
        "Access-Control-Allow-Origin: *",
        "Via: 1.1 lb",
        "Server: x",
        "Date: Tue, 24 Nov 2026 02:35:49 GMT",
        "X-Anything-Else: 1",
        "Keep-Alive: timeout=5",
    ]

    async def script(exchange: Exchange) -> None:
        await exchange.send(answer(b"{}", 429, "Retry-After: 7", *dropped))

    async with RawServer(script) as server:
        received = await client_to(server).forward(permit())
        await received.read(1000)
    assert received.headers == kept
    assert set(RELEASED) == kept.keys()


@pytest.mark.parametrize("status", [200, 201, 202, 206, 400, 404, 405, 429, 472, 473, 500, 501, 503])
async def test_what_openbao_itself_answers_comes_back_as_it_is(status: int, client_to: Make) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(answer(b'{"errors":["so"]}', status))

    async with RawServer(script) as server:
        received = await client_to(server).forward(permit())
        assert (received.status, await received.read(1000)) == (status, b'{"errors":["so"]}')
        assert received.content_length == 17
        assert received.duration_seconds > 0


async def test_an_empty_answer_has_no_body(client_to: Make) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with RawServer(script) as server:
        client = client_to(server)
        for _ in range(2):
            received = await client.forward(permit(method="DELETE"))
            assert (received.status, received.content_length, await received.read(10)) == (204, 0, b"")
        assert server.connections == 1


async def test_a_body_is_read_whole_or_streamed_and_both_keep_the_connection(client_to: Make) -> None:
    body = bytes(range(256)) * 4096  # 1 MiB

    async def script(exchange: Exchange) -> None:
        if exchange.number % 2:
            head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            await exchange.send(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        else:
            await exchange.send(answer(body))

    async with RawServer(script) as server:
        client = client_to(server)
        for number in range(4):
            received = await client.forward(permit())
            assert received.content_length == (None if number % 2 else len(body))  # it cannot all have come yet
            if number < 2:
                assert await received.read(len(body)) == body
                assert await received.read(len(body)) == body
            else:
                assert b"".join([chunk async for chunk in received.stream()]) == body
        assert server.connections == 1


async def test_a_chunked_body_that_came_with_its_head_has_a_known_length(client_to: Make) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")

    async with RawServer(script) as server:
        received = await client_to(server).forward(permit())
        assert received.content_length == 5
        assert await received.read(5) == b"abcde"


async def test_the_request_id_of_openbao_is_told_once_the_body_was_read(client_to: Make) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(answer(b'{"request_id":"c4ee526a-f172-428d-19a3-e4cd6f07e671","data":{}}'))

    async with RawServer(script) as server:
        received = await client_to(server).forward(permit())
        assert received.request_id == ""
        await received.read(1000)
        assert received.request_id == "c4ee526a-f172-428d-19a3-e4cd6f07e671"


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("size", [101, 100_000])
async def test_a_body_over_the_limit_is_refused(framing: str, size: int, client_to: Make) -> None:
    async def script(exchange: Exchange) -> None:
        if framing == "length":
            await exchange.send(answer(b"x" * size))
        else:
            await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await exchange.send(b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"x" * size))

    async with RawServer(script) as server:
        received = await client_to(server).forward(permit())
        with pytest.raises(Refused) as refused:
            await received.read(100)
        assert refused.value.code is Code.UPSTREAM_ERROR


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("ending", ["end", "reset"])
async def test_a_cut_answer_is_never_completed(framing: str, ending: str, client_to: Make) -> None:
    cut = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if framing == "length":
            await exchange.send(answer(b"x" * 100, length=200))
        else:
            await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n" + b"x" * 100 + b"\r\n")
        await cut.wait()
        exchange.end() if ending == "end" else exchange.reset()

    async with RawServer(script) as server:
        received = await client_to(server).forward(permit())
        stream = received.stream()
        assert await anext(stream) == b"x" * 100
        cut.set()
        with pytest.raises(UpstreamFailure) as failed:
            await anext(stream)
        assert (failed.value.code, failed.value.sent) == (Code.UPSTREAM_ERROR, True)


async def test_a_body_that_stops_coming_is_given_up_in_time(client_to: Make) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(answer(b"x", length=2))

    async with RawServer(script) as server:
        received = await client_to(server, timeout_seconds=0.2).forward(permit())
        with pytest.raises(UpstreamFailure) as failed:
            await received.read(10)
        assert failed.value.code is Code.UPSTREAM_TIMEOUT


async def test_a_head_that_trickles_is_given_up_in_time(client_to: Make) -> None:
    async def script(exchange: Exchange) -> None:
        for letter in b"HTTP/1.1 200 OK\r\nX-Long: " + b"y" * 1000:
            await exchange.send(bytes([letter]))
            await asyncio.sleep(0.02)

    async with RawServer(script) as server:
        with pytest.raises(UpstreamFailure) as failed:
            await client_to(server, timeout_seconds=0.3).forward(permit())
        assert failed.value.code is Code.UPSTREAM_TIMEOUT


# -- what is not an answer of OpenBao ------------------------------------------------------------------------------
BAD_HEADS = {
    "status 101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
    "status 199": b"HTTP/1.1 199 Eh\r\n\r\nHTTP/1.1 099 Eh\r\nContent-Length: 0\r\n\r\n",
    "status 600": b"HTTP/1.1 600 Eh\r\nContent-Length: 0\r\n\r\n",
    "status 304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 0\r\n\r\n",
    "no length": b"HTTP/1.1 200 OK\r\n\r\n{}",
    "no length, closing": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}",
    "HTTP/1.0 without a length": b"HTTP/1.0 200 OK\r\n\r\n{}",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}",
    "length with a sign": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}",
    "a list of lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n{}",
    "equal lengths twice": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "huge length": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n{}",
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two codings": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "no HTTP": b"220 smtp.example ESMTP\r\n\r\n",
    "a header too long": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "headers too many": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"Content-Length: 0\r\n\r\n",
    "NUL in a header": b"HTTP/1.1 200 OK\r\nX: \x00\r\nContent-Length: 0\r\n\r\n",
    "compressed": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 22\r\n\r\n" + gzip.compress(b"{}"),
    "deflated": b"HTTP/1.1 200 OK\r\nContent-Encoding: identity, deflate\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("head", BAD_HEADS)
async def test_a_head_that_openbao_does_not_send_is_refused(head: str, client_to: Make) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(BAD_HEADS[head])
        exchange.end()

    async with RawServer(script) as server:
        with pytest.raises(UpstreamFailure) as failed:
            await (await client_to(server).forward(permit())).read(1000)
        assert (failed.value.code, failed.value.sent) == (Code.UPSTREAM_ERROR, True)
        assert len(server.exchanges) == 1


# -- a login that ended --------------------------------------------------------------------------------------------
async def test_a_403_for_the_sidecars_token_is_not_the_callers_fault(client_to: Make) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(answer(b'{"errors":["permission denied"]}', 403))

    async with RawServer(script) as server:
        client = client_to(server)
        login = client._login
        assert isinstance(login, FixedLogin)
        denied = await client.forward(permit(method="POST", body=b"{}"))
        assert (denied.status, await denied.read(1000)) == (403, b'{"errors":["permission denied"]}')
        login.good = False
        with pytest.raises(UpstreamFailure) as failed:
            await client.forward(permit(method="POST", body=b"{}"))
        assert (failed.value.code, failed.value.sent) == (Code.UPSTREAM_UNAVAILABLE, False)
        assert login.asked == 2


async def test_where_there_is_no_login_nothing_is_sent(client_to: Make) -> None:
    class NoLogin(FixedLogin):
        def token(self) -> None:  # type: ignore[override]  # it only ever raises
            raise UpstreamFailure(Code.UPSTREAM_UNAVAILABLE, "no login", sent=False)

    async with RawServer(plain) as server:
        client = client_to(server)
        client._login = NoLogin()
        with pytest.raises(UpstreamFailure):
            await client.forward(permit())
        assert server.exchanges == []


async def test_more_callers_than_connections_wait_and_are_all_served(client_to: Make) -> None:
    async with RawServer(plain) as server:
        client = client_to(server)
        answers = await asyncio.gather(*(client.forward(permit()) for _ in range(300)))
        await asyncio.gather(*(each.read(1000) for each in answers))
        assert len(server.exchanges) == 300
        assert server.connections <= 256
        await until(lambda: not client._session.connector._acquired, "every connection came back")  # type: ignore[union-attr]  # an open session has one
