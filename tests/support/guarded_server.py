"""A small HTTP/1.1 server behind the real Authenticator, for the application's side: it takes any method.

It reads what honest clients send and no more; the strict reading is the door's.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from dataclasses import dataclass
from types import TracebackType

from sidecar.caller.authenticate import Authenticator
from sidecar.caller.identity import Caller
from sidecar.door.head import Head, Peer
from sidecar.errors import Refused


@dataclass(frozen=True)
class Seen:
    """A request that came in, and what became of it."""

    head: Head
    peer: Peer
    body: bytes
    status: int
    caller: Caller | None


class GuardedServer:
    """Answers an authenticated caller with who it is and what it sent, anyone else as the sidecar would."""

    def __init__(self, authenticator: Authenticator, tls: ssl.SSLContext | None = None) -> None:
        self._authenticator = authenticator
        self._tls = tls
        self._writers: set[asyncio.StreamWriter] = set()
        self.seen: list[Seen] = []
        self.connections = 0
        self.redirect_to = ""
        self.address = ""

    @property
    def url(self) -> str:
        """Its origin."""
        return f"{'https' if self._tls else 'http'}://{self.address}"

    @property
    def statuses(self) -> list[int]:
        """The statuses of all answers so far."""
        return [seen.status for seen in self.seen]

    async def __aenter__(self) -> GuardedServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._authenticator.listens_on([self.address])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self.connections += 1
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client is gone
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        try:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        except asyncio.IncompleteReadError:
            return False
        method, target, _ = lines[0].split(" ")
        path, mark, query = target.partition("?")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        head = Head(method, path, query if mark else None, headers)
        body = await _body(reader, headers)
        status, answer, extra = await self._answer(head, _peer(writer), body)
        fields = {"Content-Type": "application/json", "Content-Length": str(len(answer))} | extra
        text = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"HTTP/1.1 {status} Status\r\n{text}\r\n".encode() + answer)
        await writer.drain()
        return headers.get("connection", "").lower() != "close"

    async def _answer(self, head: Head, peer: Peer, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        caller, extra = None, {}
        try:
            self._authenticator.check_origin(head)
            caller = await self._authenticator.authenticate(head, peer)
            status, answer = 200, {"data": {"data": {"sub": caller.subject}}, "method": head.method}
            if self.redirect_to:
                status, extra = 307, {"Location": self.redirect_to}
        except Refused as refused:
            status, answer, extra = (
                refused.status,
                {"errors": [refused.message], "code": refused.code},
                {**refused.headers},
            )
        self.seen.append(Seen(head, peer, body, status, caller))
        return status, json.dumps(answer).encode(), {**self._authenticator.nonce_headers(), **extra}


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return body


def _peer(writer: asyncio.StreamWriter) -> Peer:
    tls = writer.get_extra_info("ssl_object")
    return Peer("tcp") if tls is None else Peer("tls", tls.getpeercert(binary_form=True))
