"""A client that sends exact bytes, and a handler that shows what came through the door."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from sidecar.config import Limits
from sidecar.door.answer import Answer, Inbound
from sidecar.door.head import Head, Peer
from sidecar.door.server import Door
from sidecar.door.timeouts import Timeouts
from sidecar.errors import Code, Dialect, Refused, error_body

PATIENCE = 10.0
"""Seconds after which a test that waits for something has failed."""

GET = b"GET /v1/secret/data/a HTTP/1.1\r\nHost: localhost\r\n\r\n"


def request(*lines: str, method: str = "GET", target: str = "/v1/secret/data/a", body: bytes = b"") -> bytes:
    """A request with a Host and these header lines."""
    head = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: localhost", *lines])
    return head.encode("latin-1") + b"\r\n\r\n" + body


@dataclass(frozen=True)
class Seen:
    """One request that reached the handler."""

    head: Head
    body: bytes
    peer: Peer


@dataclass
class Toy:
    """A handler in the enforcement's place: notes what comes, answers what it is told to."""

    answer: Callable[[Seen], Answer | Awaitable[Answer]] = lambda seen: Answer(200, {}, seen.head.path.encode())
    reads_body: bool = True
    body_limit: int = 2**20
    seen: list[Seen] = field(default_factory=list)
    refused: list[tuple[str, Code, str]] = field(default_factory=list)

    async def __call__(self, inbound: Inbound) -> Answer:
        try:
            head = inbound.head()
            body = await inbound.body(self.body_limit) if self.reads_body and head.has_body else b""
        except Refused as refused:
            self.refused.append((inbound.target, refused.code, refused.message))
            text = error_body(refused.code, refused.message, "c", Dialect.of(inbound.target))
            return Answer(refused.status, {"Content-Type": "application/json", **refused.headers}, text)
        seen = Seen(head, body, inbound.peer)
        self.seen.append(seen)
        answer = self.answer(seen)
        return answer if isinstance(answer, Answer) else await answer

    @property
    def codes(self) -> list[Code]:
        """The codes of what was refused, in order."""
        return [code for _, code, _ in self.refused]


@dataclass(frozen=True)
class Reply:
    """One answer as it stood on the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        """True where it says that the connection ends with it."""
        return self.headers.get("connection") == "close"


class Wire:
    """One connection of a client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Sends these bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def send_in_pieces(self, *pieces: bytes) -> None:
        """Sends each piece in a segment of its own, as far as the kernel lets us."""
        for piece in pieces:
            await self.send(piece)
            await asyncio.sleep(0)

    async def reply(self, *, to_head: bool = False) -> Reply:
        """Waits for the next answer."""
        async with asyncio.timeout(PATIENCE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status_line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
            version, status, _ = status_line.split(" ", 2)
            assert version == "HTTP/1.1"
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            assert len(headers) == len(lines), "a header of an answer is repeated"
            assert not ("content-length" in headers and "transfer-encoding" in headers)
            body = b"" if to_head else await self._body(headers)
            return Reply(int(status), headers, body)

    async def _body(self, headers: dict[str, str]) -> bytes:
        if "transfer-encoding" not in headers:
            return await self.reader.readexactly(int(headers.get("content-length", "0")))
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += await self.reader.readexactly(size)
            assert await self.reader.readexactly(2) == b"\r\n"
        assert await self.reader.readexactly(2) == b"\r\n"
        return body

    async def exchange(self, data: bytes) -> Reply:
        """Sends, and waits for the answer."""
        await self.send(data)
        return await self.reply()

    async def rest(self) -> bytes:
        """All that comes until the connection has ended, in whatever way."""
        rest = b""
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionError):
                while piece := await self.reader.read(65536):
                    rest += piece
        return rest

    def close(self) -> None:
        """Goes away."""
        self.writer.close()


class House:
    """A door that listens, its handler, and the clients that came."""

    def __init__(self, door: Door, toy: Toy) -> None:
        self.door = door
        self.toy = toy
        self._wires: list[Wire] = []

    @property
    def admission(self) -> Any:
        """The door's counters."""
        return self.door._admission

    @property
    def port(self) -> int:
        """Where it listens first."""
        return int(self.door.addresses[0].rpartition(":")[2])

    async def connect(self, tls: ssl.SSLContext | None = None) -> Wire:
        """A new client."""
        address = self.door.addresses[0]
        if address.startswith("unix://"):
            reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix://"))
        else:
            name = "localhost" if tls else None
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=tls, server_hostname=name)
        self._wires.append(Wire(reader, writer))
        return self._wires[-1]

    async def ask(self, data: bytes) -> Reply:
        """One request on a connection of its own, which must still be good for another one."""
        wire = await self.connect()
        return await wire.exchange(data)

    async def close(self) -> None:
        """All clients go."""
        for wire in self._wires:
            wire.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await wire.writer.wait_closed()


@contextlib.asynccontextmanager
async def open_house(
    toy: Toy | None = None,
    *,
    timeouts: Timeouts | None = None,
    address: str = "127.0.0.1:0",
    tls: ssl.SSLContext | None = None,
    faults: list[str] | None = None,
    **limits: int,
) -> AsyncIterator[House]:
    """A door open for the test. Afterwards nobody is left inside, and nothing was logged as a fault but `faults`."""
    toy = toy or Toy()
    unhandled: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    with structlog.testing.capture_logs() as logged:
        door = Door(toy, Limits(**limits), timeouts or Timeouts(sweep=0.02, linger=0.2))
        await door.listen(address, tls)
        house = House(door, toy)
        try:
            yield house
        finally:
            await house.close()
            await door.drain(PATIENCE)
    assert not unhandled
    assert [entry["event"] for entry in logged if entry["log_level"] in ("warning", "error")] == (faults or [])
    assert not house.admission.guests
    assert house.admission.in_flight == 0


async def until(condition: Callable[[], object]) -> None:
    """Waits for a condition."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)
