"""Whatever the order of requests, answers and clock steps: no grant releases more than its uses, nor after its time."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from sidecar.decision.permit import Obligations, Permit, Question, Verdict
from sidecar.errors import Code, Refused
from tests.decision.making import DB, DPOP, OTHER_KEY, Desk, ScriptedPdp, caller, config, operation, unbound

MAX_USES = 3
TTL = 60
WINDOW = 100
MAX_ENTRIES = 4


@dataclass
class Held:
    """A permit in somebody's hands."""

    permit: Permit
    uses: int
    settled: bool = False


class GrantsOfManyCallers(RuleBasedStateMachine):
    """A model beside the decider: what each decision gave out, and when it came. A decision is known by its id.

    Requests run to their end one by one: the interleavings inside one are the business of the tests below.
    """

    permits = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.decisions = 0
        self.answered: dict[str, float] = {}
        self.opened_for: dict[str, tuple[str, str]] = {}
        self.reserved: Counter[str] = Counter()
        self.spent: Counter[str] = Counter()
        self.permitting = True
        self.desk = Desk(
            ScriptedPdp(self.answer),
            config(
                grants={"max_entries": MAX_ENTRIES, "negative_ttl_seconds": 5},
                anti_replay={"window_seconds": WINDOW, "unbound_token": "per_grant"},
            ),
        )

    def answer(self, _question: Question) -> Verdict:
        self.decisions += 1
        name = f"d-{self.decisions}"
        self.answered[name] = self.desk.clock.elapsed()
        return Verdict(self.permitting, Obligations(TTL, MAX_USES), name)

    def teardown(self) -> None:
        self.runner.close()

    @rule(
        target=permits,
        subject=st.sampled_from(["app", "other", "third"]),
        jti=st.sampled_from(["", "t-1", "t-2", "t-3"]),
        binding=st.sampled_from([DPOP, OTHER_KEY]),
        fragment=st.sampled_from([None, "password"]),
        uses=st.sampled_from([1, 1, 1, 2, 4]),
        issued=st.sampled_from([-10, 0, 1]),
    )
    def ask(self, subject: str, jti: str, binding: object, fragment: str | None, uses: int, issued: int) -> Held | None:
        now = int(self.desk.clock.wall())
        fields = {"issued_at": now + issued, "expires_at": now + 45}
        who = unbound(subject, token_jti=jti, **fields) if jti else caller(subject, binding=binding, **fields)
        what = operation(uri=dataclasses.replace(DB, fragment=fragment), uses=uses)
        elapsed, asked = self.desk.clock.elapsed(), self.decisions
        try:
            permit = self.runner.run(self.desk.permit(who, what))
        except Refused:
            return None
        decision = permit.verdict.decision_id
        assert elapsed < self.answered[decision] + TTL
        assert permit.verdict.permit
        if permit.grant.hit:
            assert self.decisions == asked
        else:
            assert permit.grant.expires_at <= self.desk.clock.wall() + 45  # the token's own end
        if jti and not permit.grant.hit:
            key = (jti, f"{fragment}")
            for earlier, opened in self.opened_for.items():
                assert opened != key or self.answered[earlier] + WINDOW <= elapsed
            self.opened_for[decision] = key
        self.reserved[decision] += uses
        return Held(permit, uses)

    @rule(held=permits, words=st.permutations(["commit", "refund"]), said=st.integers(1, 2))
    def settle(self, held: Held | None, words: list[str], said: int) -> None:
        """Says one of the words, or both; what is said later, or again, counts for nothing."""
        if held is None:
            return
        for word in words[:said]:
            getattr(held.permit.reservation, word)()
        if held.settled:
            return
        held.settled = True
        decision = held.permit.verdict.decision_id
        self.reserved[decision] -= held.uses
        if words[0] == "commit":
            self.spent[decision] += held.uses

    @rule(seconds=st.sampled_from([0.5, 10, 59.5, 60, 101]))
    def time_passes(self, seconds: float) -> None:
        self.desk.clock.advance(seconds)

    @rule(seconds=st.sampled_from([-3600, -1, 1, 3600]))
    def somebody_sets_the_wall_clock(self, seconds: float) -> None:
        self.desk.clock.step_wall(seconds)

    @rule(permitting=st.booleans())
    def policy_changes(self, permitting: bool) -> None:
        self.permitting = permitting
        self.desk.decider.drop_all()
        self.opened_for = {
            decision: key for decision, key in self.opened_for.items() if self.spent[decision] >= MAX_USES
        }

    @rule(subject=st.sampled_from(["app", "other"]))
    def subject_is_dropped(self, subject: str) -> None:
        self.desk.decider.drop_subject(caller().issuer, subject)

    @invariant()
    def no_decision_gives_more_than_its_uses(self) -> None:
        for decision, uses in (self.reserved + self.spent).items():
            assert uses <= MAX_USES, decision

    @invariant()
    def the_tables_are_bounded(self) -> None:
        assert all(size <= MAX_ENTRIES for size in self.desk.decider.cache_sizes().values())

    @invariant()
    def what_is_shown_is_live_and_adds_up(self) -> None:
        for shown in self.desk.decider.snapshot():
            decision = shown["decision_id"]
            assert shown["uses_reserved"] == self.reserved[decision]
            assert shown["uses_left"] == MAX_USES - self.reserved[decision] - self.spent[decision]
            assert 0 < shown["expires_in_seconds"] <= TTL


TestGrantsOfManyCallers = GrantsOfManyCallers.TestCase
TestGrantsOfManyCallers.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
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
    (shown,) = desk.decider.snapshot()
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
        while not desk.decider.snapshot():
            await asyncio.sleep(0)
    for task in tasks[:5]:
        task.cancel()  # the uses are reserved, and the task has not run since
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 5 + [Permit] * 5
    (shown,) = desk.decider.snapshot()
    assert (shown["uses_left"], shown["uses_reserved"]) == (5, 5)
