"""One connection: takes the client's bytes apart, and has aiohttp answer one request at a time.

aiohttp never sees a byte of the client's. For each head that was taken it is fed a request line of our own; the true
head and the body travel beside it, as an `Exchange`. So its parser has nothing to be lenient about, and bodies need
no second framing. Closing is ours too: an answer to bytes that were not read to the end is left to be read before
the connection goes (RFC 9112, section 9.6).
"""

from __future__ import annotations

import asyncio
import enum
import math
import secrets
import select
from collections.abc import Iterable
from typing import Any, Final, cast

import structlog
from aiohttp import web

from sidecar.door.admission import Admission, overloaded
from sidecar.door.answer import Answer, Handler
from sidecar.door.body import HELD_BYTES, IncomingBody
from sidecar.door.exchange import Exchange
from sidecar.door.framing import framing_of
from sidecar.door.head import Head, Peer
from sidecar.door.head_reader import HeadReader
from sidecar.door.peer import peer_of
from sidecar.door.reply import Cut, fault, make_request, send
from sidecar.door.timeouts import Timeouts
from sidecar.door.trust import Standing, TrustSource, verified_chain
from sidecar.errors import Code, Refused

_log = structlog.get_logger(__name__)

_NEVER: Final = math.inf
_YEAR: Final = 365 * 86_400.0

_GET: Final = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
_HEAD: Final = b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"  # its answer has no body
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_SEND_BUFFER_BYTES: Final = 64 * 1024
_LINGER_BYTES: Final = 1024 * 1024
"""What a client may still send after the last answer before it is cut without regard."""


class _Phase(enum.Enum):
    HEAD = enum.auto()  # between requests, or in the middle of a head
    EXCHANGE = enum.auto()  # a request is being answered
    SKIP = enum.auto()  # it was answered; the rest of its body is read past
    LINGER = enum.auto()  # the last answer went out; what comes is dropped until the client has closed
    CLOSED = enum.auto()  # no more is read; what was written may still be on its way


class Connection(asyncio.Protocol):
    """The protocol between a transport and aiohttp's."""

    _transport: asyncio.Transport
    _http: web.RequestHandler
    _peer: Peer

    def __init__(
        self, handler: Handler, admission: Admission, timeouts: Timeouts, trust: TrustSource | None = None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._handler = handler
        self._admission = admission
        self._timeouts = timeouts
        self._trust = trust
        self._standing: Standing | None = None  # of the client certificate, where there is one
        self._phase = _Phase.HEAD
        self._heads = HeadReader(max_header_bytes=admission.max_header_bytes, max_uri_bytes=admission.max_uri_bytes)
        self._ahead: bytes | bytearray = b""  # what was sent ahead while a request is answered
        self._dropped = 0
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[Any] | None = None  # answers the exchange
        self._unread: IncomingBody | None = None  # of a request that was answered
        self._leaves_bytes = False
        self._reading = True
        self._eof = False
        self._is_surplus = False
        self._is_lost = False
        self._waits = False
        self._deadline = _NEVER
        self._body_deadline = _NEVER
        self._write_deadline = _NEVER

    # -- what the transport tells ----------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        # uvloop's transports have asyncio's interface and not its base class.
        transport = cast("asyncio.Transport", transport)
        self._transport = transport
        self._peer = peer_of(transport)
        if self._trust is not None and self._peer.certificate is not None:
            self._standing = Standing(self._trust, verified_chain(transport.get_extra_info("ssl_object")))
        transport.set_write_buffer_limits(high=_SEND_BUFFER_BYTES, low=_SEND_BUFFER_BYTES // 4)
        server = web.Server(
            self._respond,
            request_factory=make_request,
            access_log=None,
            keepalive_timeout=_YEAR,  # ours is shorter
            lingering_time=0.0,
        )
        self._http = server()
        self._http.connection_made(_ToClient(self, transport))
        overrun, self._is_surplus = self._admission.is_overrun, self._admission.is_full
        self._admission.enter(self)
        # Who was taken in before the door closed, and has shaken hands since, may still ask, soon.
        is_hurried = self._is_surplus or self._admission.closing
        self._deadline = self._loop.time() + (self._timeouts.surplus if is_hurried else self._timeouts.idle)
        if overrun:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        phase = self._phase
        if phase is _Phase.HEAD:
            self._read_head(data)
        elif phase is _Phase.EXCHANGE:
            self._take(data)
        elif phase is _Phase.SKIP:
            self._skip(data)
        elif phase is _Phase.LINGER:
            self._dropped += len(data)
            if self._dropped > _LINGER_BYTES:
                self._transport.abort()

    def eof_received(self) -> bool:
        """The client will send no more. It may still read: what it asked for in full is answered."""
        self._eof = True
        if self._phase is _Phase.HEAD and self._heads.has_begun:
            self._refuse(Refused(Code.MALFORMED_REQUEST, "the request ended in the middle of its head"))
        elif self._phase is not _Phase.EXCHANGE or self._waits:
            return False  # whoever reads what happens, and will send no more, is most likely gone
        self._refuse_body("the request ended in the middle of its body")
        return self._peer.transport != "tls"  # TLS has no half-closed connections here

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`. The handler goes on: what it began upstream is seen to its end and recorded."""
        self._is_lost = True
        if self._waits and self._task is not None:
            self._task.cancel()
        self._phase = _Phase.CLOSED
        self._ahead = b""
        self._deadline = self._write_deadline = _NEVER
        self._refuse_body("the connection ended in the middle of the body")
        self._http.connection_lost(exc)
        if self._exchange is None:
            self._admission.leave(self)
        elif self._task is None:
            self._end_exchange(self._exchange, keep=False)  # it came, but nobody has begun to answer it

    def pause_writing(self) -> None:
        """The client reads more slowly than we write: the answer waits, for so long."""
        self._write_deadline = self._loop.time() + self._timeouts.write
        self._http.pause_writing()

    def resume_writing(self) -> None:
        """The client has read on."""
        self._write_deadline = _NEVER
        self._http.resume_writing()

    # -- what the door tells ---------------------------------------------------------------------------------------
    def look_at_deadlines(self, now: float) -> None:
        """See `Guest`."""
        if now >= self._write_deadline:
            self._transport.abort()
        elif now >= self._deadline:
            self._deadline = _NEVER
            self._expire()

    @property
    def is_shut(self) -> bool:
        """True once nothing more may be written."""
        return self._phase is _Phase.CLOSED or self._phase is _Phase.LINGER

    def leave_when_idle(self) -> None:
        """See `Guest`. What waits in the socket was sent before the client could know, and is answered."""
        if self._phase is not _Phase.HEAD or self._heads.has_begun:
            return
        if self._has_sent():
            self._deadline = self._loop.time() + self._timeouts.surplus
        else:
            self.shut()

    def _has_sent(self) -> bool:
        """Whether bytes of the client's, or its end, wait to be read."""
        if self._transport.is_closing():  # its descriptor may be another's by now
            return False
        waiting = select.poll()
        waiting.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(waiting.poll(0))

    def cut(self) -> asyncio.Task[Any] | None:
        """See `Guest`."""
        self._transport.abort()
        if self._task is not None:
            self._task.cancel()
        return self._task

    # -- heads -----------------------------------------------------------------------------------------------------
    def _read_head(self, data: bytes) -> None:
        """Takes bytes of the next head: begins its exchange once it is whole, or refuses it."""
        has_begun = self._heads.has_begun
        try:
            read = self._heads.feed(data)
        except Refused as refused:
            self._refuse(refused)
            return
        if read is None:
            if not has_begun:
                patience = self._timeouts.surplus if self._is_surplus else self._timeouts.head
                self._deadline = self._loop.time() + patience
            return
        head, rest = read
        refusal = self._admission.begin()
        fallen = None if self._standing is None else self._standing.refusal()
        if self._is_surplus:
            refusal = overloaded("too many connections")
        self._exchange = Exchange(
            self._peer,
            head.path,
            head,
            self._body_of(head),
            refused=refusal or fallen,
            last=self._is_surplus or fallen is not None,
        )
        self._begin(_HEAD if head.method == "HEAD" else _GET, rest)

    def _refuse(self, refused: Refused) -> None:
        """Has the handler answer bytes that are no request. None that follow are looked at."""
        self._admission.begin()
        self._exchange = Exchange(self._peer, self._heads.refused_target(), None, refused=refused)
        self._begin(_HEAD if self._heads.refused_is_head_method() else _GET, b"")

    def _body_of(self, head: Head) -> IncomingBody | None:
        framing = framing_of(head)
        return None if framing is None else IncomingBody(framing, self, expects_continue="expect" in head.headers)

    def _begin(self, as_told_to_aiohttp: bytes, rest: bytes) -> None:
        self._phase = _Phase.EXCHANGE
        self._deadline = _NEVER
        if rest:
            self._take(rest)
        if self._eof:
            self._refuse_body("the request ended in the middle of its body")
        self._http.data_received(as_told_to_aiohttp)

    # -- bodies ----------------------------------------------------------------------------------------------------
    def _take(self, data: bytes) -> None:
        """Bytes that come while a request is answered: those of its body, then what is sent ahead."""
        exchange = self._exchange
        body = None if exchange is None else exchange.incoming
        if body is not None and not body.ended:
            data = body.feed(data)
            if self._deadline != _NEVER:
                self._deadline = min(self._loop.time() + self._timeouts.body_idle, self._body_deadline)
            if body.is_full:
                self._pause_reading()
        if not data:
            return
        if exchange is None or not exchange.is_reusable:
            self._pause_reading()  # what follows the last request is dropped
            return
        self._keep(data)
        if len(self._ahead) > HELD_BYTES:
            self._pause_reading()

    def _keep(self, data: bytes) -> None:
        if not self._ahead:
            self._ahead = data
            return
        if isinstance(self._ahead, bytes):
            self._ahead = bytearray(self._ahead)
        self._ahead += data

    def body_wanted(self, *, say_continue: bool) -> None:
        """See `Source`."""
        now = self._loop.time()
        self._body_deadline = now + self._timeouts.body
        self._deadline = min(now + self._timeouts.body_idle, self._body_deadline)
        if say_continue and not self._transport.is_closing():
            self._transport.write(_CONTINUE)
        self._resume_reading()

    def body_ended(self) -> None:
        """See `Source`."""
        self._deadline = _NEVER

    def _refuse_body(self, message: str) -> None:
        body = None if self._exchange is None else self._exchange.incoming
        if body is not None and not body.ended:
            body.refuse(Refused(Code.MALFORMED_REQUEST, message))

    def _skip(self, data: bytes) -> None:
        """Reads past the rest of a body that nobody wanted, as far as it is small."""
        body = self._unread
        if body is None:
            return
        self._dropped += len(data)
        self._keep(body.feed(data))
        if body.complete:
            self._unread = None
            self._await_head()
        elif body.refused is not None or self._dropped > 2 * HELD_BYTES:
            self._leaves_bytes = True
            self.shut()

    # -- answers ---------------------------------------------------------------------------------------------------
    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        """Called by aiohttp once for each request line that it was fed."""
        exchange = self._exchange
        if exchange is None:
            return web.Response()  # the client is gone already, so that nothing is written
        self._task = asyncio.current_task()
        keep = False
        try:
            response = await self._answer(request, exchange)
            keep = bool(response.keep_alive)
        except (Cut, ConnectionError) as error:
            if isinstance(error, Cut):
                _log.warning("an answer was cut", reason=str(error))
            self._transport.abort()
            response = web.Response()  # as above
        except asyncio.CancelledError:
            self._transport.abort()
            raise
        finally:
            self._task = None
            self._waits = False
            self._end_exchange(exchange, keep=keep)
        return response

    async def _answer(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        try:
            answer = await self._handler(exchange)
        except Exception:  # noqa: BLE001 - the last resort: logged in _fault, and answered without a word of why
            answer = self._fault(exchange)
        self._waits = answer.waits
        last = answer.close or self._admission.closing or not exchange.is_reusable
        try:
            return await send(request, answer, last=last)
        except (Cut, ConnectionError):
            raise
        except Exception as error:
            answer = self._fault(exchange)
            if request.writer.output_size > 0:
                raise Cut("not an answer") from error
            return await send(request, answer, last=True)

    @staticmethod
    def _fault(exchange: Exchange) -> Answer:
        correlation_id = secrets.token_hex(16)
        _log.exception("the handler failed", correlation_id=correlation_id)
        return fault(exchange.target, correlation_id)

    def _end_exchange(self, exchange: Exchange, *, keep: bool) -> None:
        """The answer went out, or never will: the next head, the rest of the body, or the end."""
        self._exchange = None
        self._admission.end()
        if self._is_lost:
            self._admission.leave(self)
        elif not (keep and exchange.is_reusable):  # its body may have gone wrong since the answer began
            self._leaves_bytes = exchange.leaves_bytes or not self._reading
            self.shut()
        elif exchange.incoming is not None and not exchange.incoming.ended:
            self._unread = exchange.incoming
            self._unread.forget()
            self._phase = _Phase.SKIP
            self._dropped = 0
            self._deadline = self._loop.time() + self._timeouts.skip
            self._resume_reading()
        else:
            self._await_head()

    def _await_head(self) -> None:
        self._phase = _Phase.HEAD
        self._deadline = self._loop.time() + self._timeouts.idle
        self._resume_reading()
        if self._ahead:
            data = bytes(self._ahead)
            self._ahead = b""
            self._read_head(data)
        if self._phase is not _Phase.HEAD:
            return
        if self._eof and self._heads.has_begun:
            self._refuse(Refused(Code.MALFORMED_REQUEST, "the request ended in the middle of its head"))
        elif self._eof or (self._admission.closing and not self._heads.has_begun):
            self.shut()

    # -- the end ---------------------------------------------------------------------------------------------------
    def shut(self) -> None:
        """Ends the connection once what was written has gone out."""
        if self._phase in (_Phase.LINGER, _Phase.CLOSED):
            return
        self._ahead = b""
        if self._leaves_bytes and not self._eof and not self._transport.is_closing():
            self._linger()
        else:
            self._close(self._timeouts.write)

    def _linger(self) -> None:
        """To close upon unread bytes would reset the connection, and could take the answer from the client."""
        self._phase = _Phase.LINGER
        self._dropped = 0
        self._deadline = self._loop.time() + self._timeouts.linger
        self._resume_reading()
        try:
            if self._transport.can_write_eof():
                self._transport.write_eof()
        except OSError:
            self._transport.abort()  # the client went first

    def _close(self, patience: float) -> None:
        self._phase = _Phase.CLOSED
        self._deadline = self._loop.time() + patience
        self._transport.close()

    def _expire(self) -> None:
        phase = self._phase
        if phase is _Phase.HEAD and self._heads.has_begun:
            self._refuse(Refused(Code.MALFORMED_REQUEST, "the request's head came too slowly"))
        elif phase is _Phase.EXCHANGE:
            self._refuse_body("the request's body came too slowly")
        elif phase is _Phase.LINGER:
            self._close(self._timeouts.write if self._transport.get_write_buffer_size() else self._timeouts.linger)
        elif phase is _Phase.CLOSED:
            self._transport.abort()
        else:
            self._leaves_bytes = phase is _Phase.SKIP
            self.shut()

    def _pause_reading(self) -> None:
        if self._reading and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if not self._reading and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()


class _ToClient(asyncio.Transport):
    """aiohttp's view of the transport: it may write; when to read and how to close is the connection's to know."""

    def __init__(self, connection: Connection, transport: asyncio.Transport) -> None:
        super().__init__()
        self._connection = connection
        self._transport = transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._connection.is_shut or self._transport.is_closing()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._transport.write(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self._transport.writelines(list_of_data)

    def close(self) -> None:
        self._connection.shut()

    def abort(self) -> None:
        self._transport.abort()

    def pause_reading(self) -> None:
        """aiohttp's own buffers hold nothing but request lines of ours."""

    def resume_reading(self) -> None:
        """See `pause_reading`."""
