"""The head of one HTTP request, read by one strict grammar (RFC 9112 without its tolerances).

What RFC 9112 lets a recipient tolerate is refused here, because two recipients that tolerate differently read two
requests: bare LF or CR, empty lines before a request, space before a colon, folded lines, control characters (tabs
too) and bytes beyond ASCII in fields, other targets than origin-form, other versions than 1.1, several lengths.

Pure: bytes in, a `Head` or `Refused` out. Every reading is linear in the bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sidecar.errors import Code, Refused

MAX_FIELDS: Final = 100
"""Header lines one request may have."""

END: Final = b"\r\n\r\n"
"""What a head ends with."""

_HEAD: Final = re.compile(
    r"([A-Z]{1,20})[ ]"  # method: a token of capitals (RFC 9110, section 9.1)
    r"(/[\x21\x22\x24-\x7e\x80-\xff]*+)[ ]"  # origin-form (RFC 9112, section 3.2.1), without `#`
    r"HTTP/1\.1\r\n"
    r"((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\x20-\x7e]*+\r\n)*+)"  # field-line: token ":" OWS field-value OWS
    r"\r\n"
)
_BARE: Final = re.compile(rb"(?<!\r)\n|\r[^\n]")
_FIELD_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTENT_LENGTH: Final = re.compile(r"0|[1-9][0-9]{0,14}")

SINGULAR: Final = frozenset(
    {
        "authorization",
        "content-encoding",
        "content-length",
        "content-location",
        "content-range",
        "content-type",
        "date",
        "dpop",
        "expect",
        "from",
        "host",
        "idempotency-key",
        "if-match",
        "if-modified-since",
        "if-range",
        "if-unmodified-since",
        "max-forwards",
        "origin",
        "proxy-authorization",
        "range",
        "referer",
        "traceparent",
        "transfer-encoding",
        "user-agent",
        "x-correlation-id",
        "x-http-method-override",
        "x-method-override",
        "x-request-id",
    }
)
"""Headers that may stand once only, beside every `X-Vault-*`. Others are lists (RFC 9110, section 5.3)."""

_CREDENTIALS: Final = frozenset({"authorization", "x-vault-token"})


@dataclass(frozen=True, slots=True)
class Head:
    """A request's head as the rest of the sidecar sees it.

    `path` and `query` are the raw origin-form target, split at the first `?`, still percent-encoded, one character
    per byte (latin-1); `query` is None where there was no `?`. `headers` has lower-case names; a header that must
    stand once stands once, others that were repeated are joined by `, `. `keep_alive` is False where the caller
    said `Connection: close`; no other word of `Connection` means anything here.
    """

    method: str
    path: str
    query: str | None
    headers: Mapping[str, str]
    content_length: int | None = None
    chunked: bool = False
    keep_alive: bool = True

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
    is_local: bool = False  # by Unix socket, or with both ends of the connection on loopback


def parse_head(raw: bytes, *, max_header_bytes: int, max_uri_bytes: int) -> Head:
    """Reads a whole head, from its method to the empty line that ends it.

    Raises:
        Refused: MALFORMED_REQUEST, or HEADERS_TOO_LARGE, INVALID_URI, ILLEGAL_ENCODING for the limits and the target.
    """
    if len(raw) > max_header_bytes:
        raise _too_large(raw, max_header_bytes)
    match = _HEAD.fullmatch(str(raw, "latin-1"))
    if match is None:
        raise _diagnosis(raw)
    method, target, block = match.groups()
    if len(target) > max_uri_bytes:
        raise Refused(Code.INVALID_URI, "the request target is too long")
    if method == "CONNECT":
        raise _malformed("CONNECT is not served")
    headers: dict[str, str] = {}
    lines = block.split("\r\n")
    lines.pop()  # the text after the last line, which is empty
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip(" ")
    if len(lines) > MAX_FIELDS:
        raise Refused(Code.HEADERS_TOO_LARGE, "too many header lines")
    if len(headers) != len(lines):
        headers = _join_repeated(lines)
    if "host" not in headers:
        raise _malformed("a request has exactly one Host header")
    if "expect" in headers and headers["expect"].lower() != "100-continue":
        raise _malformed("this expectation is not met")
    path, mark, query = target.partition("?")
    return Head(
        method,
        path,
        query if mark else None,
        headers,
        _content_length(headers) if "content-length" in headers else None,
        "transfer-encoding" in headers and _chunked(headers),
        "connection" not in headers or _keep_alive(headers["connection"]),
    )


def check_beginning(raw: bytes | bytearray, start: int, *, max_header_bytes: int) -> None:
    """Refuses the beginning of a head that can become none, as soon as it shows. Looked at before: `raw[:start]`.

    Whatever is refused here would be refused with the same code and message if it had come in one piece.

    Raises:
        Refused: MALFORMED_REQUEST, or HEADERS_TOO_LARGE, INVALID_URI for a head or target beyond the limit.
    """
    _check_lines(raw, max(0, start - 1), max_header_bytes)
    if len(raw) >= max_header_bytes:
        raise _too_large(raw, max_header_bytes)


def target_of(raw: bytes | bytearray, max_uri_bytes: int) -> str:
    """The target of a head that was refused, as far as it can be read, to choose the dialect of the error."""
    parts = bytes(raw[: max_uri_bytes + 32]).split(b" ", 2)
    if len(parts) < 2 or not parts[1].startswith(b"/"):
        return ""
    return str(parts[1].splitlines()[0][:max_uri_bytes], "latin-1")


def _join_repeated(lines: list[str]) -> dict[str, str]:
    """RFC 9110, section 5.3: the lines of a list are joined in order; what is no list may not be repeated."""
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" ")
        if name in headers:
            if name in _CREDENTIALS and value != headers[name]:
                raise Refused(Code.AMBIGUOUS_CREDENTIALS, "two different credentials in one request")
            if name in SINGULAR or name.startswith("x-vault-"):
                raise _malformed("a header that must stand once is repeated")
            value = f"{headers[name]}, {value}"
        headers[name] = value
    return headers


def _content_length(headers: Mapping[str, str]) -> int:
    """RFC 9112, section 6.3: one plain number, and no Transfer-Encoding beside it."""
    if "transfer-encoding" in headers:
        raise _malformed("Content-Length and Transfer-Encoding exclude each other")
    value = headers["content-length"]
    if _CONTENT_LENGTH.fullmatch(value) is None:
        raise _malformed("Content-Length is not a plain number")
    return int(value)


def _chunked(headers: Mapping[str, str]) -> bool:
    """RFC 9112, section 6.1: exactly `chunked`, since what else stands there is read differently by others."""
    if headers["transfer-encoding"] != "chunked":
        raise _malformed("Transfer-Encoding is not exactly: chunked")
    return True


def _keep_alive(connection: str) -> bool:
    """RFC 9112, section 9.3. What `Connection` names is not taken away: nobody may strip a header of the caller's."""
    return connection == "keep-alive" or "close" not in (word.strip() for word in connection.lower().split(","))


def _check_lines(raw: bytes | bytearray, start: int, end: int) -> None:
    if raw and not 0x41 <= raw[0] <= 0x5A:
        raise _malformed("a request starts with a method in capitals")
    if _BARE.search(raw, start, end):
        raise _malformed("a line of the head does not end with exactly CR LF")


def _too_large(raw: bytes | bytearray, max_header_bytes: int) -> Refused:
    if raw.find(b"\r\n", 0, max_header_bytes) < 0:
        return Refused(Code.INVALID_URI, "the request target is too long")
    return Refused(Code.HEADERS_TOO_LARGE, "the request's head is too large")


def _diagnosis(raw: bytes) -> Refused:
    """Why the grammar does not take it. Only what is refused anyway comes here."""
    if not raw.endswith(END):
        return _malformed("the request ended in the middle of its head")
    try:
        _check_lines(raw, 0, len(raw))
    except Refused as refused:
        return refused
    request_line, *lines = str(raw[: -len(END)], "latin-1").split("\r\n")
    method, _, rest = request_line.partition(" ")
    target, _, version = rest.rpartition(" ")
    if re.fullmatch(r"[A-Z]{1,20}", method) is None:
        return _malformed("a method is a word in capitals")
    if version != "HTTP/1.1":
        return _malformed("only HTTP/1.1 is served")
    if not target.startswith("/"):
        return _malformed("only the origin-form of a target is served: /path?query")
    if " " in target:
        return _malformed("a space in the request target")
    if re.search(r"[\x00-\x1f\x7f]", target):
        return Refused(Code.ILLEGAL_ENCODING, "a control character in the request target")
    if "#" in target:
        return Refused(Code.INVALID_URI, "a fragment is not sent to a server")
    for line in lines:
        name, colon, _ = line.partition(":")
        if not colon or _FIELD_NAME.fullmatch(name) is None:
            return _malformed("a header line is not `name: value`")
    return _malformed("a control character, or a byte beyond ASCII, in a header")


def _malformed(message: str) -> Refused:
    return Refused(Code.MALFORMED_REQUEST, message)
