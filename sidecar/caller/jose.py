"""The strict reading of a compact JWS (RFC 7515, section 7.1), shared by access tokens and DPoP proofs.

Libraries read more leniently than one reading allows: padding, non-canonical base64url, repeated JSON members. Here
each is refused, before any library sees the text. Pure: no I/O, no clock.
"""

from __future__ import annotations

import json
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from typing import Any, Final, NoReturn, TypeGuard

import orjson

_TO_STANDARD: Final = bytes.maketrans(b"-_+/=", b"+/!!!")
"""What is not of the URL alphabet becomes what is of none."""
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")

_LAST: Final = (None, b"", b"AQgw", b"AEIMQUYcgkosw048")
"""By how many letters stand in the last group of four: those that leave no bits over which a decoder would drop."""

LATEST_DATE: Final = 253_402_300_799
"""The last second of the year 9999: beyond it a NumericDate is no date (RFC 7519, section 2; RFC 3339)."""

FORBIDDEN_HEADERS: Final = frozenset({"crit", "b64", "zip", "enc", "jku", "x5u", "x5c"})
"""Header parameters that change how a JWS is read, or point at a key of the sender's choice. None is supported, so
none is passed over in silence (RFC 7515, section 4.1.11; RFC 8725, sections 3.1 and 3.10)."""


class Malformed(ValueError):  # noqa: N818 - it says what the text is, as its uses read
    """The text cannot be read in exactly one way. The message is fit for a caller: it quotes nothing."""


def split(compact: str, limit: int) -> tuple[bytes, bytes, bytes]:
    """The three segments of a compact JWS, still encoded. `limit` is in characters.

    Raises:
        Malformed: not exactly three non-empty segments (five would be a JWE), too long, not ASCII.
    """
    if len(compact) > limit:
        raise Malformed("it is too long")
    try:
        parts = compact.encode("ascii").split(b".", 5)
    except UnicodeEncodeError:
        raise Malformed("it is not ASCII") from None
    if len(parts) != 3 or not (parts[0] and parts[1] and parts[2]):
        raise Malformed("it is not a signed JWT in compact form")
    return parts[0], parts[1], parts[2]


def decode(segment: bytes) -> bytes:
    """Base64url without padding, in its one canonical spelling (RFC 7515, section 2; RFC 4648, section 3.5)."""
    last = _LAST[len(segment) % 4]
    if last is not None and segment[-1] not in last:
        raise Malformed("it is not canonical base64url")
    try:
        return a2b_base64(segment.translate(_TO_STANDARD) + b"=" * (-len(segment) % 4), strict_mode=True)
    except Base64Error:
        raise Malformed("it is not canonical base64url") from None


def encode(raw: bytes) -> bytes:
    """Base64url without padding."""
    return b2a_base64(raw, newline=False).translate(_TO_URL).rstrip(b"=")


def json_object(raw: bytes) -> dict[str, Any]:
    """A JSON object whose members stand once each, at every depth (RFC 7519, section 4; RFC 8725, section 2.4).

    Raises:
        Malformed: not JSON, not an object, a repeated member, too deep.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise Malformed("it is not JSON") from None
    if type(value) is not dict:
        raise Malformed("it is not a JSON object")
    # What is written back letter by letter as it stood has each member once, at every depth. That is how most
    # libraries write; anything else takes the slow way, nesting too deep to be written included.
    try:
        if orjson.dumps(value) == raw:
            return value
    except orjson.JSONEncodeError:
        pass
    try:
        json.loads(raw.decode(), object_pairs_hook=_once_each, parse_constant=_no_constant)
    except RecursionError:
        raise Malformed("it is nested too deep") from None
    except ValueError as error:
        raise error if isinstance(error, Malformed) else Malformed("it is not JSON") from None
    return value


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Malformed("a member stands twice")
    return members


def _no_constant(_name: str) -> NoReturn:
    raise Malformed("it is not JSON")


def is_text(value: object, limit: int) -> TypeGuard[str]:
    """Printable, not empty, at most `limit` characters: fit for a record and a policy."""
    return type(value) is str and 0 < len(value) <= limit and value.isprintable()


def is_date(value: object) -> TypeGuard[float]:
    """A NumericDate: a number of seconds between 1970 and 9999, integer or not (RFC 7519, section 2)."""
    return (type(value) is int or type(value) is float) and 0 <= value <= LATEST_DATE
