"""Where a request's body ends: RFC 9112, section 6, without chunk extensions and without trailers.

Pure and sans-io: bytes are fed as they come; however they are cut, the outcome is the same.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from sidecar.door.head import Head
from sidecar.errors import Code, Refused

MAX_CHUNKS: Final = 16_384
"""Chunks one body may have. Each costs more to read than its bytes do, so their number is bounded beside the size."""

_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_SIZE_LINE_BEGUN: Final = re.compile(rb"(?:[0-9A-Fa-f]{1,8}\r?)?")
_CRLF: Final = b"\r\n"


class Framing(Protocol):
    """Follows one body.

    `announced` is how many bytes the body has at least, as far as it is told by now; `complete` is True once its
    end was seen.
    """

    announced: int
    complete: bool

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Takes the next bytes of the connection: those of the body, and those that came after its end.

        Raises:
            Refused: MALFORMED_REQUEST; what came after the fault must never be read as a request.
        """


class LengthFraming:
    """A body of `Content-Length` bytes (RFC 9112, section 6.2)."""

    __slots__ = ("_left", "announced", "complete")

    def __init__(self, length: int) -> None:
        self.announced = self._left = length
        self.complete = length == 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """See `Framing.feed`."""
        left = self._left
        if len(data) < left:
            self._left = left - len(data)
            return data, b""
        self._left = 0
        self.complete = True
        return data[:left], data[left:]


class ChunkedFraming:
    """A chunked body (RFC 9112, section 7.1): sizes of 1 to 8 hex digits, nothing else beside the data."""

    __slots__ = ("_chunks", "_closing", "_held", "_last", "_left", "announced", "complete")

    def __init__(self) -> None:
        self.announced = 0
        self.complete = False
        self._held = b""  # the beginning of a size line, or of a line end
        self._left = 0  # bytes of this chunk still to come
        self._closing = False  # the line end after a chunk's data is due, or the empty line after the last chunk
        self._last = False
        self._chunks = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """See `Framing.feed`."""
        if self.complete:
            return b"", data
        if self._held:
            data = self._held + data
            self._held = b""
        body: list[bytes] = []
        position, end = 0, len(data)
        while position < end:
            if self._left:
                part = data[position : position + self._left]
                body.append(part)
                position += len(part)
                self._left -= len(part)
            elif self._closing:
                if not data.startswith(_CRLF, position):
                    if end - position == 1 and data[position] == 0x0D:
                        break
                    raise _malformed("a trailer, or a chunk longer than its size" if self._last else "a broken chunk")
                position += 2
                self._closing = False
                if self._last:
                    self.complete = True
                    return b"".join(body), data[position:]
            else:
                line = _SIZE_LINE.match(data, position)
                if line is None:
                    if _SIZE_LINE_BEGUN.fullmatch(data, position) is None:
                        raise _malformed("a chunk's size is not 1 to 8 hex digits and CR LF")
                    break
                position = line.end()
                self._begin_chunk(int(line[1], 16))
        self._held = data[position:]
        return b"".join(body), b""

    def _begin_chunk(self, size: int) -> None:
        self._left = size
        self._last = size == 0
        self._closing = True
        self.announced += size
        self._chunks += 1
        if self._chunks > MAX_CHUNKS:
            raise _malformed("too many chunks")


def framing_of(head: Head) -> Framing | None:
    """What follows the body of a request with this head; None where it has no body (RFC 9112, section 6.3)."""
    if head.chunked:
        return ChunkedFraming()
    return LengthFraming(head.content_length) if head.content_length else None


def _malformed(message: str) -> Refused:
    return Refused(Code.MALFORMED_REQUEST, f"the body's framing: {message}")
