"""Several decisions, one question: `Decider.permit_many`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from sidecar.decision.permit import Denied, Obligations, Permit, Question, Verdict
from sidecar.errors import Code, Refused
from sidecar.surface.operation import Operation
from tests.decision.making import DB, Desk, ScriptedPdp, caller, operation


@dataclass
class Counting(ScriptedPdp):
    """A PDP that remembers what came together, and can hold a batch back."""

    batches: list[list[Question]] = field(default_factory=list)
    hold: asyncio.Event | None = None

    async def evaluate_many(self, questions: Sequence[Question]) -> list[Verdict | Denied]:
        self.batches.append(list(questions))
        answers: list[Verdict | Denied] = [self.answer(question) for question in questions]
        if self.hold is not None:
            await self.hold.wait()
        return answers

    async def wait_until_held(self) -> None:
        async with asyncio.timeout(5):
            while not self.batches:
                await asyncio.sleep(0)


PERMIT = Verdict(True, Obligations(max_uses=5, ttl_seconds=60))


def secrets(count: int) -> list[Operation]:
    return [operation(uri=replace(DB, path=("bulk", f"s{number}"))) for number in range(count)]


async def many(desk: Desk, operations: Sequence[Operation]) -> list[Permit | Refused]:
    return await desk.decider.permit_many(
        operations, caller(), correlation_id="c-1234567", attributes=lambda _operation: None
    )


def codes(found: Sequence[Permit | Refused]) -> list[Code | None]:
    return [each.code if isinstance(each, Refused) else None for each in found]


def refusing(name: str) -> Callable[[Question], Verdict]:
    return lambda question: Verdict(False) if question.resource["id"].endswith(name) else PERMIT


async def test_ten_operations_are_one_question_of_ten() -> None:
    pdp = Counting(lambda _question: PERMIT)
    found = await many(Desk(pdp), secrets(10))
    assert codes(found) == [None] * 10
    assert [len(batch) for batch in pdp.batches] == [10]
    assert pdp.asked == []


async def test_a_denial_is_its_own() -> None:
    found = await many(Desk(Counting(refusing("s1"))), secrets(3))
    assert codes(found) == [None, Code.POLICY_DENIED, None]


async def test_what_has_a_grant_is_not_asked_for_again() -> None:
    pdp = Counting(lambda _question: PERMIT)
    desk = Desk(pdp)
    await many(desk, secrets(2))
    found = await many(desk, secrets(4))
    assert [permit.grant.hit for permit in found if isinstance(permit, Permit)] == [True, True, False, False]
    assert [len(batch) for batch in pdp.batches] == [2, 2]


async def test_the_same_secret_several_times_is_one_question_and_several_uses() -> None:
    pdp = Counting(lambda _question: PERMIT)
    (one,) = secrets(1)
    found = await many(Desk(pdp), [one] * 3)
    assert codes(found) == [None] * 3
    assert sum(len(batch) for batch in pdp.batches) + len(pdp.asked) == 1


async def test_an_outage_is_everybodys() -> None:
    def fail(_question: Question) -> Verdict:
        raise OSError("away")

    found = await many(Desk(Counting(fail)), secrets(3))
    assert codes(found) == [Code.PDP_UNAVAILABLE] * 3
    assert len({id(each) for each in found}) == 3  # each its own, to be raised and recorded by itself


async def test_a_caller_who_goes_away_leaves_the_others_their_answers() -> None:
    """Another request waits for a secret of the bulk; the bulk's caller hangs up while the PDP thinks."""
    pdp = Counting(lambda _question: PERMIT, hold=asyncio.Event())
    desk = Desk(pdp)
    bulk = asyncio.create_task(many(desk, secrets(3)))
    await pdp.wait_until_held()
    other = asyncio.create_task(desk.permit(what=secrets(3)[1]))
    await asyncio.sleep(0)
    bulk.cancel()
    with suppress(asyncio.CancelledError):
        await bulk
    assert pdp.hold is not None
    pdp.hold.set()
    async with asyncio.timeout(5):
        permit = await other
    permit.reservation.refund()
    assert await many(desk, secrets(1))  # and nothing hangs for those that come after


async def test_a_policy_that_changes_meanwhile_is_asked_anew() -> None:
    """What the PDP said under the old policy opens nothing."""
    pdp = Counting(lambda _question: PERMIT, hold=asyncio.Event())
    desk = Desk(pdp)
    bulk = asyncio.create_task(many(desk, secrets(3)))
    await pdp.wait_until_held()
    pdp.answer = lambda _question: Verdict(False)
    desk.decider.drop_all()
    assert pdp.hold is not None
    pdp.hold.set()
    async with asyncio.timeout(5):
        assert codes(await bulk) == [Code.POLICY_DENIED] * 3
