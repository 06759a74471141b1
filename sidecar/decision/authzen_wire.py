"""One exchange with a remote PDP: TLS, credentials, limits, and which status means what. Knows no question."""

from __future__ import annotations

import asyncio
import ssl
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from sidecar.clock import Clock
from sidecar.config.tree import Authzen
from sidecar.decision.authzen_answer import AnswerError
from sidecar.decision.pdp import PdpOutage
from sidecar.ops.logs import register_secret

MAX_TOKEN_BYTES: Final = 16 * 1024
MAX_RETRY_AFTER_SECONDS: Final = 60.0

_OUTAGES: Final = frozenset({401, 403, 429})
"""Beside 5xx: the PDP would answer nobody so. Other statuses are about the one question."""


class StatusError(AnswerError):
    """The PDP answered, with another status than 200."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the PDP answered {status}")
        self.status = status


class TooLargeError(AnswerError):
    """The answer is larger than the limit for its kind."""


class Wire:
    """The pooled connections of a session to one PDP. The session keeps no cookies and heeds no proxy variables."""

    def __init__(self, config: Authzen, session: aiohttp.ClientSession, clock: Clock) -> None:
        """Reads certificates.

        Raises:
            OSError: where a certificate cannot be read (`ssl.SSLError` is one).
        """
        self._config = config
        self._session = session
        self._clock = clock
        self._timeout = aiohttp.ClientTimeout(total=config.timeout_ms / 1000)
        self._tls = _tls(config)

    async def reload(self) -> None:
        """Reads certificates anew. Raises like the constructor; what was in use then stays."""
        self._tls = await asyncio.to_thread(_tls, self._config)

    async def post(self, url: str, body: bytes, headers: dict[str, str], limit: int) -> bytes:
        """The bytes of an answer to a question, at most `limit`. A kept-alive connection may have died unnoticed:
        asking decides nothing, so that it is asked again, once.

        Raises:
            PdpOutage: where the PDP would answer nobody, or there is no usable token.
            AnswerError: for what is no answer, as `StatusError` or `TooLargeError` where it is that.
            aiohttp.ClientError, OSError: where there was no exchange.
        """
        headers = {"Content-Type": "application/json", **headers}
        if self._config.token_file is not None:
            headers["Authorization"] = f"Bearer {_token(self._config.token_file)}"
        try:
            return await self._exchange("POST", url, headers, body, limit)
        except (aiohttp.ServerDisconnectedError, ConnectionResetError):
            return await self._exchange("POST", url, headers, body, limit)

    async def get(self, url: str, limit: int) -> bytes:
        """The bytes of a public document, asked for without the token. Raises like `post`."""
        return await self._exchange("GET", url, {}, None, limit)

    async def _exchange(self, method: str, url: str, headers: dict[str, str], body: bytes | None, limit: int) -> bytes:
        tls: Any = self._tls if self._tls is not None else True
        headers |= {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "openbao-sidecar"}
        async with self._session.request(
            method,
            url,
            data=body,
            headers=headers,
            allow_redirects=False,
            auto_decompress=False,
            timeout=self._timeout,
            ssl=tls,
        ) as response:
            _check(response, self._clock)
            raw = await response.content.read(limit + 1)
            while len(raw) <= limit and (more := await response.content.read(limit + 1)):
                raw += more
            if len(raw) > limit:
                response.close()
                raise TooLargeError(f"the answer is larger than {limit} bytes")
            return raw


def _check(response: aiohttp.ClientResponse, clock: Clock) -> None:
    if response.status >= 500 or response.status in _OUTAGES:
        raise PdpOutage(f"the PDP answered {response.status}", _retry_after(response, clock))
    if response.status != 200:
        raise StatusError(response.status)
    if response.content_type != "application/json":
        raise AnswerError("the answer is not application/json")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise AnswerError("the answer is encoded, and was asked for plain")


def _retry_after(response: aiohttp.ClientResponse, clock: Clock) -> float:
    """Seconds, or a date (RFC 9110, section 10.2.3); 0 where there is none that can be read."""
    value = response.headers.get("Retry-After", "").strip()
    if not value or len(value) > 64:
        return 0.0
    if value.isascii() and value.isdigit():
        seconds = float(value)
    else:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - clock.wall()
        except (ValueError, OverflowError):
            return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def _token(path: Path) -> str:
    """Read for each question: projected tokens are exchanged under the sidecar, and a small file costs microseconds.

    Raises:
        PdpOutage: where there is no usable token in the file.
    """
    try:
        with path.open("rb") as file:
            token = file.read(MAX_TOKEN_BYTES + 1).strip().decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise PdpOutage(f"authorization.authzen.token_file cannot be read: {type(error).__name__}") from error
    if not token or len(token) > MAX_TOKEN_BYTES or not token.isprintable() or " " in token:
        raise PdpOutage("authorization.authzen.token_file holds no usable token")
    return register_secret(token, path)


def _tls(config: Authzen) -> ssl.SSLContext | None:
    """The context for https. None for http, which the configuration takes for loopback or outside prod only."""
    if urlsplit(config.url or "").scheme != "https":
        return None
    context = ssl.create_default_context(cafile=None if config.ca_file is None else str(config.ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if config.client_cert_file is not None:
        key = None if config.client_key_file is None else str(config.client_key_file)
        context.load_cert_chain(str(config.client_cert_file), key)
    return context
