"""A candidate is asked beside the PDP in force and has no effect, whatever it does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sidecar.config.tree import Authzen
from sidecar.config.tree import Candidate as CandidateConfig
from sidecar.decision.authzen import AuthzenPdp
from sidecar.decision.candidate import Candidate
from sidecar.decision.cedar import PolicyError
from sidecar.decision.decide import Decider
from sidecar.decision.observed import Difference
from sidecar.decision.permit import Pdp, Question, Verdict
from sidecar.errors import Code, Refused
from sidecar.ops import metrics
from tests.decision.making import (
    ScriptedPdp,
    caller,
    cedar,
    cedar_folder,
    clock,
    config,
    denying,
    operation,
    permitting,
)
from tests.decision.pdp_server import Exchange, PdpServer


def counted(result: str) -> float:
    return metrics.REGISTRY.get_sample_value("sidecar_candidate_decisions_total", {"result": result}) or 0.0


class Bench:
    """A decider with a candidate beside it."""

    def __init__(self, in_force: Pdp, candidate: Any, attributes: Any = None, **limits: int) -> None:
        self.decider = Decider(config(grants={"negative_ttl_seconds": 0}), in_force, clock())
        self.found: list[Difference] = []
        self.seen: dict[str, float] = {}

        async def build() -> Pdp:
            if isinstance(candidate, BaseException):
                raise candidate
            pdp: Pdp = candidate
            return pdp

        async def note(difference: Difference) -> None:
            self.found.append(difference)

        section = CandidateConfig.model_validate({"pdp": "cedar", "timeout_ms": 200} | limits)
        fetching = (lambda _operation: attributes) if attributes is not None else (lambda _operation: None)
        self.candidate = Candidate(section, build, self.decider.terms, note, fetching)
        self.decider.on_decision.append(self.candidate.offer)

    async def ask(self, subject: str = "app", **what: Any) -> str:
        try:
            permit = await self.decider.permit(operation(**what), caller(subject), correlation_id="c-1234567")
        except Refused as refused:
            return str(refused.code)
        permit.reservation.commit()
        return "permit"

    async def until(self, result: str, more: float = 1) -> None:
        """Waits until so many more decisions of this result were counted since the bench was made."""
        async with asyncio.timeout(10):
            while counted(result) < self.seen[result] + more:
                await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def bench(in_force: Pdp, candidate: Any, attributes: Any = None, **limits: int) -> AsyncIterator[Bench]:
    made = Bench(in_force, candidate, attributes, **limits)
    kinds = ("same", "would_permit", "would_deny", "other_obligations", "error", "dropped")
    made.seen = {kind: counted(kind) for kind in kinds}
    task = asyncio.create_task(made.candidate.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_candidate_that_alone_looks_at_metadata_fetches_them_for_itself(tmp_path: Path) -> None:
    """The request in force does not wait for that, and its PDP is asked without them."""
    folder = cedar_folder(tmp_path, 'permit (principal, action, resource) when { resource.owner == "app" };')
    fetched, may_go_on = asyncio.Event(), asyncio.Event()

    async def attributes() -> dict[str, str]:
        fetched.set()
        await may_go_on.wait()
        return {"owner": "app"}

    in_force = permitting()
    async with bench(in_force, cedar(folder), attributes) as made:
        await asyncio.sleep(0)
        assert await made.ask() == "permit"
        async with asyncio.timeout(10):
            await fetched.wait()
        assert "owner" not in in_force.asked[0].resource["properties"]
        may_go_on.set()
        await made.until("same")
    assert made.found == []


@pytest.mark.parametrize(
    ("in_force", "candidate", "kind", "differs"),
    [
        (permitting(), permitting(), None, ()),
        (denying(), denying(), None, ()),
        (permitting(), denying(), "would_deny", ()),
        (denying(), permitting(), "would_permit", ()),
        (permitting(max_uses=2), permitting(max_uses=3), "other_obligations", ("max_uses",)),
        (permitting(max_uses=1), permitting(), None, ()),
        (permitting(ttl_seconds=300), permitting(), None, ()),
        (permitting(ttl_seconds=3600), permitting(ttl_seconds=9999), None, ()),
        (permitting(), permitting(release=frozenset({"user"})), "other_obligations", ("release",)),
        (permitting(), permitting(step_up_acr_values=("gold",)), "would_deny", ()),
        (denying(), permitting(step_up_acr_values=("gold",)), "other_obligations", ("code",)),
        (permitting(), permitting(notifications=({"to": "x"},)), "would_deny", ()),
    ],
)
async def test_each_kind_of_difference_is_found_and_none_has_an_effect(
    in_force: ScriptedPdp, candidate: ScriptedPdp, kind: str | None, differs: tuple[str, ...]
) -> None:
    alone = Bench(in_force, candidate)
    async with bench(in_force, candidate) as beside:
        assert await beside.ask() == await alone.ask()
        await beside.until(kind or "same")
        assert [(one.kind, one.differs) for one in beside.found] == ([(kind, differs)] if kind else [])


async def test_a_grant_hit_asks_no_candidate(tmp_path: Path) -> None:
    candidate = permitting(max_uses=5)
    async with bench(permitting(max_uses=5), candidate) as beside:
        for _ in range(5):
            assert await beside.ask() == "permit"
        await beside.until("same")
        assert len(candidate.asked) == 1


async def test_real_cedar_beside_real_cedar(tmp_path: Path) -> None:
    now = cedar(cedar_folder(tmp_path / "now", "permit (principal, action, resource);"))
    then = cedar(
        cedar_folder(
            tmp_path / "then",
            "permit (principal, action, resource);",
            '@id("not-bob") forbid (principal == Workload::"bob", action, resource);',
        )
    )
    async with bench(now, then) as beside:
        assert (await beside.ask("app"), await beside.ask("bob")) == ("permit", "permit")
        await beside.until("would_deny")
        (found,) = beside.found
        assert (found.decision.caller.subject, found.verdict.policies) == ("bob", ("not-bob",))


def thrower(_question: Question) -> Verdict:
    raise ZeroDivisionError


def nonsense(_question: Question) -> Any:
    return {"decision": True}


@pytest.mark.parametrize("answer", [thrower, nonsense])
async def test_a_candidate_that_throws_or_answers_nonsense_has_no_effect(answer: Any) -> None:
    async with bench(permitting(), ScriptedPdp(answer)) as beside:
        for index in range(20):
            assert await beside.ask(f"app{index}") == "permit"
        await beside.until("error", 20)
        assert beside.found == []


async def test_a_candidate_that_hangs_costs_a_bounded_queue_and_nothing_else() -> None:
    hanging = ScriptedPdp(gate=asyncio.Event())
    async with bench(permitting(), hanging, max_waiting=10, max_concurrent=2, timeout_ms=60_000) as beside:
        for index in range(100):
            assert await beside.ask(f"app{index}") == "permit"
        await beside.until("dropped", 80)
        assert len(hanging.asked) <= 2
        assert beside.decider.available


async def test_a_candidate_that_hangs_is_given_up_after_its_time() -> None:
    async with bench(permitting(), ScriptedPdp(gate=asyncio.Event()), timeout_ms=1) as beside:
        assert await beside.ask() == "permit"
        await beside.until("error")


@pytest.mark.parametrize("raw", [b"", b"<html>", b'{"decision": "true"}', b'{"decision": 1}'])
async def test_a_remote_candidate_that_answers_garbage_has_no_effect(raw: bytes) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(raw)

    async with PdpServer(script) as server, aiohttp.ClientSession(trust_env=False) as session:
        remote = AuthzenPdp(Authzen.model_validate({"url": server.url}), session)
        async with bench(permitting(), remote, timeout_ms=5000) as beside:
            assert await beside.ask() == "permit"
            await beside.until("error")
            assert beside.found == []


async def test_a_candidate_whose_policies_are_refused_stops_nothing_and_says_so() -> None:
    async with bench(permitting(), PolicyError(["0.cedar:1: no"])) as beside:
        assert await beside.ask() == "permit"
        await beside.until("error")
        assert beside.candidate.warning == "candidate: its policies are refused: 0.cedar:1: no"


async def test_an_outage_of_the_pdp_in_force_is_no_decision_to_compare() -> None:
    def away(_question: Question) -> Verdict:
        raise Refused(Code.PDP_UNAVAILABLE, "away")

    candidate = permitting()
    async with bench(ScriptedPdp(away), candidate) as beside:
        assert await beside.ask() == "PDP_UNAVAILABLE"
        beside.decider.on_decision.clear()
        assert candidate.asked == []
