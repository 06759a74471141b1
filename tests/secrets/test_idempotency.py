"""`Idempotency-Key`: carried out once, answered as the first time, to the same caller and request only."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from sidecar.caller.identity import Binding, BindingKind
from sidecar.errors import Code, Refused
from sidecar.secrets.desk import Reply
from sidecar.secrets.idempotency import SECONDS, Idempotency
from sidecar.surface.secrets.endpoints import ROWS, Call, Endpoint
from tests.decision.making import caller, clock

ROTATE = Call(next(row for row in ROWS if row.endpoint is Endpoint.ROTATE), idempotency_key="key")
COPY = Call(next(row for row in ROWS if row.endpoint is Endpoint.COPY), idempotency_key="key")


class Tried:
    """Counts what is carried out and what is repeated."""

    def __init__(self) -> None:
        self.clock = clock()
        self.once = Idempotency(self.clock)
        self.done = self.repeated = 0
        self.gate: asyncio.Event | None = None
        self.failure: BaseException | None = None
        self.denied: Refused | None = None

    async def carry_out(self) -> Reply:
        self.done += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return Reply(200, {"version": self.done})

    async def again(self, reply: Reply) -> Reply:
        if self.denied is not None:
            raise self.denied
        self.repeated += 1
        return reply

    async def ask(self, call: Call = ROTATE, subject: str = "app", body: bytes = b"{}", **claims: Any) -> int:
        reply = await self.once.once(call, caller(subject, **claims), body, self.carry_out, self.again)
        return int(reply.body["version"])


async def test_the_same_again_is_answered_again_and_recorded() -> None:
    tried = Tried()
    assert [await tried.ask(), await tried.ask()] == [1, 1]
    assert (tried.done, tried.repeated) == (1, 1)


async def test_who_lost_the_right_is_not_answered_and_nothing_is_done() -> None:
    """Neither is the answer forgotten: who has the right again gets it."""
    tried = Tried()
    await tried.ask()
    tried.denied = Refused(Code.POLICY_DENIED, "no")
    with pytest.raises(Refused) as caught:
        await tried.ask()
    assert (caught.value.code, tried.done) == (Code.POLICY_DENIED, 1)
    tried.denied = None
    assert (await tried.ask(), tried.done) == (1, 1)


async def test_at_the_same_time_too() -> None:
    tried = Tried()
    tried.gate = asyncio.Event()
    asked = [asyncio.create_task(tried.ask()) for _ in range(5)]
    await asyncio.sleep(0)
    tried.gate.set()
    assert set(await asyncio.gather(*asked)) == {1}
    assert (tried.done, tried.repeated) == (1, 4)


async def test_another_callers_key_is_another_key() -> None:
    """Neither learns that the other used it."""
    tried = Tried()
    assert [await tried.ask(), await tried.ask(subject="other"), await tried.ask(issuer="j")] == [1, 2, 3]
    assert await tried.ask(COPY) == 4
    assert await tried.ask(client_id="other") == 5
    assert await tried.ask(binding=Binding(BindingKind.DPOP, "one")) == 6
    assert await tried.ask(binding=Binding(BindingKind.DPOP, "two")) == 7
    assert tried.repeated == 0


async def test_a_renewed_certificate_is_the_same_caller() -> None:
    """Where the certificate is the subject itself, no token names its key."""
    tried = Tried()
    await tried.ask(binding=Binding(BindingKind.MTLS, "old", names_subject=True))
    assert await tried.ask(binding=Binding(BindingKind.MTLS, "new", names_subject=True)) == 1


async def test_another_request_with_the_key_is_refused() -> None:
    tried = Tried()
    await tried.ask()
    for call, body in ((ROTATE, b'{"a":1}'), (replace(ROTATE, cas=3), b"{}")):
        with pytest.raises(Refused) as caught:
            await tried.ask(call, body=body)
        assert caught.value.code is Code.IDEMPOTENCY_KEY_REUSED
    assert tried.done == 1


async def test_large_answers_are_remembered_as_far_as_there_is_room() -> None:
    """Of whoever has most, the oldest goes; another caller's stays."""
    tried = Tried()
    assert await tried.ask(subject="quiet") == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sidecar.secrets.idempotency.BYTES", 10 * len(b'{"version":12}'))
        for number in range(20):
            await tried.ask(replace(ROTATE, idempotency_key=f"k{number}"))
        assert await tried.ask(subject="quiet") == 1
        assert await tried.ask(replace(ROTATE, idempotency_key="k19")) == 21
        assert await tried.ask(replace(ROTATE, idempotency_key="k10")) == 22


async def test_one_callers_keys_push_out_no_others() -> None:
    """Who has most loses its own oldest."""
    tried = Tried()
    assert await tried.ask(subject="quiet") == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sidecar.secrets.idempotency.REMEMBERED", 5)
        for number in range(20):
            await tried.ask(replace(ROTATE, idempotency_key=f"k{number}"))
        assert await tried.ask(subject="quiet") == 1
        assert await tried.ask(replace(ROTATE, idempotency_key="k19")) == 21
        assert await tried.ask(replace(ROTATE, idempotency_key="k0")) == 22


async def test_what_failed_is_tried_again_and_each_who_waited_has_a_refusal_of_its_own() -> None:
    tried = Tried()
    tried.gate, tried.failure = asyncio.Event(), Refused(Code.UPSTREAM_TIMEOUT, "slow")
    asked = [asyncio.create_task(tried.ask()) for _ in range(2)]
    await asyncio.sleep(0)
    tried.gate.set()
    first, second = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(first, Refused)
    assert isinstance(second, Refused)
    assert (first.code, second.code, first is second) == (Code.UPSTREAM_TIMEOUT, Code.UPSTREAM_TIMEOUT, False)
    tried.failure = None
    assert await tried.ask() == 2


async def test_a_first_that_was_cut_leaves_no_one_waiting() -> None:
    tried = Tried()
    tried.gate = asyncio.Event()
    first, second = (asyncio.create_task(tried.ask()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(Refused) as caught:
        await second
    assert caught.value.code is Code.OVERLOADED


async def test_a_key_is_forgotten_after_a_day() -> None:
    tried = Tried()
    await tried.ask()
    tried.clock.advance(SECONDS + 1)
    assert await tried.ask() == 2
