"""One request's trace: from the caller through the sidecar to OpenBao and the collector, and to the audit's record."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.collector import Collector
from tests.support.tokens import Issuer

pytestmark = pytest.mark.real

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PATH = "/v1/secret/data/app/db"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def traced(
    tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer, collector: Collector
) -> Iterator[SidecarProcess]:
    """A sidecar that sends its spans, with unbound tokens taken."""
    overrides = {
        "identity": {"binding": "preferred"},
        "anti_replay": {"unbound_token": "off"},
        "ops": {"otlp_endpoint": collector.endpoint},
    }
    openbao.root().write("sys/config/auditing/request-headers/traceparent", hmac=False)
    with SidecarProcess(tmp_path_factory.mktemp("traced"), openbao, issuer, overrides) as process:
        yield process


def of_trace(spans: list[Span], trace: str) -> dict[str, Span]:
    """The spans of one trace by name."""
    return {span.name: span for span in spans if span.trace_id.hex() == trace}


def told(openbao: OpenBao, mark: int) -> list[str]:
    """The trace contexts that OpenBao saw since a mark, by its own audit."""
    headers = [request["headers"] for request in openbao.requests(mark) if request.get("headers")]
    return [value for each in headers for value in each.get("traceparent", [])]


def test_a_request_is_one_trace_from_the_caller_to_openbao(
    traced: SidecarProcess, collector: Collector, openbao: OpenBao
) -> None:
    """Request, PEP, PDP, upstream and audit, each below the other as they ran; OpenBao is told the upstream's."""
    mark = openbao.mark()
    answer = traced.get(PATH, traced.issuer.token(sub="endless"), traceparent=f"00-{TRACE}-{PARENT}-01")
    assert answer.status_code == 200
    names = {"sidecar.request", "sidecar.pep", "sidecar.pdp", "sidecar.upstream", "sidecar.audit"}
    spans = of_trace(collector.wait_for(lambda all_: names <= of_trace(all_, TRACE).keys()), TRACE)
    request = spans["sidecar.request"]
    assert request.parent_span_id.hex() == PARENT
    for name in names - {"sidecar.request"}:
        assert spans[name].parent_span_id == request.span_id, name
        assert request.start_time_unix_nano <= spans[name].start_time_unix_nano, name
        assert spans[name].end_time_unix_nano <= request.end_time_unix_nano, name
    assert told(openbao, mark) == [f"00-{TRACE}-{spans['sidecar.upstream'].span_id.hex()}-01"]
    record = traced.records()[-1]
    assert (record["trace_id"], record["span_id"]) == (TRACE, request.span_id.hex())
    assert collector.paths[0] == "/v1/traces"


def test_a_denials_record_is_found_by_the_correlation_id_the_client_was_shown(
    traced: SidecarProcess, collector: Collector
) -> None:
    """Body, header, record and span name the same one."""
    answer = traced.get("/v1/secret/data/app/db", traced.issuer.token(sub="nobody-knows-me"))
    assert answer.status_code == 403
    shown = answer.json()["correlation_id"]
    assert answer.headers["X-Correlation-ID"] == shown
    found = [record for record in traced.records() if record.get("correlation_id") == shown]
    assert [(record["event"], record["code"]) for record in found] == [("SECRET_DENY", "POLICY_DENIED")]
    trace = found[0]["trace_id"]
    assert re.fullmatch(r"[0-9a-f]{32}", trace)
    spans = of_trace(collector.wait_for(lambda all_: "sidecar.request" in of_trace(all_, trace)), trace)
    attributes = {each.key: each.value.string_value for each in spans["sidecar.request"].attributes}
    assert attributes["sidecar.correlation_id"] == shown
    assert attributes["sidecar.code"] == "POLICY_DENIED"
    assert spans["sidecar.request"].status.code == Status.STATUS_CODE_UNSET, "a denial is no fault"


@pytest.mark.parametrize("given", ["short", "has space in it", "x" * 65, "-starts-wrong", 'quo"te-quote'])
def test_a_correlation_id_that_is_not_well_formed_is_replaced(traced: SidecarProcess, given: str) -> None:
    """What stands in logs and records is one of two shapes."""
    answer = traced.get(PATH, traced.issuer.token(sub="endless"), **{"X-Correlation-ID": given})
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Correlation-ID"])


def test_a_well_formed_correlation_id_is_kept(traced: SidecarProcess) -> None:
    """The caller's own logs name it."""
    answer = traced.get(PATH, traced.issuer.token(sub="endless"), **{"X-Correlation-ID": "order-4711.a_b"})
    assert answer.headers["X-Correlation-ID"] == "order-4711.a_b"
    assert traced.records()[-1]["correlation_id"] == "order-4711.a_b"


def test_spans_name_no_path_no_subject_and_no_token(traced: SidecarProcess, collector: Collector) -> None:
    """What a collector keeps is read by more people than the audit is."""
    token = traced.issuer.token(sub="canary-subject")
    trace = "1" * 32
    answer = traced.get(
        "/v1/secret/data/canary-path?version=1", token, traceparent=f"00-{trace}-{PARENT}-01", canary="canary-header"
    )
    assert answer.status_code == 403
    collector.wait_for(lambda all_: "sidecar.request" in of_trace(all_, trace))
    everything = b"".join(collector.raw)
    for canary in (b"canary", token.encode(), token.split(".")[1].encode(), traced.openbao.root_token.encode()):
        assert canary not in everything


def test_a_collector_that_is_away_costs_nobody_an_answer(tmp_path: Path, openbao: OpenBao, issuer: Issuer) -> None:
    """Nor does it hold up the end of the process."""
    overrides = {
        "identity": {"binding": "preferred"},
        "anti_replay": {"unbound_token": "off"},
        "ops": {"otlp_endpoint": "http://127.0.0.1:1"},
    }
    with SidecarProcess(tmp_path, openbao, issuer, overrides) as process:
        for _ in range(5):
            assert process.get(PATH, issuer.token(sub="endless")).status_code == 200
        assert process.terminate() == 0


def test_without_a_collector_openbao_gets_the_callers_context(
    unbound_sidecar: SidecarProcess, openbao: OpenBao
) -> None:
    """A trace that others collect is not broken by a sidecar that collects nothing."""
    openbao.root().write("sys/config/auditing/request-headers/traceparent", hmac=False)
    mark = openbao.mark()
    answer = requests.get(
        f"{unbound_sidecar.url}{PATH}",
        headers={"X-Vault-Token": unbound_sidecar.issuer.token(), "traceparent": f"00-{TRACE}-{PARENT}-01"},
        timeout=10,
    )
    assert answer.status_code == 200
    assert told(openbao, mark) == [f"00-{TRACE}-{PARENT}-01"]
    assert unbound_sidecar.records()[-1]["trace_id"] == TRACE
