"""The two lists of headers. What is in neither passes in neither direction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SENT: Final[Mapping[str, str]] = {
    "Host": "OpenBao's configured address",
    "User-Agent": "the sidecar",
    "Accept-Encoding": "`identity`: a compressed answer could not be searched, and might be a bomb",
    "X-Vault-Request": "`true`: OpenBao may insist on it against forged requests",
    "X-Vault-Token": "the sidecar's own login",
    "X-Vault-Namespace": "the operation's namespace, where it has one",
    "traceparent": "the trace (W3C Trace Context), where the caller is in one or one is collected",
    "Content-Type": "the body's, where there is one",
    "Content-Length": "the body's; 0 for a write without one",
}
"""What goes to OpenBao, and why. Nothing of a caller's headers: no wrapping, no MFA, no inline login, no routing."""

RELEASED: Final[Mapping[str, str]] = {
    "Content-Type": "what the body is: JSON, PEM, DER",
    "Retry-After": "what a 429 or 503 of OpenBao asks for (RFC 9110, section 10.2.3)",
}
"""What reaches a caller, and why. Everything else stays here: `Cache-Control` and `Date` are the sidecar's to set,
framing is the door's, `Strict-Transport-Security` speaks of another origin, `Location`, `Set-Cookie`,
`WWW-Authenticate`, `X-Vault-*` and names of tomorrow are nobody's business or tell of the sidecar's own session."""
