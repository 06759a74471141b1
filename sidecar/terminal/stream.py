"""Server-sent events, as the sidecar sends them (HTML, section 9.2.6): bytes in, events out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from sidecar.terminal.exits import Ended, Exit

MAX_EVENT_BYTES: Final = 256 * 1024


async def events(chunks: AsyncIterator[bytes]) -> AsyncIterator[tuple[str, bytes]]:
    """Each event's name, empty where it has none, and its data; comments are passed over. An event that was cut off is
    none. Raises `Ended` for what is no stream: an event beyond `MAX_EVENT_BYTES`."""
    waiting = b""
    async for chunk in chunks:
        waiting += chunk
        *whole, waiting = waiting.split(b"\n\n")
        for block in whole:
            name, data = _read(block)
            if data:
                yield name, data
        if len(waiting) > MAX_EVENT_BYTES:
            raise Ended(Exit.FAILED, "this is no stream of a sidecar's")


def _read(block: bytes) -> tuple[str, bytes]:
    name, data = "", b""
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"event":
            name = value.removeprefix(b" ").decode("ascii", "replace")
        elif field == b"data":
            data = value.removeprefix(b" ")
    return name, data
