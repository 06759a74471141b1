"""One reading of a compact JWS, or none."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.caller import jose
from tests.support.tokens import b64


@pytest.mark.parametrize(
    "compact",
    ["", ".", "..", "a", "a.b", "a.b.", ".b.c", "a..c", "a.b.c.d", "a.b.c.d.e", "a.b.c.d.e.f.g", "é.b.c", "a.b.c" * 10],
)
def test_anything_but_three_non_empty_segments_is_refused(compact: str) -> None:
    with pytest.raises(jose.Malformed):
        jose.split(compact, 20)


def test_three_segments_are_split() -> None:
    assert jose.split("ab.cd.ef", 8) == (b"ab", b"cd", b"ef")


@pytest.mark.parametrize(
    "segment", [b"YQ==", b"YR", b"Y", b"Y Q", b"YQ\n", b"+/+/", b"YWI=YWI", b"Y!Q", b"\xff\xff", b"A"]
)
def test_base64url_has_one_spelling(segment: bytes) -> None:
    with pytest.raises(jose.Malformed):
        jose.decode(segment)


@given(st.binary())
def test_base64url_round_trips(raw: bytes) -> None:
    assert jose.decode(b64(raw).encode()) == raw
    assert jose.encode(raw).decode() == b64(raw)


@given(st.text("AQgwEIMz09-_+/=! \n", max_size=9))
def test_a_segment_is_taken_exactly_where_its_bytes_are_written_so(text: str) -> None:
    segment = text.encode()
    try:
        raw = jose.decode(segment)
    except jose.Malformed:
        padded = segment.translate(bytes.maketrans(b"-_", b"+/")) + b"=" * (-len(segment) % 4)
        try:
            lenient = base64.b64decode(padded)
        except ValueError:
            return
        assert jose.encode(lenient) != segment
    else:
        assert jose.encode(raw) == segment


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    ),
    st.text(max_size=3),
)
def test_a_member_twice_is_refused_whatever_stands_beside(value: object, name: str) -> None:
    one = f"{json.dumps(name)}:{json.dumps(value)}"
    assert jose.json_object(f"{{{one}}}".encode()).keys() == {name}
    for twice in (f"{{{one},{one}}}", f'{{"x":[{{{one},{one}}}]}}'):
        with pytest.raises(jose.Malformed):
            jose.json_object(twice.encode())


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":1}',
        '{"a":"x","a":"x"}',
        '{"a":1,"\\u0061":2}',
        '{"a":{"b":1,"b":2}}',
        '{"a":[{"b":1,"b":2}]}',
        '{"a":1,"a":{"b":"c"}}',
        '{"a":"\\"","a":""}',
        '{"":1,"":2}',
        '{"a":"b","b":"a","a":"b"}',
    ],
)
def test_a_repeated_member_is_refused_at_every_depth_and_in_every_spelling(text: str) -> None:
    with pytest.raises(jose.Malformed, match="twice"):
        jose.json_object(text.encode())


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b'"a"',
        b"1",
        b"null",
        b"{",
        b'{"a":1}x',
        b'{"a":1}{}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":01}',
        b'{"a":"\x00"}',
        b"{'a':1}",
        b'{"a":1,}',
        b"\xef\xbb\xbf{}",
        b'{"a":"\xff"}',
        b'{"a":"\\ud800"}',
        b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}",
        b'{"a":' + b'{"a":' * 990 + b"1" + b"}" * 990 + b"}",
        b'{"a":' + b"1" * 5000 + b"}",
    ],
)
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(jose.Malformed):
        jose.json_object(raw)


@given(
    st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=6,
    ),
    st.booleans(),
)
def test_every_object_without_repetition_is_read_as_the_standard_library_reads_it(
    value: dict[str, object], escaped: bool
) -> None:
    text = json.dumps(value, ensure_ascii=escaped)
    assert jose.json_object(text.encode()) == value


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["1", '"x"', '":"', '"{}"', "null", "[]"])), max_size=5),
    st.sampled_from(["", " ", "\n\t "]),
)
def test_the_fast_count_agrees_with_a_count_of_the_members(members: list[tuple[str, str]], space: str) -> None:
    text = "{" + f",{space}".join(f'"{name}"{space}:{value}' for name, value in members) + "}"
    names = [name for name, _ in members]
    if len(set(names)) == len(names):
        assert jose.json_object(text.encode()) == json.loads(text)
    else:
        with pytest.raises(jose.Malformed):
            jose.json_object(text.encode())


@pytest.mark.parametrize("value", [True, False, None, "1", -1, 253_402_300_800, 1e300, [1], {}])
def test_what_is_no_numeric_date(value: object) -> None:
    assert not jose.is_date(value)


@pytest.mark.parametrize("value", [0, 1, 1.5, 253_402_300_799])
def test_what_is_a_numeric_date(value: object) -> None:
    assert jose.is_date(value)


@pytest.mark.parametrize("value", ["", "a" * 9, "a\nb", "a\x00", "a\u202eb", "a\u2028", "\x7f", 1, None, b"a", ["a"]])
def test_what_is_no_text_for_a_record(value: object) -> None:
    assert not jose.is_text(value, 8)
