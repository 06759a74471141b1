"""Trace context is read by the standard's grammar, and costs nothing where nobody collects spans."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from sidecar.ops import tracing
from sidecar.ops.tracing import Kind, Span, TraceParent

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GIVEN = TraceParent(TRACE, PARENT, True)


@pytest.fixture
def ended() -> Iterator[list[Span]]:
    """The spans that ended, in order."""
    spans: list[Span] = []
    tracing.install(spans.append)
    yield spans
    tracing.install(None)


@pytest.mark.parametrize(
    ("text", "sampled"),
    [
        (f"00-{TRACE}-{PARENT}-01", True),
        (f"00-{TRACE}-{PARENT}-00", False),
        (f"00-{TRACE}-{PARENT}-ff", True),  # further flags may be set
        (f"00-{TRACE}-{PARENT}-02", False),
        (f"cc-{TRACE}-{PARENT}-01", True),  # a later version: its first fields are these
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like", True),
    ],
)
def test_a_well_formed_traceparent_is_read(text: str, sampled: bool) -> None:
    """W3C Trace Context, section 3.2."""
    assert tracing.parse(text) == TraceParent(TRACE, PARENT, sampled)
    assert str(tracing.parse(text)) == f"00-{TRACE}-{PARENT}-0{int(sampled)}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}-01-more",
        f"cc-{TRACE}-{PARENT}-01.more",
        f" 00-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01\n",
        f"00-{TRACE}-{PARENT}-01, 00-{TRACE}-{PARENT}-01",
    ],
)
def test_a_malformed_traceparent_is_ignored(text: str) -> None:
    """A new trace begins there, as the standard wants."""
    assert tracing.parse(text) is None


def test_without_a_collector_a_callers_context_is_handed_on_as_it_came() -> None:
    """Nothing is made, and nothing is lost."""
    assert tracing.begin("request", GIVEN).at == GIVEN
    assert tracing.span("part", GIVEN, Kind.CLIENT).at == GIVEN
    assert tracing.begin("request", None).at is None


def test_in_place_of_a_context_that_is_none_another_is_handed_on(ended: list[Span]) -> None:
    """W3C Trace Context, section 3.2: with a collector and without, kept by it or not."""
    assert tracing.begin("request", None, anew=True).at != tracing.begin("request", None, anew=True).at
    for export, ratio, sampled in ((None, 1.0, False), (ended.append, 0.0, False), (ended.append, 1.0, True)):
        tracing.install(export, ratio)
        made = tracing.begin("request", None, anew=True).at
        assert made is not None
        assert tracing.parse(str(made)) == made
        assert made.sampled is sampled


def test_spans_hang_together_below_the_callers(ended: list[Span]) -> None:
    """A part names the request as its parent, the request the caller's span."""
    with tracing.begin("request", GIVEN) as request, tracing.span("part", request.at, Kind.CLIENT) as part:
        part.note(status=200, nothing=None)
    last, first = ended[1], ended[0]
    assert (first.name, last.name) == ("part", "request")
    assert (last.parent, first.parent) == (GIVEN, last.at)
    assert {span.at.trace_id for span in ended} == {TRACE}
    assert len({span.at.span_id for span in ended} | {PARENT}) == 3
    assert first.attributes == {"sidecar.status": 200}
    assert last.started <= first.started <= first.ended <= last.ended


def test_a_caller_that_does_not_sample_is_not_traced(ended: list[Span]) -> None:
    """Its context is handed on all the same."""
    unsampled = TraceParent(TRACE, PARENT, False)
    with tracing.begin("request", unsampled) as request:
        assert tracing.span("part", request.at).at == unsampled
    assert ended == []


def test_the_ratio_decides_only_where_the_caller_did_not() -> None:
    """None of those without a trace of their own, and all of the sampled ones."""
    spans: list[Span] = []
    tracing.install(spans.append, ratio=0.0)
    try:
        with tracing.begin("request", None) as request:
            assert request.at is None
        with tracing.begin("request", GIVEN):
            pass
    finally:
        tracing.install(None)
    assert [span.parent for span in spans] == [GIVEN]


def test_a_failure_ends_its_span_as_failed(ended: list[Span]) -> None:
    """Nothing of the exception is kept: its text may quote a secret."""
    with pytest.raises(ValueError, match="canary"), tracing.begin("request", None):
        raise ValueError("canary")
    assert ended[0].failed
    assert "canary" not in repr(ended[0])


def test_nothing_of_opentelemetry_is_imported_without_a_collector() -> None:
    """It would cost every pod ten megabytes."""
    program = "import sidecar.app, sys; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
