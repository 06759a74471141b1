"""The Valkey protocol (RESP 2), as much of it as four commands need: requests out, bounded replies in.

A reply longer than what we ever ask for, nested, or of another protocol is an error, not memory.
"""

from __future__ import annotations

import asyncio
from typing import Final

MAX_LINE_BYTES: Final = 64 * 1024
"""Also the reader's limit. Long enough for INFO, which is the longest thing asked for."""
MAX_BULK_BYTES: Final = 64 * 1024
MAX_ITEMS: Final = 8


class ProtocolError(Exception):
    """What came is no reply to what was asked."""


class ServerError(Exception):
    """An error reply. Its text is the server's, cut and cleaned: it goes to the operator's log."""

    def __init__(self, text: bytes) -> None:
        shown = "".join(c if c.isprintable() else "?" for c in text[:120].decode("utf-8", "replace"))
        super().__init__(shown)

    @property
    def kind(self) -> str:
        """Its first word: `OOM`, `READONLY`, `NOAUTH`, …"""
        return str(self).partition(" ")[0]


Reply = bytes | int | None | ServerError | list[bytes]


def encode(*parts: bytes | str | int) -> bytes:
    """One command, as an array of bulk strings: nothing in a part can become another command."""
    encoded = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in encoded)


async def read_reply(reader: asyncio.StreamReader) -> Reply:
    """The next reply; an error reply is returned, not raised: others in the same batch are good.

    Raises:
        ProtocolError: what came is no reply that was asked for.
        OSError, EOFError: the connection ended (`asyncio.IncompleteReadError` is an EOFError).
    """
    kind, rest = await _line(reader)
    if kind == b"*":
        count = _number(rest)
        if not 0 <= count <= MAX_ITEMS:
            raise ProtocolError("an array of unexpected length")
        items: list[bytes] = []
        for _ in range(count):
            kind, rest = await _line(reader)
            item = await _bulk(reader, rest) if kind == b"$" else None
            if item is None:
                raise ProtocolError("an array of something else than strings")
            items.append(item)
        return items
    if kind == b"$":
        return await _bulk(reader, rest)
    if kind == b"+":
        return rest
    if kind == b":":
        return _number(rest)
    if kind == b"-":
        return ServerError(rest)
    raise ProtocolError("not the Valkey protocol")


async def _line(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    try:
        line = await reader.readuntil(b"\r\n")
    except asyncio.LimitOverrunError:
        raise ProtocolError("an endless line") from None
    return line[:1], line[1:-2]


async def _bulk(reader: asyncio.StreamReader, length: bytes) -> bytes | None:
    size = _number(length)
    if size == -1:
        return None
    if not 0 <= size <= MAX_BULK_BYTES:
        raise ProtocolError("a string of unexpected length")
    data = await reader.readexactly(size + 2)
    if data[-2:] != b"\r\n":
        raise ProtocolError("a string that does not end where it should")
    return data[:-2]


def _number(text: bytes) -> int:
    digits = text[1:] if text[:1] == b"-" else text
    if not digits.isdigit() or len(digits) > 18:
        raise ProtocolError("a number was expected")
    return int(text)
