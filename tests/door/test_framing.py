"""Where a body ends, and what is no body."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.door.framing import MAX_CHUNKS, ChunkedFraming, Framing, LengthFraming, framing_of
from sidecar.door.head import Head
from sidecar.errors import Code, Refused

Outcome = tuple[bytes, bytes, bool, int] | Code


def follow(framing: Framing, pieces: list[bytes]) -> Outcome:
    """The body, what came after it, whether it ended, and the announced size; or the refusal's code."""
    body, rest = b"", b""
    for piece in pieces:
        try:
            part, after = framing.feed(piece)
        except Refused as refused:
            return refused.code
        body += part
        rest += after
    return body, rest, framing.complete, framing.announced


def one_outcome(new: Callable[[], Framing], data: bytes) -> Outcome:
    """What becomes of these bytes: the same whole, byte by byte, and with bytes trailing."""
    whole = follow(new(), [data])
    assert follow(new(), [data[i : i + 1] for i in range(len(data))]) == whole
    for at in range(len(data)):
        assert follow(new(), [data[:at], data[at:]]) == whole
    if not isinstance(whole, Code) and whole[2]:
        body, rest, complete, announced = whole
        assert follow(new(), [data + b"GET /"]) == (body, rest + b"GET /", complete, announced)
        assert follow(new(), [data, b"GET /"]) == (body, rest + b"GET /", complete, announced)
    return whole


# -- Content-Length ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", (b"", b"", False, 5)),
        (b"abc", (b"abc", b"", False, 5)),
        (b"abcde", (b"abcde", b"", True, 5)),
        (b"abcdefg", (b"abcde", b"fg", True, 5)),
        (b"\r\n\r\n\0!", (b"\r\n\r\n\0", b"!", True, 5)),
    ],
)
def test_a_body_with_a_length_ends_after_so_many_bytes(data: bytes, expected: Outcome) -> None:
    assert one_outcome(lambda: LengthFraming(5), data) == expected


# -- chunked -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("data", "body", "rest", "complete"),
    [
        (b"0\r\n\r\n", b"", b"", True),
        (b"00000000\r\n\r\n", b"", b"", True),
        (b"5\r\nabcde\r\n0\r\n\r\n", b"abcde", b"", True),
        (b"0005\r\nabcde\r\n0\r\n\r\n", b"abcde", b"", True),
        (b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789", b"", True),
        (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789", b"", True),
        (b"1\r\na\r\n2\r\nbc\r\n3\r\ndef\r\n0\r\n\r\n", b"abcdef", b"", True),
        (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n", b"", True),
        (b"7\r\n0\r\n\r\n0\r\r\n0\r\n\r\n", b"0\r\n\r\n0\r", b"", True),
        (b"1\r\na\r\n0\r\n\r\n\r\n", b"a", b"\r\n", True),
        (b"1\r\na\r\n0\r\n\r", b"a", b"", False),
        (b"1\r\na\r\n0\r\n", b"a", b"", False),
        (b"5\r\nab", b"ab", b"", False),
        (b"5\r", b"", b"", False),
        (b"00000005", b"", b"", False),
    ],
)
def test_a_chunked_body_ends_with_its_last_chunk(data: bytes, body: bytes, rest: bytes, complete: bool) -> None:
    outcome = one_outcome(ChunkedFraming, data)
    assert not isinstance(outcome, Code)
    assert outcome[:3] == (body, rest, complete)


BROKEN = {
    "extension": b"5;a=b\r\nabcde\r\n0\r\n\r\n",
    "bare extension": b"5;\r\nabcde\r\n0\r\n\r\n",
    "space before an extension": b"5 ;a\r\nabcde\r\n0\r\n\r\n",
    "extension of the last chunk": b"5\r\nabcde\r\n0;a\r\n\r\n",
    "space after the size": b"5 \r\nabcde\r\n0\r\n\r\n",
    "space before the size": b" 5\r\nabcde\r\n0\r\n\r\n",
    "tab": b"5\t\r\nabcde\r\n0\r\n\r\n",
    "plus": b"+5\r\nabcde\r\n0\r\n\r\n",
    "minus": b"-5\r\nabcde\r\n0\r\n\r\n",
    "0x": b"0x5\r\nabcde\r\n0\r\n\r\n",
    "underscore": b"1_0\r\n",
    "no size": b"\r\nabcde\r\n0\r\n\r\n",
    "not hex": b"g\r\n",
    "nine digits": b"000000005\r\nabcde\r\n0\r\n\r\n",
    "overflowing size": b"ffffffffffffffff5\r\nabcde\r\n0\r\n\r\n",
    "bare LF after the size": b"5\nabcde\r\n0\r\n\r\n",
    "bare CR after the size": b"5\rabcde\r\n0\r\n\r\n",
    "CR CR LF after the size": b"5\r\r\nabcde\r\n0\r\n\r\n",
    "bare LF after the data": b"5\r\nabcde\n0\r\n\r\n",
    "bare CR after the data": b"5\r\nabcde\r0\r\n\r\n",
    "data longer than its size": b"5\r\nabcdef\r\n0\r\n\r\n",
    "data shorter than its size": b"5\r\nabc\r\n0\r\n\r\n",
    "bare LF after the last chunk": b"0\r\n\n",
    "trailer": b"5\r\nabcde\r\n0\r\nX-Vault-Token: t\r\n\r\n",
    "empty-named trailer": b"0\r\n: \r\n\r\n",
    "the next request in a trailer's place": b"0\r\nGET / HTTP/1.1\r\n\r\n",
    "NUL": b"5\0\r\nabcde\r\n0\r\n\r\n",
    "fullwidth digit": "５\r\nabcde\r\n0\r\n\r\n".encode(),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_broken_chunks_are_refused(data: bytes) -> None:
    assert one_outcome(ChunkedFraming, data) is Code.MALFORMED_REQUEST


def test_the_announced_size_is_known_before_the_bytes_come() -> None:
    framing = ChunkedFraming()
    framing.feed(b"1\r\na\r\nffffffff\r\n")
    assert framing.announced == 0xFFFFFFFF + 1


def test_a_body_of_too_many_chunks_is_refused() -> None:
    chunks = b"1\r\na\r\n" * (MAX_CHUNKS - 1)
    assert follow(ChunkedFraming(), [chunks + b"0\r\n\r\n"]) == (b"a" * (MAX_CHUNKS - 1), b"", True, MAX_CHUNKS - 1)
    assert follow(ChunkedFraming(), [chunks + b"1\r\na\r\n"]) == (b"a" * MAX_CHUNKS, b"", False, MAX_CHUNKS)
    assert follow(ChunkedFraming(), [chunks + b"1\r\na\r\n0\r\n\r\n"]) is Code.MALFORMED_REQUEST


def test_a_megabyte_byte_by_byte_takes_linear_time() -> None:
    """Quadratic work over a megabyte would take days, and run into the test's time limit."""
    framing = ChunkedFraming()
    framing.feed(b"00100000\r\n")
    for _ in range(2**20):
        framing.feed(b"a")
    framing.feed(b"\r\n0\r\n\r\n")
    assert framing.complete


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=5), st.binary(max_size=10))
def test_any_body_that_is_chunked_comes_out_as_it_went_in(parts: list[bytes], trailing: bytes) -> None:
    encoded = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    body = b"".join(parts)
    assert one_outcome(ChunkedFraming, encoded + trailing) == (body, trailing, True, len(body))


@given(st.lists(st.sampled_from([b"5", b"0", b"\r", b"\n", b"\r\n", b"abcde", b";", b" ", b"A", b"\0"]), max_size=20))
def test_arbitrary_bytes_raise_nothing_but_refusals_and_have_one_outcome(parts: list[bytes]) -> None:
    one_outcome(ChunkedFraming, b"".join(parts))


# -- which ------------------------------------------------------------------------------------------------------------
def test_the_head_tells_which_framing_follows() -> None:
    assert isinstance(framing_of(Head("POST", "/", None, {}, chunked=True)), ChunkedFraming)
    assert isinstance(framing_of(Head("POST", "/", None, {}, content_length=5)), LengthFraming)
    assert framing_of(Head("POST", "/", None, {}, content_length=0)) is None
    assert framing_of(Head("POST", "/", None, {})) is None
