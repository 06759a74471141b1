"""A server that a test scripts byte by byte, and permits to send to it."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import Any

from sidecar.caller.identity import Caller, Credential
from sidecar.config import Upstream
from sidecar.decision.permit import GrantState, Obligations, Permit, Verdict
from sidecar.surface.operation import Operation, Purpose, UpstreamRequest
from sidecar.surface.secret_uri import SecretUri
from sidecar.upstream.client import UpstreamClient
from sidecar.upstream.presented import Presented

TOKEN = "s.TheSidecarsOwnTokenCanary"


class Exchange:
    """One request as it came, and the connection to answer it on."""

    def __init__(self, number: int, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.head = head
        self.body = body
        self.writer = writer

    @property
    def target(self) -> bytes:
        """The request target's exact bytes."""
        return self.head.split(b"\r\n", 1)[0].split(b" ")[1]

    @property
    def headers(self) -> dict[str, str]:
        """The headers, names in lower case; a name that stands twice fails the test."""
        found: dict[str, str] = {}
        for line in self.head.split(b"\r\n")[1:]:
            if line:
                name, _, value = line.decode("latin-1").partition(":")
                assert name.lower() not in found, f"{name} stands twice"
                found[name.lower()] = value.strip()
        return found

    async def send(self, data: bytes) -> None:
        """Writes bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    def end(self) -> None:
        """Closes the connection in order (FIN)."""
        self.writer.close()

    def reset(self) -> None:
        """Cuts the connection (RST)."""
        raw: socket.socket = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Exchange], Awaitable[None]]


class RawServer:
    """Reads requests and hands each to the script. `exchanges` are all requests that were read to their end."""

    def __init__(self, script: Script, *, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.exchanges: list[Exchange] = []
        self.connections = 0
        self._tls = tls
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.port = 0

    @property
    def address(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        """How many connections neither side has closed."""
        return len(self._writers)

    async def __aenter__(self) -> RawServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
                body = await reader.readexactly(int(length[1])) if length else b""
                exchange = Exchange(len(self.exchanges), head[:-4], body, writer)
                self.exchanges.append(exchange)
                await self.script(exchange)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went away, as many tests want it to
        except asyncio.CancelledError:
            pass  # the test is over; a cancelled handler would be reported by asyncio.streams
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()


def answer(body: bytes = b"{}", status: int = 200, *headers: str, length: int | None = None) -> bytes:
    """A plain answer with a `Content-Length`."""
    lines = [f"HTTP/1.1 {status} Whatever", "Content-Type: application/json", *headers]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


async def plain(exchange: Exchange) -> None:
    """Answers with the target, so that a test sees whose answer it got."""
    await exchange.send(answer(b'{"target":"' + exchange.target + b'"}'))


class FixedLogin:
    """A login that never changes."""

    own_secrets: tuple[bytes, ...] = (TOKEN.encode(),)

    def __init__(self) -> None:
        self.good = True
        self.asked = 0

    def token(self) -> Credential:
        return Credential(TOKEN)

    async def token_for(self, permit: Permit) -> Presented:
        return Presented(self.token())

    async def still_good(self, permit: Permit, used: Credential) -> bool:
        assert used.reveal() == TOKEN
        self.asked += 1
        return self.good


class Counted:
    """A reservation that nobody looks at."""

    def commit(self) -> None:
        pass

    def refund(self) -> None:
        pass


def permit(
    path: str = "/v1/secret/data/app/db",
    method: str = "GET",
    *,
    body: bytes | None = None,
    query: str = "",
    namespace: str = "",
    content_type: str = "application/json",
    name: str = "kv2.read",
    release: frozenset[str] | None = None,
) -> Permit:
    """A permit, as the decision would hand it on."""
    operation = Operation(
        name,
        Purpose.READ,
        SecretUri("openbao", "kv2", "secret", ("app", "db")),
        UpstreamRequest(method, path, query, namespace, body, content_type),
        mutation=method != "GET",
        streams=method == "GET",
    )
    verdict = Verdict(permit=True, obligations=Obligations(release=release))
    return Permit(operation, Caller("app", "https://idp.example"), verdict, GrantState(True, 1, 0.0), Counted())


def client_of(server: RawServer | str, **options: Any) -> UpstreamClient:
    """A client of that server; `options` as in `upstream` of the configuration."""
    address = server if isinstance(server, str) else server.address
    return UpstreamClient(Upstream(address=address, **options), FixedLogin())


def idle_connections(client: UpstreamClient) -> int:
    """How many connections the client would use again."""
    connector = client._session.connector
    assert connector is not None
    return sum(proto.is_connected() for conns in connector._conns.values() for proto, _ in conns)
