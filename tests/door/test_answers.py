"""What becomes of an `Answer` on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

from sidecar.door.answer import Answer, Inbound
from sidecar.errors import Code, Refused
from tests.support.waiting import until
from tests.support.wire import GET, Seen, Toy, open_house, request

BLOCK = bytes(range(256)) * 256


class Pieces:
    """A body that comes in pieces, fails where told, and knows whether it was closed."""

    def __init__(self, *pieces: bytes, fails: bool = False) -> None:
        self.pieces = pieces
        self.fails = fails
        self.started = False
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.started = True
        try:
            for piece in self.pieces:
                yield piece
            if self.fails:
                raise RuntimeError("upstream broke off")
        finally:
            self.closed = True

    def answer(self, length: int | None = None, status: int = 200) -> Answer:
        """An answer with this body."""
        return Answer(status, {"Content-Type": "x/y"}, aiter(self), length)


def always(answer: Answer) -> Toy:
    return Toy(lambda _: answer)


@pytest.mark.parametrize("body", [b"", b"{}", BLOCK, BLOCK * 30])
async def test_a_whole_body_goes_out_with_its_length(body: bytes) -> None:
    async with open_house(always(Answer(200, {"Content-Type": "application/json"}, body))) as house:
        reply = await house.ask(GET)
    assert reply.headers["content-length"] == str(len(body))
    assert (reply.body == body, reply.headers["content-type"]) == (True, "application/json")


@pytest.mark.parametrize("length", [None, 5])
async def test_a_stream_goes_out_in_chunks_or_with_the_length_that_upstream_told(length: int | None) -> None:
    pieces = Pieces(b"ab", b"", b"cde")
    async with open_house(Toy(lambda seen: pieces.answer(length) if seen.head.query else Answer(200))) as house:
        wire = await house.connect()
        reply = await wire.exchange(request(target="/?stream"))
        assert (reply.body, reply.headers.get("content-length")) == (b"abcde", length and str(length))
        assert (await wire.exchange(GET)).status == 200
    assert pieces.closed


async def test_a_large_stream_arrives_as_it_left() -> None:
    async with open_house(Toy(lambda _: Pieces(*[BLOCK] * 200).answer())) as house:
        assert (await house.ask(GET)).body == BLOCK * 200


@pytest.mark.parametrize("length", [None, 0])
async def test_an_empty_stream_is_an_empty_body(length: int | None) -> None:
    async with open_house(Toy(lambda _: Pieces().answer(length))) as house:
        assert (await house.ask(GET)).body == b""


@pytest.mark.parametrize(
    ("pieces", "length", "reason"),
    [
        (Pieces(b"secret", fails=True), None, "RuntimeError"),
        (Pieces(b"secret", fails=True), 12, "RuntimeError"),
        (Pieces(b"secret", fails=True), 6, "RuntimeError"),
        (Pieces(fails=True), None, "RuntimeError"),
        (Pieces(b"secret"), 12, "shorter than announced"),
        (Pieces(), 1, "shorter than announced"),
        (Pieces(b"secret", b"more"), 8, "longer than announced"),
    ],
)
async def test_an_answer_that_breaks_off_is_cut_and_never_completed(
    pieces: Pieces, length: int | None, reason: str
) -> None:
    async with open_house(Toy(lambda _: pieces.answer(length)), faults=["an answer was cut"]) as house:
        wire = await house.connect()
        await wire.send(GET + GET)
        rest = await wire.rest()
        assert not rest.endswith(b"0\r\n\r\n")
        if length is not None and rest:
            assert len(rest.partition(b"\r\n\r\n")[2]) < length
        assert len(house.toy.seen) == 1
    assert pieces.closed


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_an_answer_without_a_body_has_none_and_still_closes_its_source(status: int, method: str) -> None:
    pieces = Pieces(b"abc")
    toy = Toy(lambda seen: pieces.answer(None, status) if seen.head.query else Answer(status, {}, b"abc"))
    async with open_house(toy) as house:
        wire = await house.connect()
        await wire.send(request(method=method, target="/?stream") + request(method=method) + b"bad\r\n")
        for expected in (status, status, 400):
            assert (await wire.reply()).status == expected
        assert await wire.rest() == b""
    assert pieces.started
    assert pieces.closed


async def test_the_source_of_an_answer_is_closed_although_the_client_is_gone() -> None:
    pieces = Pieces(b"abc")
    gone = asyncio.Event()

    async def after_it_is_gone(_: Seen) -> Answer:
        await gone.wait()
        return pieces.answer()

    async with open_house(Toy(after_it_is_gone)) as house:
        wire = await house.connect()
        await wire.send(GET)
        await until(lambda: house.toy.seen)
        [connection] = house.admission.guests
        connection._transport.abort()
        await until(lambda: connection._is_lost)
        gone.set()
        await until(lambda: pieces.closed)


async def test_an_answer_may_end_the_connection() -> None:
    async with open_house(always(Answer(200, {}, b"x", close=True))) as house:
        wire = await house.connect()
        await wire.send(GET + GET)
        assert (await wire.reply()).closes
        assert await wire.rest() == b""
        assert len(house.toy.seen) == 1


@pytest.mark.parametrize(
    "headers", [{"Content-Length": "1"}, {"content-length": "99"}, {"Transfer-Encoding": "gzip"}, {"connection": "x"}]
)
@pytest.mark.parametrize("streams", [False, True])
async def test_the_framing_is_the_doors_whatever_the_headers_say(headers: Mapping[str, str], streams: bool) -> None:
    answer = Answer(200, headers, aiter(Pieces(b"abc")) if streams else b"abc")
    async with open_house(always(answer)) as house:
        wire = await house.connect()
        reply = await wire.exchange(GET)
        assert (reply.body, reply.headers.get("connection")) == (b"abc", None)


# -- the last resort ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("target", ["/v1/secret/data/a", "/api/secrets"])
@pytest.mark.parametrize(
    "error",
    [RuntimeError("canary"), ConnectionResetError("canary"), TimeoutError("canary"), Refused(Code.NOT_FOUND, "canary")],
)
async def test_a_handler_that_fails_is_answered_without_a_word_of_why(error: Exception, target: str) -> None:
    async def fails(inbound: Inbound) -> Answer:
        raise error

    toy = Toy()
    toy.__class__ = type("Fails", (Toy,), {"__call__": staticmethod(fails)})
    async with open_house(toy, faults=["the handler failed"]) as house:
        wire = await house.connect()
        reply = await wire.exchange(request(target=target))
        assert (reply.status, reply.closes, reply.headers["content-type"]) == (502, True, "application/json")
        assert b"canary" not in reply.body
        assert (b'"error":' in reply.body) is target.startswith("/api")
        assert await wire.rest() == b""


@pytest.mark.parametrize(
    "answer", [Answer(100), Answer(101), Answer(200, {"X": "a\r\nY: b"}), Answer(200, {"X\n": "a"})]
)
async def test_what_is_no_answer_becomes_the_last_resort(answer: Answer) -> None:
    async with open_house(always(answer), faults=["the handler failed"]) as house:
        reply = await house.ask(GET)
        assert (reply.status, reply.closes, "y" in reply.headers) == (502, True, False)
