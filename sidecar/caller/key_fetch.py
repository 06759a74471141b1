"""Fetching an issuer's key set: from its `jwks_uri`, configured or told by the issuer's own metadata.

Metadata: OpenID Connect Discovery 1.0 (section 4) and RFC 8414 (section 3). Its `issuer` must be the configured one,
to the letter. What is configured may lie anywhere; what metadata name must lie at the issuer itself or, by https, at
public addresses, so that they cannot send the sidecar to its neighbours. No redirect is followed.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from typing import Final
from urllib.parse import SplitResult, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from sidecar.caller import jose
from sidecar.config import Issuer
from sidecar.ops.logs import register_secret

FETCH_TIMEOUT_SECONDS: Final = 5
MAX_JWKS_BYTES: Final = 256 * 1024
MAX_METADATA_BYTES: Final = 64 * 1024
MAX_BEARER_BYTES: Final = 16 * 1024

_JWKS: Final = "application/jwk-set+json, application/json"
_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
_NOT_THERE: Final = frozenset({404, 405, 410})


class Unreadable(Exception):  # noqa: N818 - an answer: there are no keys to be had now
    """No key set could be had. The message says why, for the log."""


class _Status(Unreadable):
    def __init__(self, status: int) -> None:
        super().__init__(f"the issuer answered {status}")
        self.status = status


class KeyFetcher:
    """Fetches one issuer's key set."""

    def __init__(self, issuer: Issuer, session: aiohttp.ClientSession) -> None:
        self._issuer = issuer
        self._session = session

    async def fetch(self) -> bytes:
        """The key set's bytes, MAX_JWKS_BYTES and a chunk at most.

        Raises:
            Unreadable: whatever the reason.
        """
        try:
            uri = self._issuer.jwks_uri
            if uri is None:
                uri = await self._discover()
                if _origin(urlsplit(uri)) != _origin(urlsplit(self._issuer.issuer)):
                    return await self._fetch_elsewhere(uri)
            return await self._get(self._session, uri, MAX_JWKS_BYTES, with_bearer=True)
        except TimeoutError:
            raise Unreadable("the issuer did not answer in time") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unreadable(f"the issuer cannot be reached: {type(error).__name__}") from None

    async def _discover(self) -> str:
        """The `jwks_uri` of the issuer's metadata."""
        first, second = metadata_urls(self._issuer.issuer)
        try:
            document = await self._get(self._session, first, MAX_METADATA_BYTES, with_bearer=True)
        except _Status as error:
            if error.status not in _NOT_THERE:
                raise
            document = await self._get(self._session, second, MAX_METADATA_BYTES, with_bearer=True)
        return jwks_uri_of(document, self._issuer.issuer)

    async def _fetch_elsewhere(self, uri: str) -> bytes:
        """From another server than the issuer: by https, at public addresses only, and without its bearer token."""
        parts = urlsplit(uri)
        if parts.scheme != "https" or not _may_be_public(parts.hostname or ""):
            raise Unreadable("the issuer's metadata point to where keys are not fetched from; configure jwks_uri")
        connector = aiohttp.TCPConnector(resolver=_PublicResolver(), limit=1)
        async with aiohttp.ClientSession(connector=connector, trust_env=False) as session:
            return await self._get(session, uri, MAX_JWKS_BYTES, with_bearer=False)

    async def _get(self, session: aiohttp.ClientSession, url: str, limit: int, *, with_bearer: bool) -> bytes:
        ca_file, token_file = self._issuer.ca_file, self._issuer.token_file
        # Files are read anew for each fetch, so that a renewed CA or token counts without a restart.
        tls = ssl.create_default_context(cafile=ca_file) if ca_file else True
        headers = {"Accept": _JWKS, "Accept-Encoding": "identity"}
        if with_bearer and token_file is not None:
            with token_file.open("rb") as file:
                bearer = register_secret(file.read(MAX_BEARER_BYTES).decode("ascii").strip(), token_file)
                headers["Authorization"] = f"Bearer {bearer}"
        async with session.get(
            url,
            allow_redirects=False,
            auto_decompress=False,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=FETCH_TIMEOUT_SECONDS),
            ssl=tls,
        ) as response:
            if response.status != 200:
                raise _Status(response.status)
            document = bytearray()
            async for chunk in response.content.iter_any():
                document += chunk
                if len(document) > limit:
                    break
            return bytes(document)


def metadata_urls(issuer: str) -> tuple[str, str]:
    """Where an issuer's metadata lie: OpenID Connect Discovery's place, then RFC 8414's.

    The one appends to the issuer's path, the other puts itself before it.
    """
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    base = f"{parts.scheme}://{parts.netloc}"
    return (
        f"{base}{path}/.well-known/openid-configuration",
        f"{base}/.well-known/oauth-authorization-server{path}",
    )


def jwks_uri_of(document: bytes, issuer: str) -> str:
    """The `jwks_uri` in an issuer's metadata.

    Raises:
        Unreadable: they are not this issuer's (RFC 8414, section 3.3), or name no URL.
    """
    if len(document) > MAX_METADATA_BYTES:
        raise Unreadable("the issuer's metadata are too large")
    try:
        metadata = jose.json_object(document)
    except jose.Malformed as error:
        raise Unreadable(f"the issuer's metadata cannot be read: {error}") from None
    if metadata.get("issuer") != issuer:
        raise Unreadable("the metadata are another issuer's")
    uri = metadata.get("jwks_uri")
    if not jose.is_text(uri, 2048):
        raise Unreadable("the issuer's metadata name no jwks_uri")
    parts = urlsplit(uri)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.username is not None:
        raise Unreadable("the issuer's jwks_uri is not an http(s) URL")
    return uri


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    return parts.scheme, parts.hostname or "", parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)


def _may_be_public(host: str) -> bool:
    """False for an address that is not a public one; a name is looked up when it is connected to."""
    try:
        return _is_public(host)
    except ValueError:
        # Whoever connects takes digits and dots for an address too, `127.1` and `2130706433`, and looks nothing up.
        return not host.replace(".", "").isdigit() and host != "localhost" and not host.endswith(".localhost")


def _is_public(address: str) -> bool:
    """Whether packets to it leave for the internet (RFC 6890): one host there, not an IPv4 address that a translator or
    a tunnel at the network's edge makes of it. Raises ValueError where it is no address."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        return ip in _GLOBAL_UNICAST and ip.is_global and ip.sixtofour is None and ip.teredo is None
    return ip.is_global and not ip.is_multicast


class _PublicResolver(AbstractResolver):
    """Names that have public addresses only. The addresses looked at are those connected to."""

    def __init__(self) -> None:
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """See `AbstractResolver`. Raises OSError where one of the addresses is not public."""
        found = await self._resolver.resolve(host, port, family)
        if not all(_is_public(entry["host"]) for entry in found):
            raise OSError("the name leads to an address that is not public")
        return found

    async def close(self) -> None:
        """See `AbstractResolver`."""
        await self._resolver.close()
