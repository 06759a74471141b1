"""Whether they may: from a live grant, or by asking the PDP, once however many wait.

The one place where a `Permit` is made. In order: the caller's live grant; what is known against it (another binding,
a token used up, a recent denial); the PDP, asked once per key; the grant that its permit opens.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import structlog

from sidecar.caller.identity import BindingKind, Caller
from sidecar.clock import Clock
from sidecar.config import Config
from sidecar.decision.flight import Attributes, Flight, Mark, Waiter, fetched
from sidecar.decision.grants import Claim, Grant, GrantKey, GrantTable, Owner, UseReservation, claim_of, grant_key
from sidecar.decision.observed import Decision
from sidecar.decision.openings import claim_opening, give_back, is_unclaimed, used_up
from sidecar.decision.pdp import AllowAll, PdpAccess, again, no_answer, retry_after
from sidecar.decision.permit import Denied, GrantState, Pdp, Permit, Unspent, Verdict
from sidecar.decision.question import question_of
from sidecar.decision.terms import Terms, obligation_unmet
from sidecar.decision.timed_table import TimedTable
from sidecar.decision.together import Together
from sidecar.errors import Code, Refused
from sidecar.ops import metrics
from sidecar.ops.tracing import TraceParent
from sidecar.shared_replays.store import SharedReplays
from sidecar.surface.operation import Operation

MAX_FLIGHTS: Final = 1024
"""Different questions under way at once."""

MAX_ROUNDS_OUTDATED: Final = 8
"""How often a question is asked anew because policies changed while it was answered."""

LONGEST_WAIT_SECONDS: Final = 20.0
"""How long one request waits for its decision. Where a permit is for one use, those who wait are asked for one after
the other: each answer comes in time, and the last of many would wait for minutes."""

EMBEDDED_TIMEOUT_SECONDS: Final = 5.0

_NEGATIVE: Final = frozenset({Code.POLICY_DENIED, Code.OBLIGATION_UNMET})
"""Denials that are remembered: what policy says. Never an outage, never a step-up, which the caller can mend."""

_log = structlog.get_logger(__name__)


class Decider:
    """Decides the requests of one process. Use within one event loop.

    `publishes_notifications` says that someone publishes `Permit.verdict.obligations.notifications`; where nobody
    does, a permit with a `notification` is a deny. `shared` is what replicas remember together, where they do.
    """

    def __init__(
        self,
        config: Config,
        pdp: Pdp | None,
        clock: Clock,
        *,
        publishes_notifications: bool = False,
        shared: SharedReplays | None = None,
    ) -> None:
        """`pdp` is None only where `authorization.enabled` is false, and is not asked there."""
        authorization = config.authorization
        if authorization.enabled and pdp is None:
            raise ValueError("authorization is enabled and there is no PDP")
        remote = authorization.enabled and authorization.pdp == "authzen"
        self._access = PdpAccess(
            pdp if authorization.enabled and pdp is not None else AllowAll(),
            clock,
            authorization.authzen.timeout_ms / 1000 if remote else EMBEDDED_TIMEOUT_SECONDS,
        )
        self._clock = clock
        self._terms = Terms(config, publishes_notifications=publishes_notifications)
        self._limits = config.grants
        self._replay = config.anti_replay
        self._shared = shared
        self._tenant_id = config.tenant.id or ""
        self._random = random.SystemRandom()
        entries = config.grants.max_entries
        self._grants = GrantTable(entries, clock)
        self._marks: TimedTable[Mark, Grant, Owner] = TimedTable(entries)
        self._denials: TimedTable[GrantKey, Refused, Owner] = TimedTable(entries)
        self._flights: dict[GrantKey, Flight] = {}
        self.on_decision: list[Callable[[Decision], None]] = []
        """Called with each decision of the PDP. They neither wait nor raise."""

    @property
    def terms(self) -> Terms:
        """What verdicts come to here."""
        return self._terms

    @property
    def available(self) -> bool:
        """False while the PDP is away: live grants go on, everything else is PDP_UNAVAILABLE."""
        return self._access.available

    async def permit(
        self,
        operation: Operation,
        caller: Caller,
        *,
        correlation_id: str,
        attributes: Attributes | None = None,
        trace: TraceParent | None = None,
    ) -> Permit:
        """The permit, with the operation's uses reserved: exactly one of its reservation's `commit` and `refund` must
        follow, whatever happens.

        Raises:
            Refused: POLICY_DENIED, OBLIGATION_UNMET and STEP_UP_REQUIRED as `Denied`; BINDING_CHANGED,
                TOKEN_REPLAYED, TOKEN_INVALID, TOKEN_EXPIRED; PDP_UNAVAILABLE; OVERLOADED.
        """
        return await self._permit(operation, caller, correlation_id, attributes, trace, None)

    async def permit_many(
        self,
        operations: Sequence[Operation],
        caller: Caller,
        *,
        correlation_id: str,
        attributes: Callable[[Operation], Attributes | None],
        trace: TraceParent | None = None,
    ) -> list[Permit | Refused]:
        """`permit` for each, with one question to the PDP for all that need one. Refusals stand in their place."""
        together = Together(self._access) if len(operations) > 1 else None
        tasks = [
            asyncio.create_task(self._permit(each, caller, correlation_id, attributes(each), trace, together))
            for each in operations
        ]
        try:
            permits = await asyncio.gather(*tasks, return_exceptions=True)
        except asyncio.CancelledError:
            for task in tasks:  # those that are still under way are cancelled, and give back by themselves
                task.add_done_callback(_give_back)
            raise
        found: list[Permit | Refused] = []
        for permit in permits:
            if not isinstance(permit, Permit | Refused):
                for each in permits:
                    if isinstance(each, Permit):
                        each.reservation.refund()
                raise permit
            found.append(permit)
        return found

    def look_through(self, operation: Operation, caller: Caller) -> Permit:
        """A permit to list a folder whose names are then decided one by one: see `visible`. It opens no grant."""
        if operation.mutation or not operation.uri.folder:
            raise ValueError("only a list is decided by its items")
        verdict = Verdict(True, reason="decided item by item")
        return Permit(operation, caller, verdict, GrantState(False, 0, self._clock.wall()), Unspent())

    async def visible(
        self,
        operations: Sequence[Operation],
        caller: Caller,
        *,
        correlation_id: str,
        attributes: Callable[[Operation], Attributes | None],
        trace: TraceParent | None = None,
    ) -> list[bool]:
        """Which of these operations the PDP permits, in one question; nothing is opened, spent or remembered. A permit
        whose obligations cannot be met is none. Raises `Refused`: PDP_UNAVAILABLE."""
        questions = []
        for each in operations:
            known = await fetched(attributes(each))
            questions.append(
                question_of(
                    caller,
                    each.uri,
                    each.purpose,
                    each.name,
                    tenant_id=self._tenant_id,
                    correlation_id=correlation_id,
                    attributes=known,
                    attributes_unavailable=known is None,
                    trace=trace,
                )
            )
        verdicts, _ = await self._access.ask_many(questions)
        wall = self._clock.wall()
        return [
            isinstance(verdict, Verdict) and self._terms.refusal(verdict, each, caller, wall) is None
            for verdict, each in zip(verdicts, operations, strict=True)
        ]

    async def _permit(
        self,
        operation: Operation,
        caller: Caller,
        correlation_id: str,
        attributes: Attributes | None,
        trace: TraceParent | None,
        together: Together | None,
    ) -> Permit:
        per_grant = self._opens_once(caller)
        key = grant_key(operation, caller, self._tenant_id)
        found = self._grants.look_up(key, operation.uses)
        if found is not None:
            grant, reservation = found
            return _permit(operation, caller, grant, reservation, hit=True)
        waiter = Waiter(key, operation, caller, correlation_id, attributes, per_grant, trace, together)
        self._refuse_known(waiter)
        return await self._wait(waiter)

    # -- taken back ------------------------------------------------------------------------------------------------
    def drop_subject(self, issuer: str, subject: str) -> None:
        """Ends the grants of one issuer's subject; decisions under way for it are asked anew."""
        self._grants.drop_owner((issuer, subject))
        for key in self._denials.owned_by((issuer, subject)):
            self._denials.discard(key)
        for flight in self._flights.values():
            if flight.owner == (issuer, subject):
                flight.outdated = True

    def drop_all(self) -> int:
        """Policies changed, or an operator says so: `revoke` for everyone. How many grants ended."""
        self._release_marks(lambda _claim: True)
        ended = len(self._grants)
        self._grants.clear()
        self._denials.clear()
        for flight in self._flights.values():
            flight.outdated = True
        return ended

    def revoke(self, fits: Callable[[Claim], bool]) -> int:
        """Ends grants that fit and forgets such denials; decisions under way are asked anew. How many grants ended."""
        self._release_marks(fits)
        ended = self._grants.drop_where(fits)
        for key in self._denials:
            if fits(claim_of(key)):
                self._denials.discard(key)
        for key, flight in self._flights.items():
            if fits(claim_of(key)):
                flight.outdated = True
        return ended

    def _release_marks(self, fits: Callable[[Claim], bool]) -> None:
        """A token whose grant is taken back, with uses left, may open it again: it was not the token that ended it."""
        for mark, grant in self._marks.items():
            if grant.left and fits(grant.claim) and self._grants.find(grant.key) is grant:
                self._marks.discard(mark)
                if self._shared is not None and grant.opening is not None:
                    self._shared.release(grant.opening)

    async def close(self) -> None:
        """Refuses whoever waits."""
        tasks = [flight.task for flight in self._flights.values() if flight.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- looked at -------------------------------------------------------------------------------------------------
    def cache_sizes(self) -> Mapping[str, int]:
        """Entries of each bounded table, by the name of its metric's label."""
        return {"grants": len(self._grants), "token_marks": len(self._marks), "denials": len(self._denials)}

    def grant_state(self, operation: Operation, caller: Caller) -> str:
        """How a caller that was refused stands: `live` (with too few uses left), `spent`, `expired`, `other_binding`,
        or `none`: it has no grant for this."""
        key = grant_key(operation, caller, self._tenant_id)
        claim = (caller.issuer, caller.subject, operation.purpose, operation.uri)
        if self._grants.under_other_bindings(claim, caller.binding):
            return "other_binding"
        mark = self._marks.peek((caller.issuer, caller.token_jti, operation.purpose, operation.uri))
        if mark is not None and self._grants.find(key) is None:
            return "spent" if mark.left == 0 else "expired"
        return self._grants.state(key)

    def snapshot(self, limit: int = 1000) -> list[Mapping[str, Any]]:
        """The live grants, at most `limit`. `uri` is for making a `resource_ref` of it, not for showing."""
        now = self._clock.elapsed()
        shown: list[Mapping[str, Any]] = []
        for grant in self._grants.grants():
            if grant.expires <= now:
                continue
            if len(shown) == limit:
                break
            shown.append(grant.shown(now))
        return shown

    # -- before the PDP --------------------------------------------------------------------------------------------
    def _opens_once(self, caller: Caller) -> bool:
        """Whether the caller's token may open one grant only of each purpose and URI. Without a token (the anonymous
        caller of a development world, a certificate that is the caller) there is nothing to replay. `single_use` is
        the caller stage's matter."""
        if not caller.issuer or (caller.token is None and caller.binding.names_subject):
            return False
        unbound = caller.binding.kind is BindingKind.NONE
        if (self._replay.unbound_token if unbound else self._replay.bound_token) != "per_grant":
            return False
        if not caller.token_jti:
            raise Refused(Code.TOKEN_INVALID, "The access token needs a jti here.")
        return True

    def _refuse_known(self, waiter: Waiter) -> None:
        """What is known without asking."""
        if waiter.operation.uses < 1:
            raise Refused(Code.MALFORMED_REQUEST, "The request holds nothing to do.")
        live = self._grants.find(waiter.key)
        if live is not None and live.max_uses < waiter.operation.uses:
            raise _too_many_uses(waiter.operation, live)
        self._check_binding(waiter)
        self._check_replay(waiter)
        denial = self._denials.get(waiter.key, self._clock.elapsed())
        if denial is not None:
            metrics.NEGATIVE_HITS.inc()
            refusal = again(denial)
            if isinstance(refusal, Denied):
                refusal.remembered = True
            raise refusal

    def _check_binding(self, waiter: Waiter) -> None:
        """A live grant under another binding belongs to somebody who showed another key: whoever comes with this one
        may be its thief. A token issued after that grant opened says that the application began anew."""
        if self._limits.on_binding_change != "deny":
            return
        others = self._grants.under_other_bindings(waiter.claim, waiter.caller.binding)
        if not all(grant.is_before(waiter.caller.issued_at, self._clock) for grant in others):
            raise Refused(
                Code.BINDING_CHANGED,
                "This is in use under another key; a token that is issued from now on is taken.",
            )
        for grant in others:
            self._grants.drop(grant)

    def _check_replay(self, waiter: Waiter) -> None:
        if waiter.per_grant and self._marks.get(waiter.mark, self._clock.elapsed()) is not None:
            raise used_up()

    # -- asking, once ----------------------------------------------------------------------------------------------
    async def _wait(self, waiter: Waiter) -> Permit:
        """Joins those who wait for the same decision. Cancelled, it leaves them alone and gives back what it got."""
        flight = self._flights.get(waiter.key)
        if flight is None:
            if len(self._flights) >= MAX_FLIGHTS:
                raise Refused(Code.OVERLOADED, "Too many decisions are under way; try again.", headers=retry_after(1))
            flight = self._flights[waiter.key] = Flight(waiter.claim[:2], waiter.together)
            if waiter.together is not None:
                waiter.together.announce()
            flight.waiters.append(waiter)
            flight.task = asyncio.create_task(self._fly(waiter.key, flight))
        else:
            flight.waiters.append(waiter)
        try:
            async with asyncio.timeout(LONGEST_WAIT_SECONDS):
                return await self._answer(waiter)
        except TimeoutError:
            raise no_answer("too many wait for the same decision") from None

    async def _answer(self, waiter: Waiter) -> Permit:
        try:
            return await waiter.answer
        except asyncio.CancelledError:
            if waiter.answer.done() and not waiter.answer.cancelled() and waiter.answer.exception() is None:
                waiter.answer.result().reservation.refund()
            raise

    async def _fly(self, key: GrantKey, flight: Flight) -> None:
        """Asks, and serves whoever waits, until nobody does."""
        try:
            outdated = 0
            while flight.next_waiter() is not None:
                flight.outdated = False
                first, verdict, answered = flight.waiters[0], None, 0.0
                try:
                    verdict, answered = await self._ask(flight, first)
                    refused = None
                    if self._shared is not None and not flight.outdated:
                        may_open = partial(self._may_open, verdict)
                        await claim_opening(self._shared, flight, self._replay.window_seconds, may_open)
                except Refused as refusal:
                    refused = refusal
                if flight.outdated and outdated < MAX_ROUNDS_OUTDATED:
                    outdated += 1
                    continue
                self._tell(flight, first, verdict, refused)
                if refused is not None or flight.outdated or verdict is None:
                    self._refuse_all(flight, refused or no_answer("policies change faster than they answer"))
                else:
                    self._serve(flight, verdict, answered)
        except BaseException as error:
            self._refuse_all(flight, no_answer(f"the decision was abandoned: {type(error).__name__}"))
            if not isinstance(error, Exception):
                raise
            _log.exception("internal fault in a decision")
        finally:
            del self._flights[key]
            if self._shared is not None:
                give_back(self._shared, flight)
            if flight.together is not None:
                await flight.together.leave()

    async def _ask(self, flight: Flight, waiter: Waiter) -> tuple[Verdict, float]:
        attributes = await fetched(waiter.attributes)
        flight.blind = attributes is None
        question = question_of(
            waiter.caller,
            waiter.operation.uri,
            waiter.operation.purpose,
            waiter.operation.name,
            tenant_id=self._tenant_id,
            correlation_id=waiter.correlation_id,
            attributes=attributes,
            attributes_unavailable=flight.blind,
            trace=waiter.trace,
        )
        waiter.question = question
        together, flight.together = flight.together, None
        return await (self._access.ask(question) if together is None else together.ask(question))

    def _tell(self, flight: Flight, waiter: Waiter, verdict: Verdict | None, refused: Refused | None) -> None:
        """Tells whoever looks on what was decided; an outage is no decision."""
        if not self.on_decision or flight.outdated or waiter.question is None:
            return
        wall = self._clock.wall()
        if verdict is not None:
            refused = self._terms.refusal(verdict, waiter.operation, waiter.caller, wall)
        elif isinstance(refused, Denied):
            verdict = refused.verdict
        else:
            return
        code = str(refused.code) if refused is not None else ""
        question, what, who = waiter.question, waiter.operation, waiter.caller
        for told in self.on_decision:
            informed = waiter.attributes is not None
            told(Decision(question, what, who, verdict, code, wall, waiter.correlation_id, informed))

    def _may_open(self, verdict: Verdict, waiter: Waiter) -> bool:
        self._check_replay(waiter)
        return self._terms.refusal(verdict, waiter.operation, waiter.caller, self._clock.wall()) is None

    def _refuse_all(self, flight: Flight, refused: Refused) -> None:
        if isinstance(refused, Denied):
            self._end_sessions(refused.verdict)
        self._remember(flight, refused)
        while (waiter := flight.next_waiter()) is not None:
            waiter.answer.set_exception(again(refused))

    def _remember(self, flight: Flight, refused: Refused) -> None:
        """The jitter keeps callers who were denied together from coming back together."""
        ttl = self._limits.negative_ttl_seconds
        if refused.code not in _NEGATIVE or not ttl or not flight.waiters or flight.blind:
            return  # a denial for want of attributes is an outage's, not policy's
        remembered = _said_once(refused) if isinstance(refused, Denied) else refused
        now = self._clock.elapsed()
        expires = now + ttl * self._random.uniform(0.5, 1.0)
        self._denials.put(flight.waiters[0].key, remembered, expires, flight.owner, now)

    # -- serving ---------------------------------------------------------------------------------------------------
    def _serve(self, flight: Flight, verdict: Verdict, answered: float) -> None:
        """Hands the new grant's uses to those who wait, in the order they came. For whom they do not suffice, the PDP
        is asked again, unless the token may open no second grant. Runs without a pause."""
        first = flight.next_waiter()
        if first is None:
            return
        refused = self._terms.refusal(verdict, first.operation, first.caller, self._clock.wall())
        if refused is not None:
            self._refuse_all(flight, refused)
            return
        self._end_sessions(verdict)
        grant: Grant | None = None
        for waiter in flight.waiters:
            if waiter.answer.done():
                continue
            if grant is None and self._shared is not None and is_unclaimed(flight, waiter):
                continue
            try:
                if grant is None:
                    grant = self._open(waiter, verdict, answered)
                    grant.opening = flight.openings.pop(waiter.mark, None)
                if grant.max_uses < waiter.operation.uses:
                    raise _too_many_uses(waiter.operation, grant)
                reservation = grant.take(waiter.operation.uses)
                if reservation is None:
                    self._check_replay(waiter)
                else:
                    waiter.answer.set_result(_permit(waiter.operation, waiter.caller, grant, reservation, hit=False))
            except Refused as refusal:
                waiter.answer.set_exception(refusal)
        flight.waiters = deque(waiter for waiter in flight.waiters if not waiter.answer.done())

    def _end_sessions(self, verdict: Verdict) -> None:
        """A subject is ended under every issuer: the obligation names none."""
        ended = set(verdict.obligations.terminate_sessions)
        if ended:
            for issuer, subject in self._grants.owners():
                if subject in ended:
                    self._grants.drop_owner((issuer, subject))
            for flight in self._flights.values():
                if flight.owner[1] in ended:
                    flight.outdated = True

    def _open(self, waiter: Waiter, verdict: Verdict, answered: float) -> Grant:
        """Opens the grant of a permit, by the token of the first caller whose token may.

        Its life counts from the PDP's answer, and ends with the token's. What was checked before the PDP was asked is
        checked again: others may have opened a grant meanwhile.
        """
        caller, obligations = waiter.caller, verdict.obligations
        now, wall = self._clock.elapsed(), self._clock.wall()
        expires = self._terms.expires(obligations, caller, answered=answered, now=now, wall=wall)
        if wall >= caller.expires_at:
            raise Refused(Code.TOKEN_EXPIRED, "The access token has expired.")
        if expires <= now:
            raise no_answer("the decision expired before it could be used")
        self._check_binding(waiter)
        self._check_replay(waiter)
        grant = Grant(
            self._grants,
            waiter.key,
            waiter.operation,
            caller,
            verdict,
            max_uses=self._terms.max_uses(obligations),
            expires=expires,
            expires_at=wall + expires - now,
            opened=now,
            opened_at=wall,
        )
        if waiter.per_grant and not self._marks.put(
            waiter.mark, grant, now + self._replay.window_seconds, waiter.claim[:2], now
        ):
            # Without the mark the token could open grants for ever.
            raise Refused(Code.OVERLOADED, "Too many tokens are remembered; try again later.", headers=retry_after(5))
        self._grants.add(grant)  # where the table is full, those who wait now are served from it, and nobody after
        return grant


def _give_back(task: asyncio.Task[Permit]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().reservation.refund()


def _said_once(refused: Denied) -> Denied:
    """A denial as it is repeated: its notifications were for the answer itself. Who asks again and again would have
    them published again and again."""
    if not refused.verdict.obligations.notifications:
        return refused
    obligations = replace(refused.verdict.obligations, notifications=())
    verdict = replace(refused.verdict, obligations=obligations)
    return Denied(refused.code, refused.message, verdict=verdict, wanted=refused.wanted, detail=refused.detail)


def _too_many_uses(operation: Operation, grant: Grant) -> Denied:
    detail = f"{operation.uses} uses at once, where a grant has {grant.max_uses}"
    return _said_once(obligation_unmet(grant.verdict, detail))


def _permit(operation: Operation, caller: Caller, grant: Grant, reservation: UseReservation, *, hit: bool) -> Permit:
    return Permit(operation, caller, grant.verdict, GrantState(hit, grant.left, grant.expires_at), reservation)
