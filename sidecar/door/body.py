"""A request's body on its way in: followed from the first byte, held within a small bound until somebody asks."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from sidecar.door.framing import Framing
from sidecar.errors import Code, Refused

HELD_BYTES: Final = 64 * 1024
"""How much is taken in before somebody asks for the body, and how much of an unread one is skipped after the answer."""


class Source(Protocol):
    """Where the bytes come from: the connection."""

    def body_wanted(self, *, say_continue: bool) -> None:
        """Somebody waits for the body: read on, and keep time."""

    def body_ended(self) -> None:
        """Nobody waits any more."""


class IncomingBody:
    """One body. Once refused (broken framing, too slow, cut off) nothing of the connection is read as a request."""

    __slots__ = (
        "_data",
        "_expects_continue",
        "_forgotten",
        "_framing",
        "_limit",
        "_source",
        "_taken",
        "_waiter",
        "refused",
    )

    def __init__(self, framing: Framing, source: Source, *, expects_continue: bool) -> None:
        self._framing = framing
        self._source = source
        self._expects_continue = expects_continue
        self._data: bytes | bytearray = b""
        self._forgotten = False
        self._taken = 0
        self._limit = HELD_BYTES
        self._waiter: asyncio.Future[None] | None = None
        self.refused: Refused | None = None

    @property
    def complete(self) -> bool:
        """True once the end of the body was seen, and nothing was wrong with it."""
        return self._framing.complete and self.refused is None

    @property
    def ended(self) -> bool:
        """True once no byte is taken any more: complete or refused."""
        return self._framing.complete or self.refused is not None

    @property
    def is_full(self) -> bool:
        """True while no more should be read from the connection."""
        return self._waiter is None and len(self._data) >= HELD_BYTES

    @property
    def can_be_skipped(self) -> bool:
        """True where the rest of an unread body is small enough to be read past.

        A client that was not told to continue may leave the body out (RFC 9110, section 10.1.1): what then follows
        could be read in two ways, so that nothing of it is read.
        """
        if self.refused is not None or self._expects_continue:
            return self.complete
        return self._framing.announced - self._taken <= HELD_BYTES

    def feed(self, data: bytes) -> bytes:
        """Takes bytes of the connection; gives those that came after the end of the body. A fault is kept."""
        try:
            part, rest = self._framing.feed(data)
            if self._waiter is not None and self._framing.announced > self._limit:
                raise Refused(Code.BODY_TOO_LARGE, "the body is too large")
        except Refused as refused:
            self.refuse(refused)
            return b""
        self._keep(part)
        if self._framing.complete:
            self._wake()
        return rest

    def forget(self) -> None:
        """Nobody will read it any more: what still comes is followed to its end and dropped."""
        self._forgotten = True
        self._data = b""

    def refuse(self, refused: Refused) -> None:
        """The body will not come. Whoever waits for it is told so."""
        self.refused = self.refused or refused
        self._data = b""
        self._wake()

    async def read(self, limit: int) -> bytes:
        """The whole body. See `Inbound.body`."""
        if self.refused is None and self._framing.announced > limit:
            raise Refused(Code.BODY_TOO_LARGE, "the body is too large")
        if not self.ended:
            await self._wait(limit)
        if self.refused is not None:
            raise self.refused
        return bytes(self._data)

    async def _wait(self, limit: int) -> None:
        self._limit = limit
        self._waiter = asyncio.get_running_loop().create_future()
        say_continue, self._expects_continue = self._expects_continue and self._taken == 0, False
        self._source.body_wanted(say_continue=say_continue)
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._source.body_ended()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _keep(self, part: bytes) -> None:
        self._taken += len(part)
        if self._forgotten or not part:
            return
        if not self._data:
            self._data = part
            return
        if isinstance(self._data, bytes):
            self._data = bytearray(self._data)  # many small pieces cost no more than their bytes
        self._data += part
