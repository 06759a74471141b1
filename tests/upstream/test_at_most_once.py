"""One authorised operation is executed at most once, whatever becomes of the connection."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sidecar.errors import Code
from sidecar.upstream.client import UpstreamClient, UpstreamFailure
from tests.support.waiting import until
from tests.upstream.raw_server import Exchange, RawServer, answer, idle_connections, permit, plain

Make = Callable[..., UpstreamClient]
METHODS = ["GET", "LIST", "PUT", "POST", "PATCH", "DELETE"]


async def _end(exchange: Exchange) -> None:
    exchange.end()


async def _reset(exchange: Exchange) -> None:
    exchange.reset()


async def _end_in_the_head(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Le")
    exchange.end()


CUTS = {"end": _end, "reset": _reset, "end in the head": _end_in_the_head}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("method", METHODS)
async def test_a_request_whose_kept_alive_connection_dies_is_not_sent_again(
    method: str, cut: str, client_to: Make
) -> None:
    """The server reads the second request, runs it, and cuts the connection: this is where aiohttp sends it again."""

    async def script(exchange: Exchange) -> None:
        if exchange.number == 0:
            await plain(exchange)
        else:
            await CUTS[cut](exchange)

    async with RawServer(script) as server:
        client = client_to(server)
        await (await client.forward(permit())).read(1000)
        assert idle_connections(client) == 1
        body = b"{}" if method in ("PUT", "POST", "PATCH") else None
        with pytest.raises(UpstreamFailure) as failed:
            await client.forward(permit(method=method, body=body))
        assert (failed.value.code, failed.value.sent) == (Code.UPSTREAM_ERROR, True)
        # A second execution would be under way at once; another request shows that nothing came before it.
        server.script = plain
        await (await client.forward(permit("/v1/secret/data/after"))).read(1000)
        targets = [exchange.target for exchange in server.exchanges]
        assert targets == [b"/v1/secret/data/app/db", b"/v1/secret/data/app/db", b"/v1/secret/data/after"]


async def test_this_aiohttp_would_send_it_again(client_to: Make) -> None:
    """Shows that the test above can fail: with aiohttp's own default the same cut runs a GET twice."""

    async def script(exchange: Exchange) -> None:
        if exchange.number == 1:
            exchange.end()
        else:
            await plain(exchange)

    async with RawServer(script) as server:
        client = client_to(server)
        client._session._retry_connection = True
        await (await client.forward(permit())).read(1000)
        await (await client.forward(permit())).read(1000)
        assert len(server.exchanges) == 3


async def test_a_connection_that_openbao_closed_while_idle_fails_nobody(client_to: Make) -> None:
    async def script(exchange: Exchange) -> None:
        await plain(exchange)
        exchange.end()

    async with RawServer(script) as server:
        client = client_to(server)
        for number in range(5):
            await (await client.forward(permit(method="POST", body=b"{}"))).read(1000)
            await until(lambda: idle_connections(client) == 0, "the client saw the end of the connection")
            assert len(server.exchanges) == server.connections == number + 1


async def test_a_body_cut_short_is_not_asked_for_again(client_to: Make) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(answer(b'{"half":', length=100))
        exchange.end()

    async with RawServer(script) as server:
        client = client_to(server)
        cut = await client.forward(permit())
        with pytest.raises(UpstreamFailure) as failed:
            await cut.read(1000)
        assert (failed.value.code, failed.value.sent) == (Code.UPSTREAM_ERROR, True)
        assert len(server.exchanges) == 1


async def test_nothing_listens_so_nothing_was_sent(client_to: Make) -> None:
    async with RawServer(plain) as server:
        address = server.address
    with pytest.raises(UpstreamFailure) as failed:
        await client_to(address).forward(permit(method="POST", body=b"{}"))
    assert (failed.value.code, failed.value.sent) == (Code.UPSTREAM_UNAVAILABLE, False)
    assert failed.value.headers == {"Retry-After": "1"}


async def test_a_server_that_never_answers_may_have_run_it(client_to: Make) -> None:
    async def script(exchange: Exchange) -> None:
        """Reads the request and keeps silent."""

    async with RawServer(script) as server:
        with pytest.raises(UpstreamFailure) as failed:
            await client_to(server, timeout_seconds=0.2).forward(permit(method="POST", body=b"{}"))
        assert (failed.value.code, failed.value.sent) == (Code.UPSTREAM_TIMEOUT, True)
        assert len(server.exchanges) == 1


async def test_a_tls_handshake_that_never_ends_sent_nothing(client_to: Make) -> None:
    """The limit of the way to a connection is below the whole limit, so that the two cannot be confused."""

    async def script(exchange: Exchange) -> None:
        """Never reached: the client hello is not HTTP."""

    async with RawServer(script) as server:
        client = client_to(f"https://127.0.0.1:{server.port}", timeout_seconds=0.4)
        with pytest.raises(UpstreamFailure) as failed:
            await client.forward(permit(method="POST", body=b"{}"))
        assert (failed.value.code, failed.value.sent) == (Code.UPSTREAM_UNAVAILABLE, False)
        assert server.exchanges == []
