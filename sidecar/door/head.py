"""The head of one HTTP request, read by one strict grammar (RFC 9112 without its tolerances)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Head:
    """A request's head as the rest of the sidecar sees it.

    `path` and `query` are the raw origin-form target, split at the first `?`, still percent-encoded, one character
    per byte (latin-1); `query` is None where there was no `?`. `headers` has lower-case names; a header that must
    stand once stands once, others that were repeated are joined by `, `.
    """

    method: str
    path: str
    query: str | None
    headers: Mapping[str, str]
    content_length: int | None = None
    chunked: bool = False

    @property
    def has_body(self) -> bool:
        """True where body bytes may follow."""
        return self.chunked or bool(self.content_length)


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of the connection, as the transport knows it, never as a header claims it."""

    transport: str  # "tcp" | "tls" | "unix"
    certificate: bytes | None = None  # the client certificate, DER, as verified by the TLS handshake
    uid: int | None = None  # SO_PEERCRED on a Unix socket
