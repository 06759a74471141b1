"""Ended spans to an OpenTelemetry collector: OTLP over HTTP, protobuf, in batches, by a thread of the SDK's own.

What the collector does not take in time is dropped: a trace is for looking, the audit is for proving. Imported only
where a collector is configured.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote, urlsplit

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_TRACES_HEADERS
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from sidecar.ops.logs import register_secret
from sidecar.ops.tracing import Kind, Span, TraceParent

EXPORT_SECONDS: Final = 3.0
"""For one batch, its retries included; a shutdown waits no longer than that."""
QUEUE: Final = 2048

_KINDS: Final = {Kind.INTERNAL: SpanKind.INTERNAL, Kind.SERVER: SpanKind.SERVER, Kind.CLIENT: SpanKind.CLIENT}
_SCOPE: Final = InstrumentationScope("sidecar")


class Collector:
    """The way to one collector. `attributes` say whose spans these are (OpenTelemetry's resource)."""

    def __init__(self, endpoint: str, attributes: dict[str, str]) -> None:
        """`endpoint` is the collector's base URL; `/v1/traces` is added where it has no path (OTLP/HTTP, 1.6)."""
        _register_headers()
        session = requests.Session()
        session.trust_env = False
        exporter = OTLPSpanExporter(traces_url(endpoint), timeout=EXPORT_SECONDS, session=session)
        self._resource = Resource.create({"service.name": "openbao-sidecar", **attributes})
        self._processor = BatchSpanProcessor(exporter, max_queue_size=QUEUE, schedule_delay_millis=1000)

    @property
    def export(self) -> Callable[[Span], None]:
        """Takes an ended span; never blocks."""
        return self._export

    def _export(self, span: Span) -> None:
        self._processor.on_end(
            ReadableSpan(
                span.name,
                context=_context(span.at, is_remote=False),
                parent=None if span.parent is None else _context(span.parent, is_remote=span.kind is Kind.SERVER),
                resource=self._resource,
                attributes=span.attributes,
                kind=_KINDS[span.kind],
                status=Status(StatusCode.ERROR if span.failed else StatusCode.UNSET),
                start_time=span.started,
                end_time=span.ended,
                instrumentation_scope=_SCOPE,
            )
        )

    def close(self) -> None:
        """Sends what waits, as far as the collector takes it in `EXPORT_SECONDS`. Blocks: call it in a thread."""
        self._processor.shutdown()  # type: ignore[no-untyped-call] # the library has no type for it


def _register_headers() -> None:
    """What the exporter's own variables have it send may be a credential, which a collector may quote in what the
    exporter logs."""
    for name in (OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_TRACES_HEADERS):
        for pair in os.environ.get(name, "").split(","):
            value = unquote(pair.partition("=")[2]).strip()
            register_secret(value)
            register_secret(value.rpartition(" ")[2])  # without `Bearer`


def traces_url(endpoint: str) -> str:
    """Where the spans go."""
    return endpoint if urlsplit(endpoint).path not in ("", "/") else f"{endpoint.rstrip('/')}/v1/traces"


def _context(at: TraceParent, *, is_remote: bool) -> SpanContext:
    return SpanContext(int(at.trace_id, 16), int(at.span_id, 16), is_remote, TraceFlags(int(at.sampled)))
