"""An OpenTelemetry collector's OTLP receiver, as far as these tests need one: the official protobuf schema over HTTP.

A mock: the collector itself is built from a repository that no package registry carries.
"""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """Listens on loopback while it is used as a context manager. `raw` is all that came, undecoded. What comes while
    `refuses` is True is refused, in words that quote the request's headers."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        self.refuses = False
        self.refused = 0
        self.paths: list[str] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if collector.refuses:
                    collector.refused += 1
                    quoted = " ".join(f"{name}: {value}" for name, value in self.headers.items())
                    self.send_response(400, quoted)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                collector.paths.append(self.path)
                collector.raw.append(body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def endpoint(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def spans(self) -> list[Span]:
        """All that came."""
        found: list[Span] = []
        for raw in list(self.raw):
            request = ExportTraceServiceRequest.FromString(raw)
            found += [span for each in request.resource_spans for scope in each.scope_spans for span in scope.spans]
        return found

    def wait_for(self, condition: Callable[[list[Span]], bool], seconds: float = 20.0) -> list[Span]:
        """The spans, once the condition holds."""
        deadline = time.monotonic() + seconds
        while not condition(self.spans):
            assert time.monotonic() < deadline, f"these spans came: {[span.name for span in self.spans]}"
            time.sleep(0.05)
        return self.spans

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _t: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
