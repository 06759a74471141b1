"""The remote PDP: nothing that comes over the wire is a permit but a permit."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sidecar.config.tree import Authzen
from sidecar.decision.authzen import MAX_ANSWER_BYTES, AuthzenPdp
from sidecar.decision.authzen_answer import AnswerError, JsonPointer, read_answer
from sidecar.decision.pdp import PdpOutage
from sidecar.decision.permit import Denied, Obligations, Verdict
from sidecar.errors import Code, Refused
from sidecar.ops.tracing import TraceParent
from sidecar.upstream.pool import exact_session
from tests.decision.awkward import PLAIN, Answer, bytes_of
from tests.decision.making import question
from tests.decision.pdp_server import Exchange, PdpServer
from tests.support.certificates import Authority

POINTER = JsonPointer("/obligations")
PERMIT: dict[str, Any] = {"decision": True}


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with exact_session() as opened:
        yield opened


def answering(
    body: bytes | dict[str, Any], status: str = "200 OK", **headers: str
) -> Callable[[Exchange], Awaitable[None]]:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(body, status, **headers)

    return script


def pdp(server: PdpServer, session: aiohttp.ClientSession, **options: Any) -> AuthzenPdp:
    return AuthzenPdp(Authzen.model_validate({"url": server.url, "timeout_ms": 2000} | options), session)


async def refused_by(client: AuthzenPdp) -> Refused:
    with pytest.raises(Refused) as refused:
        await client.evaluate(question())
    return refused.value


# -- reading an answer -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("body", "meant"),
    [
        ({"decision": True}, Verdict(True)),
        ({"decision": False}, Verdict(False)),
        ({"decision": True, "context": None}, Verdict(True)),
        ({"decision": True, "more": [1, None, {}]}, Verdict(True)),
        (
            {
                "decision": True,
                "context": {"decision_id": "d-1", "policy_version": "v-7", "obligations": {"max_uses": 3}},
            },
            Verdict(True, Obligations(max_uses=3), "d-1", "v-7"),
        ),
        (
            {"decision": False, "context": {"obligations": [{"id": "a", "step-up": {"acr_values": ["gold"]}}]}},
            Verdict(False, Obligations(step_up_acr_values=("gold",))),
        ),
        ({"decision": False, "context": {"obligations": "nonsense"}}, Verdict(False)),
        ({"decision": True, "context": {"decision_id": 5, "policy_version": "a\nb"}}, Verdict(True)),
        ({"decision": True, "context": {"decision_id": "x" * 257, "policy_version": "\ud800"}}, Verdict(True)),
    ],
)
def test_an_answer_is_read(body: dict[str, Any], meant: Verdict) -> None:
    assert read_answer(json.dumps(body).encode(), POINTER) == meant


NO_ANSWER = [one for one in PLAIN if one["codes"] == ["PDP_UNAVAILABLE"]]


@pytest.mark.parametrize("answer", NO_ANSWER, ids=[one["name"] for one in NO_ANSWER])
def test_what_is_no_answer_is_never_a_decision(answer: Answer) -> None:
    with pytest.raises(AnswerError):
        read_answer(bytes_of(answer), POINTER)


@pytest.mark.parametrize(
    "obligations",
    [
        None,
        "",
        5,
        {"ttl_seconds": True},
        {"max_uses": 1.5},
        {"max_uses": 0},
        {"unknown": 1},
        [{"id": "a", "unknown": {}}],
        [{"id": "a", "usage_grant": {"max_uses": -1}}],
    ],
)
def test_a_permit_with_obligations_that_cannot_be_read_is_a_deny(obligations: object) -> None:
    raw = json.dumps({"decision": True, "context": {"decision_id": "d-1", "obligations": obligations}}).encode()
    with pytest.raises(Denied) as denied:
        read_answer(raw, POINTER)
    assert denied.value.code is Code.OBLIGATION_UNMET
    assert denied.value.verdict.decision_id == "d-1"


@pytest.mark.parametrize("decision", [True, False])
def test_a_decision_beside_an_error_of_the_pdp_is_a_deny(decision: bool) -> None:
    raw = json.dumps({"decision": decision, "context": {"error": {"status": 500, "message": "secret"}}}).encode()
    verdict = read_answer(raw, POINTER)
    assert not verdict.permit
    assert "secret" not in verdict.reason


# -- the pointer -----------------------------------------------------------------------------------------------------
CERBOS = "/cerbos.response/results/0/outputs/0/val"


def cerbos(*outputs: Any) -> bytes:
    context = {"cerbos.response": {"results": [{"outputs": [{"src": "x", "val": output} for output in outputs]}]}}
    return json.dumps({"decision": True, "context": context}).encode()


def test_obligations_are_found_where_the_pointer_says() -> None:
    assert read_answer(cerbos({"max_uses": 3}), JsonPointer(CERBOS)).obligations == Obligations(max_uses=3)
    assert read_answer(cerbos(), JsonPointer(CERBOS)).obligations == Obligations()
    assert read_answer(b'{"decision": true, "context": {}}', JsonPointer(CERBOS)).obligations == Obligations()
    tricky = b'{"decision": true, "context": {"a/b": {"~": {"max_uses": 3}}}}'
    assert read_answer(tricky, JsonPointer("/a~1b/~0")).obligations == Obligations(max_uses=3)
    whole = b'{"decision": true, "context": {"max_uses": 3}}'
    assert read_answer(whole, JsonPointer("")).obligations == Obligations(max_uses=3)


@pytest.mark.parametrize(
    "context",
    [
        {"cerbos.response": "gone"},
        {"cerbos.response": None},
        {"cerbos.response": {"results": [5]}},
        {"cerbos.response": {"results": {"first": {}}}, "x": 1} | {"cerbos.response": {"results": [[]]}},
    ],
)
def test_a_context_of_another_shape_than_the_pointers_is_a_deny(context: dict[str, Any]) -> None:
    with pytest.raises(Denied):
        read_answer(json.dumps({"decision": True, "context": context}).encode(), JsonPointer(CERBOS + "/x"))


@pytest.mark.parametrize("text", ["obligations", "a/b", "/a~", "/a~2", "#/a"])
def test_what_is_no_pointer_does_not_start(text: str) -> None:
    with pytest.raises(ValueError, match="JSON pointer"):
        JsonPointer(text)


def test_an_index_is_written_one_way() -> None:
    document = {"a": [1, 2]}
    assert JsonPointer("/a/1").find(document) == 2
    for token in ("01", "-1", "-", "1.0", "٠"):
        with pytest.raises(ValueError):
            JsonPointer(f"/a/{token}").find(document)


# -- asking ----------------------------------------------------------------------------------------------------------
async def test_the_question_goes_out_as_authzen_says(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("abc.def\n")
    async with PdpServer(answering(PERMIT)) as server:
        client = pdp(
            server,
            session,
            url=f"{server.url}/base/",
            extra_context={"cerbos.includeMeta": True, "correlation_id": "overridden"},
            token_file=token,
        )
        assert await client.evaluate(question()) == Verdict(True)
        token.write_text("rotated")
        await client.evaluate(question())
    first, second = server.exchanges
    asked = question()
    assert first.target == "/base/access/v1/evaluation"
    assert first.json == {
        "subject": asked.subject,
        "action": asked.action,
        "resource": asked.resource,
        "context": {"cerbos.includeMeta": True, **asked.context},
    }
    assert first.headers["content-type"] == "application/json"
    assert first.headers["x-request-id"] == "c-1234567"
    assert "traceparent" not in first.headers
    assert first.headers["authorization"] == "Bearer abc.def"
    assert second.headers["authorization"] == "Bearer rotated"
    assert server.connections == 1


async def test_a_traced_question_carries_its_place_in_the_trace(session: aiohttp.ClientSession) -> None:
    trace = TraceParent("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True)
    async with PdpServer(answering(PERMIT)) as server:
        await pdp(server, session).evaluate(replace(question(), trace=trace))
    (asked,) = server.exchanges
    assert asked.headers["traceparent"] == "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert b"0af7651916cd43dd" not in asked.body


@pytest.mark.parametrize("status", ["401 No", "403 No", "429 Slow", "500 Broken", "502 Bad", "503 Away", "504 Late"])
async def test_a_pdp_that_answers_nobody_is_an_outage(session: aiohttp.ClientSession, status: str) -> None:
    async with PdpServer(answering(PERMIT, status)) as server:
        refused = await refused_by(pdp(server, session))
    assert isinstance(refused, PdpOutage)
    assert refused.code is Code.PDP_UNAVAILABLE
    assert refused.headers["Retry-After"] == "1"


@pytest.mark.parametrize(
    "status",
    ["201 Created", "202 Later", "203 Other", "206 Part", "301 M", "302 M", "307 M", "400 No", "404 No", "413 Big"],
)
async def test_no_other_status_carries_a_decision(session: aiohttp.ClientSession, status: str) -> None:
    async with PdpServer(answering(PERMIT, status, Location="http://localhost:1/")) as server:
        refused = await refused_by(pdp(server, session))
        assert len(server.exchanges) == 1
    assert refused.code is Code.PDP_UNAVAILABLE
    assert not isinstance(refused, PdpOutage)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7.0), ("0", 0.0), ("100000", 60.0), ("soon", 0.0), ("-5", 0.0), ("", 0.0), ("٧", 0.0), ("9" * 100, 0.0)],
)
async def test_retry_after_is_heeded_within_bounds(session: aiohttp.ClientSession, value: str, seconds: float) -> None:
    async with PdpServer(answering(PERMIT, "429 Slow down", Retry_After=value)) as server:
        refused = await refused_by(pdp(server, session))
    assert isinstance(refused, PdpOutage)
    assert refused.retry_after_seconds == seconds


async def test_retry_after_may_be_a_date(session: aiohttp.ClientSession) -> None:
    date = "Wed, 21 Oct 2099 07:28:00 GMT"
    async with PdpServer(answering(PERMIT, "503 Away", Retry_After=date)) as server:
        refused = await refused_by(pdp(server, session))
    assert isinstance(refused, PdpOutage)
    assert refused.retry_after_seconds == 60.0


@pytest.mark.parametrize("content_type", ["text/html", "text/plain", "application/json-seq", ""])
async def test_an_answer_of_another_type_is_no_answer(session: aiohttp.ClientSession, content_type: str) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(PERMIT, content_type=content_type)

    async with PdpServer(script) as server:
        assert (await refused_by(pdp(server, session))).code is Code.PDP_UNAVAILABLE


async def test_a_charset_beside_the_type_is_taken(session: aiohttp.ClientSession) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(PERMIT, content_type="application/json; charset=utf-8")

    async with PdpServer(script) as server:
        assert (await pdp(server, session).evaluate(question())).permit


async def test_an_encoded_answer_is_not_unpacked(session: aiohttp.ClientSession) -> None:
    bomb = gzip.compress(b'{"decision": true, "x": "' + b" " * 50_000_000 + b'"}')
    async with PdpServer(answering(bomb, Content_Encoding="gzip")) as server:
        assert (await refused_by(pdp(server, session))).code is Code.PDP_UNAVAILABLE
        assert server.exchanges[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_answer_that_is_too_large_is_cut_off(session: aiohttp.ClientSession, chunked: bool) -> None:
    padded = b'{"decision": true, "x": "' + b"x" * 3_000_000 + b'"}'

    async def script(exchange: Exchange) -> None:
        if not chunked:
            await exchange.answer(padded)
            return
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        await exchange.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(padded), padded))

    async with PdpServer(script) as server:
        assert (await refused_by(pdp(server, session))).code is Code.PDP_UNAVAILABLE


async def test_an_answer_of_exactly_the_limit_is_read(session: aiohttp.ClientSession) -> None:
    body = b'{"decision": true, "x": "' + b"x" * (MAX_ANSWER_BYTES - 27) + b'"}'
    assert len(body) == MAX_ANSWER_BYTES
    async with PdpServer(answering(body)) as server:
        assert (await pdp(server, session).evaluate(question())).permit
    async with PdpServer(answering(body + b" ")) as server:
        await refused_by(pdp(server, session))


@pytest.mark.parametrize("part", ["head", "body", "nothing"])
async def test_a_slow_drip_ends_in_time(session: aiohttp.ClientSession, part: str) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n"

    async def script(exchange: Exchange) -> None:
        if part == "body":
            await exchange.send(head)
        for byte in b"" if part == "nothing" else head if part == "head" else b'{"decision": true}':
            await exchange.send(bytes([byte]))
            await asyncio.sleep(0.05)
        await asyncio.sleep(30)

    async with PdpServer(script) as server:
        client = pdp(server, session, timeout_ms=200)
        async with asyncio.timeout(5):
            refused = await refused_by(client)
    assert isinstance(refused, PdpOutage)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"decision": true}',
        b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n12\r\n{"decision"',
        b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: x\r\n\r\n{"decision": true}',
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b'{"decision": true}',
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    ],
    ids=range(8),
)
async def test_a_broken_exchange_is_an_outage_and_never_an_exception(
    session: aiohttp.ClientSession, raw: bytes
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(raw)
        exchange.writer.close()

    async with PdpServer(script) as server:
        assert isinstance(await refused_by(pdp(server, session)), PdpOutage)


async def test_a_reset_connection_is_an_outage(session: aiohttp.ClientSession) -> None:
    async def script(exchange: Exchange) -> None:
        sock = exchange.writer.get_extra_info("socket")
        sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER: close with a reset
        exchange.writer.transport.abort()

    async with PdpServer(script) as server:
        assert isinstance(await refused_by(pdp(server, session)), PdpOutage)


async def test_nobody_listening_is_an_outage(session: aiohttp.ClientSession) -> None:
    async with PdpServer(answering(PERMIT)) as server:
        client = pdp(server, session)
    assert isinstance(await refused_by(client), PdpOutage)


async def test_a_kept_connection_that_died_is_no_reason_to_refuse(session: aiohttp.ClientSession) -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.number == 2:
            exchange.writer.close()  # after the question came in on the kept connection
        else:
            await exchange.answer(PERMIT)

    async with PdpServer(script) as server:
        client = pdp(server, session)
        await client.evaluate(question())
        assert (await client.evaluate(question())).permit
        assert len(server.exchanges) == 3


@pytest.mark.parametrize("content", [b"", b"two words", b"line\nbreak", b"\xff", b"x" * 20_000, None])
async def test_without_a_usable_token_nothing_is_asked(
    session: aiohttp.ClientSession, tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    async with PdpServer(answering(PERMIT)) as server:
        refused = await refused_by(pdp(server, session, token_file=tmp_path / "token"))
        assert not server.exchanges
    assert isinstance(refused, PdpOutage)
    assert "two words" not in refused.detail


# -- TLS -------------------------------------------------------------------------------------------------------------
def tls_server(folder: Path, ca: Authority, *, asks_for_certificates: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*ca.issue_server().write(folder, "server"))
    if asks_for_certificates:
        context.load_verify_locations(ca.write(folder, "client-ca"))
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def test_the_pdp_is_asked_over_tls_with_a_client_certificate(
    session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    ca = Authority()
    certificate, key = ca.issue("sidecar").write(tmp_path, "sidecar")
    async with PdpServer(answering(PERMIT), tls_server(tmp_path, ca, asks_for_certificates=True)) as server:
        options = {"ca_file": ca.write(tmp_path), "client_cert_file": certificate, "client_key_file": key}
        client = pdp(server, session, **options)
        assert (await client.evaluate(question())).permit
        await client.reload()
        assert (await client.evaluate(question())).permit
        without = pdp(server, session, ca_file=options["ca_file"])
        assert isinstance(await refused_by(without), PdpOutage)


async def test_a_pdp_with_another_certificate_is_not_asked(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    async with PdpServer(answering(PERMIT), tls_server(tmp_path, Authority("Other CA"))) as server:
        ours = Authority().write(tmp_path, "ours")
        assert isinstance(await refused_by(pdp(server, session, ca_file=ours)), PdpOutage)
        assert isinstance(await refused_by(pdp(server, session)), PdpOutage)
        assert not server.exchanges


def test_what_cannot_be_used_does_not_start(tmp_path: Path) -> None:
    missing = {"url": "https://localhost", "ca_file": tmp_path / "missing"}
    for broken, error in [({}, ValueError), (missing, OSError), ({"url": "http://x", "obligations": "x"}, ValueError)]:
        with pytest.raises(error):
            AuthzenPdp(Authzen.model_validate(broken), session=None)  # type: ignore[arg-type] # not reached
