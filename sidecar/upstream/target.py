"""Where OpenBao is, and what may be asked of it: the request target's exact bytes."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from yarl import URL

from sidecar.config import Upstream
from sidecar.surface.operation import UpstreamRequest

# RFC 3986, sections 3.3 and 3.4: nothing that a URL library would encode anew, cut off (#) or read as another part (?).
_PCHARS: Final = r"[A-Za-z0-9\-._~!$&'()*+,;=:@/]*(?:%[0-9A-F]{2}[A-Za-z0-9\-._~!$&'()*+,;=:@/]*)*"
_PATH: Final = re.compile("/v1/" + _PCHARS)
_QUERY: Final = re.compile(_PCHARS)


def base_url(upstream: Upstream) -> str:
    """`scheme://host[:port]` of the configured address, which has no path, query or user of its own."""
    parts = urlsplit(upstream.address or "")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError("upstream.address is not an http or https URL")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("upstream.address has a path, a query or a fragment")
    return f"{parts.scheme}://{parts.netloc}"


def url_of(base: str, request: UpstreamRequest) -> URL:
    """The URL whose request target is, byte for byte, what was built and authorised. Raises `ValueError` where that
    cannot be promised: the surface builds nothing of that kind."""
    if not _PATH.fullmatch(request.path) or not _QUERY.fullmatch(request.query):
        raise ValueError("a target that OpenBao might read in another way than it was authorised")
    query = f"?{request.query}" if request.query else ""
    return URL(f"{base}{request.path}{query}", encoded=True)
