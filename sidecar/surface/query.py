"""A request's query, read strictly: each name once, spelt plainly, and only names that the operation has.

OpenBao drops a pair that it cannot parse, and all pairs where there are too many; a name may be encoded, a repeated one
becomes a list. Here any of these is refused, so that what decides is what was sent. `+` is a space, as OpenBao has it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from sidecar.errors import Code, Refused
from sidecar.surface.encoding import check_printable
from sidecar.surface.secret_uri import whole_number

Reader = Callable[[str], str | None]
"""Reads a raw value: returns it decoded, or None where it says what leaving it out says. Raises `Refused`:
AMBIGUOUS_QUERY."""

_name: Final = re.compile(r"[a-z_]+").fullmatch
_raw_value: Final = re.compile(r"(?:[A-Za-z0-9\-._~!$'()*+,:@/?]|%[0-9A-Fa-f]{2})*").fullmatch

# What OpenBao reads as true (Go's strconv.ParseBool). What it reads as false makes a read of a list: refused.
_TRUE: Final = frozenset({"1", "t", "T", "true", "True", "TRUE"})


def split_query(query: str | None) -> dict[str, str]:
    """Names and raw values. Raises `Refused`: AMBIGUOUS_QUERY, OPERATION_FORBIDDEN for `scan` and `help`."""
    if not query:
        return {}
    values: dict[str, str] = {}
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if not _name(name):
            raise Refused(Code.AMBIGUOUS_QUERY, "a name in the query is empty, encoded or unknown")
        if name in values:
            raise Refused(Code.AMBIGUOUS_QUERY, "a name stands twice in the query")
        if name in ("scan", "help"):
            raise Refused(Code.OPERATION_FORBIDDEN, f"`{name}` is not served; list a folder, or name a secret")
        values[name] = value
    return values


def take_list(values: dict[str, str]) -> bool:
    """Takes `list` out of the query: whether it asks for a list. Raises `Refused`: AMBIGUOUS_QUERY."""
    value = values.pop("list", None)
    if value is None:
        return False
    if value not in _TRUE:
        raise Refused(Code.AMBIGUOUS_QUERY, "`list` is true, or is left out")
    return True


def read_values(values: Mapping[str, str], readers: Mapping[str, Reader]) -> dict[str, str]:
    """The values that say something, each by its name's reader. Raises `Refused`: AMBIGUOUS_QUERY for a name that has
    none."""
    if not values.keys() <= readers.keys():
        raise Refused(Code.AMBIGUOUS_QUERY, "the query has a name that this operation does not have")
    read = {name: readers[name](value) for name, value in values.items()}
    return {name: value for name, value in read.items() if value is not None}


def encode_query(values: Mapping[str, str]) -> str:
    """The query to OpenBao."""
    return "&".join([f"{name}={quote(value, safe='')}" for name, value in values.items()])


# -- readers -------------------------------------------------------------------------------------------------------
def number(raw: str) -> str | None:
    """A plain decimal number; 0 is what OpenBao takes where none is given: the latest version, any depth, no limit."""
    return raw if whole_number(raw) else None


def name_in_folder(raw: str) -> str | None:
    """A name as a list shows it: one segment, and a slash behind it where it is a folder. Go's client sends it empty
    where it has none."""
    if not raw:
        return None
    name = _decoded(raw)
    if name.removesuffix("/") in ("", ".", "..") or "/" in name.removesuffix("/"):
        raise Refused(Code.AMBIGUOUS_QUERY, "`after` is one name as the list shows it")
    return name


def one_of(*words: str) -> Reader:
    """One of these words."""

    def read(raw: str) -> str:
        if raw not in words:
            raise Refused(Code.AMBIGUOUS_QUERY, "a value in the query is none of those that the operation takes")
        return raw

    return read


def _decoded(raw: str) -> str:
    if not _raw_value(raw):
        raise Refused(Code.AMBIGUOUS_QUERY, "a value in the query is not percent-encoded")
    try:
        value = unquote_to_bytes(raw.replace("+", " ")).decode("utf-8")
    except UnicodeDecodeError:
        raise Refused(Code.AMBIGUOUS_QUERY, "a value in the query is not UTF-8") from None
    check_printable(value)
    return value
