"""What a request shows OpenBao, and who knows it: one login for each `upstream.auth.mode`."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from sidecar.caller.identity import Credential
from sidecar.decision.permit import Permit

SHORTEST_TOKEN: Final = 16
"""A shorter token (a development server's `root`) is not looked for in answers: it would be found in ordinary text."""


class OwnSecrets(tuple[bytes, ...]):
    """Bytes that must never leave. Shows itself to nobody."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "OwnSecrets(***)"


class Presented(NamedTuple):
    """The token to send, and what of its login must not come back to the caller beside `Release`'s own."""

    credential: Credential
    secrets: tuple[bytes, ...] = OwnSecrets()


class Login(Protocol):
    """What forwarding needs of a login."""

    async def token_for(self, permit: Permit) -> Presented:
        """The token to send for this caller; waits, within a limit, while a login is under way.

        Raises `UpstreamFailure` where there is none now, `Refused` where this caller gets none.
        """

    async def still_good(self, permit: Permit, used: Credential) -> bool:
        """Asked after a 403: whether the token itself is still taken. Where not, the next request gets another."""
