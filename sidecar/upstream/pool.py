"""Connections to OpenBao, and to a PDP, that never hand one caller's answer to the next.

aiohttp already discards a connection whose answer was not read to its end. What it does not see are bytes that come
where no answer is awaited, behind the end of an answer. On a connection kept alive they would be taken for the next
request's answer, so such a connection is cut the moment they arrive, and one on which anything waits to be read is not
taken from the pool. That keeps requests off connections that OpenBao has just closed, too.
"""

from __future__ import annotations

import asyncio
import functools
import select
import ssl
from typing import Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler

MAX_CONNECTIONS: Final = 256
KEEPALIVE_SECONDS: Final = 15.0
"""Idle connections are closed from our side long before OpenBao would (`http_idle_timeout`, 300 s) or a load balancer
in between (60 s as a rule): a request is not written into a connection that is just being closed."""


class ExactConnection(ResponseHandler):
    """One connection: one final answer for each request, and not a byte besides."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._awaiting = False  # from a request until the end of its answer
        self._answered = False  # its final head has come
        self._readable = select.poll()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands; with TLS, after the handshake."""
        super().connection_made(transport)
        self._readable.register(transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLRDHUP)

    def is_connected(self) -> bool:
        """Whether it may be used. While it is idle the socket itself is asked, for what the event loop has not come to
        yet: the end of the connection, or bytes that nobody asked for."""
        return super().is_connected() and (self._awaiting or not self._readable.poll(0))

    def set_response_params(self, **params: Any) -> None:
        """aiohttp calls this once for each request, just before it is written."""
        self._awaiting, self._answered = True, False
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Bytes that came; none where aiohttp only goes on with what it holds."""
        if data and not self._awaiting:
            self._cut()
            return
        super().data_received(data)
        if self._answered and (self._payload is None or self._payload.is_eof()):
            self._awaiting = False

    def feed_data(self, data: Any, size: int = 0) -> None:
        """A head was read: interim (RFC 9110, section 15.2), final, or one too many."""
        if data[0].code >= 200:
            if self._answered:
                self._cut()
                return
            self._answered = True
        super().feed_data(data, size)

    def _cut(self) -> None:
        self.force_close()
        if self.transport is not None:
            self.transport.abort()


class Pool(aiohttp.TCPConnector):
    """A connector whose connections are exact."""

    def __init__(self, context: ssl.SSLContext | bool = True) -> None:
        super().__init__(ssl=context, limit=MAX_CONNECTIONS, keepalive_timeout=KEEPALIVE_SECONDS)
        if not hasattr(self, "_factory"):
            raise RuntimeError("this aiohttp makes its connections in another way; the pool must be adapted")
        make: type[ResponseHandler] = ExactConnection
        self._factory = functools.partial(make, loop=self._loop)


def exact_session() -> aiohttp.ClientSession:
    """A session of exact connections. It keeps no cookies, heeds no proxy variables, and trusts what the system trusts
    where a request does not say otherwise."""
    return aiohttp.ClientSession(connector=Pool(), cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)
