"""What goes back to the caller, and what came in: the door's side of the enforcement."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from sidecar.door.head import Head, Peer


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer. `headers` hold no framing (`Content-Length`, `Transfer-Encoding`, `Connection`): the door frames.

    A body that is an iterator is passed on as it comes; `content_length` is its length where upstream told it.
    An iterator that raises, or ends before `content_length`, cuts the caller's connection: a cut answer is never
    completed. `close` ends the connection after this answer. `waits` says that the body waits for what happens: its
    iterator is closed as soon as the client is gone.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | AsyncIterator[bytes] = b""
    content_length: int | None = None
    close: bool = False
    waits: bool = False


class Inbound(Protocol):
    """One request that came through the door."""

    @property
    def peer(self) -> Peer:
        """The other end of the connection."""

    @property
    def target(self) -> str:
        """The raw target as far as it could be read, to choose the dialect of an error. Empty where it could not."""

    def head(self) -> Head:
        """The head. Raises `Refused` where the door refused the bytes (the connection is closed after the answer), or
        has too much to do (OVERLOADED)."""

    async def body(self, limit: int) -> bytes:
        """The whole body, at most `limit` bytes; sends `100 Continue` first where the caller waits for it.

        Raises `Refused`: BODY_TOO_LARGE, or MALFORMED_REQUEST where its framing is broken or it came too slowly.
        """


Handler = Callable[[Inbound], Awaitable[Answer]]
