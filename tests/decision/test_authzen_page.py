"""docs/reference/authzen-request.md says what is sent."""

from __future__ import annotations

import json
import re
from pathlib import Path

import aiohttp
import pytest

from sidecar.config.tree import Authzen
from sidecar.decision.authzen import AuthzenPdp
from sidecar.decision.permit import Question
from sidecar.surface.secret_uri import SecretUri
from tests.decision.making import caller, question
from tests.decision.pdp_server import Exchange, PdpServer

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "authzen-request.md"
KEY = SecretUri("openbao", "kv2", "secret", ("app", "db"), "password", 3)


def full() -> Question:
    """A question with everything in it."""
    who = caller(
        amr=("pwd",),
        act={"sub": "robot"},
        acr="gold",
        auth_time=1_900_000_000,
        workflow_run_id="w-1",
        node_id="n-1",
        system_id="s-1",
    )
    of_metadata = {"owner": "app", "created_by": "ci", "created_at": "2026-01-01T00:00:00Z", "team": "blue"}
    return question(who, KEY, attributes=of_metadata)


async def sent(asked: Question, **options: str) -> Exchange:
    async def script(exchange: Exchange) -> None:
        await exchange.answer({"decision": True})

    async with aiohttp.ClientSession() as session, PdpServer(script) as server:
        await AuthzenPdp(Authzen.model_validate({"url": server.url, "timeout_ms": 2000} | options), session).evaluate(
            asked
        )
        return server.exchanges[0]


async def test_the_page_shows_the_request_as_it_is_sent() -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exchange = await sent(full())
    assert exchange.json == json.loads(shown)
    assert exchange.target == "/access/v1/evaluation"
    assert exchange.headers["x-request-id"] == "c-1234567"


@pytest.mark.parametrize(
    ("subject", "written"),
    [
        ("app", "app"),
        ("system:serviceaccount:a:b", "system%3Aserviceaccount%3Aa%3Ab"),
        ("system%3Aserviceaccount", "system%253Aserviceaccount"),
        ("a@b c\u2003d", "a%40b%20c%E2%80%83d"),
    ],
)
async def test_encoded_ids_separate_nothing_and_stay_different(subject: str, written: str) -> None:
    exchange = await sent(question(caller(subject), KEY), ids="encoded")
    assert exchange.json["subject"]["id"] == written
    assert exchange.json["resource"]["id"] == "openbao+kv2%3A//secret/app/db%23password?version=3"
    assert exchange.json["resource"]["properties"]["path"] == "app/db"
