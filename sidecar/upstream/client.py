"""Forwarding: a Permit in, OpenBao's answer out, executed at most once."""

from __future__ import annotations

import io
import re
import time
from typing import Final

import aiohttp
from multidict import CIMultiDict

from sidecar.caller.identity import Credential
from sidecar.config import Upstream
from sidecar.decision.permit import Permit
from sidecar.surface.operation import UpstreamRequest
from sidecar.upstream.answer import UpstreamAnswer, timed_out
from sidecar.upstream.failure import UpstreamFailure, unavailable, untrustworthy
from sidecar.upstream.pool import Pool
from sidecar.upstream.presented import Login
from sidecar.upstream.target import MAX_REDIRECTS, base_url, nodes_of, redirected, url_of
from sidecar.upstream.tls import client_context

__all__ = ["UpstreamAnswer", "UpstreamClient", "UpstreamFailure"]

PUBLIC_PATHS: Final = frozenset({"/v1/sys/health", "/v1/sys/seal-status", "/v1/sys/leader"})
"""What OpenBao answers to anyone; the only requests that go out without a Permit, and they carry no token."""

METADATA_BYTES: Final = 512 * 1024
"""The largest metadata that are read: of about a thousand versions, with all custom metadata that OpenBao takes."""
_METADATA: Final = re.compile(r"/v1/[^?#]+/metadata/[^?#]*[^?#/]").fullmatch
_is_self: Final = re.compile(r"/v1/auth/token/(?:lookup|renew|revoke)-self").fullmatch
_about_token: Final = re.compile(
    r"/v1/auth/(?:token/(?:lookup|renew|revoke)-self|(?!token/).+/login(?:/[^/]+)?)"
).fullmatch

USER_AGENT: Final = "openbao-sidecar"
CONNECT_SECONDS: Final = 5.0
_LARGE: Final = 2**20


class UpstreamClient:
    """The one way to OpenBao."""

    def __init__(self, upstream: Upstream, login: Login) -> None:
        """Needs a running event loop. Raises `OSError` and `ssl.SSLError` where a TLS file is unusable."""
        self._login = login
        self._tls = upstream.tls
        self._context = client_context(upstream.tls)
        self._base = base_url(upstream) if upstream.address is not None else ""
        self._nodes = nodes_of(upstream)
        self._server_name = upstream.tls.server_name
        timeout = upstream.timeout_seconds
        self._session = aiohttp.ClientSession(
            connector=Pool(self._context),
            # The way to a connection has a limit well below the whole: what exceeds the whole was certainly written.
            timeout=aiohttp.ClientTimeout(total=timeout, connect=min(CONNECT_SECONDS, timeout / 2)),
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity", "X-Vault-Request": "true"},
            skip_auto_headers=("Accept", "Content-Type"),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )
        # aiohttp sends GET, PUT and DELETE again when a kept-alive connection dies, though OpenBao may have executed
        # them. There is no public switch; `tests/upstream/test_at_most_once.py` shows that this one still works.
        self._session._retry_connection = False  # noqa: SLF001 - see above

    def reload(self) -> None:
        """Reads the TLS files again, for connections made from now on; the idle ones before are not used again.

        Raises `OSError`, `ssl.SSLError`, and keeps what is in force, where they are unusable.
        """
        self._context = client_context(self._tls)

    async def close(self) -> None:
        """Closes all connections."""
        await self._session.close()

    async def forward(
        self, permit: Permit, *, request: UpstreamRequest | None = None, traceparent: str | None = None
    ) -> UpstreamAnswer:
        """Sends what was permitted, once, with the token of the login: the operation's own request, or another that it
        covers. Raises `UpstreamFailure`, `Refused`."""
        if request is not None and not permit.operation.covers(request):
            raise ValueError("a request that the permitted operation does not cover")
        shown = await self._login.token_for(permit)
        headers = _headers(shown.credential, traceparent)
        answer = await self._exchange(request or permit.operation.upstream, headers, shown.secrets)
        answer.made_under = shown.credential
        if answer.status == 403 and not await self._token_still_good(answer, permit, shown.credential):
            # OpenBao looked at the token and went no further. The caller did nothing wrong and may ask again.
            raise unavailable("the login to OpenBao has ended, it is being made again")
        return answer

    async def public(self, request: UpstreamRequest, *, traceparent: str | None = None) -> UpstreamAnswer:
        """Asks one of `PUBLIC_PATHS`, without any token. Raises `UpstreamFailure`."""
        if request.method != "GET" or request.path not in PUBLIC_PATHS or request.body is not None:
            raise ValueError("only what OpenBao answers to anyone goes out without a permit")
        return await self._exchange(request, _headers(None, traceparent))

    async def metadata(self, request: UpstreamRequest, own: Credential) -> tuple[int, bytes]:
        """Status and body of a read of one secret's KV version 2 metadata, with the sidecar's own token and on nobody's
        permit: for the PDP alone, never for a caller. Raises `UpstreamFailure`."""
        if request.method != "GET" or request.query or request.body is not None or not _METADATA(request.path):
            raise ValueError("only the metadata of one secret are read without a permit")
        answer = await self._exchange(request, _headers(own))
        return answer.status, await answer.read(METADATA_BYTES)

    async def token_call(
        self, request: UpstreamRequest, token: Credential | None, *, traceparent: str | None = None
    ) -> UpstreamAnswer:
        """A call about a caller's own token, with that token, or a login, with none. Raises `UpstreamFailure`."""
        if not _about_token(request.path) or (token is not None) is not bool(_is_self(request.path)):
            raise ValueError("only a caller's own token calls and logins go out without a permit")
        return await self._exchange(request, _headers(token, traceparent))

    async def _token_still_good(self, answer: UpstreamAnswer, permit: Permit, used: Credential) -> bool:
        try:
            good = await self._login.still_good(permit, used)
        except BaseException:
            answer.close()
            raise
        if not good:
            answer.close()
        return good

    async def _exchange(
        self, request: UpstreamRequest, headers: CIMultiDict[str], secrets: tuple[bytes, ...] = ()
    ) -> UpstreamAnswer:
        if request.namespace:
            headers["X-Vault-Namespace"] = request.namespace
        body: bytes | io.BytesIO | None = request.body
        if request.body is not None:
            headers["Content-Type"] = request.content_type
            if len(request.body) > _LARGE:
                body = io.BytesIO(request.body)  # written in pieces: bytes would be copied whole into the transport
        started = time.perf_counter()
        if not self._base:
            raise unavailable("this sidecar has no OpenBao behind it")
        response = await self._send(self._base, request, headers, body)
        for _ in range(MAX_REDIRECTS):
            locations = response.headers.getall("Location", [])
            location = locations[0] if len(locations) == 1 else None
            node = redirected(self._nodes, response.status, location, request.path, request.query)
            if node is None:
                break
            response.close()
            if isinstance(body, io.BytesIO):
                body = io.BytesIO(request.body or b"")  # the one before was read, and is closed
            response = await self._send(node, request, headers, body)
        return UpstreamAnswer(response, time.perf_counter() - started, secrets)

    async def _send(
        self, base: str, request: UpstreamRequest, headers: CIMultiDict[str], body: bytes | io.BytesIO | None
    ) -> aiohttp.ClientResponse:
        try:
            return await self._session.request(
                request.method,
                url_of(base, request),
                headers=headers,
                data=body,
                allow_redirects=False,
                server_hostname=self._server_name,
                ssl=self._context,
            )
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            raise _failure(error) from error


def _headers(token: Credential | None, traceparent: str | None = None) -> CIMultiDict[str]:
    headers = CIMultiDict({} if token is None else {"X-Vault-Token": token.reveal()})
    if traceparent is not None:
        headers["traceparent"] = traceparent
    return headers


def _failure(error: Exception) -> UpstreamFailure:
    """From aiohttp's exceptions to ours: what failed before a connection stood was certainly not sent."""
    kind = type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return unavailable("OpenBao's certificate or TLS is not accepted", f"{kind}: {error}")
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return unavailable("OpenBao cannot be reached", f"{kind}: {error}")
    if isinstance(error, TimeoutError):
        return timed_out(kind)
    return untrustworthy(kind)
