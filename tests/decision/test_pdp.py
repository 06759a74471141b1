"""The way to the PDP: bounded, and closed while the PDP is away."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.decision.breaker import FAILURES, FIRST_PAUSE_SECONDS
from sidecar.decision.pdp import PdpAccess, PdpOutage, no_answer, retry_after
from sidecar.decision.permit import Denied, Question, Verdict
from sidecar.errors import Code, Refused
from sidecar.ops.metrics import REGISTRY
from tests.decision.making import ScriptedPdp, clock, permitting, question
from tests.support.clock import FakeClock


def errors() -> float:
    return REGISTRY.get_sample_value("sidecar_pdp_errors_total") or 0.0


def away(_question: Question) -> Verdict:
    raise PdpOutage("away")


def garbled(_question: Question) -> Verdict:
    raise no_answer("not JSON")


async def refused_by(access: PdpAccess) -> Refused:
    with pytest.raises(Refused) as refused:
        await access.ask(question())
    return refused.value


def access_to(pdp: ScriptedPdp, time: FakeClock | None = None, timeout: float = 5.0) -> PdpAccess:
    return PdpAccess(pdp, time or clock(), timeout)


async def test_an_answer_comes_with_its_time() -> None:
    time = clock()
    verdict, answered = await access_to(permitting(max_uses=3), time).ask(question())
    assert verdict.permit
    assert answered == time.elapsed()


async def test_calls_are_measured_and_errors_counted() -> None:
    before = REGISTRY.get_sample_value("sidecar_pdp_seconds_count") or 0.0
    wrong = errors()
    await access_to(permitting()).ask(question())
    await refused_by(access_to(ScriptedPdp(garbled)))
    assert REGISTRY.get_sample_value("sidecar_pdp_seconds_count") == before + 2
    assert errors() == wrong + 1


async def test_no_more_than_the_limit_are_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.decision.pdp.MAX_CONCURRENT", 3)
    pdp = permitting()
    pdp.gate = asyncio.Event()
    access = access_to(pdp)
    tasks = [asyncio.create_task(access.ask(question())) for _ in range(10)]
    await pdp.wait_until_asked(3)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(pdp.asked) == 3
    pdp.gate.set()
    await asyncio.gather(*tasks)
    assert len(pdp.asked) == 10


async def test_the_queue_is_bounded_in_length_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.decision.pdp.MAX_CONCURRENT", 1)
    monkeypatch.setattr("sidecar.decision.pdp.MAX_WAITING", 2)
    pdp = permitting()
    pdp.gate = asyncio.Event()
    access = access_to(pdp, timeout=0.2)
    tasks = [asyncio.create_task(access.ask(question())) for _ in range(4)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, PdpOutage) for result in results)
    assert [result.detail for result in results if isinstance(result, PdpOutage)].count(
        "too many questions wait for the PDP"
    ) == 1


async def test_a_pdp_that_does_not_answer_in_time_is_away() -> None:
    pdp = permitting()
    pdp.gate = asyncio.Event()
    refused = await refused_by(access_to(pdp, timeout=0.01))
    assert refused.code is Code.PDP_UNAVAILABLE
    assert refused.headers["Retry-After"] == "1"


async def test_outages_in_a_row_hold_calls_back_until_a_probe_gets_through() -> None:
    time, pdp = clock(), ScriptedPdp(away)
    access = access_to(pdp, time)
    for _ in range(FAILURES):
        await refused_by(access)
    assert not access.available
    for _ in range(100):
        await refused_by(access)
    assert len(pdp.asked) == FAILURES
    time.advance(FIRST_PAUSE_SECONDS)
    await refused_by(access)
    assert len(pdp.asked) == FAILURES + 1
    time.advance(2 * FIRST_PAUSE_SECONDS)
    pdp.answer = lambda _question: Verdict(True)
    assert (await access.ask(question()))[0].permit
    assert access.available


async def test_one_probe_at_a_time() -> None:
    time, pdp = clock(), ScriptedPdp(away)
    access = access_to(pdp, time)
    for _ in range(FAILURES):
        await refused_by(access)
    time.advance(FIRST_PAUSE_SECONDS)
    pdp.gate = asyncio.Event()
    pdp.answer = lambda _question: Verdict(True)
    probe = asyncio.create_task(access.ask(question()))
    await pdp.wait_until_asked(FAILURES + 1)
    for _ in range(50):
        assert isinstance(await refused_by(access), PdpOutage)
    assert len(pdp.asked) == FAILURES + 1
    pdp.gate.set()
    await probe


async def test_a_cancelled_probe_lets_the_next_one_go() -> None:
    time, pdp = clock(), ScriptedPdp(away)
    access = access_to(pdp, time)
    for _ in range(FAILURES):
        await refused_by(access)
    time.advance(FIRST_PAUSE_SECONDS)
    pdp.gate = asyncio.Event()
    probe = asyncio.create_task(access.ask(question()))
    await pdp.wait_until_asked(FAILURES + 1)
    probe.cancel()
    await asyncio.wait([probe])
    pdp.gate = None
    pdp.answer = lambda _question: Verdict(True)
    assert (await access.ask(question()))[0].permit


@pytest.mark.parametrize("answer", [garbled, lambda _question: Verdict(False), lambda _question: 1 / 0])
async def test_no_caller_closes_the_way_for_others_by_what_it_asks(answer: object) -> None:
    """Answers that are about one question, denials and faults in our own client among them, are no outage."""
    pdp = ScriptedPdp(answer)  # type: ignore[arg-type] # also what raises no refusal
    access = access_to(pdp)
    for _ in range(5 * FAILURES):
        try:
            await access.ask(question())
        except Refused as refused:
            assert refused.code is Code.PDP_UNAVAILABLE  # noqa: PT017 - a verdict is right here too
    assert access.available
    assert len(pdp.asked) == 5 * FAILURES


async def test_a_pdps_own_retry_after_is_kept() -> None:
    time = clock()

    def busy(_question: Question) -> Verdict:
        raise PdpOutage("429", 7.0)

    pdp = ScriptedPdp(busy)
    access = access_to(pdp, time)
    assert (await refused_by(access)).headers["Retry-After"] == "7"
    time.advance(6)
    assert (await refused_by(access)).headers["Retry-After"] == "1"
    assert len(pdp.asked) == 1


async def test_a_denial_of_the_pdps_own_passes_as_it_is() -> None:
    def unmet(_question: Question) -> Verdict:
        raise Denied(Code.OBLIGATION_UNMET, "no", verdict=Verdict(True))

    assert (await refused_by(access_to(ScriptedPdp(unmet)))).code is Code.OBLIGATION_UNMET


@pytest.mark.parametrize(("seconds", "header"), [(0, "1"), (0.2, "1"), (1, "1"), (1.2, "2"), (15, "15")])
def test_retry_after_is_in_whole_seconds(seconds: float, header: str) -> None:
    assert retry_after(seconds) == {"Retry-After": header}
