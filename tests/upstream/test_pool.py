"""The next caller never gets what was meant for the one before, whatever OpenBao or a load balancer sends."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable

import pytest

from sidecar.errors import Code, Refused
from sidecar.upstream.client import UpstreamClient, UpstreamFailure
from tests.support.waiting import until
from tests.upstream.raw_server import Exchange, RawServer, answer, idle_connections, permit, plain

Make = Callable[..., UpstreamClient]
Nasty = Callable[[Exchange], Awaitable[None]]

ALICE, BOB = "/v1/secret/data/alice", "/v1/secret/data/bob"
STOLEN = answer(b'{"target":"alice, once more"}')


def own(exchange: Exchange) -> bytes:
    """The answer that belongs to the request."""
    return answer(b'{"target":"' + exchange.target + b'"}')


async def _then_garbage(exchange: Exchange) -> None:
    await exchange.send(own(exchange) + b"garbage")


async def _then_half_a_head(exchange: Exchange) -> None:
    await exchange.send(own(exchange) + STOLEN[:20])


async def _then_another_answer(exchange: Exchange) -> None:
    await exchange.send(own(exchange) + STOLEN)


async def _then_two_more_answers(exchange: Exchange) -> None:
    await exchange.send(own(exchange) + STOLEN + STOLEN)


async def _body_longer_than_said(exchange: Exchange) -> None:
    await exchange.send(answer(b'{"target":"x"}' + STOLEN, length=14))


async def _empty_with_a_body(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 204 No Content\r\nContent-Length: 8\r\n\r\n" + b"{secret}")


async def _empty_then_another_answer(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 204 No Content\r\n\r\n" + STOLEN)


async def _empty_with_chunks(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")


async def _no_length_at_all(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{}" + STOLEN)


async def _two_lengths(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 60\r\n\r\n{}" + STOLEN)


async def _length_and_chunks(exchange: Exchange) -> None:
    await exchange.send(
        b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + STOLEN
    )


async def _strange_coding(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + STOLEN)


async def _bad_chunk(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nxyz\r\n" + STOLEN)


async def _chunks_then_another_answer(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + STOLEN)


async def _interim_only(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    exchange.end()


async def _switching(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" + STOLEN)


async def _not_http(exchange: Exchange) -> None:
    await exchange.send(b"SSH-2.0-OpenSSH_9.2\r\n")


async def _redirect(exchange: Exchange) -> None:
    await exchange.send(answer(b"", 307, "Location: https://127.0.0.1:1/v1/secret/data/alice") + STOLEN)


async def _cut(exchange: Exchange) -> None:
    exchange.reset()


async def _half(exchange: Exchange) -> None:
    await exchange.send(own(exchange)[:-4])
    exchange.end()


NASTY: dict[str, Nasty] = {
    name.lstrip("_").replace("_", " "): script
    for name, script in list(globals().items())
    if name.startswith("_") and asyncio.iscoroutinefunction(script)
}


async def _taken(client: UpstreamClient, path: str) -> bytes:
    """The body, or the failure's name."""
    try:
        return await (await client.forward(permit(path))).read(10_000)
    except UpstreamFailure as failure:
        return failure.code.encode()


@pytest.mark.parametrize("script", NASTY)
async def test_what_a_nasty_answer_leaves_behind_is_nobody_elses(script: str, client_to: Make) -> None:
    async def nasty_for_alice(exchange: Exchange) -> None:
        await (NASTY[script] if exchange.target == ALICE.encode() else plain)(exchange)

    async with RawServer(nasty_for_alice) as server:
        client = client_to(server)
        await _taken(client, ALICE)
        for _ in range(3):
            assert await _taken(client, BOB) == b'{"target":"' + BOB.encode() + b'"}'
        assert [exchange.target for exchange in server.exchanges].count(ALICE.encode()) == 1


async def test_bytes_that_come_while_a_connection_is_idle_end_it(client_to: Make) -> None:
    """An answer too many that arrives late waits in the buffer of a kept-alive connection, where the next request's
    answer is expected."""
    late = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await plain(exchange)
        if exchange.target == ALICE.encode():
            await late.wait()
            await exchange.send(STOLEN)

    async with RawServer(script) as server:
        client = client_to(server)
        await _taken(client, ALICE)
        assert idle_connections(client) == 1
        late.set()
        await until(lambda: idle_connections(client) == 0, "the connection was given up")
        assert await _taken(client, BOB) == b'{"target":"' + BOB.encode() + b'"}'
        assert server.connections == 2


@pytest.mark.parametrize("last", [STOLEN, STOLEN[:10], b""], ids=["an answer", "half a head", "the end"])
async def test_a_connection_with_anything_to_read_is_not_taken_from_the_pool(last: bytes, client_to: Make) -> None:
    """It has arrived in the socket while the event loop was busy elsewhere, and has not been seen yet."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = client_to(f"http://127.0.0.1:{listener.getsockname()[1]}")
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        alice = asyncio.create_task(_taken(client, ALICE))
        first, _ = await loop.sock_accept(listener)
        with first:
            await loop.sock_recv(first, 10_000)
            await loop.sock_sendall(first, answer(b"{}"))
            assert await alice == b"{}"
            assert idle_connections(client) == 1
            first.send(last) if last else first.shutdown(socket.SHUT_WR)
            bob = asyncio.create_task(_taken(client, BOB))  # takes its connection before the loop reads any socket
            second, _ = await loop.sock_accept(listener)
            with second:
                assert BOB.encode() in await loop.sock_recv(second, 10_000)
                await loop.sock_sendall(second, answer(b'{"for":"bob"}'))
                assert await bob == b'{"for":"bob"}'


async def test_interim_answers_are_passed_over(client_to: Make) -> None:
    """RFC 9110, section 15.2: any number of them may come before the final one, together with it or apart."""
    step = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await step.wait()
        await exchange.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" + own(exchange))

    async with RawServer(script) as server:
        client = client_to(server)
        for _ in range(2):
            under_way = asyncio.create_task(_taken(client, BOB))
            await until(lambda: bool(server.exchanges), "the request came")
            step.set()
            assert await under_way == b'{"target":"' + BOB.encode() + b'"}'
        assert server.connections == 1


@pytest.mark.parametrize("how", ["closed", "abandoned", "cancelled", "over the limit"])
async def test_a_half_read_answers_connection_is_never_used_again(how: str, client_to: Make) -> None:
    rest = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if exchange.target != ALICE.encode():
            await plain(exchange)
            return
        await exchange.send(answer(b"a" * 1000, length=5000))
        await rest.wait()
        await exchange.send(b"a" * 4000)

    async with RawServer(script) as server:
        client = client_to(server)
        half = await client.forward(permit(ALICE))
        if how == "closed":
            half.close()
        elif how == "abandoned":
            stream = half.stream()
            assert await anext(stream) == b"a" * 1000
            await stream.aclose()
        elif how == "cancelled":
            reading = asyncio.create_task(half.read(10_000))
            await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
        else:
            with pytest.raises(Refused) as refused:
                await half.read(4999)
            assert refused.value.code is Code.UPSTREAM_ERROR
        rest.set()
        assert idle_connections(client) == 0
        assert await _taken(client, BOB) == b'{"target":"' + BOB.encode() + b'"}'
        assert server.connections == 2


async def test_a_caller_that_goes_away_before_the_head_leaves_nothing_behind(client_to: Make) -> None:
    go = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if exchange.target == ALICE.encode():
            await go.wait()
        await plain(exchange)

    async with RawServer(script) as server:
        client = client_to(server)
        waiting = asyncio.create_task(client.forward(permit(ALICE)))
        await until(lambda: bool(server.exchanges), "the request came")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        go.set()
        assert await _taken(client, BOB) == b'{"target":"' + BOB.encode() + b'"}'
        assert server.connections == 2


@pytest.mark.parametrize("seed", range(3))
async def test_nobody_ever_gets_anothers_answer_in_a_storm_of_nasty_ones(seed: int, client_to: Make) -> None:
    """Many callers at once, each with a path of its own; the server is nasty at random, callers give up at random."""
    dice = random.Random(seed)
    behaviours = [*NASTY.values(), *[plain] * len(NASTY)]

    async def script(exchange: Exchange) -> None:
        await dice.choice(behaviours)(exchange)

    right = wrong = failed = 0

    async def caller(number: int) -> None:
        nonlocal right, wrong, failed
        path = f"/v1/secret/data/caller-{number}"
        body = await _taken(client, path)
        if not body.startswith(b"{"):
            failed += 1
        elif body in (b"{}", b'{"target":"x"}') or path.encode() in body:
            right += 1
        else:
            wrong += 1

    async with RawServer(script) as server:
        client = client_to(server, timeout_seconds=5)
        for _ in range(10):
            tasks = [asyncio.create_task(caller(dice.randrange(10**9))) for _ in range(20)]
            await asyncio.sleep(0)
            for task in dice.sample(tasks, 5):
                asyncio.get_running_loop().call_later(dice.uniform(0, 0.01), task.cancel)
            await asyncio.gather(*tasks, return_exceptions=True)
    assert wrong == 0
    assert right > 20
    assert failed > 20
