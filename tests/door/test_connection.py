"""One connection, exact bytes: what reaches the handler, what is answered, what closes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import random
import socket
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sidecar.door.answer import Answer, Inbound
from sidecar.door.body import HELD_BYTES
from sidecar.door.head import Head
from sidecar.door.timeouts import Timeouts
from sidecar.errors import Code
from tests.support.waiting import until
from tests.support.wire import GET, House, Seen, Toy, open_house, request

QUICK = Timeouts(head=0.1, idle=0.1, body_idle=0.1, body=0.3, skip=0.1, write=0.3, linger=0.1, sweep=0.02)
POST = request("Content-Length: 5", method="POST", body=b"abcde")
CHUNKED = request("Transfer-Encoding: chunked", method="POST", body=b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n")


# -- requests ----------------------------------------------------------------------------------------------------------
async def test_a_request_reaches_the_handler_and_its_answer_the_client() -> None:
    async with open_house(Toy(lambda seen: Answer(201, {"X-A": "b"}, b'{"a":1}'))) as house:
        reply = await house.ask(request("X-Vault-Token: t", target="/v1/a?b"))
        [seen] = house.toy.seen
    assert (reply.status, reply.headers["x-a"], reply.body) == (201, "b", b'{"a":1}')
    assert (seen.head.method, seen.head.path, seen.head.query) == ("GET", "/v1/a", "b")
    assert seen.head.headers == {"host": "localhost", "x-vault-token": "t"}
    assert seen.peer.transport == "tcp"


async def test_no_answer_names_the_software() -> None:
    async with open_house() as house:
        for data in (GET, POST, b"garbage\n"):
            reply = await house.ask(data)
            assert "server" not in reply.headers
            assert "aiohttp" not in str(reply).lower()


@pytest.mark.parametrize("method", ["LIST", "SCAN", "FOO", "PATCH", "DELETE", "OPTIONS", "TRACE"])
async def test_methods_that_aiohttp_does_not_know_come_through(method: str) -> None:
    async with open_house() as house:
        reply = await house.ask(request(method=method))
        assert (reply.status, house.toy.seen[0].head.method) == (200, method)


async def test_many_requests_go_over_one_connection() -> None:
    async with open_house() as house:
        wire = await house.connect()
        for number in range(50):
            reply = await wire.exchange(request(target=f"/v1/{number}"))
            assert reply.body == f"/v1/{number}".encode()
            assert not reply.closes


async def test_connection_close_closes() -> None:
    async with open_house() as house:
        wire = await house.connect()
        reply = await wire.exchange(request("Connection: close"))
        assert (reply.status, reply.closes) == (200, True)
        assert await wire.rest() == b""


async def test_an_answer_to_head_has_no_body_and_the_next_request_is_read() -> None:
    async with open_house() as house:
        wire = await house.connect()
        await wire.send(request(method="HEAD") + GET)
        head = await wire.reply(to_head=True)
        assert (head.status, head.headers["content-length"]) == (200, "17")
        assert (await wire.reply()).body == b"/v1/secret/data/a"
        assert [seen.head.method for seen in house.toy.seen] == ["HEAD", "GET"]


@pytest.mark.parametrize("data", [GET, POST, CHUNKED, request("Expect: 100-continue", "Content-Length: 0")])
async def test_a_request_split_at_every_byte_is_the_same_request(data: bytes) -> None:
    async with open_house() as house:
        await house.ask(data)
        wire = await house.connect()
        await wire.send_in_pieces(*(data[at : at + 1] for at in range(len(data))))
        assert (await wire.reply()).status == 200
        for at in range(1, len(data), 7):
            await wire.send_in_pieces(data[:at], data[at:])
            assert (await wire.reply()).status == 200
        assert len({(seen.body, str(seen.head)) for seen in house.toy.seen}) == 1


async def heads_and_codes(pieces: list[bytes], *, reads_body: bool) -> tuple[list[tuple[Head, bytes]], list[Code]]:
    """What the handler sees of bytes that are sent in these pieces."""
    async with open_house(Toy(reads_body=reads_body)) as house:
        wire = await house.connect()
        with contextlib.suppress(ConnectionError):
            await wire.send_in_pieces(*pieces)
            wire.writer.write_eof()
        await wire.rest()
        return [(seen.head, seen.body) for seen in house.toy.seen], house.toy.codes


@pytest.mark.parametrize("reads_body", [True, False], ids=["read", "unread"])
@pytest.mark.parametrize("seed", range(10))
async def test_a_sequence_cut_anywhere_is_the_same_sequence_up_to_the_first_fault(seed: int, reads_body: bool) -> None:
    pick = random.Random(seed)
    for _ in range(5):
        data = bytearray(b"".join(pick.choices([GET, POST, CHUNKED, request(method="HEAD")], k=6)))
        if seed % 2:
            data[pick.randrange(len(data))] = pick.randrange(256)
        cuts = [0, *sorted(pick.randrange(len(data)) for _ in range(6)), len(data)]
        pieces = [bytes(data[start:end]) for start, end in itertools.pairwise(cuts)]
        whole, codes = await heads_and_codes([bytes(data)], reads_body=reads_body)
        assert (await heads_and_codes(pieces, reads_body=reads_body))[0] == whole
        assert len(codes) <= 1
        assert seed % 2 or len(whole) == 6


# -- bodies ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("data", [POST, CHUNKED])
async def test_a_body_reaches_the_handler(data: bytes) -> None:
    async with open_house() as house:
        wire = await house.connect()
        for _ in range(3):
            assert (await wire.exchange(data)).status == 200
        assert [seen.body for seen in house.toy.seen] == [b"abcde"] * 3


@pytest.mark.parametrize("size", [HELD_BYTES - 1, HELD_BYTES, HELD_BYTES + 1, 2**20])
async def test_a_body_larger_than_what_is_held_back_is_read_when_asked_for(size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    async with open_house() as house:
        wire = await house.connect()
        assert (await wire.exchange(request(f"Content-Length: {size}", method="PUT", body=body))).status == 200
        chunked = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[: size // 2], body[size // 2 :]))
        chunked_request = request("Transfer-Encoding: chunked", method="PUT", body=chunked + b"0\r\n\r\n")
        assert (await wire.exchange(chunked_request)).status == 200
        assert [seen.body == body for seen in house.toy.seen] == [True, True]


async def test_a_length_beyond_the_limit_is_refused_before_its_bytes_come() -> None:
    async with open_house(Toy(body_limit=100)) as house:
        wire = await house.connect()
        reply = await wire.exchange(request("Content-Length: 1000000", method="PUT"))
        assert (reply.status, reply.closes, house.toy.codes) == (413, True, [Code.BODY_TOO_LARGE])
        assert await wire.rest() == b""


async def test_chunks_beyond_the_limit_are_refused_as_soon_as_announced() -> None:
    async with open_house(Toy(body_limit=100)) as house:
        wire = await house.connect()
        await wire.send(request("Transfer-Encoding: chunked", method="PUT", body=b"60\r\n"))
        await until(lambda: house.admission.in_flight)
        await wire.send(b"a" * 96 + b"\r\n5\r\n")
        reply = await wire.reply()
        assert (reply.status, reply.closes, house.toy.codes) == (413, True, [Code.BODY_TOO_LARGE])
        assert await wire.rest() == b""


async def test_nothing_behind_a_body_that_was_too_large_is_a_request() -> None:
    """Its end, and the beginning of the next request, come in the same piece as the chunk that is too much."""
    async with open_house(Toy(body_limit=4)) as house:
        wire = await house.connect()
        await wire.send(request("Transfer-Encoding: chunked", method="PUT"))
        await until(lambda: house.admission.in_flight)
        await wire.send(b"5\r\nabcde\r\n0\r\n\r\nGET /v1/a HTTP/1.1\r\nX: ")
        reply = await wire.reply()
        assert (reply.status, reply.closes, house.toy.codes) == (413, True, [Code.BODY_TOO_LARGE])
        await wire.send(GET)
        assert await wire.rest() == b""
        assert house.toy.seen == []


async def test_the_largest_body_is_taken() -> None:
    async with open_house(Toy(body_limit=5)) as house:
        assert (await house.ask(POST)).status == 200
        assert (await house.ask(CHUNKED)).status == 200


async def test_a_broken_body_is_refused_while_the_handler_waits_for_it() -> None:
    async with open_house() as house:
        wire = await house.connect()
        await wire.send(request("Transfer-Encoding: chunked", method="PUT", body=b"5\r\nab"))
        await until(lambda: house.admission.in_flight)
        await wire.send(b"cdeXX" + GET)
        reply = await wire.reply()
        assert (reply.status, reply.closes, house.toy.codes) == (400, True, [Code.MALFORMED_REQUEST])
        assert await wire.rest() == b""
        assert house.toy.seen == []


async def test_the_body_can_be_asked_for_twice() -> None:
    class Twice(Toy):
        async def __call__(self, inbound: Inbound) -> Answer:
            assert await inbound.body(100) == await inbound.body(100) == b"abcde"
            return await super().__call__(inbound)

    async with open_house(Twice()) as house:
        assert (await house.ask(POST)).status == 200


# -- unread bodies -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("data", [POST, CHUNKED])
async def test_a_small_body_that_nobody_read_is_skipped(data: bytes) -> None:
    async with open_house(Toy(reads_body=False)) as house:
        wire = await house.connect()
        await wire.send(data + GET)
        assert not (await wire.reply()).closes
        assert (await wire.reply()).status == 200
        assert [seen.head.method for seen in house.toy.seen] == ["POST", "GET"]


@pytest.mark.parametrize("data", [POST, CHUNKED])
async def test_a_small_body_that_comes_after_its_answer_is_skipped(data: bytes) -> None:
    async with open_house(Toy(reads_body=False)) as house:
        wire = await house.connect()
        head, body = data[: data.index(b"\r\n\r\n") + 4], data[data.index(b"\r\n\r\n") + 4 :]
        assert not (await wire.exchange(head)).closes
        await wire.send_in_pieces(body[:3], body[3:] + GET)
        assert (await wire.reply()).status == 200
        assert [seen.head.method for seen in house.toy.seen] == ["POST", "GET"]


async def test_a_large_body_that_nobody_read_ends_the_connection() -> None:
    async with open_house(Toy(reads_body=False)) as house:
        wire = await house.connect()
        reply = await wire.exchange(request("Content-Length: 10000000", method="PUT", body=b"a" * 1000))
        assert reply.closes
        assert await wire.rest() == b""


async def test_an_endless_body_that_nobody_read_ends_the_connection() -> None:
    async with open_house(Toy(reads_body=False)) as house:
        wire = await house.connect()
        reply = await wire.exchange(request("Transfer-Encoding: chunked", method="PUT"))
        assert not reply.closes
        try:
            while not wire.reader.at_eof():
                await wire.send(b"1000\r\n" + b"a" * 4096 + b"\r\n")
                await asyncio.sleep(0)
        except ConnectionError:
            pass  # cut in the middle of sending
        assert await wire.rest() == b""
        assert len(house.toy.seen) == 1


async def test_a_broken_body_that_nobody_read_ends_the_connection() -> None:
    async with open_house(Toy(reads_body=False)) as house:
        wire = await house.connect()
        await wire.exchange(request("Transfer-Encoding: chunked", method="PUT"))
        await wire.send(b"5\r\nabcdef\r\n" + GET)
        assert await wire.rest() == b""
        assert len(house.toy.seen) == 1


@pytest.mark.parametrize("rest", [b"5\r\nabcdef\r\n", b"fffff\r\nabc"], ids=["broken", "huge"])
async def test_a_body_that_goes_wrong_while_its_answer_is_sent_ends_the_connection(rest: bytes) -> None:
    """The answer has promised to keep the connection; nothing behind the fault is read all the same."""
    may_end = asyncio.Event()

    async def stream() -> AsyncIterator[bytes]:
        yield b"begun"
        await may_end.wait()

    toy = Toy(lambda seen: Answer(200, {}, stream()), reads_body=False)
    async with open_house(toy) as house:
        wire = await house.connect()
        await wire.send(request("Transfer-Encoding: chunked", method="PUT"))
        async with asyncio.timeout(5):
            assert b"connection: close" not in (await wire.reader.readuntil(b"begun")).lower()
        await wire.send(rest + GET)
        [connection] = await guests(house)
        await until(lambda: connection._exchange.incoming.refused or connection._exchange.incoming._taken)
        may_end.set()
        assert await wire.rest() == b"\r\n0\r\n\r\n"
        assert len(house.toy.seen) == 1


async def test_an_unread_body_that_never_comes_ends_the_connection() -> None:
    async with open_house(Toy(reads_body=False), timeouts=QUICK) as house:
        wire = await house.connect()
        await wire.exchange(request("Content-Length: 5", method="PUT", body=b"ab"))
        assert await wire.rest() == b""


# -- Expect ------------------------------------------------------------------------------------------------------------
async def test_a_client_that_waits_is_told_to_continue_once_somebody_wants_the_body() -> None:
    async with open_house() as house:
        wire = await house.connect()
        await wire.send(request("Expect: 100-continue", "Content-Length: 5", method="PUT"))
        async with asyncio.timeout(5):
            assert await wire.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await wire.send(b"abcde")
        assert (await wire.reply()).status == 200
        assert (await wire.exchange(GET)).status == 200
        assert house.toy.seen[0].body == b"abcde"


async def test_a_client_that_did_not_wait_is_not_told_to_continue() -> None:
    async with open_house() as house:
        reply = await house.ask(request("Expect: 100-continue", "Content-Length: 5", method="PUT", body=b"abcde"))
        assert reply.status == 200


async def test_a_client_that_waits_for_a_refused_body_is_answered_and_closed() -> None:
    """It may now leave the body out, or send it: what follows could be read in two ways, and is not read."""
    async with open_house(Toy(reads_body=False)) as house:
        wire = await house.connect()
        reply = await wire.exchange(request("Expect: 100-continue", "Content-Length: 5", method="PUT"))
        assert (reply.status, reply.closes) == (200, True)
        await wire.send(GET)
        assert await wire.rest() == b""
        assert len(house.toy.seen) == 1


# -- pipelining --------------------------------------------------------------------------------------------------------
async def test_pipelined_requests_are_answered_one_at_a_time_and_in_order() -> None:
    running = 0

    async def one_at_a_time(seen: Seen) -> Answer:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0.001)
        running -= 1
        return Answer(200, {}, seen.head.path.encode() + seen.body)

    async with open_house(Toy(one_at_a_time)) as house:
        wire = await house.connect()
        requests = [request(f"Content-Length: {i % 3}", target=f"/{i}", body=b"ab"[: i % 3]) for i in range(50)]
        await wire.send(b"".join(requests))
        for i in range(50):
            assert (await wire.reply()).body == b"/%d" % i + b"ab"[: i % 3]


async def test_a_flood_of_pipelined_requests_is_not_taken_in() -> None:
    release = asyncio.Event()

    async def wait(_: Seen) -> Answer:
        await release.wait()
        return Answer(200)

    async with open_house(Toy(wait)) as house:
        wire = await house.connect()
        flood = asyncio.create_task(wire.send(GET * 5_000 + request("Connection: close")))
        [connection] = await guests(house)
        await until(lambda: not connection._reading)
        assert len(connection._ahead) < 512 * 1024
        release.set()
        count = 0
        while not (await wire.reply()).closes:
            count += 1
        assert count == 5_000
        await flood


async def test_nothing_behind_a_refused_head_is_read() -> None:
    async with open_house() as house:
        wire = await house.connect()
        await wire.send(GET + b"GET / HTTP/1.0\r\nHost: a\r\n\r\n" + GET)
        assert (await wire.reply()).status == 200
        reply = await wire.reply()
        assert (reply.status, reply.closes) == (400, True)
        await wire.send(GET)
        assert await wire.rest() == b""
        assert len(house.toy.seen) == 1


async def test_nothing_behind_connection_close_is_read() -> None:
    async with open_house() as house:
        wire = await house.connect()
        await wire.send(request("Connection: close") + GET)
        assert (await wire.reply()).closes
        assert await wire.rest() == b""
        assert len(house.toy.seen) == 1


# -- refusals ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("target", "told"), [("/api/secrets", "/api/secrets"), ("/v1/x", "/v1/x"), ("x", "")], ids=["api", "v1", "none"]
)
async def test_a_refusal_is_answered_by_the_handler_in_the_dialect_of_the_target(target: str, told: str) -> None:
    async with open_house() as house:
        reply = await house.ask(f"GET {target} HTTP/1.0\r\n\r\n".encode())
        assert house.toy.refused == [(told, Code.MALFORMED_REQUEST, "only HTTP/1.1 is served")]
        assert (b'"error":' in reply.body) is target.startswith("/api")
        assert (reply.status, reply.closes) == (400, True)


async def test_an_answer_to_refused_bytes_can_be_read_although_more_were_sent() -> None:
    """To close upon unread bytes resets the connection, and the reset can overtake the answer."""
    async with open_house() as house:
        for _ in range(20):
            wire = await house.connect()
            await wire.send(b"get / HTTP/1.1\r\n" + b"a" * 200_000)
            assert (await wire.reply()).status == 400
            assert await wire.rest() == b""


async def test_who_keeps_sending_after_a_refusal_is_cut() -> None:
    async with open_house() as house:
        wire = await house.connect()
        assert (await wire.exchange(b"get / HTTP/1.1\r\n")).status == 400
        with pytest.raises(ConnectionError):
            await wire.send_in_pieces(*[b"a" * 65536] * 1000)


# -- time --------------------------------------------------------------------------------------------------------------
async def test_a_head_that_comes_too_slowly_is_refused() -> None:
    async with open_house(timeouts=QUICK) as house:
        wire = await house.connect()
        await wire.send(b"GET /api/x HTTP/1.1\r\nHost: ")
        reply = await wire.reply()
        assert (reply.status, reply.closes) == (400, True)
        assert house.toy.refused == [("/api/x", Code.MALFORMED_REQUEST, "the request's head came too slowly")]
        assert await wire.rest() == b""


async def test_a_head_dripped_byte_by_byte_gains_no_time() -> None:
    async with open_house(timeouts=QUICK) as house:
        wire = await house.connect()
        while not house.toy.refused:
            await wire.send(b"G")
            await asyncio.sleep(0.01)
        assert (await wire.reply()).status == 400
        assert house.toy.refused[0][2] == "the request's head came too slowly"


async def test_who_says_nothing_is_let_go_without_a_word() -> None:
    async with open_house(timeouts=QUICK) as house:
        new, used = await house.connect(), await house.connect()
        assert (await used.exchange(GET)).status == 200
        assert await new.rest() == b""
        assert await used.rest() == b""
        assert house.toy.refused == []


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
async def test_a_body_that_stops_coming_is_refused(framing: str) -> None:
    async with open_house(timeouts=QUICK) as house:
        wire = await house.connect()
        reply = await wire.exchange(request(framing, method="PUT", body=b"1\r\n"))
        assert (reply.status, reply.closes) == (400, True)
        assert house.toy.refused[0][2] == "the request's body came too slowly"
        assert await wire.rest() == b""


async def test_a_body_dripped_byte_by_byte_gains_only_so_much_time() -> None:
    async with open_house(timeouts=QUICK) as house:
        wire = await house.connect()
        await wire.send(request("Content-Length: 1000000", method="PUT"))
        while not house.toy.refused:
            await wire.send(b"a")
            await asyncio.sleep(0.01)
        reply = await wire.reply()
        assert (reply.status, house.toy.refused[0][2]) == (400, "the request's body came too slowly")


async def test_a_slow_handler_is_no_slow_client() -> None:
    async def slow(_: Seen) -> Answer:
        await asyncio.sleep(0.5)  # longer than every timeout of the connection
        return Answer(200)

    async with open_house(Toy(slow), timeouts=QUICK) as house:
        assert (await house.ask(GET)).status == 200


@pytest.mark.parametrize("streams", [False, True])
async def test_who_does_not_read_the_answer_is_cut(streams: bool) -> None:
    size = 2**24
    finished = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        try:
            for _ in range(size // 65536):
                yield bytes(65536)
        finally:
            finished.set()

    def large(seen: Seen) -> Answer:
        if seen.head.path == "/small":
            return Answer(200)
        return Answer(200, {}, pieces() if streams else bytes(size), size)

    async with open_house(Toy(large), timeouts=QUICK) as house:
        with socket.create_connection(("127.0.0.1", house.port)) as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.sendall(GET)
            await until(lambda: house.toy.seen)
            assert (await house.ask(request(target="/small"))).status == 200
            await until(lambda: not house.admission.in_flight)
            assert finished.is_set() is streams


# -- clients that leave ------------------------------------------------------------------------------------------------
async def test_a_client_that_leaves_does_not_stop_what_it_began() -> None:
    began, may_end, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(_: Seen) -> Answer:
        began.set()
        await may_end.wait()
        ended.set()
        return Answer(200)

    async with open_house(Toy(slow)) as house:
        wire = await house.connect()
        await wire.send(GET)
        await began.wait()
        [connection] = await guests(house)
        wire.writer.transport.abort()
        await until(lambda: connection._eof or connection._is_lost)
        assert house.admission.in_flight == 1
        may_end.set()
        await until(lambda: not house.admission.in_flight)
        assert ended.is_set()


async def test_a_client_that_leaves_in_the_middle_of_a_body_is_refused_and_recorded() -> None:
    async with open_house() as house:
        wire = await house.connect()
        await wire.send(request("Content-Length: 5", method="PUT", body=b"ab"))
        await until(lambda: house.admission.in_flight)
        wire.writer.transport.abort()
        await until(lambda: house.toy.refused)
        assert house.toy.codes == [Code.MALFORMED_REQUEST]


async def test_a_client_that_leaves_in_the_middle_of_a_stream_ends_the_stream() -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(1000)
                await asyncio.sleep(0)
        finally:
            closed.set()

    async with open_house(Toy(lambda _: Answer(200, {}, endless()))) as house:
        wire = await house.connect()
        await wire.send(GET)
        await wire.reader.readexactly(5000)
        wire.writer.transport.abort()
        await asyncio.wait_for(closed.wait(), 5)


async def test_a_client_that_sent_all_it_will_send_is_still_answered() -> None:
    async with open_house() as house:
        wire = await house.connect()
        await wire.send(POST + GET)
        wire.writer.write_eof()
        assert (await wire.reply()).status == 200
        assert (await wire.reply()).status == 200
        assert await wire.rest() == b""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GET / HTTP/1.1\r\nHost:", "the request ended in the middle of its head"),
        (POST[:-1], "the request ended in the middle of its body"),
        (CHUNKED[:-2], "the request ended in the middle of its body"),
    ],
)
async def test_a_request_that_ends_in_the_middle_is_refused(data: bytes, message: str) -> None:
    async with open_house() as house:
        wire = await house.connect()
        await wire.send(GET + data)
        wire.writer.write_eof()
        assert (await wire.reply()).status == 200
        reply = await wire.reply()
        assert (reply.status, reply.closes, house.toy.refused[0][2]) == (400, True, message)
        assert await wire.rest() == b""


async def test_a_connection_that_asks_nothing_is_no_request() -> None:
    async with open_house() as house:
        wire = await house.connect()
        wire.writer.write_eof()
        assert await wire.rest() == b""
        assert (house.toy.seen, house.toy.refused) == ([], [])


# -- upgrades ----------------------------------------------------------------------------------------------------------
async def test_an_upgrade_is_answered_without_upgrading() -> None:
    async with open_house() as house:
        wire = await house.connect()
        lines = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c, websocket", "HTTP2-Settings: AAMAAABk")
        reply = await wire.exchange(request(*lines))
        assert (reply.status, "upgrade" in reply.headers) == (200, False)
        assert (await wire.exchange(GET)).status == 200


# -- memory ------------------------------------------------------------------------------------------------------------
async def test_a_connection_that_ended_leaves_nothing_behind() -> None:
    async with open_house() as house:
        wire = await house.connect()
        await wire.exchange(GET)
        [connection] = map(weakref.ref, await guests(house))
        wire.close()
        await until(lambda: not house.admission.guests)
        await until(lambda: gc.collect() >= 0 and connection() is None)


async def guests(house: House) -> list[Any]:
    await until(lambda: house.admission.guests)
    return list(house.admission.guests)
