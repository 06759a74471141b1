"""Where OpenBao is, and what may be asked of it: the request target's exact bytes."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from yarl import URL

from sidecar.config import Upstream
from sidecar.surface.operation import UpstreamRequest

# RFC 3986, sections 3.3 and 3.4: nothing that a URL library would encode anew, cut off (#) or read as another part (?).
_PCHARS: Final = r"[A-Za-z0-9\-._~!$&'()*+,;=:@/]*(?:%[0-9A-F]{2}[A-Za-z0-9\-._~!$&'()*+,;=:@/]*)*"
_PATH: Final = re.compile("/v1/" + _PCHARS)
MAX_REDIRECTS: Final = 2
"""Hops of one request; a leader that changes meanwhile may need the second."""
_STANDBY: Final = frozenset({307, 308})
_QUERY: Final = re.compile(_PCHARS)


def base_url(upstream: Upstream) -> str:
    """`scheme://host[:port]` of the configured address, which has no path, query or user of its own."""
    return _origin(upstream.address or "")


def nodes_of(upstream: Upstream) -> frozenset[str]:
    """The same of the nodes that a redirect may name."""
    return frozenset(map(_origin, upstream.cluster_addresses))


def _origin(address: str) -> str:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError("upstream.address is not an http or https URL")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("upstream.address has a path, a query or a fragment")
    return f"{parts.scheme}://{parts.netloc}"


def redirected(nodes: frozenset[str], status: int, location: str | None, path: str, query: str) -> str | None:
    """The node to ask instead, where the answer is a standby's redirect to one that is configured, for the very same
    request; else None. A standby that could not pass a request on has not executed it. What is sent to the node is
    what was built, not what the redirect says."""
    if status not in _STANDBY or not nodes or location is None:
        return None
    try:
        parts = urlsplit(location)
        node = f"{parts.scheme}://{parts.netloc}"
    except ValueError:
        return None
    # Go spells a path in its own way, so that the decoded ones are compared.
    same = unquote_to_bytes(parts.path) == unquote_to_bytes(path) and parts.query == query
    return node if node in nodes and same and not parts.fragment else None


def url_of(base: str, request: UpstreamRequest) -> URL:
    """The URL whose request target is, byte for byte, what was built and authorised. Raises `ValueError` where that
    cannot be promised: the surface builds nothing of that kind."""
    if not _PATH.fullmatch(request.path) or not _QUERY.fullmatch(request.query):
        raise ValueError("a target that OpenBao might read in another way than it was authorised")
    query = f"?{request.query}" if request.query else ""
    return URL(f"{base}{request.path}{query}", encoded=True)
