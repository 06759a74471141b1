"""The remote PDP: OpenID AuthZEN Authorization API 1.0 over HTTPS.

One question, one decision. No answer of any kind becomes a permit but a 200 with the JSON of one; no failure of any
kind leaves here but as `Refused`.
"""

from __future__ import annotations

import asyncio
import ssl
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import orjson

from sidecar.clock import Clock, SystemClock
from sidecar.config.tree import Authzen
from sidecar.decision.authzen_answer import AnswerError, JsonPointer, read_answer
from sidecar.decision.pdp import PdpOutage, no_answer
from sidecar.decision.permit import Question, Verdict
from sidecar.errors import Refused

MAX_ANSWER_BYTES: Final = 256 * 1024
MAX_TOKEN_BYTES: Final = 16 * 1024
MAX_RETRY_AFTER_SECONDS: Final = 60.0

_OUTAGES: Final = frozenset({401, 403, 429})
"""Beside 5xx: the PDP would answer nobody so. Other statuses are about the one question."""


class AuthzenPdp:
    """Asks a PDP at a URL, over the connections of a session."""

    def __init__(self, config: Authzen, session: aiohttp.ClientSession, clock: Clock | None = None) -> None:
        """Reads certificates and the pointer to obligations. The session keeps no cookies and heeds no proxy variables.

        Raises:
            ValueError: where the configuration cannot be used.
            OSError: where a certificate cannot be read (`ssl.SSLError` is one).
        """
        if config.url is None:
            raise ValueError("authorization.authzen.url is not configured")
        self._config = config
        self._clock = clock or SystemClock()
        self._url = config.url.rstrip("/") + config.evaluation_path
        self._pointer = JsonPointer(config.obligations)
        self._limit = config.timeout_ms / 1000
        self._timeout = aiohttp.ClientTimeout(total=self._limit)
        self._tls = _tls(config)
        self._session = session

    async def reload(self) -> None:
        """Reads certificates anew. Raises like the constructor; what was in use then stays."""
        self._tls = await asyncio.to_thread(_tls, self._config)

    async def evaluate(self, question: Question) -> Verdict:
        """Asks once.

        Raises:
            Refused: PDP_UNAVAILABLE, as `PdpOutage` where the PDP would answer nobody; `Denied` with OBLIGATION_UNMET.
        """
        body = {
            "subject": question.subject,
            "action": question.action,
            "resource": question.resource,
            "context": {**self._config.extra_context, **question.context},
        }
        try:
            async with asyncio.timeout(self._limit):
                raw = await self._exchange(orjson.dumps(body), self._headers(question))
            return read_answer(raw, self._pointer)
        except Refused:
            raise
        except AnswerError as error:
            raise no_answer(str(error)) from error
        except TimeoutError as error:
            raise PdpOutage("no answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise PdpOutage(f"no connection: {type(error).__name__}") from error
        except (ValueError, TypeError) as error:
            raise no_answer(f"the question cannot be written as JSON: {type(error).__name__}") from error

    async def _exchange(self, body: bytes, headers: dict[str, str]) -> bytes:
        """One answer's bytes. A kept-alive connection may have died unnoticed: asking decides nothing, so that it is
        asked again, once."""
        try:
            return await self._post(body, headers)
        except (aiohttp.ServerDisconnectedError, ConnectionResetError):
            return await self._post(body, headers)

    async def _post(self, body: bytes, headers: dict[str, str]) -> bytes:
        tls: Any = self._tls if self._tls is not None else True
        async with self._session.post(
            self._url,
            data=body,
            headers=headers,
            allow_redirects=False,
            auto_decompress=False,
            timeout=self._timeout,
            ssl=tls,
        ) as response:
            _check(response, self._clock)
            raw = await response.content.read(MAX_ANSWER_BYTES + 1)
            while len(raw) <= MAX_ANSWER_BYTES and (more := await response.content.read(MAX_ANSWER_BYTES + 1)):
                raw += more
            if len(raw) > MAX_ANSWER_BYTES:
                response.close()
                raise AnswerError(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
            return raw

    def _headers(self, question: Question) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "openbao-sidecar",
        }
        if question.context.get("correlation_id"):
            headers["X-Request-ID"] = str(question.context["correlation_id"])
        if question.trace is not None:
            headers["traceparent"] = str(question.trace)
        if self._config.token_file is not None:
            headers["Authorization"] = f"Bearer {_token(self._config.token_file)}"
        return headers


def _check(response: aiohttp.ClientResponse, clock: Clock) -> None:
    if response.status >= 500 or response.status in _OUTAGES:
        raise PdpOutage(f"the PDP answered {response.status}", _retry_after(response, clock))
    if response.status != 200:
        raise AnswerError(f"the PDP answered {response.status}")
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
    return token


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
