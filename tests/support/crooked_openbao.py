"""A proxy in front of a real OpenBao that hands everything on, but answers some paths as a broken server would."""

from __future__ import annotations

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_HOP = frozenset({"connection", "transfer-encoding", "content-length"})


class Held(Exception):  # noqa: N818 - not an error
    """Raised by `arrived` or `answered`: the request goes no further, and its connection ends."""


class CrookedOpenBao:
    """`lies` are raw answers by a text in the target; an empty one is a connection that is cut, None is no answer.
    `heads` are the headers of all that came."""

    def __init__(self, address: str) -> None:
        self.lies: dict[str, bytes | None] = {}
        self.heads: list[str] = []
        self._over = threading.Event()
        crooked, real = self, urlsplit(address).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                crooked.heads.append(str(self.headers))
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                for part, lie in crooked.lies.items():
                    if part in self.path:
                        if lie is None:
                            crooked._over.wait(10)
                        self.wfile.write(lie or b"")
                        self.close_connection = True
                        return
                onward = http.client.HTTPConnection(real, timeout=30)
                try:
                    crooked.arrived(self.command, self.path)
                    onward.request(self.command, self.path, body or None, dict(self.headers.items()))
                    answer = onward.getresponse()
                    content = answer.read()
                    crooked.answered(self.command, self.path)
                except Held:
                    self.close_connection = True
                    return
                finally:
                    onward.close()
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in _HOP:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_arguments: object) -> None:
                """Says nothing."""

        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "LIST"):
            setattr(Handler, f"do_{method}", Handler.handle_any)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def arrived(self, method: str, path: str) -> None:
        """Called before a request goes on to OpenBao."""

    def answered(self, method: str, path: str) -> None:
        """Called when OpenBao has answered, before the answer goes back."""

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
