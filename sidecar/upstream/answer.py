"""An answer of OpenBao: which of its headers leave the sidecar, and its body, whole or not at all."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final

import aiohttp
from multidict import CIMultiDictProxy

from sidecar.caller.identity import Credential
from sidecar.errors import Code
from sidecar.upstream.failure import UpstreamFailure, untrustworthy
from sidecar.upstream.headers import RELEASED

_EMPTY: Final = frozenset({204})
_REQUEST_ID: Final = re.compile(rb'\{"request_id":"([0-9a-f-]{36})"')


class UpstreamAnswer:
    """OpenBao's answer after its head. Either read it, or stream it to the end, or close it.

    `content_length` is the body's length where it is known: the head told it, or the body has come already (OpenBao
    sends what is longer than 2 KiB in chunks, mostly all at once); else None. `duration_seconds` is the time from the
    first byte out to the head; `secrets` are bytes of the login it was asked with, which must not come back in it. A
    body that was not taken to its end leaves a connection that is never used again.
    """

    __slots__ = (
        "_body",
        "_response",
        "content_length",
        "duration_seconds",
        "headers",
        "made_under",
        "secrets",
        "status",
    )

    def __init__(
        self, response: aiohttp.ClientResponse, duration_seconds: float, secrets: tuple[bytes, ...] = ()
    ) -> None:
        """Raises `UpstreamFailure` where the head is not one that OpenBao sends; the connection is closed then."""
        self._response = response
        self._body: bytes | None = None
        self.duration_seconds = duration_seconds
        self.secrets = secrets
        self.made_under: Credential | None = None
        self.status = response.status
        try:
            self.content_length = _body_length(response.status, response.headers)
            if self.content_length is None and response.content.is_eof() and response.content.exception() is None:
                self.content_length = response.content.total_bytes
            self.headers: Mapping[str, str] = _released(response.headers)
        except UpstreamFailure:
            response.close()
            raise

    @property
    def request_id(self) -> str:
        """OpenBao's own id of the request, once the body was read; empty where it tells none."""
        found = _REQUEST_ID.match(self._body or b"")
        return found[1].decode() if found else ""

    async def read(self, limit: int) -> bytes:
        """The whole body, at most `limit` bytes. Raises `UpstreamFailure` where it is longer or cut short."""
        if self._body is None:
            if self.content_length is not None and self.content_length > limit:
                self.close()
                raise _too_long(self.content_length)
            self._body = self._at_hand(limit) or b"".join([chunk async for chunk in self._chunks(limit)])
        return self._body

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes. Raises `UpstreamFailure` where OpenBao cuts it short: an end is then no end."""
        if self._body is not None:
            yield self._body
            return
        async with aclosing(self._chunks(None)) as chunks:
            async for chunk in chunks:
                yield chunk

    def close(self) -> None:
        """Gives up what was not read, and the connection with it."""
        if not self._response.closed:
            self._response.close()

    def _at_hand(self, limit: int) -> bytes:
        """The whole body where it came along with the head, as small ones do; else nothing."""
        content = self._response.content
        if not content.is_eof() or content.exception() is not None or content.total_bytes > limit:
            return b""
        body = content.read_nowait()
        self._check(len(body))
        return body

    async def _chunks(self, limit: int | None) -> AsyncGenerator[bytes, None]:
        content, size = self._response.content, 0
        try:
            while not content.at_eof():
                chunk = await content.readany()
                size += len(chunk)
                if limit is not None and size > limit:
                    raise _too_long(size)
                if chunk:
                    yield chunk
            self._check(size)
        except TimeoutError as error:
            raise timed_out("the body did not come in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise untrustworthy(f"the body was cut short: {type(error).__name__}") from error
        finally:
            self.close()

    def _check(self, size: int) -> None:
        if self.content_length is not None and size != self.content_length:
            raise untrustworthy(f"a body of {size} bytes where {self.content_length} were announced")


def timed_out(detail: str) -> UpstreamFailure:
    """OpenBao took the request and did not answer in time."""
    return UpstreamFailure(Code.UPSTREAM_TIMEOUT, "OpenBao did not answer in time", sent=True, detail=detail)


def _too_long(size: int) -> UpstreamFailure:
    return UpstreamFailure(
        Code.UPSTREAM_ERROR, "OpenBao's answer is larger than the sidecar holds", sent=True, detail=f"{size} bytes"
    )


def _body_length(status: int, headers: CIMultiDictProxy[str]) -> int | None:
    """The body's length, None where it is chunked. An answer that ends with its connection is refused: nobody could
    tell whether it was cut short. So is one with two framings or in an encoding that was not asked for."""
    if not 200 <= status <= 599 or 300 <= status <= 399:
        # A redirect would send the sidecar's own token elsewhere; OpenBao means another node or an unclean path.
        raise untrustworthy(f"status {status}")
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise untrustworthy("an encoded body, though none was asked for")
    lengths = headers.getall("Content-Length", [])
    codings = headers.getall("Transfer-Encoding", [])
    if status in _EMPTY:
        if codings or lengths not in ([], ["0"]):
            raise untrustworthy(f"status {status} with a body")
        return 0
    if not codings and len(lengths) == 1 and lengths[0].isascii() and lengths[0].isdigit():
        return int(lengths[0])
    if not lengths and len(codings) == 1 and codings[0].lower() == "chunked":
        return None
    raise untrustworthy("a body whose end cannot be told")


def _released(headers: CIMultiDictProxy[str]) -> dict[str, str]:
    found = {}
    for name in RELEASED:
        value = headers.get(name)
        if value is not None and value.isascii() and value.isprintable():
            found[name] = value
    return found
