"""The sidecar's own login to OpenBao (`auth.mode: broker`): one token, kept alive, replaced when it ends.

A token is renewed when about two thirds of its time have passed. Where it cannot be renewed, or not for as long as
before (its `max_ttl` is near), or was revoked, the method logs in anew. While OpenBao is sealed or away the sidecar
keeps trying, slower each time. A token that was replaced is left to end by itself and `stop` revokes nothing: leases
that applications still use end with the token they were made under.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Awaitable, Callable
from random import SystemRandom
from typing import Any, Final, TypeVar

import structlog

from sidecar.caller.identity import Credential
from sidecar.clock import Clock, SystemClock
from sidecar.config import Upstream
from sidecar.decision.permit import Permit
from sidecar.ops.logs import forget_secret, register_secret
from sidecar.upstream.control import CALL_SECONDS, ControlError, ControlPlane, DeniedError, FaultError
from sidecar.upstream.failure import unavailable
from sidecar.upstream.methods import CertMethod, Method, Session, look_up, method_of, renew
from sidecar.upstream.presented import SHORTEST_TOKEN, OwnSecrets, Presented

_log = structlog.get_logger(__name__)

TRUST_SECONDS: Final = 5.0
"""After OpenBao has confirmed the token, a 403 says something of the caller's path for this long: ordinary denials cost
one look-up in that time, and no login."""
RETRY_CEILING_SECONDS: Final = 5.0
DENIED_CEILING_SECONDS: Final = 30.0

_POLL_SECONDS: Final = 1.0
_RENEW_AT: Final = (0.6, 0.7)
_SOONEST_RENEWAL_SECONDS: Final = 0.25
_FULL: Final = 0.9
_REMEMBERED: Final = 4

Result = TypeVar("Result")


class BrokerLogin:
    """Holds the token. `own_secrets` are the bytes that must never leave: recent tokens and their accessors."""

    def __init__(self, upstream: Upstream, clock: Clock | None = None) -> None:
        """Raises `OSError`, `ssl.SSLError`, `ValueError` where the configuration cannot be used."""
        self._clock = clock or SystemClock()
        self._method: Method = method_of(upstream)
        self._control = ControlPlane(upstream)
        self._random = SystemRandom()
        self._patience = min(CALL_SECONDS, upstream.timeout_seconds)
        self._wake = asyncio.Event()
        self._attempted = asyncio.Event()
        self._is_attempting = False
        self._task: asyncio.Task[None] | None = None
        self._check: asyncio.Task[bool] | None = None

        self._session: Session | None = None
        self._full_ttl = math.inf
        self._ends_at = 0.0
        self._renew_at = math.inf
        self._login_at = 0.0
        self._trusted_until = 0.0

        self._signature: object = None
        self._failures = 0
        self._recent: deque[Session] = deque(maxlen=_REMEMBERED)
        self._further: set[str] = set()
        self.own_secrets = OwnSecrets()
        self.problem = "not logged in yet"

    # -- its life ----------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Logs in. Where that fails the sidecar is not ready and keeps trying; `problem` says why."""
        await self._tend()
        self._task = asyncio.create_task(self._keep(), name="openbao-login")

    async def stop(self) -> None:
        """Ends the upkeep. The token stays valid in OpenBao until it ends by itself."""
        tasks = [task for task in (self._task, self._check) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._control.close()

    # -- for the data plane ------------------------------------------------------------------------------------------
    @property
    def ready(self) -> bool:
        """Whether there is a token that has not ended."""
        return self._session is not None and self._clock.elapsed() < self._ends_at

    def token(self) -> Credential:
        """The token to send. Raises `UpstreamFailure` (UPSTREAM_UNAVAILABLE) where there is none now."""
        session = self._session
        if session is None or self._clock.elapsed() >= self._ends_at:
            self._wake.set()
            raise unavailable("the sidecar is not logged in to OpenBao", self.problem)
        return session.credential

    async def token_for(self, _permit: Permit) -> Presented:
        """The same token for everybody. Where there is none the attempt to get one is waited for, if it is under way
        or due; where OpenBao was asked and is being left alone for a while, nobody waits.

        Raises `UpstreamFailure` (UPSTREAM_UNAVAILABLE).
        """
        if not self.ready and (self._is_attempting or self._clock.elapsed() >= min(self._login_at, self._renew_at)):
            self._wake.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience):
                    await self._attempted.wait()
        return Presented(self.token())

    async def still_good(self, _permit: Permit, used: Credential) -> bool:
        """Asked after a 403 of OpenBao: whether the token is still taken, so that the 403 is about the path.

        OpenBao is asked at most once in `TRUST_SECONDS`, however many ask here. Where the token has ended the login is
        under way when this returns.
        """
        session = self._session
        if session is None or session.credential.reveal() != used.reveal():
            return False
        if self._clock.elapsed() < self._trusted_until:
            return True
        if self._check is None or self._check.done():
            self._check = asyncio.create_task(self._look_again(session), name="openbao-token-check")
        return await asyncio.shield(self._check)  # one caller's cancellation is not the others'

    async def call(self, function: Callable[[Any], Result], namespace: str = "") -> Result:
        """Calls OpenBao's control plane with the token, in a namespace below `upstream.namespace`. Raises
        `UpstreamFailure`, `ControlError`."""
        return await self._control.call(function, self.token(), namespace)

    def reload(self) -> None:
        """Reads the TLS files again. Raises `OSError`, `ssl.SSLError` where they are unusable."""
        self._control.reload()
        if isinstance(self._method, CertMethod):
            self._login_at = 0.0
            self._wake.set()

    # -- for what lives under the token ------------------------------------------------------------------------------
    @property
    def accessor(self) -> str:
        """The accessor of the token in use; empty where there is none."""
        return self._session.accessor if self._session is not None else ""

    @property
    def seconds_left(self) -> float:
        """For how long the token in use will surely live; infinite where it is periodic and so kept for ever."""
        session = self._session
        if session is None:
            return 0.0
        return math.inf if session.periodic else max(0.0, self._ends_at - self._clock.elapsed())

    def life(self, used: Credential) -> tuple[str, float] | None:
        """Accessor and seconds left of a token that was shown; None where it is in use no more."""
        session = self._session
        if session is None or session.credential is not used:
            return None
        return session.accessor, self.seconds_left

    def keep_in(self, secret: str) -> None:
        """A further text that must never leave: of a token that was made under this one."""
        if secret not in self._further:
            self._further.add(secret)
            register_secret(secret)
            self._gather()

    # -- upkeep ------------------------------------------------------------------------------------------------------
    async def _keep(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._seconds_to_wait()):  # wait_for may swallow a cancellation (3.11)
                    await self._wake.wait()
            self._wake.clear()
            await self._tend()

    def _seconds_to_wait(self) -> float:
        """Never long: files are watched, and a machine that was suspended must notice soon."""
        due = min(self._login_at, self._renew_at)
        return min(max(due - self._clock.elapsed(), 0.0), _POLL_SECONDS)

    async def _tend(self) -> None:
        """Does what is due, if anything. A login that fails keeps no token from being renewed."""
        signature = self._method.signature()
        if signature != self._signature and signature is not None:
            self._signature, self._login_at = signature, 0.0
        now = self._clock.elapsed()
        if now >= self._renew_at:
            again = await self._attempt(self._renew)
            self._renew_at = self._renew_at if again is None else again
        elif now >= self._login_at:
            again = await self._attempt(self._log_in)
            self._login_at = math.inf if again is None else again
        else:
            return
        if again is None and self._login_at == math.inf:
            self.problem = ""

    async def _attempt(self, duty: Callable[[], Awaitable[None]]) -> float | None:
        """None where it was done, else when to try again. Whoever waits for it is told."""
        self._is_attempting = True
        try:
            await duty()
        except ControlError as error:
            self.problem = str(error)
            ceiling = DENIED_CEILING_SECONDS if isinstance(error, DeniedError) else RETRY_CEILING_SECONDS
            delay = min(ceiling, 0.25 * 2.0 ** min(self._failures, 10)) * self._random.uniform(0.5, 1.0)
            self._failures += 1
            _log.warning("OpenBao does not let the sidecar in", reason=str(error), retry_in_seconds=round(delay, 2))
            return self._clock.elapsed() + delay
        finally:
            self._is_attempting = False
            self._attempted.set()
            self._attempted = asyncio.Event()
        self._failures = 0
        return None

    async def _log_in(self) -> None:
        started = self._clock.elapsed()
        session = await self._control.call(self._method.log_in)
        self._login_at = math.inf
        self._full_ttl = math.inf if session.ttl is None else session.ttl
        self._take(session, started)
        self._trusted_until = started + TRUST_SECONDS
        _log.info("logged in to OpenBao", ttl_seconds=session.ttl, renewable=session.renewable)

    async def _renew(self) -> None:
        session, started = self._session, self._clock.elapsed()
        if session is None or not session.renewable:
            await self._log_in()
            return
        try:
            renewed = await self._control.call(lambda client: renew(client, session))
        except (DeniedError, FaultError) as error:
            _log.warning("OpenBao did not renew the token, logging in anew", reason=str(error))
            await self._log_in()
            return
        if self._session is not session:
            return  # it was found dead meanwhile
        self._take(renewed, started)
        ttl = math.inf if renewed.ttl is None else renewed.ttl
        if ttl < self._full_ttl * _FULL:
            await self._log_in()  # its max_ttl is near
        else:
            self._full_ttl = max(self._full_ttl, ttl)

    async def _look_again(self, session: Session) -> bool:
        started = self._clock.elapsed()
        try:
            await self._control.call(lambda client: look_up(client, session.credential))
        except DeniedError as error:
            if self._session is session:
                _log.warning("OpenBao no longer takes the token, logging in anew", reason=str(error))
                self._session, self.problem = None, str(error)
                self._renew_at, self._login_at = math.inf, 0.0
                self._wake.set()
            return False
        except ControlError:
            return True  # nothing was learned; the 403 stands as it came
        self._trusted_until = started + TRUST_SECONDS
        return True

    def _take(self, session: Session, started: float) -> None:
        """Puts a token in use. Its time counts from before OpenBao was asked."""
        known = self._session is not None and self._session.credential is session.credential
        self._session = session
        if session.ttl is None:
            self._ends_at = self._renew_at = math.inf
        else:
            # OpenBao tells whole seconds, rounded down; renewing never makes an end come sooner.
            self._ends_at = max(started + session.ttl, self._ends_at if known else 0.0)
            self._renew_at = started + max(session.ttl * self._random.uniform(*_RENEW_AT), _SOONEST_RENEWAL_SECONDS)
        if not known:
            self._remember(session)

    def _remember(self, session: Session) -> None:
        token = session.credential.reveal()
        if len(token) < SHORTEST_TOKEN:
            _log.warning("the token is too short to be looked for in answers", at_least=SHORTEST_TOKEN)
        if len(self._recent) == _REMEMBERED:
            for text in (self._recent[0].credential.reveal(), self._recent[0].accessor):
                forget_secret(text)
        self._recent.append(session)
        texts = [text for each in self._recent for text in (each.credential.reveal(), each.accessor)]
        for text in texts:
            register_secret(text)
        self._gather()

    def _gather(self) -> None:
        recent = (text for each in self._recent for text in (each.credential.reveal(), each.accessor))
        texts = dict.fromkeys((*recent, *self._further))
        self.own_secrets = OwnSecrets(text.encode() for text in texts if len(text) >= SHORTEST_TOKEN)
