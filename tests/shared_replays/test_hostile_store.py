"""A server that answers what no real one does: whoever sits there instead of the store cannot make a claim succeed,
nor fill our memory, nor make us wait. (A server of the test's own, since Valkey does not misbehave.)"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import pytest

from sidecar.config import AntiReplay
from sidecar.errors import Code, Refused
from sidecar.shared_replays.resp import ProtocolError, ServerError, encode, read_reply
from sidecar.shared_replays.store import SharedReplays
from tests.support.clock import RunningClock

INFO = b"role:master\r\nmaxmemory_policy:noeviction\r\nredis_version:7.2.4\r\nrun_id:a\r\nmaster_replid:b\r\n"


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


def now() -> bytes:
    return b"*2\r\n" + bulk(b"%d" % time.time()) + bulk(b"0")


GENERATION = bulk(b"v1:1000000:" + b"a" * 64)


class Server:
    """Answers each command in turn by what `answer` makes of it; None says what a good store would."""

    def __init__(self, answer: Callable[[bytes], bytes | None]) -> None:
        self._answer = answer
        self.sent = 0
        self.tasks: set[asyncio.Task[None]] = set()

    def good(self, name: bytes) -> bytes:
        return {b"INFO": bulk(INFO), b"GET": GENERATION, b"EXPIRE": b":1\r\n", b"TIME": now()}.get(name, b"+OK\r\n")

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Its URL, until all connections to it have ended."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"valkey://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            if self.tasks:
                await asyncio.wait(self.tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            await self.serve(reader, writer)
        finally:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            while line := await reader.readline():
                parts = []
                for _ in range(int(line[1:])):
                    size = int((await reader.readline())[1:])
                    parts.append((await reader.readexactly(size + 2))[:-2])
                name = b"CLAIM" if b"NX" in parts else parts[0]
                said = self._answer(name)
                if said is None:
                    said = self.good(name) if name != b"CLAIM" else b"$-1\r\n"
                for start in range(0, len(said), 65536):
                    writer.write(said[start : start + 65536])
                    await writer.drain()
                    self.sent += 65536


@contextlib.asynccontextmanager
async def store(answer: Callable[[bytes], bytes | None]) -> AsyncIterator[tuple[SharedReplays, Server]]:
    server = Server(answer)
    async with server.listening() as url:
        shared = SharedReplays(AntiReplay(store=url, store_timeout_ms=2000), "acme", RunningClock())
        await shared.start()
        try:
            yield shared, server
        finally:
            await shared.stop()


async def test_the_test_servers_good_answers_are_taken() -> None:
    async with store(lambda _name: None) as (shared, _):
        assert shared.problem == ""
        assert await shared.claim("proof", "a", 60) is not None


BAD = {
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "a status": b"+OK\r\n",
    "a number": b":1\r\n",
    "an array": b"*1\r\n$2\r\nOK\r\n",
    "nested arrays": b"*1\r\n" * 10_000,
    "an array without end": b"*999999999\r\n",
    "a string that is too long": b"$2000000000\r\n",
    "a huge string": b"$67108864\r\n" + b"x" * 67_108_864,
    "a negative length": b"$-2\r\n",
    "a length that is none": b"$+1\r\na\r\n",
    "a string longer than it says": b"$1\r\nabc\r\n",
    "a line without end": b"+" + b"x" * 33_554_432,
    "RESP 3": b"_\r\n",
    "an error": b"-ERR canary\r\n",
    "nothing": b"",
    "a byte": b"$",
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("command", [b"INFO", b"GET", b"TIME", b"CLAIM"])
async def test_an_answer_that_is_none_refuses(command: bytes, bad: bytes) -> None:
    if bad in (b"", b"$") and command != b"CLAIM":
        return
    async with store(lambda name: bad if name == command else None) as (shared, server):
        with pytest.raises(Refused) as caught:
            assert await shared.claim("proof", "a", 60) is None
        assert caught.value.code is Code.UPSTREAM_UNAVAILABLE
        assert server.sent < 16 * 2**20, "what is not wanted is not read"


async def test_a_slow_drip_is_cut_off() -> None:
    class Dripping(Server):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                writer.write(b"$60000\r\n")
                while not writer.is_closing():
                    writer.write(b"x")
                    await writer.drain()
                    await asyncio.sleep(0.01)

    async with Dripping(lambda _name: None).listening() as url:
        shared = SharedReplays(AntiReplay(store=url, store_timeout_ms=100), "acme", RunningClock())
        async with asyncio.timeout(10):
            await shared.start()
        assert shared.problem == "no answer in time"
        with pytest.raises(Refused):
            await shared.claim("proof", "a", 60)
        await shared.stop()


async def test_a_part_cannot_become_another_command() -> None:
    assert encode("GET", "a\r\n*1\r\n$8\r\nFLUSHALL") == b"*2\r\n$3\r\nGET\r\n$19\r\na\r\n*1\r\n$8\r\nFLUSHALL\r\n"


async def test_replies_one_after_the_other_and_byte_by_byte() -> None:
    said = b"+OK\r\n:-1\r\n$-1\r\n$0\r\n\r\n$4\r\na\r\nb\r\n*0\r\n*2\r\n$1\r\n1\r\n$1\r\n2\r\n-OOM no\x1b[0m\r\n"
    reader = asyncio.StreamReader(limit=65536)

    async def feed() -> None:
        for index in range(len(said)):
            reader.feed_data(said[index : index + 1])
            await asyncio.sleep(0)
        reader.feed_eof()

    feeding = asyncio.create_task(feed())
    replies = [await read_reply(reader) for _ in range(8)]
    await feeding
    assert replies[:7] == [b"OK", -1, None, b"", b"a\r\nb", [], [b"1", b"2"]]
    assert isinstance(replies[7], ServerError)
    assert replies[7].kind == "OOM"
    assert "\x1b" not in str(replies[7])
    with pytest.raises(EOFError):
        await read_reply(reader)


async def test_an_array_of_something_else() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b"*1\r\n:1\r\n")
    with pytest.raises(ProtocolError):
        await read_reply(reader)
