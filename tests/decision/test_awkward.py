"""The recorded answers again, each among others in one `evaluations`; to one question they are tests/attack's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from sidecar.config.tree import Authzen
from sidecar.decision.authzen import AuthzenPdp
from sidecar.decision.decide import Decider
from sidecar.decision.pdp import PdpAccess
from sidecar.decision.permit import Verdict
from sidecar.errors import Code, Refused
from sidecar.surface.secret_uri import SecretUri
from sidecar.upstream.pool import exact_session
from tests.decision.awkward import OF_ONE, PERMIT, Answer, give, permitted_beside
from tests.decision.making import caller, clock, config, operation, question
from tests.decision.pdp_server import Exchange, PdpServer

TIMEOUT_MS = 400
REMOTE = config(authorization={"pdp": "authzen", "authzen": {"timeout_ms": TIMEOUT_MS}})


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with exact_session() as opened:
        yield opened


class Giving:
    """A PDP that answers so, whatever is asked; a redirect of its would lead to a permit."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def __call__(self, exchange: Exchange) -> None:
        await give(PERMIT if exchange.target == "/permit" else self._answer, exchange)


def pdp(server: PdpServer, session: aiohttp.ClientSession) -> AuthzenPdp:
    return AuthzenPdp(Authzen.model_validate({"url": server.url, "timeout_ms": TIMEOUT_MS}), session)


async def test_the_server_of_these_tests_can_permit(session: aiohttp.ClientSession) -> None:
    """Else every refusal below would mean nothing."""
    async with PdpServer(Giving(PERMIT)) as server:
        client = pdp(server, session)
        permit = await Decider(REMOTE, client, clock()).permit(operation(), caller(), correlation_id="c-1234567")
        assert permit.verdict.permit
        answers, _ = await PdpAccess(client, clock(), TIMEOUT_MS / 1000).ask_many([question()] * 3)
        assert [isinstance(one, Verdict) and one.permit for one in answers] == [True] * 3


@pytest.mark.parametrize("answer", OF_ONE, ids=[one["name"] for one in OF_ONE])
async def test_an_awkward_answer_among_many_permits_none_that_it_should_not(
    answer: Answer, session: aiohttp.ClientSession
) -> None:
    questions = [question(uri=SecretUri("openbao", "kv2", "secret", ("app", name))) for name in "abc"]
    permitted: set[int] = set()
    async with PdpServer(Giving(answer)) as server:
        try:
            answers, _ = await PdpAccess(pdp(server, session), clock(), TIMEOUT_MS / 1000).ask_many(questions)
        except Refused as refused:
            assert refused.code is Code.PDP_UNAVAILABLE  # noqa: PT017 - an answer of its own for each is right too
        else:
            permitted = {index for index, one in enumerate(answers) if isinstance(one, Verdict) and one.permit}
        assert server.exchanges, "it was never asked"
    assert permitted == permitted_beside(answer)
