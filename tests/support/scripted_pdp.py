"""A PDP whose obligations a test chooses word by word, which no real one lets it: AuthZEN over HTTP, in a thread."""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

PERMIT = '{"decision": true}'
DENY = '{"decision": false}'


class ScriptedAuthzen:
    """Answers each evaluation with `answer`, raw JSON text, or with what `by_subject` has for its subject; a batch of
    them with as many of these. `asked` and `heads` are what it was asked, and with which headers."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.answer = PERMIT
        self.by_subject: dict[str, str] = {}
        self.asked: list[dict[str, Any]] = []
        self.heads: list[dict[str, str]] = []
        pdp = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                pdp.heads.append({name.lower(): value for name, value in self.headers.items()})
                pdp.asked.append(question)
                answer = pdp.by_subject.get(question["subject"]["id"], pdp.answer)
                if "evaluations" in question:
                    answer = f'{{"evaluations": [{", ".join([answer] * len(question["evaluations"]))}]}}'
                body = answer.encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                """No metadata here (`/.well-known/authzen-configuration`)."""
                self.send_error(404)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> ScriptedAuthzen:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def obliges(self, obligations: Any, subject: str | None = None) -> None:
        """Permits from now on, under these obligations: raw JSON text, or what JSON can say."""
        text = obligations if isinstance(obligations, str) else json.dumps(obligations)
        answer = f'{{"decision": true, "context": {{"decision_id": "d", "obligations": {text}}}}}'
        if subject is None:
            self.answer = answer
        else:
            self.by_subject[subject] = answer
