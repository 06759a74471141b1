"""A piece of network between the sidecar and what it calls, that can be dropped: a TCP relay on loopback."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress


class Network:
    """Relays `listen` (host:port, or a socket that listens) to `target` (host:port). `drop` makes it swallow
    everything; `cut` also breaks connections."""

    def __init__(self, listen: str | socket.socket, target: str) -> None:
        self._listen = listen
        self._target = target
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.refuses = False
        """Whoever connects is cut off at once, as by a port where nobody listens."""

    async def __aenter__(self) -> Network:
        if isinstance(self._listen, socket.socket):
            self._server = await asyncio.start_server(self._relay, sock=self._listen)
        else:
            host, _, port = self._listen.rpartition(":")
            self._server = await asyncio.start_server(self._relay, host, int(port))
        return self

    async def __aexit__(self, *_exc: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def drop(self) -> None:
        """Nothing comes through any more; nobody is told."""
        self._flows.clear()

    def cut(self) -> None:
        """Breaks every connection, as a middlebox that restarts does."""
        for writer in list(self._writers):
            writer.transport.abort()

    def restore(self) -> None:
        """Everything flows again, what was held back too."""
        self._flows.set()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self.refuses:
            writer.transport.abort()
            return
        self._tasks.add(task)
        host, _, port = self._target.rpartition(":")
        others: list[asyncio.StreamWriter] = [writer]
        try:
            await self._flows.wait()
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
            others.append(far_writer)
            self._writers.update(others)
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        except OSError:
            pass
        finally:
            for each in others:
                self._writers.discard(each)
                each.transport.abort()
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while chunk := await reader.read(65_536):
                await self._flows.wait()
                writer.write(chunk)
                await writer.drain()
        writer.transport.abort()
