"""One reading of a JSON body, and its writing anew: what is forwarded is what was understood.

OpenBao takes the last of duplicate keys, reads only the first of several documents, replaces broken UTF-8 and reads
JSON whatever `Content-Type` says. Each of these lets two readers see two bodies, so each is refused. RFC 8259, with the
strictness of I-JSON (RFC 7493) about names and text; numbers keep the text that they were written with.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

import orjson

from sidecar.errors import Code, Refused

MAX_DEPTH: Final = 64
MAX_STRINGS: Final = 1000
"""Names and texts in one body: OpenBao's own bound (`max_request_json_strings`), unless it is configured otherwise."""
MAX_VALUES: Final = 50_000
"""Members and elements of one body."""

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
_FORM: Final = "application/x-www-form-urlencoded"

_SMALL_BYTES: Final = 4096
# One that is never closed reaches to the end: were it no match, each quote in it would be tried anew, in quadratic
# time.
_strings: Final = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_not_brackets: Final = re.compile(r"[^\[\]{}]+")
# 18 digits are below 2**63, and Python writes them as they stood; longer ones, and `-0`, stay text.
_PLAIN_INTEGER_DIGITS: Final = 18
_MAX_NUMBER_DIGITS: Final = 400


def read_object(body: bytes) -> dict[str, Any]:
    """The one JSON object that a body is. Integers of moderate size are `int`, all other numbers `orjson.Fragment`.

    Raises `Refused`: MALFORMED_REQUEST.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise _malformed("the body is not UTF-8") from None
    _check_bounds(text)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_constant,
        )
    except (json.JSONDecodeError, RecursionError):
        raise _malformed("the body is not one JSON document") from None
    if not isinstance(value, dict):
        raise _malformed("the body is not a JSON object")
    return value


def faithful(raw: bytes) -> Any:
    """A JSON document of OpenBao's; numbers stay as they were written. Raises `ValueError`, `RecursionError`."""
    return json.loads(raw, parse_int=_integer, parse_float=_number)


def write(value: Mapping[str, Any]) -> bytes:
    """The body to OpenBao. Raises `Refused`: MALFORMED_REQUEST for text that UTF-8 cannot hold (lone surrogates)."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        raise _malformed("the body holds text that is not Unicode (a lone surrogate)") from None


def check_media_type(headers: Mapping[str, str], *, merge_patch: bool, first_byte: bytes) -> None:
    """Refuses a body that is not said to be JSON, or that is said to be encoded.

    `application/json`, or nothing said; `application/merge-patch+json` for PATCH (RFC 7396). A form is what curl calls
    any `-d`: like OpenBao, it is taken as JSON where it begins with `{`, and never as a form.

    Raises `Refused`: MALFORMED_REQUEST.
    """
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise _malformed("an encoded body (Content-Encoding) is not taken")
    kind, _, parameter = headers.get("content-type", "").lower().partition(";")
    kind, parameter = kind.strip(" "), parameter.strip(" ")
    if parameter not in ("", "charset=utf-8", 'charset="utf-8"'):
        raise _malformed("Content-Type has a parameter other than charset=utf-8")
    if merge_patch:
        if kind != MERGE_PATCH:
            raise _malformed(f"PATCH takes Content-Type: {MERGE_PATCH}")
    elif kind == _FORM:
        if first_byte != b"{":
            raise _malformed("form data is not taken; send JSON")
    elif kind not in ("", JSON):
        raise _malformed(f"Content-Type is {JSON}, or is left out")


def _check_bounds(text: str) -> None:
    """Depth and numbers of strings and values, before anything is built. Most texts are too small to have too many."""
    brackets = text.count("[") + text.count("{")
    if brackets <= MAX_DEPTH and len(text) <= _SMALL_BYTES and text.count('"') <= 2 * MAX_STRINGS:
        return
    skeleton, strings = _strings.subn("", text)
    if strings > MAX_STRINGS:
        raise _malformed(f"the body holds more than {MAX_STRINGS} strings, names included")
    if skeleton.count(",") + skeleton.count("[") + skeleton.count("{") > MAX_VALUES:
        raise _malformed("the body holds too many values")
    if brackets > MAX_DEPTH:
        depth = 0
        for bracket in _not_brackets.sub("", skeleton):
            depth += 1 if bracket in "[{" else -1
            if depth > MAX_DEPTH:
                raise _malformed("the body is nested too deeply")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _malformed("a name stands twice in an object of the body")
    return members


def _integer(text: str) -> int | orjson.Fragment:
    return int(text) if len(text) <= _PLAIN_INTEGER_DIGITS and text != "-0" else _number(text)


def _number(text: str) -> orjson.Fragment:
    # OpenBao refuses a body with a number that no double can hold, before it looks at anything else.
    if len(text) > _MAX_NUMBER_DIGITS or math.isinf(float(text)):
        raise _malformed("the body holds a number out of range")
    return orjson.Fragment(text)


def _constant(_name: str) -> NoReturn:
    raise _malformed("NaN and Infinity are no JSON")


def _malformed(message: str) -> Refused:
    return Refused(Code.MALFORMED_REQUEST, message)
