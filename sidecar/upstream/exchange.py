"""A login for each caller, with the caller's own JWT (`auth.mode: exchange`).

OpenBao's token is kept under the hash of exactly the JWT that it was got with, and is used for requests that came with
that JWT and no other: not even for the same subject's next one. It is dropped when the JWT ends, and revoked once
nothing can be using it any more; never where a lease may have been made under it, which would end with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import structlog
from cachetools import TTLCache

from sidecar.caller.identity import Caller
from sidecar.caller.identity import Credential as Token
from sidecar.clock import Clock, SystemClock
from sidecar.config import Upstream
from sidecar.decision.permit import Permit
from sidecar.errors import Code, Refused
from sidecar.upstream.control import CALL_SECONDS, ControlError, ControlPlane, DeniedError
from sidecar.upstream.failure import unavailable
from sidecar.upstream.methods import Session, log_in_at, look_up, renew, revoke
from sidecar.upstream.presented import SHORTEST_TOKEN, OwnSecrets, Presented

_log = structlog.get_logger(__name__)

MAX_SESSIONS: Final = 10_000
"""Of OpenBao's tokens at once. Beyond it the one that was used longest ago goes; it costs its caller another login."""
REFUSED_SECONDS: Final = 5.0
"""For so long a JWT that OpenBao refused is not tried again."""
TRUST_SECONDS: Final = 5.0
"""After a login or a look-up, a 403 says something of the path for this long."""
LEASELESS: Final = frozenset({"kv1", "kv2", "transit"})
"""Engines that never make a lease."""

_WORKERS: Final = 8
_SWEEP_SECONDS: Final = 1.0
_RENEW_AT: Final = 0.6


@dataclass(slots=True, eq=False)
class _Held:
    """One login. Times are of the clock's `elapsed()`."""

    session: Session
    presented: Presented = field(repr=False)
    ends_at: float
    jwt_ends_at: float
    renew_at: float
    trusted_until: float
    may_lease: bool = False
    check: asyncio.Task[bool] | None = None


class _Retired(NamedTuple):
    revoke_at: float
    token: Token


class ExchangeLogin:
    """Logs callers in."""

    def __init__(self, upstream: Upstream, clock: Clock | None = None, *, max_sessions: int = MAX_SESSIONS) -> None:
        """Raises `OSError`, `ssl.SSLError` where a TLS file cannot be used."""
        auth = upstream.auth
        self._role = auth.role
        self._mount = auth.mount or ("kubernetes" if auth.method == "kubernetes" else "jwt")
        self._clock = clock or SystemClock()
        self._control = ControlPlane(upstream, _WORKERS)
        self._patience = min(CALL_SECONDS, upstream.timeout_seconds)
        self._in_use = upstream.timeout_seconds + CALL_SECONDS  # no request with a token goes on for longer
        self._max_sessions = max_sessions
        self._sessions: OrderedDict[bytes, _Held] = OrderedDict()
        self._logins: dict[bytes, asyncio.Task[_Held]] = {}
        self._refused: TTLCache[bytes, str] = TTLCache(max_sessions, REFUSED_SECONDS, self._clock.elapsed)
        self._retired: deque[_Retired] = deque()
        self._task: asyncio.Task[None] | None = None
        self.problem = ""

    def __len__(self) -> int:
        """How many logins are kept."""
        return len(self._sessions)

    # -- its life ----------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Begins the upkeep."""
        self._task = asyncio.create_task(self._keep(), name="openbao-exchange")

    async def stop(self) -> None:
        """Ends it. What is kept is left to end by itself in OpenBao."""
        tasks = [task for task in (self._task, *self._logins.values()) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._control.close()

    def reload(self) -> None:
        """Reads the TLS files again. Raises `OSError`, `ssl.SSLError` where they are unusable."""
        self._control.reload()

    # -- for the data plane ------------------------------------------------------------------------------------------
    async def token_for(self, permit: Permit) -> Presented:
        """The token that this caller's JWT was exchanged for.

        Raises:
            Refused: POLICY_DENIED where OpenBao does not let the caller in, TOKEN_MISSING and TOKEN_EXPIRED where
                there is no JWT to exchange, OVERLOADED where every place is taken by logins with leases.
            UpstreamFailure: UPSTREAM_UNAVAILABLE where OpenBao is away.
        """
        caller = permit.caller
        key = _key(caller)
        held = self._sessions.get(key)
        if held is None or self._clock.elapsed() >= held.ends_at:
            held = await self._logged_in(key, caller)
        else:
            self._sessions.move_to_end(key)
        held.may_lease = held.may_lease or permit.operation.uri.engine not in LEASELESS
        return held.presented

    async def still_good(self, permit: Permit, used: Token) -> bool:
        """Asked after a 403 of OpenBao. A token that has ended is forgotten: the caller's next request logs in."""
        key = _key(permit.caller)
        held = self._sessions.get(key)
        now = self._clock.elapsed()
        if held is None or held.session.credential is not used or now >= held.ends_at:
            return False
        if now < held.trusted_until:
            return True
        if held.check is None or held.check.done():
            held.check = asyncio.create_task(self._look_again(key, held), name="openbao-token-check")
        return await asyncio.shield(held.check)

    # -- logging in --------------------------------------------------------------------------------------------------
    async def _logged_in(self, key: bytes, caller: Caller) -> _Held:
        """A new login, one at a time for each JWT, however many wait for it."""
        task = self._logins.get(key)
        if task is None:
            reason = self._refused.get(key)
            if reason is not None:
                raise _denied(reason)
            self._make_room()
            task = self._logins[key] = asyncio.create_task(self._log_in(key, caller), name="openbao-exchange-login")
            task.add_done_callback(lambda done: self._login_ended(key, done))
        try:
            async with asyncio.timeout(self._patience):
                return await asyncio.shield(task)  # one caller's cancellation is not the others'
        except TimeoutError:
            raise unavailable("the caller's login to OpenBao takes too long") from None
        except DeniedError as error:
            raise _denied(str(error)) from None
        except ControlError as error:
            raise unavailable("callers cannot log in to OpenBao now", str(error)) from None

    def _login_ended(self, key: bytes, login: asyncio.Task[_Held]) -> None:
        del self._logins[key]
        if not login.cancelled():
            login.exception()  # seen, even where nobody waits for it any more

    async def _log_in(self, key: bytes, caller: Caller) -> _Held:
        assert caller.token is not None  # noqa: S101 - `_key` has seen it
        jwt, started = caller.token, self._clock.elapsed()
        jwt_ends_at = started + caller.expires_at - self._clock.wall()
        if jwt_ends_at <= started:
            raise Refused(Code.TOKEN_EXPIRED, "the access token has expired")
        try:
            session = await self._control.call(lambda client: _exchange(client, self._mount, self._role, jwt))
        except DeniedError as error:
            self._refused[key] = str(error)
            _log.warning("OpenBao does not let a caller in", reason=str(error))
            raise
        except ControlError as error:
            self.problem = str(error)
            _log.warning("callers cannot log in to OpenBao", reason=str(error))
            raise
        self.problem = ""
        before = self._sessions.pop(key, None)
        if before is not None:
            self._retire(before)
        held = self._sessions[key] = _held(session, started, jwt_ends_at)
        return held

    def _make_room(self) -> None:
        """Raises `Refused` (OVERLOADED) where every kept login may have a lease."""
        if len(self._sessions) + len(self._logins) < self._max_sessions:
            return
        oldest = next((key for key, held in self._sessions.items() if not held.may_lease), None)
        if oldest is None:
            raise Refused(Code.OVERLOADED, "too many callers are logged in to OpenBao", headers={"Retry-After": "5"})
        self._retire(self._sessions.pop(oldest))

    # -- upkeep ------------------------------------------------------------------------------------------------------
    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = self._clock.elapsed()
            for key in [key for key, held in self._sessions.items() if now >= held.ends_at]:
                self._retire(self._sessions.pop(key))
            due = [held for held in self._sessions.values() if held.may_lease and now >= held.renew_at]
            await asyncio.gather(*(self._renew(held) for held in due))
            while self._retired and now >= self._retired[0].revoke_at:
                await self._revoke(self._retired.popleft().token)

    def _retire(self, held: _Held) -> None:
        """Out of use. What may have a lease is left to end by itself, as is what could not be noted any more."""
        if not held.may_lease and len(self._retired) < self._max_sessions:
            self._retired.append(_Retired(self._clock.elapsed() + self._in_use, held.session.credential))

    async def _revoke(self, token: Token) -> None:
        with contextlib.suppress(ControlError):  # then it ends by itself
            await self._control.call(lambda client: revoke(client, token))

    async def _renew(self, held: _Held) -> None:
        """Only what may have a lease is renewed: others are as well served by another login."""
        started = self._clock.elapsed()
        held.renew_at = started + _SWEEP_SECONDS
        try:
            renewed = await self._control.call(lambda client: renew(client, held.session))
        except ControlError as error:
            _log.info("OpenBao did not renew a caller's token", reason=str(error))
            return
        again = _held(renewed, started, held.jwt_ends_at)
        held.ends_at, held.renew_at = max(held.ends_at, again.ends_at), again.renew_at

    async def _look_again(self, key: bytes, held: _Held) -> bool:
        started = self._clock.elapsed()
        try:
            await self._control.call(lambda client: look_up(client, held.session.credential))
        except DeniedError as error:
            _log.info("OpenBao no longer takes a caller's token", reason=str(error))
            if self._sessions.get(key) is held:
                del self._sessions[key]
            return False
        except ControlError:
            return True  # nothing was learned; the 403 stands as it came
        held.trusted_until = started + TRUST_SECONDS
        return True


def _key(caller: Caller) -> bytes:
    if caller.token is None:
        raise Refused(Code.TOKEN_MISSING, "this request needs an access token: the caller logs in to OpenBao with it")
    return hashlib.sha256(caller.token.reveal().encode()).digest()


def _exchange(client: Any, mount: str, role: str | None, jwt: Token) -> Session:
    """The login; without a role it is the mount's default one."""
    return log_in_at(client, mount, {"jwt": jwt.reveal()} | ({"role": role} if role else {}))


def _held(session: Session, started: float, jwt_ends_at: float) -> _Held:
    """Time counts from before OpenBao was asked, and no login outlives its JWT."""
    ttl = math.inf if session.ttl is None else session.ttl
    texts = (session.credential.reveal(), session.accessor)
    ends_at = min(started + ttl, jwt_ends_at)
    return _Held(
        session=session,
        presented=Presented(session.credential, OwnSecrets(t.encode() for t in texts if len(t) >= SHORTEST_TOKEN)),
        ends_at=ends_at,
        jwt_ends_at=jwt_ends_at,
        renew_at=started + ttl * _RENEW_AT if session.renewable else math.inf,
        trusted_until=min(started + TRUST_SECONDS, ends_at - 1.0),  # OpenBao tells whole seconds
    )


def _denied(reason: str) -> Refused:
    return Refused(Code.POLICY_DENIED, "OpenBao does not let this caller log in.", detail=reason)
