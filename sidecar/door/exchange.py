"""One request that came through the door, while it is answered: what the enforcement sees as `Inbound`."""

from __future__ import annotations

from sidecar.door.body import IncomingBody
from sidecar.door.head import Head, Peer
from sidecar.errors import Refused


class Exchange:
    """`refused` is why the door will not have this request; `head` is None where its bytes could not be read.

    `last` is True where nothing more is read from the connection after it.
    """

    __slots__ = ("_head", "incoming", "last", "peer", "refused", "target")

    def __init__(
        self,
        peer: Peer,
        target: str,
        head: Head | None,
        incoming: IncomingBody | None = None,
        *,
        refused: Refused | None = None,
        last: bool = False,
    ) -> None:
        self.peer = peer
        self.target = target
        self._head = head
        self.incoming = incoming
        self.refused = refused
        self.last = last or head is None or not head.keep_alive

    def head(self) -> Head:
        """See `Inbound.head`."""
        if self.refused is not None:
            raise self.refused
        if self._head is None:
            raise RuntimeError("an exchange has a head or a refusal")
        return self._head

    async def body(self, limit: int) -> bytes:
        """See `Inbound.body`."""
        return b"" if self.incoming is None else await self.incoming.read(limit)

    @property
    def is_reusable(self) -> bool:
        """True where the connection may carry another request after this one's answer."""
        return not self.last and (self.incoming is None or self.incoming.can_be_skipped)

    @property
    def leaves_bytes(self) -> bool:
        """True where the client may have sent, or be sending, what nobody will read."""
        return self._head is None or (self.incoming is not None and not self.incoming.complete)
