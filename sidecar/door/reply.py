"""An `Answer` becomes an HTTP response. The framing is ours; an answer that breaks off is never completed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from multidict import CIMultiDict

from sidecar.door.answer import Answer
from sidecar.errors import Code, Dialect, error_body

_FRAMING: Final = ("Content-Length", "Transfer-Encoding", "Connection")
_WITHOUT_BODY: Final = frozenset({204, 304})


class Cut(Exception):  # noqa: N818 - not an error of ours: the answer's source broke off
    """The answer can not be completed; the connection must be aborted."""


class AnswerRequest(web.BaseRequest):
    """aiohttp's side of one exchange. It knows nothing of the caller's request."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        response.headers.popall("Server", None)


def make_request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> web.BaseRequest:
    """aiohttp's request factory."""
    return AnswerRequest(message, payload, protocol, writer, task, asyncio.get_running_loop())


async def send(request: web.BaseRequest, answer: Answer, *, last: bool) -> web.StreamResponse:
    """Sends the whole answer; `last` announces that the connection ends with it.

    Raises:
        Cut: its body broke off, or is not as long as announced.
        ConnectionError: the client is gone.
        ValueError: the answer is none; nothing was sent.
    """
    if answer.status < 200:
        raise ValueError("an interim status is no answer")
    headers = CIMultiDict(answer.headers)
    for name in _FRAMING:
        headers.popall(name, None)
    if isinstance(answer.body, bytes):
        response: web.StreamResponse = web.Response(status=answer.status, headers=headers, body=answer.body)
        if last:
            response.force_close()
        await response.prepare(request)
        await response.write_eof()
        return response
    response = web.StreamResponse(status=answer.status, headers=headers)
    response.content_length = answer.content_length
    if last:
        response.force_close()
    try:
        await _stream(request, response, answer.body, answer.content_length)
    finally:
        close = getattr(answer.body, "aclose", None)
        if close is not None:
            await close()
    return response


async def _stream(
    request: web.BaseRequest, response: web.StreamResponse, body: AsyncIterator[bytes], length: int | None
) -> None:
    # The first piece is fetched whatever follows: a generator that was never started runs no clean-up.
    chunk = await _next(body)
    await response.prepare(request)
    if request.method != "HEAD" and response.status not in _WITHOUT_BODY:
        sent = 0
        while chunk is not None:
            sent += len(chunk)
            following = None
            if length is None or sent < length:
                await response.write(chunk)
                following = await _next(body)
            elif sent == length:
                await _end(body)  # before the last bytes go out: with them the answer would be complete
                await response.write(chunk)
            else:
                raise Cut("longer than announced")
            chunk = following
        if length is not None and sent < length:
            raise Cut("shorter than announced")
    await response.write_eof()


async def _end(body: AsyncIterator[bytes]) -> None:
    while (chunk := await _next(body)) is not None:
        if chunk:
            raise Cut("longer than announced")


async def _next(body: AsyncIterator[bytes]) -> bytes | None:
    try:
        return await anext(body, None)
    except Exception as error:
        raise Cut(type(error).__name__) from error


def fault(target: str, correlation_id: str) -> Answer:
    """The last resort: the handler failed, and says nothing about why."""
    body = error_body(Code.UPSTREAM_ERROR, "the sidecar failed", correlation_id, Dialect.of(target))
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store", "X-Correlation-ID": correlation_id}
    return Answer(502, headers, body, close=True)
