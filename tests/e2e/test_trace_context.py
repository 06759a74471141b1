"""What a caller says of its trace reaches OpenBao, the PDP and the record, or nothing of it does.

With a collector and without, through a whole sidecar: a real OpenBao whose audit keeps the headers, a PDP that keeps
what it is asked. W3C Trace Context; `X-Correlation-ID` is the contract's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import pytest

from tests.e2e.leaks import Answer, ask
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.canaries import Canaries
from tests.support.collector import Collector
from tests.support.scripted_pdp import DENY, ScriptedAuthzen
from tests.support.tokens import Issuer

pytestmark = pytest.mark.real

TRACE, PARENT = "c0ffee5c0ffee5c0ffee5c0ffee5c0ff", "5ca1ab1e5ca1ab1e"
GOOD: Final = f"00-{TRACE}-{PARENT}-01"
PATH: Final = "/v1/secret/data/trace/one"
URI: Final = "openbao+kv2://secret/trace"
KEPT: Final = ("traceparent", "tracestate", "baggage", "x-correlation-id", "x-request-id")
_well_formed: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[01]").fullmatch
_made: Final = re.compile(r"[0-9a-f]{32}").fullmatch


@dataclass
class World:
    """One sidecar, and all that a request may reach."""

    process: SidecarProcess
    openbao: OpenBao
    pdp: ScriptedAuthzen
    collector: Collector | None
    began: int
    canaries: Canaries = field(default_factory=Canaries)

    def ask(
        self, method: str = "GET", target: str = PATH, body: Any = None, sub: str = "app", **headers: str
    ) -> Answer:
        given = {"X-Vault-Token": self.process.issuer.token(sub=sub)}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        raw = b"" if body is None else json.dumps(body).encode()
        return ask(self.process.port, method, target, raw, given)

    def told(self, mark: int, name: str = "traceparent") -> list[list[str]]:
        """This header of each request that OpenBao took since a mark, by its own audit."""
        return [(request.get("headers") or {}).get(name, []) for request in self.openbao.requests(mark)]

    def records(self, answer: Answer) -> list[dict[str, Any]]:
        """Those that have the correlation id that the client was shown."""
        shown = re.search(rb"(?im)^x-correlation-id: *(\S+)", answer.head)
        assert shown, answer
        found = [each for each in self.process.records() if each.get("correlation_id") == shown[1].decode()]
        assert found, answer
        return found


@pytest.fixture(scope="module", params=[False, True], ids=["no-collector", "collector"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer
) -> Iterator[World]:
    for name in KEPT:
        openbao.root().write(f"sys/config/auditing/request-headers/{name}", hmac=False)
    openbao.put("trace/one", {"k": "v"})
    with ScriptedAuthzen() as pdp, Collector() as collector:
        pdp.by_subject["denied"] = DENY
        overrides = {
            "identity": {"binding": "preferred"},
            "anti_replay": {"unbound_token": "off"},
            "authorization": {
                "pdp": "authzen",
                "attributes": {"fetch": "off"},  # read for whoever asks next too: of no one's trace
                "authzen": {"url": pdp.url, "timeout_ms": 5000},
            },
            "ops": {"otlp_endpoint": collector.endpoint if request.param else ""},
        }
        with SidecarProcess(tmp_path_factory.mktemp("context"), openbao, issuer, overrides) as process:
            yield World(process, openbao, pdp, collector if request.param else None, openbao.mark())


def test_a_trace_goes_on_to_whatever_is_asked(world: World) -> None:
    """Each request to OpenBao and each question to the PDP, single or many, is in it; so is each record."""
    two = [{"op": "set", "uri": f"{URI}/bulk-{number}#k", "value": 1} for number in "12"]
    for method, target, body in (
        ("GET", PATH, None),
        ("POST", PATH, {"data": {"k": "w"}}),
        ("POST", "/v1/secret/metadata/trace/one", {"custom_metadata": {"note": "n"}}),
        ("LIST", "/v1/secret/metadata/trace", None),
        ("GET", f"/api/secrets/value?uri={quote(URI)}/one", None),
        ("POST", "/api/secrets", {"uri": f"{URI}/one#k", "value": "x"}),
        ("POST", "/api/secrets/copy", {"fromUri": f"{URI}/one", "toUri": f"{URI}/copy", "overwrite": True}),
        ("POST", "/api/secrets/bulk", {"operations": two}),
        ("GET", f"/api/secrets/search?q=one&prefix={quote(URI)}/", None),
        ("GET", f"/api/secrets/metadata?prefix={quote(URI)}/", None),
    ):
        mark, asked = world.openbao.mark(), len(world.pdp.heads)
        answer = world.ask(method, target, body, traceparent=GOOD)
        assert answer.status in (200, 201, 204), (target, answer)
        records = world.records(answer)
        assert {each["trace_id"] for each in records} == {TRACE}, target
        to_openbao, to_pdp = world.told(mark), world.pdp.heads[asked:]
        assert to_openbao, target
        assert to_pdp, target
        positions = [each["traceparent"] for each in to_pdp]
        for header in to_openbao:
            assert len(header) == 1, (target, to_openbao)
            positions += header
        for position in positions:
            assert _well_formed(position)
            assert position.split("-")[1] == TRACE, target
            assert (position == GOOD) is (world.collector is None), "the sidecar's own span is what it is handed"
        assert {each["x-request-id"] for each in to_pdp} == {each["correlation_id"] for each in records}, target


@pytest.mark.parametrize("world", [True], ids=["collector"], indirect=True, scope="module")
def test_the_spans_of_a_request_of_the_secrets_api_hang_together(world: World) -> None:
    """As those of the Vault API do."""
    assert world.collector is not None
    trace = "d" * 32
    answer = world.ask("GET", f"/api/secrets/value?uri={quote(URI)}/one", traceparent=f"00-{trace}-{PARENT}-01")
    assert answer.status == 200
    names = {"sidecar.request", "sidecar.pep", "sidecar.pdp", "sidecar.upstream", "sidecar.audit"}

    def own(all_: list[Any]) -> dict[str, Any]:
        return {span.name: span for span in all_ if span.trace_id.hex() == trace}

    spans = own(world.collector.wait_for(lambda all_: names <= own(all_).keys()))
    request, pep = spans["sidecar.request"], spans["sidecar.pep"]
    assert {spans[name].parent_span_id for name in names - {"sidecar.request"}} == {request.span_id}
    assert pep.end_time_unix_nano > pep.start_time_unix_nano
    assert pep.start_time_unix_nano <= spans["sidecar.pdp"].start_time_unix_nano
    assert pep.end_time_unix_nano >= spans["sidecar.pdp"].end_time_unix_nano


def test_what_is_no_place_in_a_trace_goes_nowhere_and_another_is_made(world: World) -> None:
    """OpenBao, PDP and record agree on the one that was made; of what came nothing is kept, not in the log either."""
    plant = world.canaries.plant
    tried: list[str] = []
    for given, refused in (
        ("", False),
        ("00", False),
        (f"00-{plant('a trace')}-{PARENT}-01", False),
        (f"00-{TRACE.upper()}-{PARENT}-01", False),
        (f"00-{TRACE}-{PARENT.upper()}-01", False),
        (f"00-{'0' * 32}-{PARENT}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"ff-{TRACE}-{PARENT}-01", False),
        (f"00-{TRACE}-{PARENT}-01-{plant('a trace')}", False),
        (f"00-{TRACE}-{PARENT}-1", False),
        (f"{GOOD}, {GOOD}", False),
        (f"00-{plant('a trace') * 400}", False),
        (f"00-{TRACE}-{PARENT}-0١", True),
        (f"00-{TRACE}-{PARENT}-01\t{plant('a trace')}", True),
        (f"00-{TRACE}-{PARENT}-01\x00{plant('a trace')}", True),
        (f"{GOOD}\n{plant('a trace')}: x", True),
        (f"{GOOD}\r{plant('a trace')}: x", True),
        (f"{GOOD}\r\n {plant('a trace')}", True),
        (f"{GOOD}\r\ntraceparent: {GOOD}", True),
        (f"{GOOD}\r\nTraceParent: 00-{plant('a trace')}", True),
    ):
        mark, asked = world.openbao.mark(), len(world.pdp.heads)
        answer = world.ask(traceparent=given.encode("utf-8").decode("latin-1"))
        assert answer.status == (400 if refused else 200), (given, answer)
        records = world.records(answer)
        to_pdp, to_openbao = world.pdp.heads[asked:], world.told(mark)
        if refused:
            assert not to_pdp
            assert not to_openbao
            assert [(each["code"], each["trace_id"]) for each in records] == [("MALFORMED_REQUEST", None)]
            continue
        positions = [each["traceparent"] for each in to_pdp] + [each for header in to_openbao for each in header]
        assert len(positions) == 2, given
        assert all(map(_well_formed, positions)), given
        traces = {position.split("-")[1] for position in positions} | {each["trace_id"] for each in records}
        assert len(traces) == 1, (given, traces)
        tried += traces
        assert traces != {TRACE}, given
    assert len(set(tried)) == len(tried)
    nowhere(world)


def test_of_what_else_a_caller_says_nothing_goes_on(world: World) -> None:
    """`tracestate`, `baggage`, an id of its own for the request; a later version's further fields."""
    plant = world.canaries.plant
    for headers in (
        {"tracestate": f"congo={plant('a trace state')}"},
        {"tracestate": plant("a trace state") * 400, "traceparent": GOOD},
        {"tracestate": f"a=1\r\ntracestate: {plant('a trace state')}=1", "traceparent": GOOD},
        {"baggage": f"user={plant('baggage')}", "X-Request-ID": plant("a request id"), "b3": plant("another trace")},
        {"traceparent": f"cc-{TRACE}-{PARENT}-01-{plant('a trace')}"},
    ):
        mark, asked = world.openbao.mark(), len(world.pdp.heads)
        answer = world.ask(**headers)
        assert answer.status == 200, (headers, answer)
        assert [header for name in KEPT[1:] for header in world.told(mark, name) if header] == []
        assert {"tracestate", "baggage", "b3"} & world.pdp.heads[asked].keys() == set()
    nowhere(world)


def test_what_is_no_correlation_id_goes_nowhere_and_another_is_made(world: World) -> None:
    """The one that was made is what the client is shown, the PDP gets and the record has, permitted or denied."""
    plant = world.canaries.plant
    for given, refused in (
        ("", False),
        ("short", False),
        (plant("an id") * 5, False),
        (plant("an id") * 400, False),
        (f"{plant('an id')} {plant('an id')}", False),
        (f"-{plant('an id')}", False),
        (f'{plant("an id")}"}}', False),
        (f"hvs.{plant('a token')}", False),
        (f"s.{plant('a token')}", False),
        (f"{plant('an id')}é", True),
        (f"{plant('an id')}\x1b[31m", True),
        (f"{plant('an id')}\r\n {plant('an id')}", True),
        (f"{plant('an id')}\r\nX-Correlation-ID: {plant('an id')}", True),
    ):
        for sub in ("app", "denied"):
            asked = len(world.pdp.heads)
            answer = world.ask(sub=sub, **{"X-Correlation-ID": given.encode("utf-8").decode("latin-1")})
            assert answer.status == (400 if refused else 403 if sub == "denied" else 200), (given, answer)
            records = world.records(answer)
            ids = {each["correlation_id"] for each in records}
            ids |= {each["x-request-id"] for each in world.pdp.heads[asked:]}
            if answer.status != 200:
                ids.add(json.loads(answer.body)["correlation_id"])
            assert len(ids) == 1, given
            assert _made(ids.pop()), given
    kept = world.ask(sub="denied", **{"X-Correlation-ID": "Order-4711.a_b"})
    assert json.loads(kept.body)["correlation_id"] == "Order-4711.a_b"
    assert [each["code"] for each in world.records(kept)] == ["POLICY_DENIED"]
    nowhere(world)


def nowhere(world: World) -> None:
    """Nothing that was planted is anywhere but where the caller sent it."""
    process = world.process
    places = {
        "the log": process.log.read_bytes(),
        "the records": json.dumps(process.records()).encode(),
        "the spool": process.spool_bytes(),
        "the metrics": process.metrics().encode(),
        "the PDP": json.dumps([world.pdp.heads, world.pdp.asked]).encode(),
        "OpenBao": b"".join(json.dumps(entry).encode() for entry in world.openbao.audit(world.began)),
        "OTLP": b"".join(world.collector.raw) if world.collector is not None else b"",
    }
    assert not world.canaries.found_in(places)
