"""The tokens that leases live under, kept alive until the last of those leases has ended.

OpenBao revokes a lease with the token it was made under, and a login's token may have a `max_ttl`, or belong to a
sidecar that was restarted since. So with `upstream.auth.lease_role` leases are made under an orphan token of that token
role, periodic and nobody's child; and whatever token leases were made under is renewed by its accessor for as long as
the ledger knows of one, also by the sidecar that comes after. Nothing is revoked: what nobody uses ends by itself.

The login's policy must allow, and the token role be made, like this:

    path "auth/token/create/leases"   { capabilities = ["update"] }
    path "auth/token/renew-accessor"  { capabilities = ["update"] }

    bao write auth/token/roles/leases orphan=true token_period=1h allowed_policies=...
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

import structlog

from sidecar.caller.identity import Credential
from sidecar.clock import Clock
from sidecar.decision.permit import Permit
from sidecar.errors import Refused
from sidecar.upstream.control import ControlError, DeniedError
from sidecar.upstream.failure import unavailable
from sidecar.upstream.login import TRUST_SECONDS, BrokerLogin
from sidecar.upstream.methods import Session, look_up
from sidecar.upstream.presented import Presented

RENEW_AT: Final = 0.5
POLL_SECONDS: Final = 0.5
DENIED_SECONDS: Final = 30.0
HAND_OVER_SECONDS: Final = 2.0
_FULL: Final = 0.9

_log = structlog.get_logger("leases")


class Life(NamedTuple):
    """Of a token: its accessor, and for how many seconds it will surely live; infinite where it is kept alive."""

    accessor: str
    seconds: float


class _Kept:
    """A token that is renewed by its accessor."""

    def __init__(self) -> None:
        self.full = 0.0
        self.due = 0.0


class LeaseTokens:
    """A login that shows the lease token for what makes leases, and the broker's own for everything else."""

    def __init__(
        self,
        login: BrokerLogin,
        role: str | None,
        clock: Clock,
        in_use: Callable[[], Awaitable[Mapping[str, float]]],
    ) -> None:
        """`in_use` tells the accessors that leases live under."""
        self._login = login
        self._role = role
        self._clock = clock
        self._in_use = in_use
        self._session: Session | None = None
        self._making: asyncio.Task[Session] | None = None
        self._trusted_until = 0.0
        self._kept: dict[str, _Kept] = {}
        self.problem = ""

    # -- for the data plane ------------------------------------------------------------------------------------------
    async def token_for(self, permit: Permit) -> Presented:
        """See `Login.token_for`."""
        if self._role is None or permit.operation.issues is None:
            return await self._login.token_for(permit)
        session = self._session
        if session is None:
            if self._making is None or self._making.done():
                self._making = asyncio.create_task(self._make(), name="openbao-lease-token")
            session = await asyncio.shield(self._making)
        return Presented(session.credential)

    async def still_good(self, permit: Permit, used: Credential) -> bool:
        """See `Login.still_good`."""
        session = self._session
        if self._role is None or permit.operation.issues is None:
            return await self._login.still_good(permit, used)
        if session is None or session.credential is not used:
            return False
        if self._clock.elapsed() < self._trusted_until:
            return True
        started = self._clock.elapsed()
        try:
            await self._login.call(lambda client: look_up(client, used))
        except DeniedError:
            if self._session is session:
                self._session = None
            return False
        except (ControlError, Refused):
            return True
        self._trusted_until = started + TRUST_SECONDS
        return True

    def life(self, used: Credential) -> Life | None:
        """How long what is made under this token lives; None for a token that is not known here."""
        if self._session is not None and self._session.credential is used:
            return Life(self._session.accessor, math.inf)
        found = self._login.life(used)
        return Life(*found) if found is not None else None

    def seconds_left(self, accessor: str) -> float:
        """How long what was made under the token with this accessor lives on."""
        if accessor == self._login.accessor:
            return self._login.seconds_left
        return math.inf

    # -- upkeep ------------------------------------------------------------------------------------------------------
    async def keep(self) -> None:
        """Renews the tokens in use, until cancelled."""
        while True:
            try:
                await self.tend()
            except Refused as refused:  # the ledger or the login is away
                self.problem = refused.message
            await asyncio.sleep(POLL_SECONDS)

    async def hand_over(self) -> None:
        """At the end: everything is renewed once more, so that whoever comes next has a whole period to take it up."""
        for kept in self._kept.values():
            kept.due = 0.0
        with contextlib.suppress(Refused, TimeoutError):
            async with asyncio.timeout(HAND_OVER_SECONDS):
                await self.tend()

    async def tend(self) -> None:
        """Renews what is due."""
        accessors = set(await self._in_use())
        if self._session is not None:
            accessors.add(self._session.accessor)
        accessors.discard(self._login.accessor)  # which looks after itself
        for gone in self._kept.keys() - accessors:
            del self._kept[gone]
        problems = [problem for accessor in sorted(accessors) if (problem := await self._renew(accessor))]
        if problems or self._kept.keys() == accessors:
            self.problem = "; ".join(dict.fromkeys(problems)) or self._standing()

    def _standing(self) -> str:
        return self.problem if any(kept.full < 0 for kept in self._kept.values()) else ""

    async def _renew(self, accessor: str) -> str:
        kept = self._kept.setdefault(accessor, _Kept())
        now = self._clock.elapsed()
        if now < kept.due:
            return ""
        self._login.keep_in(accessor)
        try:
            seconds = await self._login.call(lambda client: _renew(client, accessor))
        except DeniedError as error:
            kept.due, kept.full = now + DENIED_SECONDS, -1.0
            if self._session is not None and self._session.accessor == accessor:
                self._session = None  # the next lease gets another
            _log.warning("a token that leases live under is not renewed", reason=str(error))
            return f"leases end with a token that OpenBao does not renew ({error}); allow auth/token/renew-accessor"
        except ControlError as error:
            return f"a token that leases live under could not be renewed yet: {error}"
        kept.due = now + seconds * RENEW_AT
        kept.full = max(kept.full, seconds)
        if seconds < kept.full * _FULL:
            return "leases end with a token that has reached its max_ttl; use upstream.auth.lease_role"
        return ""

    async def _make(self) -> Session:
        role = self._role
        try:
            session = await self._login.call(lambda client: _create(client, str(role)))
        except ControlError as error:
            self.problem = f"no token of the role {role} could be made: {error}"
            raise unavailable("there is no token to make leases under now", self.problem) from None
        self._login.keep_in(session.credential.reveal())
        self._login.keep_in(session.accessor)
        self._session = session
        self._trusted_until = self._clock.elapsed() + TRUST_SECONDS
        _log.info("made a token for leases", ttl_seconds=session.ttl)
        return session


def _create(client: Any, role: str) -> Session:
    auth = client.auth.token.create(role_name=role, no_default_policy=True)["auth"]
    if not auth["orphan"] or not auth["renewable"] or auth["token_type"] != "service":
        raise DeniedError("the token role must make orphan, renewable service tokens (orphan=true, token_period=…)")
    return Session(Credential(str(auth["client_token"])), str(auth["accessor"]), float(auth["lease_duration"]), True)


def _renew(client: Any, accessor: str) -> float:
    seconds = client.write_data("auth/token/renew-accessor", data={"accessor": accessor})["auth"]["lease_duration"]
    if isinstance(seconds, bool) or not isinstance(seconds, int) or seconds < 1:
        raise TypeError("a ttl that is not a number of seconds")
    return float(seconds)
