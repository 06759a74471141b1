"""Whatever is sent: one operation, a local answer, or a refusal. Nothing else ever comes out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import Code, Refused
from sidecar.surface.operation import LocalAnswer, Operation
from tests.surface.asking import API, head_of

_calm = settings(deadline=None)  # how long one example takes depends on what else the machine does

# fmt: off
WORDS: Final = (
    "secret", "team", "kv", "kv1", "transit", "pki", "database", "totp", "ns1", "child", "sys", "auth", "token", "ui",
    "internal", "mounts", "health", "lookup-self", "data", "metadata", "delete", "undelete", "destroy", "subkeys", "db",
    "config", "encrypt", "keys", "rotate", "issue", "cert", "ca", "creds", "app", "a;b", "a+b", "%252f", "%c3%bc",
)
TRICKS: Final = (
    "", ".", "..", "*", "%2e%2e", "%2f", "%61", "%00", "%zz", "%", "a b", "#", "\\", "\xff", "\x00", "\u0430",
)
PAIRS: Final = (
    "version=1", "version=01", "version=", "list=true", "list=0", "list", "scan=1", "help=1", "limit=2", "after=a%2F",
    "after=%ff", "depth=1", "format=raw", "standbyok=true", "activecode=299", "a=b", "=", "%6cist=true", ";", "?", "",
)
HEADERS: Final = (
    "x-vault-namespace", "x-vault-wrap-ttl", "x-vault-index", "x-vault-inline-auth-path", "x-http-method-override",
    "content-type", "content-encoding",
)
VALUES: Final = (
    "", "ns1", "ns1/child/", "ns1/../ns2", "root", "0", "60", "application/json", "application/merge-patch+json",
)
BODIES: Final = (
    b"", b"{}", b'{"data": {}}', b'{"versions": [1]}', b'{"custom_metadata": {"owner": null}}', b"[" * 5000,
    b'{"batch_input": [{}]}', b'{"plaintext": "aGk="}', b'{"data": {}, "data": {}}', b'{"data": {"a": "\\ud800"}}',
)
METHODS: Final = ("GET", "GET", "LIST", "LIST", "POST", "POST", "PUT", "PATCH", "DELETE", "HEAD", "SCAN", "get", "")
# fmt: on


_T = TypeVar("_T")


def _mostly(plain: st.SearchStrategy[_T], others: st.SearchStrategy[_T]) -> st.SearchStrategy[_T]:
    """Plain seven times out of eight, so that what is not plain meets every part of the surface."""
    return st.integers(0, 7).flatmap(lambda chance: plain if chance else others)


_tricks: Final = st.sampled_from(TRICKS) | st.text(st.characters(max_codepoint=255), max_size=6)
_targets: Final = st.builds(
    "{}{}{}".format,
    _mostly(st.just("/v1/"), st.sampled_from(["", "/", "//v1/", "/V1/"])),
    st.sampled_from(["", "secret/data/", "secret/metadata/", "secret/delete/", "kv1/", "transit/encrypt/"]),
    st.lists(_mostly(st.sampled_from(WORDS), _tricks), min_size=1, max_size=4).map("/".join),
)
_queries: Final = _mostly(st.none(), st.lists(st.sampled_from(PAIRS) | st.text(max_size=5), max_size=3).map("&".join))
_headers: Final[st.SearchStrategy[dict[str, str]]] = _mostly(
    st.just({}), st.dictionaries(st.sampled_from(HEADERS), st.sampled_from(VALUES) | st.text(max_size=8), max_size=2)
)
_bodies: Final = st.sampled_from(BODIES) | st.binary(max_size=40)

_target: Final = re.compile(r"/v1(?:/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-F]{2})+)+/?").fullmatch
_query: Final = re.compile(r"(?:[a-z]+=[A-Za-z0-9\-._~%]*(?:&|$))*").fullmatch
_needless: Final = re.compile(r"%2[DEF]|%3[0-9]|%[46][1-9A-F]|%[57][0-9A]|%5F|%7E").search


def _outcome(
    method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> Operation | LocalAnswer | Refused:
    try:
        route = API.route(head_of(method, target, headers, body))
        return route if isinstance(route, LocalAnswer) else route.operation(body)
    except Refused as refused:
        return refused


@_calm
@given(st.sampled_from(METHODS), _targets, _queries, _headers, _bodies)
def test_only_a_refusal_is_raised_and_what_is_built_has_one_reading(
    method: str, target: str, query: str | None, headers: dict[str, str], body: bytes
) -> None:
    outcome = _outcome(method, target if query is None else f"{target}?{query}", body, headers)
    if isinstance(outcome, Refused):
        assert 400 <= outcome.status < 500
    elif isinstance(outcome, Operation):
        upstream = outcome.upstream
        assert _target(upstream.path)
        assert not _needless(upstream.path)
        assert {"", ".", "..", "*"}.isdisjoint(upstream.path.removesuffix("/").split("/")[2:])
        assert _query(upstream.query)
        assert upstream.path.endswith("/") == (upstream.method == "LIST") == outcome.name.endswith("list")
        assert upstream.namespace in ("", "ns1", "ns1/child", "ns2")
        assert outcome.uri.mount.startswith(upstream.namespace)
        assert outcome.uses >= 1


@_calm
@given(st.sampled_from(["a/", "%C3%BC", "%2f", "../", "%", "*/", "a%20"]), st.integers(0, 3000))
def test_long_paths_are_read_or_refused(piece: str, times: int) -> None:
    outcome = _outcome("GET", "/v1/secret/data/x" + piece * times)
    assert not isinstance(outcome, Refused) or outcome.code in (
        Code.ILLEGAL_ENCODING,
        Code.ILLEGAL_SEGMENT,
        Code.INVALID_WILDCARD,
        Code.PROVIDER_TRAILING_SLASH_MISMATCH,
    )
