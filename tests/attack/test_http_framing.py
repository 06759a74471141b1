"""HTTP 01 to 05 and 07: requests that two readers would read differently, at the door, byte for byte.

The handler behind it is a toy: whatever it sees would have been authenticated, authorised and forwarded.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sidecar.door.answer import Answer, Inbound
from sidecar.door.timeouts import Timeouts
from sidecar.errors import Code
from tests.support.waiting import until
from tests.support.wire import GET, PATIENCE, Seen, Toy, Wire, open_house, request

SMUGGLED = b"GET /v1/secret/data/private/key HTTP/1.1\r\nHost: localhost\r\nX-Vault-Token: stolen\r\n\r\n"
CHUNKS = b"9\r\n" + b'{"v":"x"}' + b"\r\n0\r\n\r\n"
QUICK = Timeouts(head=0.2, idle=0.2, body_idle=0.2, body=0.5, skip=0.2, write=0.3, linger=0.1, sweep=0.02)


def post(*lines: str, body: bytes = CHUNKS) -> bytes:
    return request(*lines, method="POST", body=body)


TE = "Transfer-Encoding: chunked"
CL = "Content-Length: 9"

REFUSED_HEADS = {
    "CL and TE": post("Content-Length: 24", TE),
    "TE and CL": post(TE, "Content-Length: 4"),
    "two CLs, equal": post(CL, CL, body=b'{"v":"x"}'),
    "two CLs, different": post(CL, "Content-Length: 4", body=b'{"v":"x"}'),
    "two CLs in one line": post("Content-Length: 9, 9", body=b'{"v":"x"}'),
    "CL with a sign": post("Content-Length: +9", body=b'{"v":"x"}'),
    "CL with a leading zero": post("Content-Length: 09", body=b'{"v":"x"}'),
    "TE twice": post(TE, TE),
    "TE chunked and identity": post(TE, "Transfer-Encoding: identity"),
    "TE identity, then chunked": post("Transfer-Encoding: identity, chunked"),
    "TE xchunked": post("Transfer-Encoding: xchunked"),
    "TE with a vertical tab": post("Transfer-Encoding: \x0bchunked"),
    "TE of mixed case": post("Transfer-Encoding: Chunked"),
    "TE with space before the colon": post("Transfer-Encoding : chunked"),
    "CL with space before the colon": post("Content-Length : 9", body=b'{"v":"x"}'),
    "TE folded": post("Transfer-Encoding:", " chunked"),
    "obs-fold that hides a namespace": request("X-A: b", " X-Vault-Namespace: ns1"),
    "bare LF lines": b"GET /v1/a HTTP/1.1\nHost: localhost\n\n",
    "bare LF that ends the head": b"GET /v1/a HTTP/1.1\r\nHost: localhost\r\n\n",
    "bare LF in a header": request("X: a\nX-Vault-Token: t"),
    "bare CR in a header": request("X: a\rX-Vault-Token: t"),
    "NUL in a header": request("X-Vault-Token: t\0"),
    "HTTP/1.0 with keep-alive": b"GET /v1/a HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n",
    "absolute-form": request(target="http://localhost/v1/a"),
}


@pytest.mark.parametrize("data", REFUSED_HEADS.values(), ids=REFUSED_HEADS.keys())
async def test_http_01_an_ambiguous_head_is_refused_and_nothing_behind_it_is_a_request(data: bytes) -> None:
    async with open_house() as house:
        wire = await house.connect()
        await wire.send(data + SMUGGLED)
        reply = await wire.reply()
        await wire.send(SMUGGLED)
        assert (reply.status, reply.closes, house.toy.codes) == (400, True, [Code.MALFORMED_REQUEST])
        assert await wire.rest() == b""
        assert house.toy.seen == []


BROKEN_CHUNKS = {
    "extension": b"9;a=b\r\n" + b'{"v":"x"}' + b"\r\n0\r\n\r\n",
    "extension with a line end in it": b"9;a\n\r\n" + b'{"v":"x"}' + b"\r\n0\r\n\r\n",
    "trailer X-Vault-Token": b"0\r\nX-Vault-Token: t\r\n\r\n",
    "trailer X-Vault-Namespace": b"9\r\n" + b'{"v":"x"}' + b"\r\n0\r\nX-Vault-Namespace: ns1\r\n\r\n",
    "trailer Content-Length": b"0\r\nContent-Length: 5\r\n\r\n",
    "size with a sign": b"+9\r\n" + b'{"v":"x"}' + b"\r\n0\r\n\r\n",
    "size with 0x": b"0x9\r\n" + b'{"v":"x"}' + b"\r\n0\r\n\r\n",
    "size with a space": b"9 \r\n" + b'{"v":"x"}' + b"\r\n0\r\n\r\n",
    "size that overflows": b"ffffffffffffffff9\r\n" + b'{"v":"x"}' + b"\r\n0\r\n\r\n",
    "size that is too small": b"4\r\n" + b'{"v":"x"}' + b"\r\n0\r\n\r\n",
    "bare LF": b"9\n" + b'{"v":"x"}' + b"\n0\n\n",
    "no size": b"\r\n",
}


@pytest.mark.parametrize("reads_body", [True, False], ids=["read", "unread"])
@pytest.mark.parametrize("chunks", BROKEN_CHUNKS.values(), ids=BROKEN_CHUNKS.keys())
async def test_http_01_broken_chunks_are_refused_and_nothing_behind_them_is_a_request(
    chunks: bytes, reads_body: bool
) -> None:
    async with open_house(Toy(reads_body=reads_body)) as house:
        wire = await house.connect()
        await wire.send(post(TE, "Trailer: X-Vault-Token", body=chunks + SMUGGLED))
        reply = await wire.reply()
        assert (reply.status, reply.closes) == (400 if reads_body else 200, True)
        assert await wire.rest() == b""
        assert [seen.head.method for seen in house.toy.seen] == ([] if reads_body else ["POST"])


@pytest.mark.parametrize("method", ["GET", "HEAD", "LIST", "DELETE", "POST"])
@pytest.mark.parametrize("reads_body", [True, False], ids=["read", "unread"])
@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "length"])
async def test_http_01_a_body_that_is_a_request_is_a_body(method: str, reads_body: bool, chunked: bool) -> None:
    framing = (TE,) if chunked else (f"Content-Length: {len(SMUGGLED)}",)
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED) if chunked else SMUGGLED
    async with open_house(Toy(reads_body=reads_body)) as house:
        wire = await house.connect()
        await wire.send(request(*framing, method=method, body=body) + GET)
        for to_head in (method == "HEAD", False):
            assert (await wire.reply(to_head=to_head)).status == 200
        assert [(seen.head.method, "x-vault-token" in seen.head.headers) for seen in house.toy.seen] == [
            (method, False),
            ("GET", False),
        ]


async def test_http_02_each_pipelined_request_is_judged_alone() -> None:
    """The second carries no token, and gets none from the first; a refusal of one says nothing of the next."""

    def authenticate(seen: Seen) -> Answer:
        token = seen.head.headers.get("x-vault-token")
        return Answer(200, {}, b"secret") if token == "t" else Answer(401, {}, b"TOKEN_MISSING")

    async with open_house(Toy(authenticate)) as house:
        wire = await house.connect()
        with_token, without = request("X-Vault-Token: t"), request()
        await wire.send(with_token + without + with_token + without * 3 + with_token)
        statuses = [(await wire.reply()).status for _ in range(7)]
    assert statuses == [200, 401, 200, 401, 401, 401, 200]


async def test_http_02_what_is_pipelined_behind_an_unread_body_is_not_lost_in_it() -> None:
    async with open_house(Toy(reads_body=False)) as house:
        wire = await house.connect()
        await wire.send(request(f"Content-Length: {len(SMUGGLED)}", method="POST", body=SMUGGLED) + GET)
        await wire.reply()
        assert (await wire.reply()).status == 200
        assert [seen.head.headers.get("x-vault-token") for seen in house.toy.seen] == [None, None]


async def never_ending_head(wire: Wire) -> None:
    await wire.send(b"GET / HTTP/1.1\r\n")
    while True:
        await wire.send(b"X: a\r\n")
        await asyncio.sleep(0.01)


async def never_ending_chunks(wire: Wire) -> None:
    await wire.send(post(TE, body=b""))
    while True:
        await wire.send(b"1\r\na\r\n")
        await asyncio.sleep(0.01)


async def flood_of_chunks(wire: Wire) -> None:
    await wire.send(post(TE, body=b""))
    while True:
        await wire.send(b"1\r\na\r\n" * 10_000)


async def never_reading(wire: Wire) -> None:
    """The reader stops at its limit, so that nothing is taken from the socket any more."""
    await wire.send(request(target="/large") * 100)


@pytest.mark.parametrize("attack", [never_ending_head, never_ending_chunks, flood_of_chunks, never_reading])
async def test_http_03_a_slow_or_endless_client_is_cut_and_others_do_not_notice(
    attack: Callable[[Wire], Coroutine[Any, Any, None]],
) -> None:
    def answer(seen: Seen) -> Answer:
        return Answer(200, {}, bytes(2**20) if seen.head.path == "/large" else b"")

    async with open_house(Toy(answer), timeouts=QUICK) as house:
        attackers = [await house.connect() for _ in range(10)]
        attacks = [asyncio.create_task(attack(wire)) for wire in attackers]
        await until(lambda: len(house.admission.guests) == 10)
        async with asyncio.timeout(PATIENCE):
            while house.admission.guests:
                honest = await house.connect()
                assert (await honest.exchange(request("Connection: close"))).status == 200
                await honest.rest()
        for task in attacks:
            task.cancel()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await task


@pytest.mark.parametrize("connection", ["X-Vault-Token, DPoP", "close, x-vault-token", "Host", "X-Vault-Namespace"])
async def test_http_04_connection_cannot_strip_a_header(connection: str) -> None:
    async with open_house() as house:
        lines = (f"Connection: {connection}", "X-Vault-Token: t", "DPoP: p", "X-Vault-Namespace: ns1")
        assert (await house.ask(request(*lines))).status == 200
        headers = house.toy.seen[0].head.headers
        assert [headers.get(name) for name in ("host", "x-vault-token", "dpop", "x-vault-namespace")] == [
            "localhost",
            "t",
            "p",
            "ns1",
        ]


async def test_http_05_no_body_is_asked_for_before_the_handler_wants_it() -> None:
    """`100 Continue` to a caller that is then refused would have it send a secret for nothing."""

    class Refuses(Toy):
        async def __call__(self, inbound: Inbound) -> Answer:
            await super().__call__(inbound)
            return Answer(401)

    async with open_house(Refuses(reads_body=False)) as house:
        wire = await house.connect()
        await wire.send(post("Expect: 100-continue", CL, body=b""))
        assert (await wire.reply()).status == 401  # and not 100
        await wire.send(SMUGGLED)
        assert await wire.rest() == b""
        assert len(house.toy.seen) == 1


@pytest.mark.parametrize(
    "data",
    [
        request("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
        request("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: eA=="),
    ],
    ids=["h2c", "websocket"],
)
async def test_http_05_an_upgrade_does_not_change_the_protocol(data: bytes) -> None:
    async with open_house() as house:
        wire = await house.connect()
        for _ in range(2):
            assert (await wire.exchange(data)).status == 200


@pytest.mark.parametrize(
    "data",
    [
        b"CONNECT localhost:8200 HTTP/1.1\r\nHost: localhost:8200\r\n\r\n",
        b"CONNECT /v1/a HTTP/1.1\r\nHost: localhost:8200\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        request("Expect: 200-ok"),
    ],
    ids=["CONNECT", "CONNECT with a path", "h2c preface", "OPTIONS *", "Expect"],
)
async def test_http_05_other_protocols_and_tunnels_are_refused(data: bytes) -> None:
    async with open_house() as house:
        wire = await house.connect()
        await wire.send(data + SMUGGLED)
        reply = await wire.reply()
        assert (reply.status, reply.closes) == (400, True)
        assert await wire.rest() == b""
        assert house.toy.seen == []


@pytest.mark.parametrize(
    "data",
    [
        b"GET /v1/a HTTP/1.1\r\nX: a\r\n\r\n",
        request("Host: evil.example"),
        request("host: localhost"),
        request(target="http://localhost/v1/a"),
        request("Origin: https://evil.example", "Origin: http://localhost"),
    ],
    ids=["no Host", "two Hosts", "two equal Hosts", "absolute-form", "two Origins"],
)
async def test_http_07_there_is_one_host_and_at_most_one_origin_to_judge(data: bytes) -> None:
    async with open_house() as house:
        reply = await house.ask(data)
        assert (reply.status, house.toy.seen) == (400, [])


async def test_http_07_host_and_origin_reach_the_judge_as_they_came() -> None:
    async with open_house() as house:
        await house.ask(b"GET /v1/a HTTP/1.1\r\nHost: EVIL.example\r\nOrigin: null\r\n\r\n")
        headers = house.toy.seen[0].head.headers
        assert (headers["host"], headers["origin"]) == ("EVIL.example", "null")
