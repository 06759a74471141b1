"""What leaves the sidecar: nothing of its own login, and of a secret only the released keys."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import Code, Refused
from sidecar.upstream.release import Release, shortened
from tests.upstream.raw_server import FixedLogin, permit

TOKEN, ACCESSOR = b"s.TheSidecarsOwnTokenCanary", b"TheAccessorOfThatTokenOK"


class Login(FixedLogin):
    """A login with an accessor."""

    own_secrets = (TOKEN, ACCESSOR)


RELEASE = Release(Login())


def envelope(data: object, **members: object) -> bytes:
    """An answer of OpenBao."""
    whole: dict[str, object] = {
        "request_id": "c4ee526a-f172-428d-19a3-e4cd6f07e671",
        "lease_id": "",
        "renewable": False,
        "lease_duration": 0,
        "data": data,
        "wrap_info": None,
        "warnings": None,
        "auth": None,
    }
    return orjson.dumps(whole | members) + b"\n"


def kv2(data: object) -> bytes:
    """The answer to a KV version 2 read."""
    return envelope({"data": data, "metadata": {"version": 1, "custom_metadata": None}})


# -- nothing of the sidecar's own login ----------------------------------------------------------------------------
@pytest.mark.parametrize("secret", [TOKEN, ACCESSOR])
@pytest.mark.parametrize("status", [200, 400, 403, 500])
def test_the_sidecars_token_and_accessor_leave_in_no_answer(secret: bytes, status: int) -> None:
    for body in (
        secret,
        b'{"errors":["token ' + secret + b' is no good"]}',
        kv2({"copied": secret.decode()}),
        envelope({"id": secret.decode()}),
        b"-----BEGIN CERTIFICATE-----\n" + secret,
    ):
        with pytest.raises(Refused) as refused:
            RELEASE.body(permit(), status, body)
        assert refused.value.code is Code.UPSTREAM_ERROR
        assert secret.decode() not in f"{refused.value} {refused.value.message} {refused.value.detail}"
        with pytest.raises(Refused):
            RELEASE.own(body)


@pytest.mark.parametrize(
    "body",
    [
        envelope(None, auth={"client_token": "s.another", "accessor": "x"}),
        envelope({"data": {}}, wrap_info={"token": "s.another", "ttl": 60}),
        b'{ "data" : null , "auth" : {} }',
        b'{"auth":{"client_token":"s.x"},"data":{"auth":null},"auth":null}',
        b'{"auth":[]}',
        b'{"auth":false}',
        b'{"wrap_info":"x"}',
        b'["auth"]',
        b'"auth"',
        b'{"auth":{}',
        b'{"auth":NaN}',
        b'{"auth":null}{"auth":{}}',
        b'\xff{"auth":{}}',
        b'{"data":' + b"[" * 100_000 + b',"auth":{}}',
    ],
)
def test_an_answer_that_hands_out_a_login_is_refused_whole(body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        RELEASE.body(permit(), 200, body)
    assert refused.value.code is Code.UPSTREAM_ERROR


@pytest.mark.parametrize(
    "data",
    [
        {"auth": {"user": "app"}, "wrap_info": {"a": 1}},
        {"auth": None},
        {"auth": "null", "x": '"auth":null'},
        {"nested": [{"auth": {"client_token": "not ours"}}]},
        {'quoted "auth"': '"auth":{'},
    ],
)
def test_a_secret_may_have_keys_of_those_names(data: dict[str, Any]) -> None:
    body = kv2(data)
    assert RELEASE.body(permit(), 200, body) is body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"errors":[]}\n',
        b'{"errors":["1 error occurred:\\n\\t* permission denied\\n\\n"]}',
        b"404 page not found",
    ],
)
def test_openbaos_own_words_leave_as_they_came(body: bytes) -> None:
    assert RELEASE.body(permit(), 404, body) is body
    assert RELEASE.own(body) is body


# -- streams -------------------------------------------------------------------------------------------------------
class Chunks:
    """A body that comes in pieces."""

    secrets: tuple[bytes, ...] = ()

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = chunks
        self.closed = False

    async def stream(self) -> AsyncGenerator[bytes, None]:
        try:
            for chunk in self._chunks:
                yield chunk
        finally:
            self.closed = True


async def _take(stream: AsyncGenerator[bytes, None], into: list[bytes]) -> None:
    async for piece in stream:
        into += [piece]  # one by one: what came before the refusal counts


async def test_a_stream_leaves_as_it_came_and_in_time() -> None:
    """Nothing is held back but what could be the beginning of a secret."""
    chunks = Chunks(b"a" * 100, b"b" * 100, b"c")
    released = [piece async for piece in RELEASE.stream(chunks)]
    assert b"".join(released) == b"a" * 100 + b"b" * 100 + b"c"
    assert len(released[0]) == 100 - len(TOKEN) + 1


@pytest.mark.parametrize("secret", [TOKEN, ACCESSOR])
async def test_a_secret_cut_anywhere_does_not_pass_a_stream(secret: bytes) -> None:
    whole = b"x" * 40 + secret + b"y" * 40
    for cut in range(1, len(whole)):
        chunks = Chunks(whole[:cut], whole[cut:])
        left: list[bytes] = []
        with pytest.raises(Refused) as refused:
            await _take(RELEASE.stream(chunks), left)
        assert refused.value.code is Code.UPSTREAM_ERROR
        assert secret[:8] not in b"".join(left)
        assert chunks.closed


async def test_a_stream_that_is_not_taken_to_its_end_is_closed() -> None:
    chunks = Chunks(b"a" * 100, b"b" * 100)
    stream = RELEASE.stream(chunks)
    await anext(stream)
    await stream.aclose()
    assert chunks.closed


@given(st.lists(st.binary(max_size=60), max_size=8))
async def test_any_stream_without_a_secret_is_unchanged(pieces: list[bytes]) -> None:
    assert b"".join([piece async for piece in RELEASE.stream(Chunks(*pieces))]) == b"".join(pieces)


# -- the release obligation ----------------------------------------------------------------------------------------
def only(released: set[str], body: bytes, *, name: str = "kv2.read", status: int = 200) -> bytes:
    """The body under that obligation."""
    return RELEASE.body(permit(name=name, release=frozenset(released)), status, body)


def test_only_the_released_keys_stay() -> None:
    body = only({"user", "absent"}, kv2({"user": "app", "password": "canary", "host": {"user": "nested"}}))
    assert orjson.loads(body) == orjson.loads(kv2({"user": "app"}))
    assert b"canary" not in body
    assert b"nested" not in body


def test_nothing_released_leaves_an_empty_secret() -> None:
    assert orjson.loads(only(set(), kv2({"password": "canary"})))["data"]["data"] == {}
    assert orjson.loads(only({"a"}, kv2({})))["data"]["data"] == {}


def test_what_stays_keeps_its_exact_bytes() -> None:
    raw = (
        b'{"data" : {"data":{ "drop": 1 , "n":1.000000000000000000001, "big":123456789012345678901234567890,"e":1E400,'
    )
    raw += b'"esc":"\\u00e9\\/","o":{"b":1,"a":[ ]}},"metadata":{"version":1.0}},"auth":null}\n'
    body = only({"n", "big", "e", "esc", "o"}, raw)
    expected = b'{"data" : {"data":{"n":1.000000000000000000001,"big":123456789012345678901234567890,"e":1E400,'
    expected += b'"esc":"\\u00e9\\/","o":{"b":1,"a":[ ]}},"metadata":{"version":1.0}},"auth":null}\n'
    assert body == expected


def test_a_key_is_known_by_its_meaning_not_by_its_spelling() -> None:
    raw = b'{"data":{"data":{"p\\u0061ss":"kept","\\u0070assword":"canary"}}}'
    assert orjson.loads(only({"pass"}, raw)) == {"data": {"data": {"pass": "kept"}}}


def test_subkeys_and_kv1_are_cut_the_same_way() -> None:
    subkeys = envelope({"subkeys": {"user": None, "secret-name": None}, "metadata": {"version": 1}})
    body = only({"user"}, subkeys, name="kv2.subkeys")
    assert orjson.loads(body)["data"] == {"subkeys": {"user": None}, "metadata": {"version": 1}}
    body = only({"user"}, envelope({"user": "app", "password": "canary"}), name="kv1.read")
    assert orjson.loads(body)["data"] == {"user": "app"}


def test_errors_and_deleted_versions_leave_as_they_came() -> None:
    for body in (b"", b'{"errors":[]}', b'{"errors":["no"],"warnings":null}', kv2(None)):
        assert only({"user"}, body, status=404) is body
    assert only({"user"}, kv2(None)) == kv2(None)


def test_a_secret_in_an_errors_body_is_cut_too() -> None:
    assert b"canary" not in only({"user"}, kv2({"password": "canary"}), status=404)


@pytest.mark.parametrize("name", ["kv2.metadata_read", "kv2.list", "transit.decrypt", "kv2.write"])
def test_on_anything_but_a_kv_secret_the_obligation_cannot_be_met(name: str) -> None:
    with pytest.raises(Refused) as refused:
        only({"user"}, envelope({"user": "x"}), name=name)
    assert refused.value.code is Code.OBLIGATION_UNMET


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"not JSON",
        b'{"data":{}}',
        b'{"data":[]}',
        b'{"data":{"data":"text"}}',
        b'{"data":{"data":["canary"]}}',
        b'{"data":{"data":{"user":1,"user":2}}}',
        b'{"data":{"data":{}},"data":{"data":{"user":1}}}',
        b'{"data":{"data":{},"data":{"user":1}}}',
        b'{"data":{"data":{"user":NaN}}}',
        b'{"data":{"data":{"user":1}}} {}',
        b'{"data":{"data":{"user":1}',
        b'{"data":{"data":{"user" 1}}}',
        b'{"data":{"data":{"user":1,}}}',
        b'{"data":{"data":{user:1}}}',
        b'\xef\xbb\xbf{"data":{"data":{"user":1}}}',
        b'{"data":{"data":{"user":"\xff"}}}',
        b'{"data":{"data":{"user":' + b"[" * 100_000 + b"}}}",
    ],
)
def test_a_body_whose_keys_cannot_be_told_does_not_leave(body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        only({"user"}, body)
    assert refused.value.code is Code.UPSTREAM_ERROR


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values, max_size=6), st.sets(st.text(), max_size=4), st.booleans())
def test_any_secret_keeps_the_released_keys_and_no_other(
    secret: dict[str, Any], others: set[str], pretty: bool
) -> None:
    released = others | set(list(secret)[::2])
    answer = {"data": {"data": secret, "metadata": {"version": 1}}, "wrap_info": None, "auth": None}
    raw = json.dumps(answer, indent=2 if pretty else None).encode()
    expected = {key: value for key, value in secret.items() if key in released}
    assert json.loads(only(released, raw)) == answer | {"data": {"data": expected, "metadata": {"version": 1}}}


# -- leases --------------------------------------------------------------------------------------------------------
def test_a_lease_is_told_to_last_no_longer_than_its_token_and_all_else_stays() -> None:
    raw = b'{"lease_id":"a/b","lease_duration": 3600,"data":{"lease_duration":9999,"n":1.000000000000000000001}}\n'
    assert shortened(raw, 60) == raw.replace(b" 3600", b" 60")
    assert shortened(raw, 3600) is raw


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"lease_duration":"x"}', b'{"lease_duration":1,"lease_duration":2}']
)
def test_a_lease_whose_duration_cannot_be_told_is_not_released(body: bytes) -> None:
    with pytest.raises(Refused):
        shortened(body, 60)
