"""The fields of a body: a closed set of names, each with a reader that returns what is forwarded.

A reader takes the value as `json_body` read it and returns the value that OpenBao gets, or raises `Refused`:
MALFORMED_REQUEST. OpenBao converts weakly (`"3"` is 3, a list of maps one map); the readers take what clients send and
refuse what only a weak conversion would make sense of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from sidecar.errors import Code, Refused

Reader = Callable[[Any], Any]

MAX_ITEMS: Final = 1000
"""Versions or batch items in one request."""

_number: Final = re.compile(r"0|[1-9][0-9]{0,17}").fullmatch


def read_fields(body: Mapping[str, Any], readers: Mapping[str, Reader]) -> dict[str, Any]:
    """All fields, each by its name's reader. Raises `Refused`: MALFORMED_REQUEST for a name that has none."""
    if not body.keys() <= readers.keys():
        names = ", ".join(readers) or "none"
        raise malformed(f"the body has a field that this operation does not take; it takes: {names}")
    return {name: readers[name](value) for name, value in body.items()}


def scalar(value: Any) -> Any:
    """Text, a number, true or false."""
    if not isinstance(value, str | int | orjson.Fragment):
        raise malformed("a field of the body is neither text, nor a number, nor true or false")
    return value


def text(value: Any) -> Any:
    """Text."""
    if not isinstance(value, str):
        raise malformed("a field of the body is not text")
    return value


def scalars(value: Any) -> Any:
    """A scalar, or a list of them."""
    if isinstance(value, list):
        return [scalar(item) for item in value]
    return scalar(value)


def nullable(reader: Reader) -> Reader:
    """What the reader takes, or null."""

    def read(value: Any) -> Any:
        return None if value is None else reader(value)

    return read


def mapping(value: Any) -> Any:
    """An object with anything in it."""
    if not isinstance(value, dict):
        raise malformed("a field of the body is not an object")
    return value


def whole_number(value: Any) -> int:
    """A number from 0 on, or its plain decimal text, which the command line sends."""
    if isinstance(value, str) and _number(value):
        return int(value)
    if type(value) is not int or value < 0:
        raise malformed("a field of the body is not a whole number from 0 on")
    return value


def versions(value: Any) -> list[int]:
    """Versions to act on: a list of numbers or of their texts, one of either, or a text with commas."""
    if isinstance(value, str):
        value = value.split(",")
    elif not isinstance(value, list):
        value = [value]
    if not 0 < len(value) <= MAX_ITEMS:
        raise malformed(f"`versions` names between 1 and {MAX_ITEMS} versions")
    numbers = [whole_number(item) for item in value]
    if 0 in numbers:
        raise malformed("versions are counted from 1")
    return numbers


def object_of(readers: Mapping[str, Reader]) -> Reader:
    """An object with these fields only."""

    def read(value: Any) -> dict[str, Any]:
        return read_fields(mapping(value), readers)

    return read


def items_of(readers: Mapping[str, Reader]) -> Reader:
    """A list of objects with these fields only: a batch."""

    def read(value: Any) -> list[dict[str, Any]]:
        if not isinstance(value, list) or not 0 < len(value) <= MAX_ITEMS:
            raise malformed(f"a batch is a list of 1 to {MAX_ITEMS} items")
        return [read_fields(mapping(item), readers) for item in value]

    return read


def malformed(message: str) -> Refused:
    """The refusal of a body."""
    return Refused(Code.MALFORMED_REQUEST, message)
