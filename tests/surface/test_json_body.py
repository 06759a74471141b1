"""Bodies that two readers could read differently, and what is written of those that have one reading."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import Code, Refused
from sidecar.surface.json_body import MAX_DEPTH, MAX_STRINGS, MAX_VALUES, check_media_type, read_object, write
from tests.surface.asking import ask, refusal

_calm = settings(deadline=None)  # how long one example takes depends on what else the machine does


@pytest.mark.parametrize(
    "body",
    [
        b'{"v": 1, "v": 2}',
        b'{"v": 1, "\\u0076": 2}',
        b'{"a": {"v": 1, "v": 2}}',
        b'{"a": [{"v": 1, "v": 1}]}',
        b'{"v": 1}{"v": 2}',
        b'{"v": 1} {"v"',
        b'{"v": 1}garbage',
        b'{"v": 1}}',
        b'{"v": 1}\x00',
        b'\xef\xbb\xbf{"v": 1}',
        '{"v": 1}'.encode("utf-16"),
        b'\xff\xfe{"v": 1}',
        b'{"v": "\xff"}',
        b'{"v": "\xc0\xaf"}',
        b'{"v": "\xed\xa0\x80"}',
        b'{"v": NaN}',
        b'{"v": Infinity}',
        b'{"v": -Infinity}',
        b'{"v": 01}',
        b'{"v": +1}',
        b'{"v": .5}',
        b'{"v": 0x1}',
        b'{"v": 1.0e400}',
        b'{"v": -1e400}',
        b'{"v": 1' + b"0" * 400 + b"}",
        b'{"v": 1,}',
        b"{'v': 1}",
        b'{v: 1}',
        b'{"v": 1} // comment',
        b'{"v": "a\nb"}',
        b'{"v": tru}',
        b'{"v": "a',
        b"[]",
        b'["v"]',
        b"null",
        b"1",
        b'"v"',
        b"1e5",
        b" ",
        b"\x1f\x8b\x08",
        b"v=1",
        b'{"v": ' + b"[" * 100_000,
        b'{"v":' * 100_000,
        b'{"v": ' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}",
    ],
)  # fmt: skip
def test_a_body_with_two_readings_or_none_is_refused(body: bytes) -> None:
    with pytest.raises(Refused) as caught:
        read_object(body)
    assert caught.value.code is Code.MALFORMED_REQUEST
    assert refusal("POST", "/v1/kv1/x", body) is Code.MALFORMED_REQUEST


@pytest.mark.parametrize("body", [rb'{"v": "\ud800"}', rb'{"\udc00": 1}', rb'{"v": ["\ud83dx"]}'])
def test_text_that_is_not_unicode_is_refused(body: bytes) -> None:
    assert refusal("POST", "/v1/kv1/x", body) is Code.MALFORMED_REQUEST


def test_the_number_of_strings_is_bounded_as_openbao_bounds_it() -> None:
    fitting = {f"k{index}": "x" for index in range(MAX_STRINGS // 2)}
    assert ask("POST", "/v1/kv1/x", json.dumps(fitting).encode()).name == "kv1.write"
    assert refusal("POST", "/v1/kv1/x", json.dumps(fitting | {"one": 1}).encode()) is Code.MALFORMED_REQUEST


def test_quotes_within_a_text_are_no_strings() -> None:
    value = json.dumps({"v": json.dumps(["x"] * 5000)}).encode()
    assert ask("POST", "/v1/kv1/x", value).upstream.body == orjson.dumps(json.loads(value))


def test_the_number_of_values_is_bounded() -> None:
    body = b'{"v": [' + b"1," * MAX_VALUES + b"1]}"
    assert refusal("POST", "/v1/kv1/x", body) is Code.MALFORMED_REQUEST


def test_brackets_within_a_text_are_no_depth() -> None:
    body = json.dumps({"v": "[" * 500 + "{" * 500}).encode()
    assert read_object(body) == json.loads(body)


def test_depth_up_to_the_bound_is_taken() -> None:
    body = b'{"v":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"
    assert write(read_object(body)) == body


@pytest.mark.parametrize(
    "number",
    ["0", "-0", "1", "-1", "1.0", "1e5", "1E+5", "-1.50e-10", "999999999999999999", "9223372036854775808",
    "123456789012345678901234567890", "0.1000000000000000055511151231257827", "-0.0", "1e-400"],
)  # fmt: skip
def test_a_number_keeps_the_text_that_it_was_written_with(number: str) -> None:
    body = f'{{"v":{number}}}'.encode()
    assert write(read_object(body)) == body


def test_what_is_forwarded_is_written_anew() -> None:
    operation = ask("POST", "/v1/kv1/x", b' { "\\u0076" : "\\u00fc\\/" , "w" : [ true , null ] } \n')
    assert operation.upstream.body == '{"v":"ü/","w":[true,null]}'.encode()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=20,
)


@_calm
@given(st.dictionaries(st.text(), _JSON, max_size=5))
def test_reading_and_writing_changes_nothing(value: dict[str, object]) -> None:
    assert json.loads(write(read_object(json.dumps(value).encode()))) == value


@_calm
@given(st.binary(max_size=64))
def test_no_bytes_end_in_anything_but_an_object_or_a_refusal(body: bytes) -> None:
    for text in (body, b'{"a":' + body + b"}"):
        try:
            code, written = Code.MALFORMED_REQUEST, write(read_object(text))
        except Refused as refused:
            code, written = refused.code, b"{}"
        assert (code, written[:1]) == (Code.MALFORMED_REQUEST, b"{")


# -- the media type ------------------------------------------------------------------------------------------------
BODY = b'{"v": "x"}'


@pytest.mark.parametrize(
    "content_type",
    ["", "application/json", "Application/JSON", "application/json; charset=utf-8", "application/json;charset=UTF-8",
    'application/json; charset="utf-8"', "application/x-www-form-urlencoded"],
)  # fmt: skip
def test_json_is_taken_as_json(content_type: str) -> None:
    headers = {"content-type": content_type} if content_type else {}
    assert ask("POST", "/v1/kv1/x", BODY, headers).upstream.content_type == "application/json"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-www-form-urlencoded", b"v=form"),
        ("application/x-www-form-urlencoded", b' {"v": "x"}'),
        ("application/x-www-form-urlencoded", b'\n{"v": "x"}'),
        ("application/x-www-form-urlencoded", b"[1]"),
        ("application/x-www-form-urlencoded; charset=latin-1", BODY),
        ("application/json; charset=utf-16", BODY),
        ("application/json; charset=latin-1", BODY),
        ("application/json; charset=utf-8; x=y", BODY),
        ("application/json, application/x-www-form-urlencoded", BODY),
        ("application/merge-patch+json", BODY),
        ("application/xml", BODY),
        ("text/plain", BODY),
        ("multipart/form-data; boundary=x", BODY),
        ("application/octet-stream", BODY),
    ],
)
def test_a_body_that_is_said_to_be_something_else_is_refused(content_type: str, body: bytes) -> None:
    assert refusal("POST", "/v1/kv1/x", body, {"content-type": content_type}) is Code.MALFORMED_REQUEST


@pytest.mark.parametrize(
    "content_type", ["", "application/json", "application/json-patch+json", "application/x-www-form-urlencoded"]
)
def test_patch_takes_a_merge_patch_only(content_type: str) -> None:
    headers = {"content-type": content_type} if content_type else {}
    assert refusal("PATCH", "/v1/secret/data/x", b'{"data": {}}', headers) is Code.MALFORMED_REQUEST


def test_patch_is_forwarded_as_a_merge_patch() -> None:
    headers = {"content-type": "application/merge-patch+json; charset=utf-8"}
    operation = ask("PATCH", "/v1/secret/data/x", b'{"data": {"n": null}}', headers)
    assert operation.upstream.content_type == "application/merge-patch+json"
    assert operation.upstream.body == b'{"data":{"n":null}}'


@pytest.mark.parametrize("encoding", ["gzip", "identity, gzip", "br", "x-unknown"])
def test_an_encoded_body_is_refused(encoding: str) -> None:
    with pytest.raises(Refused) as caught:
        check_media_type({"content-encoding": encoding}, merge_patch=False, first_byte=b"{")
    assert caught.value.code is Code.MALFORMED_REQUEST
