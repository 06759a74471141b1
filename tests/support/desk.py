"""An Authenticator on a clock of the test's own, one issuer it trusts, one application with a key."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from sidecar.caller.authenticate import Authenticator
from sidecar.caller.identity import Caller
from sidecar.config import Config
from sidecar.door.head import Head, Peer
from sidecar.errors import Code, Refused
from sidecar.shared_replays.store import SharedReplays
from tests.support.clock import FakeClock
from tests.support.proofs import ProofKey
from tests.support.tokens import Issuer

PATH: Final = "/v1/secret/data/app/db"
ORIGIN: Final = "http://127.0.0.1:8200"
TCP: Final = Peer("tcp")


class Desk:
    """Where callers are asked for their papers."""

    def __init__(self, authenticator: Authenticator, issuer: Issuer, clock: FakeClock, jwks_file: Path) -> None:
        self.authenticator = authenticator
        self.issuer = issuer
        self.clock = clock
        self.jwks_file = jwks_file
        self.shared: SharedReplays | None = None
        self.key = ProofKey(now=clock.wall)

    @property
    def nonce(self) -> str | None:
        """The nonce that the last answer carried, where it carries one."""
        return self.authenticator.nonce_headers().get("DPoP-Nonce")

    def token(self, **claims: Any) -> str:
        """A token bound to the application's key."""
        return self.issuer.token(**({"cnf": {"jkt": self.key.jkt}} | claims))

    def proof(self, token: str, **bent: Any) -> str:
        """A good proof for a GET of PATH with the current nonce, bent as told."""
        return self.key.proof(token, **({"url": f"{ORIGIN}{PATH}", "nonce": self.nonce} | bent))

    def head(self, token: str | None = None, proof: str | None = None, **headers: str) -> Head:
        """A GET of PATH with these credentials; further headers by name, `_` for `-`."""
        given = {"host": "127.0.0.1:8200"} | {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            given["x-vault-token"] = token
        if proof is not None:
            given["dpop"] = proof
        return Head("GET", PATH, None, given)

    def good_head(self, **claims: Any) -> Head:
        """A request that is taken, with a fresh token and proof."""
        token = self.token(**claims)
        return self.head(token, self.proof(token))

    async def ask(self, head: Head, peer: Peer = TCP) -> Caller:
        """Authenticates."""
        return await self.authenticator.authenticate(head, peer)

    async def refused(self, head: Head, peer: Peer = TCP) -> Refused:
        """The refusal of a request that must be refused."""
        return await refusal(self.ask(head, peer))

    async def code(self, head: Head, peer: Peer = TCP) -> Code:
        """The code of that refusal."""
        return (await self.refused(head, peer)).code

    async def token_code(self, token: str) -> Code:
        """The code with which a token is refused that comes with a good proof for it."""
        return await self.code(self.head(token, self.proof(token)))

    async def proof_code(self, **bent: Any) -> Code:
        """The code with which a bent proof is refused that comes with a good token."""
        token = self.token()
        return await self.code(self.head(token, self.proof(token, **bent)))


async def refusal(attempt: Awaitable[object]) -> Refused:
    """What is raised by something that must be refused."""
    with pytest.raises(Refused) as caught:
        await attempt
    return caught.value


@contextlib.asynccontextmanager
async def open_desk(
    folder: Path,
    *,
    issuer: Issuer | None = None,
    issuers: list[dict[str, Any]] | None = None,
    clock: FakeClock | None = None,
    **sections: Any,
) -> AsyncIterator[Desk]:
    """A desk; `issuer` and `sections` (of the configuration) bend it, `issuers` are trusted beside the first."""
    clock = clock or FakeClock()
    issuer = issuer or Issuer()
    issuer.now = clock.wall
    jwks_file = folder / "jwks.json"
    identity: dict[str, Any] = {"issuers": [issuer.configured(jwks_file), *(issuers or [])]}
    config = Config.model_validate({**sections, "identity": identity | sections.get("identity", {})})
    async with aiohttp.ClientSession() as session:
        shared = None
        if config.anti_replay.store != "memory":
            shared = SharedReplays(config.anti_replay, "acme", clock)
            await shared.start()
        authenticator = Authenticator(config, clock, session, shared)
        await authenticator.start()
        desk = Desk(authenticator, issuer, clock, jwks_file)
        desk.shared = shared
        yield desk
        await authenticator.stop()
        if shared is not None:
            await shared.stop()
