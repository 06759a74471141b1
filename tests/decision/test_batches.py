"""Many questions in one: AuthZEN's `evaluations`, and what stands in for it where a PDP has none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sidecar.config.tree import Authzen
from sidecar.decision import authzen
from sidecar.decision.authzen import AuthzenPdp
from sidecar.decision.breaker import FAILURES
from sidecar.decision.pdp import AllowAll, PdpAccess, PdpOutage
from sidecar.decision.permit import Denied, Obligations, Question, Verdict
from sidecar.errors import Code, Refused
from sidecar.surface.secret_uri import SecretUri
from sidecar.upstream.pool import exact_session
from tests.decision.making import caller, cedar, cedar_folder, clock, permitting, question
from tests.decision.pdp_server import Exchange, PdpServer

URIS = [SecretUri("openbao", "kv2", "secret", ("app", f"s{number}")) for number in range(5)]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with exact_session() as opened:
        yield opened


def questions(count: int = 5) -> list[Question]:
    return [question(uri=uri) for uri in URIS[:count]]


def pdp(server: PdpServer, session: aiohttp.ClientSession, **options: Any) -> AuthzenPdp:
    return AuthzenPdp(Authzen.model_validate({"url": server.url, "timeout_ms": 2000} | options), session)


async def answers(exchange: Exchange) -> None:
    """A PDP that permits `s0`, `s2` and `s4`, and defaults as the standard says."""

    def verdict(asked: dict[str, Any]) -> dict[str, Any]:
        return {"decision": asked["resource"]["id"].endswith(("s0", "s2", "s4"))}

    body = exchange.json
    if "evaluations" not in body:
        await exchange.answer(verdict(body))
        return
    await exchange.answer({"evaluations": [verdict({**body, **item}) for item in body["evaluations"]]})


def permits(verdicts: list[Verdict | Denied]) -> list[bool]:
    return [isinstance(one, Verdict) and one.permit for one in verdicts]


# -- the question ----------------------------------------------------------------------------------------------------
async def test_what_all_questions_have_in_common_stands_once(session: aiohttp.ClientSession) -> None:
    async with PdpServer(answers) as server:
        client = pdp(server, session, extra_context={"cerbos.includeMeta": True})
        assert permits(await client.evaluate_many(questions())) == [True, False, True, False, True]
    (exchange,) = server.exchanges
    asked = questions()
    assert exchange.target == "/access/v1/evaluations"
    assert exchange.headers["x-request-id"] == "c-1234567"
    assert exchange.json == {
        "subject": asked[0].subject,
        "action": asked[0].action,
        "context": {"cerbos.includeMeta": True, **asked[0].context},
        "options": {"evaluations_semantic": "execute_all"},
        "evaluations": [{"resource": one.resource} for one in asked],
    }


async def test_defaults_and_items_say_together_what_single_questions_would(session: aiohttp.ClientSession) -> None:
    """With the standard's defaults applied, the PDP sees each question as `evaluation` would show it."""
    mixed = [
        question(),
        question(purpose="write", name="kv2.write"),
        question(caller("other")),
        question(uri=URIS[1], attributes={"owner": "app", "team": "blue"}),
    ]
    async with PdpServer(answers) as server:
        client = pdp(server, session)
        await client.evaluate_many(mixed)
        for one in mixed:
            await client.evaluate(one)
    batch, *singles = [exchange.json for exchange in server.exchanges]
    defaults = {name: value for name, value in batch.items() if name not in ("evaluations", "options")}
    assert [{**defaults, **item} for item in batch["evaluations"]] == singles


async def test_long_lists_are_asked_in_several_batches(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authzen, "BATCH", 2)
    async with PdpServer(answers) as server:
        assert permits(await pdp(server, session).evaluate_many(questions())) == [True, False, True, False, True]
    assert [exchange.target.rpartition("/")[2] for exchange in server.exchanges] == [
        *("evaluations", "evaluations"),
        "evaluation",  # one that is left over is no batch
    ]


async def test_nothing_is_asked_for_nothing(session: aiohttp.ClientSession) -> None:
    """An empty `evaluations` would be answered as a single question, by the standard's own rule."""
    async with PdpServer(answers) as server:
        assert await pdp(server, session).evaluate_many([]) == []
        assert server.exchanges == []


# -- the answer ------------------------------------------------------------------------------------------------------
TRUE = {"decision": True}


async def test_an_error_or_an_obligation_inside_is_that_items_own(session: aiohttp.ClientSession) -> None:
    items = [
        {"decision": True, "context": {"obligations": {"max_uses": 3}}},
        {"decision": True, "context": {"error": {"status": 404, "message": "unknown resource"}}},
        {"decision": True, "context": {"obligations": [{"id": "a", "watermark": {}}]}},
        {"decision": False, "context": {"error": {"status": 500}}},
        TRUE,
    ]

    async def script(exchange: Exchange) -> None:
        await exchange.answer({"evaluations": items})

    async with PdpServer(script) as server:
        found = await pdp(server, session).evaluate_many(questions())
    assert permits(found) == [True, False, False, False, True]
    assert isinstance(found[0], Verdict)
    assert found[0].obligations == Obligations(max_uses=3)
    assert isinstance(found[2], Denied)
    assert found[2].code is Code.OBLIGATION_UNMET


async def test_an_item_never_lives_by_anothers_obligations(session: aiohttp.ClientSession) -> None:
    """As Cerbos answers: each item's context repeats the results of all. Read there, `results/0` would be the first
    item's obligations for everyone; so such a PDP is asked one by one."""
    uses = {f"s{number}": number + 1 for number in range(5)}

    async def script(exchange: Exchange) -> None:
        body = exchange.json
        items = body.get("evaluations", [body])
        results = [{"outputs": [{"val": {"max_uses": uses[one["resource"]["id"][-2:]]}}]} for one in items]
        item = {"decision": True, "context": {"cerbos.response": {"results": results}}}
        await exchange.answer({"evaluations": [item] * len(items)} if "evaluations" in body else item)

    async with PdpServer(script) as server:
        client = pdp(server, session, obligations="/cerbos.response/results/0/outputs/0/val")
        for _ in range(2):
            found = await client.evaluate_many(questions())
            assert [one.obligations.max_uses for one in found if isinstance(one, Verdict)] == [1, 2, 3, 4, 5]
        targets = [exchange.target.rpartition("/")[2] for exchange in server.exchanges]
    assert targets == ["evaluations"] + ["evaluation"] * 10


# -- without batches -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("status", ["404 Not Found", "405 Method Not Allowed"])
async def test_a_pdp_without_batches_is_asked_one_by_one_and_not_offered_one_again(
    session: aiohttp.ClientSession, status: str
) -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.target.endswith("evaluations"):
            await exchange.answer(b"", status)
        else:
            await answers(exchange)

    time = clock()
    async with PdpServer(script) as server:
        client = AuthzenPdp(Authzen.model_validate({"url": server.url}), session, time)

        async def offered() -> int:
            before = len(server.exchanges)
            assert permits(await client.evaluate_many(questions())) == [True, False, True, False, True]
            return sum(exchange.target.endswith("evaluations") for exchange in server.exchanges[before:])

        assert [await offered(), await offered()] == [1, 0]
        time.advance(authzen.FRESH_SECONDS + 1)
        assert await offered() == 1


async def test_one_by_one_is_bounded_over_all_batches(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authzen, "SINGLE_AT_ONCE", 2)
    inside = most = 0

    async def script(exchange: Exchange) -> None:
        nonlocal inside, most
        if exchange.target.endswith("evaluations"):
            await exchange.answer(b"", "404 Not Found")
            return
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.01)
        inside -= 1
        await answers(exchange)

    async with PdpServer(script) as server:
        client = pdp(server, session)
        found = await asyncio.gather(*(client.evaluate_many(questions()) for _ in range(3)))
    assert [permits(one) for one in found] == [[True, False, True, False, True]] * 3
    assert most == 2


async def test_one_question_without_an_answer_leaves_all_without(session: aiohttp.ClientSession) -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.target.endswith("evaluations"):
            await exchange.answer(b"", "404 Not Found")
        elif exchange.json["resource"]["id"].endswith("s3"):
            await exchange.answer(b"", "503 Away")
        else:
            await exchange.answer(TRUE)

    async with PdpServer(script) as server:
        with pytest.raises(PdpOutage):
            await pdp(server, session).evaluate_many(questions())


@pytest.mark.parametrize("status", ["400 Bad Request", "500 Broken", "503 Away", "401 No", "302 Found", "201 Created"])
async def test_no_other_status_turns_a_batch_into_single_questions(session: aiohttp.ClientSession, status: str) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer({"evaluations": [TRUE] * 5}, status)

    async with PdpServer(script) as server:
        with pytest.raises(Refused) as refused:
            await pdp(server, session).evaluate_many(questions())
        assert len(server.exchanges) == 1
    assert refused.value.code is Code.PDP_UNAVAILABLE


# -- the embedded PDP, and the way there -----------------------------------------------------------------------------
async def test_cedar_answers_many_as_it_answers_one(tmp_path: Path) -> None:
    folder = cedar_folder(
        tmp_path / "p",
        '@max_uses("3") permit (principal, action, resource in Folder::"secret/app");',
        'forbid (principal, action, resource in Secret::"openbao+kv2://secret/app/s1");',
        '@release("a") permit (principal, action, resource in Secret::"openbao+kv2://secret/app/s2");',
        '@release("b") permit (principal, action, resource in Secret::"openbao+kv2://secret/app/s2");',
    )
    found = await cedar(folder).evaluate_many(questions())
    assert permits(found) == [True, False, False, True, True]
    assert isinstance(found[0], Verdict)
    assert found[0].obligations == Obligations(max_uses=3)
    assert isinstance(found[2], Denied)
    assert found[2].code is Code.OBLIGATION_UNMET


async def test_without_authorization_all_are_permitted() -> None:
    assert permits(await AllowAll().evaluate_many(questions())) == [True] * 5


async def test_a_batch_is_one_call_and_its_outage_counts_as_one() -> None:
    time = clock()

    class Away(AllowAll):
        calls = 0

        async def evaluate_many(self, questions: Any) -> Any:
            self.calls += 1
            raise PdpOutage("away")

    away = Away()
    access = PdpAccess(away, time, 5.0)
    for _ in range(FAILURES + 3):
        with pytest.raises(PdpOutage):
            await access.ask_many(questions())
    assert away.calls == FAILURES
    assert not access.available


async def test_a_client_that_loses_an_answer_gives_none() -> None:
    class Short(AllowAll):
        async def evaluate_many(self, questions: Any) -> Any:
            return [Verdict(True)] * (len(questions) - 1)

    with pytest.raises(Refused) as refused:
        await PdpAccess(Short(), clock(), 5.0).ask_many(questions())
    assert refused.value.code is Code.PDP_UNAVAILABLE


async def test_verdicts_come_with_the_time_of_the_last() -> None:
    time = clock()
    verdicts, answered = await PdpAccess(permitting(max_uses=2), time, 5.0).ask_many(questions())
    assert permits(verdicts) == [True] * 5
    assert answered == time.elapsed()
    assert (await PdpAccess(permitting(), time, 5.0).ask_many([]))[0] == []
