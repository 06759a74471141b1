"""Whatever the order of requests, answers and clock steps: no grant releases more than its uses, nor after its time."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar.caller.identity import Binding, BindingKind, Caller
from sidecar.decision.grants import Claim
from sidecar.decision.pdp import PdpOutage
from sidecar.decision.permit import Obligations, Permit, Question, Verdict
from sidecar.decision.revocation import EVERYTHING, Revocation
from sidecar.errors import Code, Refused
from sidecar.surface.operation import Operation
from tests.decision.making import DB, DPOP, ISSUER, OTHER_KEY, Desk, ScriptedPdp, caller, config, operation, unbound

MAX_USES = 3
TTL = 60
WINDOW = 100
MAX_ENTRIES = 4


@dataclass(eq=False)
class Asking:
    """A request that waits for its decision."""

    task: asyncio.Task[Permit]
    who: Caller
    what: Operation

    @property
    def claim(self) -> Claim:
        return (self.who.issuer, self.who.subject, self.what.purpose, self.what.uri)


@dataclass
class Held:
    """A permit in somebody's hands."""

    permit: Permit
    settled: bool = False


class SlowPdp(ScriptedPdp):
    """Decides when it is asked, and while it is `slow` answers when it is told to: by then it may be outdated."""

    slow = False

    def __init__(self, decide: Callable[[Question], Verdict], answered: Callable[[Verdict], None]) -> None:
        super().__init__(decide)
        self.answered = answered
        self.unanswered: list[asyncio.Future[None]] = []

    async def evaluate(self, question: Question) -> Verdict:
        verdict, outage = None, None
        try:
            verdict = self.answer(question)
        except PdpOutage as away:
            outage = away
        if self.slow:
            self.unanswered.append(asyncio.get_running_loop().create_future())
            await self.unanswered[-1]
        if verdict is None:
            raise outage or AssertionError
        self.answered(verdict)
        return verdict


class GrantsOfManyCallers(RuleBasedStateMachine):
    """A model beside the decider: what each decision gave out, and when it came. A decision is known by its id.

    Requests wait beside each other while the PDP is slow, leave, and are answered before and after changes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.decisions: dict[str, int] = {}
        self.answered: dict[str, tuple[float, float]] = {}
        self.opened_for: dict[str, tuple[str, Claim]] = {}
        self.reserved: Counter[str] = Counter()
        self.spent: Counter[str] = Counter()
        self.taken_back: list[tuple[Revocation, int]] = []
        self.says = "permit"
        self.asking: list[Asking] = []
        self.held: list[Held] = []
        self.known: list[tuple[Caller, Operation]] = []
        self.pdp = SlowPdp(self.decide, self.note_answer)
        self.desk = Desk(
            self.pdp,
            config(
                grants={"max_entries": MAX_ENTRIES, "negative_ttl_seconds": 5},
                anti_replay={"window_seconds": WINDOW, "unbound_token": "per_grant"},
            ),
        )

    def decide(self, _question: Question) -> Verdict:
        if self.says == "away":
            raise PdpOutage("away")
        name = f"d-{len(self.decisions)}"
        self.decisions[name] = len(self.decisions)
        return Verdict(self.says == "permit", Obligations(TTL, MAX_USES), name)

    def note_answer(self, verdict: Verdict) -> None:
        self.answered[verdict.decision_id] = (self.desk.clock.elapsed(), self.desk.clock.wall())

    def teardown(self) -> None:
        self.runner.run(self.end())
        self.runner.close()

    async def end(self) -> None:
        """Looks at every outcome: a task that nobody looked at complains when it is collected, wherever that is, and in
        Python 3.11 a module that is compiled at that moment fails to be."""
        await self.desk.decider.close()
        await asyncio.gather(*(one.task for one in self.asking), return_exceptions=True)

    def go_on(self) -> None:
        """Lets the event loop run; then looks at what came out."""
        before = self.desk.decider.standing.snapshot()
        self.runner.run(self.pause(40))
        done = [one for one in self.asking if one.task.done()]
        self.asking = [one for one in self.asking if not one.task.done()]
        gone = [one for one in done if one.task.cancelled()]
        given = [one for one in done if not one.task.cancelled() and one.task.exception() is None]
        for one in done:
            if not one.task.cancelled():
                assert isinstance(one.task.exception(), Refused | None)
        for one in given:
            self.look_at_permit(one, before, given, gone)

    @staticmethod
    async def pause(turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)

    def look_at_permit(
        self, one: Asking, before: list[Mapping[str, Any]], given: list[Asking], gone: list[Asking]
    ) -> None:
        permit = one.task.result()
        decision = permit.verdict.decision_id
        self.held.append(Held(permit))
        self.reserved[decision] += one.what.uses
        answered, _ = self.answered[decision]
        elapsed, wall = self.desk.clock.elapsed(), self.desk.clock.wall()
        assert permit.verdict.permit
        assert elapsed < answered + TTL
        for revocation, decisions in self.taken_back:
            assert not revocation.fits(one.claim) or self.decisions[decision] >= decisions, "a decision from before it"
        if permit.grant.hit:
            return
        rivals = [other for other in given if other.claim == one.claim and other is not one]
        if not rivals:
            assert permit.grant.expires_at <= one.who.expires_at  # the token's own end
        for shown in before:
            claim = (shown["issuer"], shown["subject"], shown["purpose"], shown["uri"])
            if claim == one.claim and shown["binding"] != one.who.binding and not rivals:
                opened, opened_wall = self.answered[shown["decision_id"]]
                assert one.who.issued_at is not None
                assert one.who.issued_at > max(opened_wall, wall - elapsed + opened), "an older token took it over"
        opener = {other.who.token_jti for other in (one, *rivals, *gone) if other.claim == one.claim}
        if one.who.binding.kind is BindingKind.NONE and len(opener) == 1:
            key = (one.who.token_jti, one.claim)
            for earlier, opened_for in self.opened_for.items():
                assert opened_for != key or earlier == decision or self.answered[earlier][0] + WINDOW <= elapsed
            self.opened_for[decision] = key

    # -- requests ----------------------------------------------------------------------------------------------------
    @rule(
        subject=st.sampled_from(["app", "app", "other"]),
        jti=st.sampled_from(["", "", "t-1", "t-2"]),
        binding=st.sampled_from([DPOP, OTHER_KEY]),
        fragment=st.sampled_from([None, None, "password"]),
        uses=st.sampled_from([1, 1, 1, 2, 4]),
        issued=st.sampled_from([-3600, -10, 0, 1]),
        lives=st.sampled_from([45, 300]),
        crowd=st.sampled_from([1, 1, 2, 5]),
    )
    def ask(
        self,
        subject: str,
        jti: str,
        binding: Binding,
        fragment: str | None,
        uses: int,
        issued: int,
        lives: int,
        crowd: int,
    ) -> None:
        """One request or several like it at once, each for one use or a batch of several."""
        now = int(self.desk.clock.wall())
        fields = {"issued_at": now + issued, "expires_at": now + lives}
        who = unbound(subject, token_jti=jti, **fields) if jti else caller(subject, binding=binding, **fields)
        what = operation(uri=dataclasses.replace(DB, fragment=fragment), uses=uses)
        self.known.append((who, what))
        self.send(who, what, crowd)

    @precondition(lambda self: self.known)
    @rule(
        which=st.integers(0, 3), crowd=st.sampled_from([1, 1, 2, 5]), binding=st.sampled_from([None, DPOP, OTHER_KEY])
    )
    def ask_again(self, which: int, crowd: int, binding: Binding | None) -> None:
        """What was asked of late, by the same caller or by one with another key."""
        who, what = self.known[-1 - which % len(self.known)]
        self.send(who if binding is None else dataclasses.replace(who, binding=binding), what, crowd)

    def send(self, who: Caller, what: Operation, crowd: int) -> None:
        for _ in range(crowd):
            task = self.runner.get_loop().create_task(self.desk.permit(who, what))
            self.asking.append(Asking(task, who, what))
        self.go_on()

    @precondition(lambda self: self.asking)
    @rule(which=st.integers(0), turns=st.integers(0, 6))
    def somebody_who_waits_leaves(self, which: int, turns: int) -> None:
        """At any moment, also in the one in which the answer comes: inside the loop, for `run` ends a moment later."""

        async def leave() -> None:
            self.answer_all()
            await self.pause(turns)
            self.asking[which % len(self.asking)].task.cancel()

        self.runner.run(leave())
        self.go_on()

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0), words=st.permutations(["commit", "refund"]), said=st.integers(1, 2))
    def settle(self, which: int, words: list[str], said: int) -> None:
        """Says one of the words, or both; what is said later, or again, counts for nothing."""
        held = self.held[which % len(self.held)]
        for word in words[:said]:
            getattr(held.permit.reservation, word)()
        if held.settled:
            return
        held.settled = True
        decision, uses = held.permit.verdict.decision_id, held.permit.operation.uses
        self.reserved[decision] -= uses
        if words[0] == "commit":
            self.spent[decision] += uses

    # -- the PDP -----------------------------------------------------------------------------------------------------
    @rule(slow=st.sampled_from([True, True, False]))
    def the_pdp_is_slow_or_not(self, slow: bool) -> None:
        self.pdp.slow = slow

    @rule(says=st.sampled_from(["permit", "permit", "permit", "deny", "away"]))
    def the_pdp_changes_its_mind(self, says: str) -> None:
        self.says = says

    @rule()
    def the_pdp_answers(self) -> None:
        self.answer_all()
        self.go_on()

    def answer_all(self) -> None:
        for waiting in self.pdp.unanswered:
            if not waiting.done():
                waiting.set_result(None)
        self.pdp.unanswered.clear()

    # -- time --------------------------------------------------------------------------------------------------------
    @rule(seconds=st.sampled_from([0.5, 6, 20, 60, 101]))
    def time_passes(self, seconds: float) -> None:
        self.desk.clock.advance(seconds)

    @rule(seconds=st.sampled_from([-3600, -1, 1, 3600]))
    def somebody_sets_the_wall_clock(self, seconds: float) -> None:
        self.desk.clock.step_wall(seconds)

    # -- taken back --------------------------------------------------------------------------------------------------
    @rule()
    def all_is_dropped(self) -> None:
        self.forget(EVERYTHING)
        self.desk.decider.drop_all()

    @rule(
        prefix=st.sampled_from([f"{DB}", f"{DB}#", "openbao+kv2://secret/", "openbao+kv2://team/"]),
        subject=st.sampled_from([None, "app"]),
    )
    def a_prefix_is_revoked(self, prefix: str, subject: str | None) -> None:
        revocation = Revocation(subject, uri_prefix=prefix)
        self.forget(revocation)
        self.desk.decider.revoke(revocation.fits)

    @rule(subject=st.sampled_from(["app", "other"]))
    def a_subject_is_dropped(self, subject: str) -> None:
        self.taken_back.append((Revocation(subject), len(self.decisions)))
        self.desk.decider.drop_subject(ISSUER, subject)

    def forget(self, revocation: Revocation) -> None:
        """A token whose live grant is taken back with uses left may open another."""
        self.taken_back.append((revocation, len(self.decisions)))
        for shown in self.desk.decider.standing.snapshot():
            claim = (shown["issuer"], shown["subject"], shown["purpose"], shown["uri"])
            if shown["uses_left"] and revocation.fits(claim):
                self.opened_for.pop(shown["decision_id"], None)

    # -- what holds always -------------------------------------------------------------------------------------------
    @invariant()
    def no_decision_gives_more_than_its_uses(self) -> None:
        for decision, uses in (self.reserved + self.spent).items():
            assert uses <= MAX_USES, decision

    @invariant()
    def the_tables_are_bounded(self) -> None:
        assert all(size <= MAX_ENTRIES for size in self.desk.decider.standing.cache_sizes().values())

    @invariant()
    def what_is_shown_is_live_adds_up_and_has_one_binding(self) -> None:
        bindings: dict[object, set[Binding]] = {}
        for shown in self.desk.decider.standing.snapshot():
            decision = shown["decision_id"]
            assert 0 < shown["expires_in_seconds"] <= TTL
            bindings.setdefault((shown["subject"], shown["purpose"], shown["uri"]), set()).add(shown["binding"])
            assert shown["uses_reserved"] == self.reserved[decision]
            assert shown["uses_left"] == MAX_USES - self.reserved[decision] - self.spent[decision]
        assert all(len(held) == 1 for held in bindings.values())


TestGrantsOfManyCallers = GrantsOfManyCallers.TestCase
TestGrantsOfManyCallers.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


async def test_2000_requests_at_once_with_one_unbound_token_release_exactly_its_100_uses() -> None:
    desk = Desk(ScriptedPdp(lambda _question: Verdict(True, Obligations(max_uses=100))))

    async def one(index: int) -> str:
        for _ in range(index % 7):
            await asyncio.sleep(0)
        try:
            permit = await desk.permit(unbound())
        except Refused as refused:
            return refused.code
        for _ in range(index % 5):
            await asyncio.sleep(0)
        permit.reservation.commit()
        return "released"

    outcomes = Counter(await asyncio.gather(*(one(index) for index in range(2000))))
    assert outcomes == {"released": 100, Code.TOKEN_REPLAYED: 1900}
    assert len(desk.pdp.asked) == 1


async def test_2000_requests_at_once_with_bound_tokens_ask_for_each_100_uses() -> None:
    desk = Desk(ScriptedPdp(lambda _question: Verdict(True, Obligations(max_uses=100))))
    permits = await asyncio.gather(*(desk.spend() for _ in range(2000)))
    assert len(permits) == 2000
    assert len(desk.pdp.asked) == 20


async def test_cancellation_at_any_moment_neither_gives_too_much_nor_loses_a_use() -> None:
    """Every third of 400 requests is cancelled, each at another moment; of the rest some give back their use."""
    desk = Desk(ScriptedPdp(lambda _question: Verdict(True, Obligations(max_uses=150))))
    released = 0

    async def one(index: int) -> None:
        nonlocal released
        permit = await desk.permit(unbound())
        try:
            await asyncio.sleep(0)
            if index % 4:
                permit.reservation.commit()
                released += 1
        finally:
            permit.reservation.refund()

    tasks = [asyncio.create_task(one(index)) for index in range(400)]
    for index in range(0, 400, 3):
        for _ in range(index % 4):
            await asyncio.sleep(0)
        tasks[index].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(result is None or isinstance(result, (Refused, asyncio.CancelledError)) for result in results)
    (shown,) = desk.decider.standing.snapshot()
    assert (shown["uses_left"], shown["uses_reserved"]) == (150 - released, 0)
    for _ in range(150 - released):
        await desk.spend(unbound())
    with pytest.raises(Refused, match=Code.TOKEN_REPLAYED):
        await desk.spend(unbound())
    assert len(desk.pdp.asked) == 1


async def test_uses_handed_to_someone_cancelled_in_the_same_moment_are_not_lost() -> None:
    desk = Desk(ScriptedPdp(lambda _question: Verdict(True, Obligations(max_uses=10))))
    desk.pdp.gate = asyncio.Event()
    tasks = [asyncio.create_task(desk.permit(unbound())) for _ in range(10)]
    await desk.pdp.wait_until_asked()
    desk.pdp.gate.set()
    async with asyncio.timeout(5):
        while not desk.decider.standing.snapshot():
            await asyncio.sleep(0)
    for task in tasks[:5]:
        task.cancel()  # the uses are reserved, and the task has not run since
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 5 + [Permit] * 5
    (shown,) = desk.decider.standing.snapshot()
    assert (shown["uses_left"], shown["uses_reserved"]) == (5, 5)


async def test_several_asked_for_at_once_and_cancelled_give_back_what_some_had_got() -> None:
    desk = Desk(ScriptedPdp(lambda _question: Verdict(True, Obligations(max_uses=10))))
    await desk.spend()
    desk.pdp.gate = asyncio.Event()
    several = [operation(), operation(uri=dataclasses.replace(DB, fragment="password"))]
    asking = asyncio.create_task(
        desk.decider.permit_many(several, caller(), correlation_id="c-1234567", attributes=lambda _operation: None)
    )
    await desk.pdp.wait_until_asked(2)
    assert [shown["uses_reserved"] for shown in desk.decider.standing.snapshot()] == [1]
    asking.cancel()
    desk.pdp.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await asking
    async with asyncio.timeout(5):
        while any(shown["uses_reserved"] for shown in desk.decider.standing.snapshot()):
            await asyncio.sleep(0)
    assert desk.decider.standing.snapshot()[0]["uses_left"] == 9
