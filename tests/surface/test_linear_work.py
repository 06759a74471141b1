"""Naming a request costs work in proportion to its length, whatever it is long in.

Counted, not timed: the lines of Python that run. And a length at which worse than linear work inside a regular
expression would not end is answered all the same.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Final

import pytest

from sidecar.door.head import parse_head
from sidecar.errors import Refused
from sidecar.surface.operation import LocalAnswer
from tests.surface.asking import API

_BASE: Final = 64


def _name(method: str, target: str, body: bytes = b"") -> None:
    """From the bytes of the head to an operation or a refusal."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost"]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    raw = "\r\n".join([*lines, "", ""]).encode("latin-1")
    with suppress(Refused):
        route = API.route(parse_head(raw, max_header_bytes=2**24, max_uri_bytes=2**24))
        if not isinstance(route, LocalAnswer):
            route.operation(body)


def _batch(count: int) -> bytes:
    return json.dumps({"batch_input": [{"plaintext": "eA=="}] * count}).encode()


LONG: Final[dict[str, Callable[[int], None]]] = {
    "segments": lambda n: _name("GET", "/v1/secret/data/" + "a/" * n + "b"),
    "segments, each encoded": lambda n: _name("GET", "/v1/secret/data/" + "%C3%BC/" * n + "b"),
    "segments of no mount": lambda n: _name("GET", "/v1/" + "x/" * n + "b"),
    "segments below ui/mounts": lambda n: _name("GET", "/v1/sys/internal/ui/mounts/" + "x/" * n + "b"),
    "empty segments": lambda n: _name("GET", "/v1/secret/data" + "/" * n),
    "one segment": lambda n: _name("GET", "/v1/secret/data/" + "a" * n),
    "percent signs": lambda n: _name("GET", "/v1/secret/data/" + "%25" * n),
    "bad percent signs": lambda n: _name("GET", "/v1/secret/data/" + "%" * n),
    "pairs of the query": lambda n: _name("GET", "/v1/secret/data/a?" + "&".join(f"x{i}=1" for i in range(n))),
    "equal pairs of the query": lambda n: _name("GET", "/v1/secret/data/a?" + "version=1&" * n),
    "a value of the query": lambda n: _name("LIST", "/v1/secret/metadata/?after=" + "a%2B" * n),
    "digits of a version": lambda n: _name("GET", "/v1/secret/data/a?version=" + "1" * n),
    "items of a batch": lambda n: _name("POST", "/v1/transit/encrypt/k1", _batch(n)),
    "versions": lambda n: _name("POST", "/v1/secret/destroy/a", json.dumps({"versions": [1] * n}).encode()),
    "depth": lambda n: _name("POST", "/v1/kv1/a", b'{"a":' * n + b"1" + b"}" * n),
    "brackets in a text": lambda n: _name("POST", "/v1/kv1/a", b'{"a":"' + b"[" * n + b'"}'),
    "a backslash at the end": lambda n: _name("POST", "/v1/kv1/a", b'{"a":"' + b'\\"' * n + b"\\"),
    "quotes that never close": lambda n: _name("POST", "/v1/kv1/a", b'{"a":"' + b'\\"' * n),
    "names": lambda n: _name("POST", "/v1/kv1/a", json.dumps({str(i): 1 for i in range(n)}).encode()),
    "digits of a number": lambda n: _name("POST", "/v1/kv1/a", b'{"a":' + b"1" * n + b"}"),
}


def _lines(work: Callable[[], None]) -> int:
    """How many lines of Python run."""
    count = 0

    def tracer(_frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return tracer

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("what", LONG)
def test_twice_the_length_is_at_most_twice_the_work(what: str) -> None:
    work = LONG[what]
    work(_BASE)  # what is built once is built
    least = _lines(lambda: work(1))
    counts = [_lines(lambda n=n: work(n)) - least for n in (_BASE, 2 * _BASE, 4 * _BASE, 8 * _BASE)]  # type: ignore[misc]
    for shorter, longer in itertools.pairwise(counts):
        assert longer <= 2.2 * max(shorter, 0) + 128, counts


@pytest.mark.parametrize("what", LONG)
def test_a_length_that_nothing_worse_than_linear_survives_is_answered(what: str) -> None:
    """100,000 of each: were a step quadratic, ten thousand million of them would not end within the test's limit."""
    LONG[what](100_000)
