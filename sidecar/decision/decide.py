"""Whether they may: from a live grant, or by asking the PDP, once however many wait.

The one place where a `Permit` is made. In order: the caller's live grant; what is known against it (another binding,
a token used up, a recent denial: `sidecar.decision.standing`); the PDP, asked once per key; the grant that its permit
opens.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import structlog

from sidecar.caller.identity import Caller
from sidecar.clock import Clock
from sidecar.config import Config
from sidecar.decision.flight import Attributes, Flight, Waiter, fetched
from sidecar.decision.grants import Claim, Grant, GrantKey, Owner, UseReservation, claim_of, grant_key
from sidecar.decision.observed import Decision
from sidecar.decision.openings import claim_opening, give_back, is_unclaimed
from sidecar.decision.pdp import AllowAll, PdpAccess, again, no_answer, retry_after
from sidecar.decision.permit import Denied, GrantState, Pdp, Permit, Unspent, Verdict
from sidecar.decision.question import question_of
from sidecar.decision.standing import Standing, too_many_uses
from sidecar.decision.terms import Terms
from sidecar.decision.together import Together
from sidecar.errors import Code, Refused
from sidecar.ops.tracing import TraceParent
from sidecar.shared_replays.store import SharedReplays
from sidecar.surface.operation import Operation

MAX_FLIGHTS: Final = 1024
"""Different questions under way at once. One issuer's subject has three quarters of them at most: a few requests for a
hundred secrets each would leave nobody else any."""

MAX_ROUNDS_OUTDATED: Final = 8
"""How often a question is asked anew because policies changed while it was answered."""

LONGEST_WAIT_SECONDS: Final = 20.0
"""How long one request waits for its decision. Where a permit is for one use, those who wait are asked for one after
the other: each answer comes in time, and the last of many would wait for minutes."""

EMBEDDED_TIMEOUT_SECONDS: Final = 5.0

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
        self._replay = config.anti_replay
        self._shared = shared
        self._tenant_id = config.tenant.id or ""
        self.standing = Standing(config, clock, self._terms, shared)
        """What is known of callers: grants, spent tokens, denials."""
        self._flights: dict[GrantKey, Flight] = {}
        self._flying: Counter[Owner] = Counter()
        self.on_session_end: list[Callable[[str], None]] = []
        """Called with each subject whose session a policy ends. They neither wait nor raise."""
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
        per_grant = self.standing.opens_once(caller)
        key = grant_key(operation, caller, self._tenant_id)
        found = self.standing.take(key, operation.uses)
        if found is not None:
            grant, reservation = found
            return _permit(operation, caller, grant, reservation, hit=True)
        waiter = Waiter(key, operation, caller, correlation_id, attributes, per_grant, trace, together)
        self.standing.refuse_known(waiter)
        return await self._wait(waiter)

    # -- taken back ------------------------------------------------------------------------------------------------
    def drop_subject(self, issuer: str, subject: str) -> None:
        """Ends the grants of one issuer's subject; decisions under way for it are asked anew."""
        self.standing.drop_owner((issuer, subject))
        for flight in self._flights.values():
            if flight.owner == (issuer, subject):
                flight.outdated = True

    def drop_all(self) -> int:
        """Policies changed, or an operator says so: `revoke` for everyone. How many grants ended."""
        for flight in self._flights.values():
            flight.outdated = True
        return self.standing.drop_all()

    def revoke(self, fits: Callable[[Claim], bool]) -> int:
        """Ends grants that fit and forgets such denials; decisions under way are asked anew. How many grants ended."""
        for key, flight in self._flights.items():
            if fits(claim_of(key)):
                flight.outdated = True
        return self.standing.revoke(fits)

    def _end_sessions(self, verdict: Verdict) -> None:
        """A subject is ended under every issuer: the obligation names none."""
        ended = set(verdict.obligations.terminate_sessions)
        if ended:
            self.standing.end_sessions(ended)
            for told in self.on_session_end:
                for subject in ended:
                    told(subject)
            for flight in self._flights.values():
                if flight.owner[1] in ended:
                    flight.outdated = True

    async def close(self) -> None:
        """Refuses whoever waits."""
        tasks = [flight.task for flight in self._flights.values() if flight.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- asking, once ----------------------------------------------------------------------------------------------
    async def _wait(self, waiter: Waiter) -> Permit:
        """Joins those who wait for the same decision. Cancelled, it leaves them alone and gives back what it got."""
        flight = self._flights.get(waiter.key)
        if flight is None:
            owner = waiter.claim[:2]
            if len(self._flights) >= MAX_FLIGHTS or self._flying[owner] >= MAX_FLIGHTS - MAX_FLIGHTS // 4:
                raise Refused(Code.OVERLOADED, "Too many decisions are under way; try again.", headers=retry_after(1))
            flight = self._flights[waiter.key] = Flight(owner, waiter.together)
            self._flying[owner] += 1
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
            self._flying[flight.owner] -= 1
            if not self._flying[flight.owner]:
                del self._flying[flight.owner]
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
        self.standing.check_replay(waiter)
        return self._terms.refusal(verdict, waiter.operation, waiter.caller, self._clock.wall()) is None

    def _refuse_all(self, flight: Flight, refused: Refused) -> None:
        if isinstance(refused, Denied):
            self._end_sessions(refused.verdict)
        self.standing.remember(flight, refused)
        while (waiter := flight.next_waiter()) is not None:
            waiter.answer.set_exception(again(refused))

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
                    grant = self.standing.open(waiter, verdict, answered)
                    grant.opening = flight.openings.pop(waiter.mark, None)
                if grant.max_uses < waiter.operation.uses:
                    raise too_many_uses(waiter.operation, grant)
                reservation = grant.take(waiter.operation.uses)
                if reservation is None:
                    self.standing.check_replay(waiter)
                else:
                    waiter.answer.set_result(_permit(waiter.operation, waiter.caller, grant, reservation, hit=False))
            except Refused as refusal:
                waiter.answer.set_exception(refusal)
        flight.waiters = deque(waiter for waiter in flight.waiters if not waiter.answer.done())


def _give_back(task: asyncio.Task[Permit]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().reservation.refund()


def _permit(operation: Operation, caller: Caller, grant: Grant, reservation: UseReservation, *, hit: bool) -> Permit:
    return Permit(operation, caller, grant.verdict, GrantState(hit, grant.left, grant.expires_at), reservation)
