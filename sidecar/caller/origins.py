"""The names this listener goes by: what `Host` may say (DNS rebinding) and what a proof's `htu` may be for.

Pure: no I/O, no clock.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sidecar.config import split_address
from sidecar.door.head import Head
from sidecar.errors import Code, Refused

_ORIGIN: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._~-]+)(?::(?P<port>[1-9][0-9]{0,4}))?", re.IGNORECASE
)
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}


@dataclass(frozen=True, slots=True)
class Origins:
    """`hosts` are the values of `Host` that are taken, lower case; `urls` the normalised origins of a good `htu`."""

    hosts: frozenset[str]
    urls: frozenset[str]

    @classmethod
    def of(cls, addresses: Iterable[str], *, tls: bool = False, public_urls: Iterable[str] = ()) -> Origins:
        """The names of a listener at these addresses (`host:port`, or `unix://…`) and public URLs.

        A loopback address is also `localhost`, a wildcard address is every loopback name, a Unix socket is
        `http://localhost`. Any other address has no name but the public URLs.

        Raises:
            ValueError: one of them is no address, or no origin.
        """
        hosts: set[str] = set()
        urls: set[str] = set()
        for address in addresses:
            if address.startswith("unix:"):
                names, scheme, port = ["localhost"], "http", ""
            else:
                host, number = split_address(address)
                names, scheme, port = _loopback_names(host), "https" if tls else "http", f":{number}"
            for name in names:
                # With its port or without: a loopback name cannot be rebound by DNS, its port says nothing more.
                hosts |= {name, f"{name}{port}"}
                urls.add(normalise(f"{scheme}://{name}{port}") or "")
        for public_url in public_urls:
            url = normalise(public_url.rstrip("/"))
            if url is None:
                raise ValueError(f"{public_url!r} is not an origin")
            urls.add(url)
            scheme, _, authority = url.partition("://")
            hosts.add(authority)
            if not _has_port(authority):
                hosts.add(f"{authority}:{_DEFAULT_PORTS[scheme]}")
        return cls(frozenset(hosts), frozenset(urls))


def normalise(origin: str) -> str | None:
    """`scheme://host[:port]` in lower case without a default port (RFC 3986, sections 6.2.2.1 and 6.2.3); None where
    it is not an http(s) origin."""
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        return None
    scheme, host, port = match["scheme"].lower(), match["host"].lower(), match["port"]
    if port is None or port == _DEFAULT_PORTS[scheme]:
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{port}"


def check_origin(head: Head, origins: Origins) -> None:
    """Refuses what a browser sends, and what was sent to another name than this listener's (DNS rebinding).

    Raises:
        Refused: OPERATION_FORBIDDEN where there is an `Origin`, MALFORMED_REQUEST where `Host` is missing or foreign.
    """
    if "origin" in head.headers:
        raise Refused(Code.OPERATION_FORBIDDEN, "requests from a browser are refused")
    host = head.headers.get("host")
    if host is None or host.lower() not in origins.hosts:
        raise Refused(Code.MALFORMED_REQUEST, "the Host header does not name this listener")


def _loopback_names(host: str) -> list[str]:
    everywhere = ["localhost", "127.0.0.1", "[::1]"]
    if host == "localhost":
        return everywhere
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return []
    if address.is_unspecified:
        return everywhere
    if not address.is_loopback:
        return []
    return ["localhost", f"[{address}]" if address.version == 6 else str(address)]


def _has_port(authority: str) -> bool:
    return ":" in authority.rpartition("]")[2]
