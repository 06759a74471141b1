"""JSON that can be read in one way only. Pure."""

from __future__ import annotations

import json
from typing import Any, NoReturn


class JsonError(ValueError):
    """What came is not JSON, or could be read in several ways. The text quotes nothing of it."""


def read_json(raw: bytes) -> Any:
    """JSON (RFC 8259) with unique member names (RFC 7493, section 2.3) and nothing after it.

    Raises:
        JsonError: for anything else.
    """
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_members, parse_constant=_constant)
    except JsonError:
        raise
    except (ValueError, RecursionError) as error:
        # The parser's own words may quote what was read.
        raise JsonError(f"it is not JSON: {type(error).__name__}") from None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise JsonError("a member stands twice in it")
    return members


def _constant(_name: str) -> NoReturn:
    raise JsonError("NaN or Infinity in it")
