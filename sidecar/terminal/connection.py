"""One request to the sidecar: whose token, which key, and nothing believed that an impostor could answer.

No redirect is followed, no proxy used, no answer read without a bound; the token goes to the address that was named,
in plain HTTP to this machine only.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import aiohttp
from yarl import URL

from sidecar.client import DPoPKey
from sidecar.client.aiohttp import DPoPMiddleware
from sidecar.config.private_file import NotPrivateError, read_private
from sidecar.surface.json_body import faithful
from sidecar.terminal.exits import Ended, Exit, of_status
from sidecar.terminal.stream import events

MAX_ANSWER_BYTES: Final = 48 * 2**20
"""The largest body that a sidecar lets through by default is 32 MiB; JSON may take more to write it."""
_MAX_TOKEN_BYTES: Final = 64 * 1024
_ROOT: Final = "/api/secrets"
_PUBLIC: Final = f"{_ROOT}/openapi.json"
_STREAM: Final = "text/event-stream"
_STREAMED: Final = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
"""A stream says every fifteen seconds that it is there."""
_PLAIN: Final = {"Accept-Encoding": "identity"}
_HINTS: Final = {
    "TOKEN_MISSING": "set SIDECAR_TOKEN, or name a file: --token-file",
    "TOKEN_EXPIRED": "get a new token",
    "BINDING_MISMATCH": "the token is bound to a key or a certificate: --key-file, or --cert-file and --cert-key-file",
    "BINDING_REQUIRED": "ask the issuer for a token that is bound to a key (RFC 9449), and name the key: --key-file",
}


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the sidecar is, and who asks. `address` is a URL, or `unix:///path`."""

    address: str
    token: str = ""
    token_file: Path | None = None
    openbao_token: str = ""
    """OpenBao's own, beside the access token: for a sidecar in passthrough mode."""
    openbao_token_file: Path | None = None
    key_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    cert_key_file: Path | None = None
    timeout_seconds: float = 30.0

    async def ask(
        self, method: str, path: str, query: dict[str, str] | None = None, body: bytes | None = None, **headers: str
    ) -> Any:
        """The JSON of a successful answer, numbers as they were written. Raises `Ended`."""
        async with self._answer(method, path, query, body, headers) as answer:
            return _read(answer.status, answer.content_type, await _whole(answer))

    async def follow(self, path: str, **headers: str) -> AsyncIterator[tuple[str, Any]]:
        """The events of a stream, each with its name (empty where it has none) and its JSON; for as long as it goes on.
        Raises `Ended`, also where it breaks."""
        async with self._answer("GET", path, None, None, headers, _STREAMED) as answer:
            if answer.status != 200 or answer.content_type != _STREAM:
                _read(answer.status, answer.content_type, await _whole(answer))
                raise Ended(Exit.FAILED, "this is no stream of a sidecar's")
            async for name, data in events(answer.content.iter_any()):
                yield name, _json(data)
        raise Ended(Exit.FAILED, "the stream broke off")

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None,
        body: bytes | None,
        headers: Mapping[str, str],
        limits: aiohttp.ClientTimeout | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request's answer, its body still to be read. Raises `Ended`, for what fails while it is read too."""
        base, socket = self._place()
        text = "&".join(f"{name}={quote(value, safe='')}" for name, value in (query or {}).items())
        url = URL(f"{base}{_ROOT}{path}{'?' if text else ''}{text}", encoded=True)
        sent = {"Accept": f"application/json, {_STREAM}", "X-Vault-Request": "true", **_PLAIN, **headers}
        if body is not None:
            sent["Content-Type"] = "application/json"
        signing = self._credentials(sent)
        connector: aiohttp.BaseConnector = (
            aiohttp.UnixConnector(socket) if socket else aiohttp.TCPConnector(ssl=self._context())
        )
        try:
            async with aiohttp.ClientSession(
                connector=connector,
                timeout=limits or aiohttp.ClientTimeout(total=self.timeout_seconds),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                middlewares=signing,
            ) as session:
                session._retry_connection = False  # noqa: SLF001 - a request is sent once; see upstream/client.py
                if signing:  # the nonce first, from what is anyone's: a refusal for want of it would be in the audit
                    async with session.get(url.origin().with_path(_PUBLIC), headers=_PLAIN, allow_redirects=False):
                        pass
                async with session.request(method, url, headers=sent, data=body, allow_redirects=False) as answer:
                    if answer.headers.get("Content-Encoding", "identity") != "identity":
                        raise Ended(Exit.FAILED, "the answer is encoded in a way that was not asked for")
                    yield answer
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError):
            raise Ended(Exit.UNAVAILABLE, "the sidecar's certificate, or TLS, is not accepted (--ca-file)") from None
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL):
            raise Ended(Exit.UNAVAILABLE, f"no sidecar answers at {self.address}") from None
        except TimeoutError:
            raise Ended(
                Exit.UNAVAILABLE, f"no answer in {self.timeout_seconds:g} s; what was asked for may be done"
            ) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Ended(Exit.FAILED, f"the connection broke ({type(error).__name__})") from None

    def _place(self) -> tuple[str, str]:
        """Origin, and the Unix socket's path where it is one."""
        if self.address.startswith("unix:///"):
            return "http://localhost", self.address.removeprefix("unix://")
        try:
            parts = urlsplit(self.address)
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            parts, host = urlsplit(""), ""
        plain = parts.path in ("", "/") and not parts.query and not parts.fragment and parts.username is None
        if parts.scheme not in ("http", "https") or not host or not plain:
            raise Ended(Exit.USAGE, "the address is http(s)://host[:port], or unix:///path")
        if parts.scheme == "http" and not _is_here(host):
            raise Ended(Exit.USAGE, "in plain http a token goes to this machine only; use https")
        return f"{parts.scheme}://{parts.netloc}", ""

    def _credentials(self, headers: dict[str, str]) -> tuple[DPoPMiddleware, ...]:
        """Puts the token into the headers, or gives what signs with it. Without one the pod itself asks, or nobody."""
        token = _word(self.token, self.token_file)
        if not token:
            return ()
        openbao = _word(self.openbao_token, self.openbao_token_file)
        if openbao:
            headers["X-Vault-Token"] = openbao
        if self.key_file is None:
            headers["Authorization"] = f"Bearer {token}"
            return ()
        headers["Authorization"] = f"DPoP {token}"  # so that the proof is for it, whatever stands in X-Vault-Token
        try:
            read_private(self.key_file, _MAX_TOKEN_BYTES, follow_link=True)
            return (DPoPMiddleware(DPoPKey.load(self.key_file), token),)
        except NotPrivateError as error:
            raise Ended(Exit.USAGE, f"the key: {error}") from None
        except (OSError, ValueError, TypeError):
            raise Ended(Exit.USAGE, f"{self.key_file} holds no P-256 key (PEM, not encrypted)") from None

    def _context(self) -> ssl.SSLContext:
        if (self.cert_file is None) != (self.cert_key_file is None):
            raise Ended(Exit.USAGE, "--cert-file and --cert-key-file go together")
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None and self.cert_key_file is not None:
                context.load_cert_chain(self.cert_file, self.cert_key_file)
        except (OSError, ValueError):  # ssl.SSLError is an OSError
            raise Ended(Exit.USAGE, "a certificate or its key cannot be read (PEM, the key not encrypted)") from None
        return context


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _word(token: str, file: Path | None) -> str:
    """A token, from its file where it has one. Raises `Ended`."""
    if file is not None:
        try:
            token = read_private(file, _MAX_TOKEN_BYTES, follow_link=True, mounted=True).decode("ascii")
        except NotPrivateError as error:
            raise Ended(Exit.USAGE, f"the token: {error}") from None
        except UnicodeDecodeError:
            raise Ended(Exit.USAGE, "the token is not one printable word") from None
    token = token.strip()
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise Ended(Exit.USAGE, "the token is not one printable word")
    return token


async def _whole(answer: aiohttp.ClientResponse) -> bytes:
    raw = bytearray()
    async for chunk in answer.content.iter_any():
        raw += chunk
        if len(raw) > MAX_ANSWER_BYTES:
            raise Ended(Exit.FAILED, f"the answer is larger than {MAX_ANSWER_BYTES // 2**20} MiB")
    return bytes(raw)


def _json(raw: bytes) -> Any:
    try:
        return faithful(raw)
    except (ValueError, RecursionError):
        raise Ended(Exit.FAILED, "this is no stream of a sidecar's") from None


def _read(status: int, kind: str, raw: bytes) -> Any:
    if 300 <= status < 400:
        raise Ended(Exit.FAILED, "the server redirects elsewhere, which is not followed")
    try:
        if kind != "application/json":
            raise ValueError
        body = faithful(raw)
    except (ValueError, RecursionError):
        said = "" if 200 <= status < 300 else f" (status {status})"
        raise Ended(
            of_status(status) if status >= 400 else Exit.FAILED, f"this is no answer of a sidecar's{said}"
        ) from None
    if 200 <= status < 300:
        return body
    code, message, correlation = (
        str(body.get(name, "")) if isinstance(body, dict) else "" for name in ("code", "message", "correlation_id")
    )
    said = ": ".join(filter(None, (code, message))) or f"status {status}"
    hint = f" ({_HINTS[code]})" if code in _HINTS else ""
    raise Ended(of_status(status), f"{said}{hint}{f' [{correlation}]' if correlation else ''}", body)
