"""A PDP that answers with exactly the bytes it is told to, over real connections."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

Script = Callable[["Exchange"], Awaitable[None]]


@dataclass
class Exchange:
    """One request that came in, and the way to answer it."""

    target: str
    headers: Mapping[str, str]
    body: bytes
    writer: asyncio.StreamWriter
    number: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    async def send(self, raw: bytes) -> None:
        self.writer.write(raw)
        await self.writer.drain()

    async def answer(
        self,
        body: bytes | Mapping[str, Any],
        status: str = "200 OK",
        content_type: str = "application/json",
        **headers: str,
    ) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", f"Content-Length: {len(raw)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode() + raw)


class PdpServer:
    """Answers each request by its script; keeps connections alive until told otherwise."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.exchanges: list[Exchange] = []
        self.connections = 0
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://localhost:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "localhost", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        for other in self._server.sockets[1:]:
            other.close()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                request, *lines = head.strip().split("\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                exchange = Exchange(request.split(" ")[1], headers, body, writer, len(self.exchanges) + 1)
                self.exchanges.append(exchange)
                await self.script(exchange)
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
