"""The listener: where it listens, who may come in, how long they may take, and how it closes."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import stat
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from sidecar.config import Limits, split_address
from sidecar.door.admission import Admission
from sidecar.door.answer import Handler
from sidecar.door.connection import Connection
from sidecar.door.timeouts import Timeouts
from sidecar.door.trust import TrustSource

_log = structlog.get_logger(__name__)

_UNIX: Final = "unix://"
_BACKLOG: Final = 1024
_LAST_TURNS: Final = 3
"""Of the event loop, before the listener closes: who has connected by then is taken in, not reset by the kernel."""
_CUT_SECONDS: Final = 1.0
"""How long a handler that was cancelled may take to end."""


class Door:
    """Takes connections and calls the handler with each request.

    `addresses` are those it is bound to, a port of 0 resolved, as `host:port` or `unix:///path`.
    """

    def __init__(self, handler: Handler, limits: Limits, timeouts: Timeouts | None = None) -> None:
        self._handler = handler
        self._timeouts = timeouts or Timeouts()
        self._admission = Admission(limits)
        self._servers: list[asyncio.Server] = []
        self._sockets: list[tuple[Path, tuple[int, int] | None]] = []
        self._sweeper: asyncio.Task[None] | None = None
        self.addresses: list[str] = []

    async def listen(self, address: str, tls: ssl.SSLContext | None = None, trust: TrustSource | None = None) -> None:
        """Listens at `host:port` or `unix:///absolute/path` too. `trust` is what client certificates are looked at
        again by, on each request.

        Raises:
            OSError: the address is taken, or not to be had.
        """
        loop = asyncio.get_running_loop()
        handshake = self._timeouts.handshake if tls else None
        connection = partial(Connection, self._handler, self._admission, self._timeouts, trust)
        if address.startswith(_UNIX):
            path = Path(address.removeprefix(_UNIX))
            sock = _unix_socket(path)
            self._sockets.append((path, _identity(path)))
            server = await loop.create_unix_server(
                connection, sock=sock, ssl=tls, ssl_handshake_timeout=handshake, backlog=_BACKLOG
            )
            self.addresses.append(address)
        else:
            host, port = split_address(address)
            server = await loop.create_server(
                connection, host, port, ssl=tls, ssl_handshake_timeout=handshake, backlog=_BACKLOG
            )
            for listener in server.sockets:
                name = listener.getsockname()
                self.addresses.append(f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}")
        self._servers.append(server)
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())

    async def drain(self, seconds: float) -> None:
        """Stops accepting, lets go of who is idle, answers who is not, at most for so long; then cuts."""
        self._admission.closing = True
        for _ in range(_LAST_TURNS):
            await asyncio.sleep(0)
        for server in self._servers:
            server.close()
        for path, identity in self._sockets:
            if _identity(path) == identity:
                path.unlink(missing_ok=True)
        for guest in tuple(self._admission.guests):
            guest.leave_when_idle()
        await self._admission.wait_empty(seconds)
        cut = [task for guest in tuple(self._admission.guests) if (task := guest.cut()) is not None]
        if cut:
            await asyncio.wait(cut, timeout=_CUT_SECONDS)
        await self._admission.wait_empty(_CUT_SECONDS)
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    async def _sweep(self) -> None:
        """One timer for all deadlines: the way of a request sets none of its own."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._timeouts.sweep)
            now = loop.time()
            for guest in tuple(self._admission.guests):
                try:
                    guest.look_at_deadlines(now)
                except Exception:  # noqa: BLE001 - one connection's fault must not stop the clock of the others
                    _log.exception("a deadline could not be kept")


def _unix_socket(path: Path) -> socket.socket:
    """A bound socket that its owner and group may connect to. A file there is replaced only if it is a dead socket."""
    if not path.is_absolute():
        raise OSError(errno.EINVAL, "the path of a Unix socket must be absolute")
    _remove_dead_socket(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.bind(str(path))
        path.chmod(0o660)  # before it listens: until then nobody can connect
    except OSError:
        sock.close()
        raise
    return sock


def _remove_dead_socket(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EADDRINUSE, "a file that is no socket is in the way", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        refused = probe.connect_ex(str(path))
    if refused != errno.ECONNREFUSED:
        raise OSError(errno.EADDRINUSE, "another process listens here", str(path))
    path.unlink()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
