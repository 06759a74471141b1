"""SPIFFE IDs (The SPIFFE Identity and Verifiable Identity Document, section 2), read strictly.

Pure: no I/O, no clock.
"""

from __future__ import annotations

import re
from typing import Final

MAX_ID_CHARS: Final = 2048
"""Section 2.3: implementations support up to 2048 bytes, and none longer are made."""

# Section 2.1: lower case, no port, no user, no percent-encoding. A workload's ID has a path, of at least one segment.
_ID: Final = re.compile(r"spiffe://(?P<domain>[a-z0-9._-]{1,255})(?P<path>(?:/[A-Za-z0-9._-]+)+)")
_DOTS: Final = frozenset({".", ".."})


def trust_domain_of(spiffe_id: object) -> str | None:
    """The trust domain of a workload's SPIFFE ID; None where the value is no such ID, in its one spelling."""
    if type(spiffe_id) is not str or len(spiffe_id) > MAX_ID_CHARS:
        return None
    match = _ID.fullmatch(spiffe_id)
    if match is None or not _DOTS.isdisjoint(match["path"].split("/")):
        return None
    return match["domain"]
