"""The PDP's own metadata: it may say which path to ask, and nothing that widens trust."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from sidecar.config.tree import Authzen
from sidecar.decision.authzen import AuthzenPdp
from sidecar.decision.authzen_metadata import metadata_url
from sidecar.upstream.pool import exact_session
from tests.decision.making import question
from tests.decision.pdp_server import Exchange, PdpServer

DEFAULTS = ["/access/v1/evaluation", "/access/v1/evaluations"]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with exact_session() as opened:
        yield opened


class Pdp(PdpServer):
    """Permits everything at every path, and answers for metadata with what a test puts in `metadata`."""

    def __init__(self) -> None:
        super().__init__(self.answer)
        self.metadata: Any = None
        self.status = "200 OK"

    async def answer(self, exchange: Exchange) -> None:
        if exchange.body:
            many = exchange.json.get("evaluations")
            one = {"decision": True}
            await exchange.answer(one if many is None else {"evaluations": [one] * len(many)})
        elif self.metadata is None:
            await exchange.answer(b"", "404 Not Found")
        else:
            raw = self.metadata if isinstance(self.metadata, bytes) else json.dumps(self.metadata).encode()
            await exchange.answer(raw, self.status)

    def standing(self, path: str = "", **changes: Any) -> dict[str, Any]:
        base = self.url + path
        return {
            "policy_decision_point": base,
            "access_evaluation_endpoint": f"{base}/v9/one",
            "access_evaluations_endpoint": f"{base}/v9/many",
        } | changes

    async def asked_at(self, session: aiohttp.ClientSession, path: str = "", **options: Any) -> list[str]:
        """Where a client that has read the metadata puts a question, and two."""
        client = AuthzenPdp(Authzen.model_validate({"url": self.url + path, "timeout_ms": 2000} | options), session)
        await client.discover()
        mark = len(self.exchanges)
        assert (await client.evaluate(question())).permit
        await client.evaluate_many([question(), question()])
        return [exchange.target for exchange in self.exchanges[mark:]]


@pytest.mark.parametrize(
    ("url", "metadata"),
    [
        ("https://pdp.example", "https://pdp.example/.well-known/authzen-configuration"),
        ("https://pdp.example/", "https://pdp.example/.well-known/authzen-configuration"),
        ("https://pdp.example:8443/tenant/a/", "https://pdp.example:8443/.well-known/authzen-configuration/tenant/a"),
    ],
)
def test_metadata_is_between_host_and_path(url: str, metadata: str) -> None:
    assert metadata_url(url) == metadata


@pytest.mark.parametrize("path", ["", "/tenant/a"])
async def test_the_endpoints_of_the_metadata_are_asked(session: aiohttp.ClientSession, path: str) -> None:
    async with Pdp() as server:
        server.metadata = server.standing(path)
        assert await server.asked_at(session, path) == [f"{path}/v9/one", f"{path}/v9/many"]
        found = server.exchanges[0]
    assert found.target == f"/.well-known/authzen-configuration{path}"
    assert "authorization" not in found.headers


async def test_the_token_is_not_sent_for_what_is_public(session: aiohttp.ClientSession, tmp_path: Any) -> None:
    (tmp_path / "token").write_text("abc")
    async with Pdp() as server:
        server.metadata = server.standing()
        await server.asked_at(session, token_file=tmp_path / "token")
        metadata, question_, _ = server.exchanges
    assert "authorization" not in metadata.headers
    assert question_.headers["authorization"] == "Bearer abc"


async def test_a_configured_path_comes_before_the_metadatas(session: aiohttp.ClientSession) -> None:
    async with Pdp() as server:
        server.metadata = server.standing()
        assert await server.asked_at(session, evaluation_path="/mine") == ["/mine", "/v9/many"]
        mark = len(server.exchanges)
        both = {"evaluation_path": "/mine", "evaluations_path": "/all"}
        assert await server.asked_at(session, **both) == ["/mine", "/all"]
        assert all(exchange.body for exchange in server.exchanges[mark:])  # nothing was left to look up


async def test_a_pdp_that_names_no_batches_gets_none(session: aiohttp.ClientSession) -> None:
    async with Pdp() as server:
        server.metadata = server.standing()
        del server.metadata["access_evaluations_endpoint"]
        assert await server.asked_at(session) == ["/v9/one"] * 3


@pytest.mark.parametrize(
    "changes",
    [
        {"policy_decision_point": "https://evil.example"},
        {"policy_decision_point": None},
        {"policy_decision_point": ["x"]},
        {"access_evaluation_endpoint": None},
        {"access_evaluation_endpoint": "/v9/one"},
        {"access_evaluation_endpoint": "https://evil.example/v9/one"},
        {"access_evaluation_endpoint": "http://localhost:1/v9/one"},
        {"access_evaluation_endpoint": "http://localhost@evil.example/"},
        {"access_evaluation_endpoint": "http://user:pw@localhost/"},
        {"access_evaluation_endpoint": "file:///etc/passwd"},
        {"access_evaluation_endpoint": "http://127.0.0.1:PORT/v9/one"},
        {"access_evaluation_endpoint": "https://localhost:PORT/v9/one"},
        {"access_evaluation_endpoint": "http://localhost:PORT/v9/one#x"},
        {"access_evaluation_endpoint": "http://localhost:PORT\\@evil.example/"},
        {"access_evaluation_endpoint": "http://localhost:PORT/a b"},
        {"access_evaluation_endpoint": "http://localhost:PORT/\r\nX: y"},
        {"access_evaluation_endpoint": "http://localhost:99999/"},
        {"access_evaluation_endpoint": "http://[::1/"},
        {"access_evaluation_endpoint": "http://localhost:PORT/" + "x" * 3000},
        {"access_evaluation_endpoint": 5},
        {"access_evaluations_endpoint": "https://evil.example/v9/many"},
    ],
    ids=str,
)
async def test_metadata_that_would_widen_trust_is_not_used_at_all(
    session: aiohttp.ClientSession, changes: dict[str, Any]
) -> None:
    async with Pdp() as server:
        port = str(server.port)
        told = {
            name: value.replace("PORT", port) if isinstance(value, str) else value for name, value in changes.items()
        }
        server.metadata = server.standing(**told)
        assert await server.asked_at(session) == DEFAULTS


@pytest.mark.parametrize(
    ("metadata", "status"),
    [
        (b"<html>", "200 OK"),
        (b"[]", "200 OK"),
        (b'{"policy_decision_point": "a", "policy_decision_point": "b"}', "200 OK"),
        (b'{"x": "' + b"x" * 100_000 + b'"}', "200 OK"),
        (b"{}", "302 Found"),
        (b"{}", "501 Unsupported method"),
        (b"{}", "401 Unauthorized"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_without_usable_metadata_the_defaults_are_asked(
    session: aiohttp.ClientSession, metadata: bytes, status: str
) -> None:
    async with Pdp() as server:
        server.metadata, server.status = metadata, status
        assert await server.asked_at(session) == DEFAULTS


async def test_metadata_is_read_again_and_an_outage_forgets_nothing(session: aiohttp.ClientSession) -> None:
    async with Pdp() as server:
        server.metadata = server.standing()
        client = AuthzenPdp(Authzen.model_validate({"url": server.url}), session)

        async def place() -> str:
            await client.evaluate(question())
            return server.exchanges[-1].target

        assert await place() == "/access/v1/evaluation"
        await client.reload()
        assert await place() == "/v9/one"
        server.status = "503 Away"
        assert not await client.discover()
        assert await place() == "/v9/one"
        server.metadata = None  # 404: it has none any more
        assert await client.discover()
        assert await place() == "/access/v1/evaluation"
