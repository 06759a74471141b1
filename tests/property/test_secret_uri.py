"""Canonical secret URIs: one form per secret, and one secret per form."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sidecar.errors import Code, Refused
from sidecar.surface.secret_uri import MAX_URI_CHARACTERS, SecretUri, parse
from tests.surface.asking import TABLE, ask

_calm = settings(deadline=None)  # how long one example takes depends on what else the machine does

# -- values --------------------------------------------------------------------------------------------------------
_printable = st.text(
    st.characters(exclude_categories=("C", "Z")) | st.sampled_from(" %/#?*.~+\\;:@\u00fc\u0308"),
    min_size=1,
    max_size=12,
)
segments = (
    _printable.map(lambda text: text.replace("/", ""))
    .filter(lambda text: text not in ("", ".", "..", "*") and text.isprintable())
    .filter(lambda text: text.encode("utf-8", "ignore").decode() == text)
)
fragments = _printable.filter(str.isprintable)
versions = st.none() | st.integers(1, 10**18 - 1)


@st.composite
def secrets(draw: st.DrawFn) -> SecretUri:
    """Secrets as requests and URIs can name them, without a table of mounts."""
    mount = draw(segments)
    path = tuple(draw(st.lists(segments, min_size=1, max_size=4)))
    provider = draw(st.sampled_from(["openbao", "hashicorp", "yaml"]))
    if provider == "yaml":
        return SecretUri("yaml", "", mount, path, draw(st.none() | fragments))
    engine = draw(st.sampled_from(["kv1", "kv2", "transit", "pki", "database"]))
    if engine == "kv2":
        return SecretUri(provider, engine, mount, path, draw(st.none() | fragments), draw(versions))
    if engine == "kv1" and draw(st.booleans()):
        return SecretUri(provider, engine, mount, path, draw(fragments))
    return SecretUri(provider, engine, mount, path, folder=draw(st.booleans()))


@_calm
@given(secrets())
def test_what_is_written_is_read_back(uri: SecretUri) -> None:
    assert parse(str(uri)) == uri


@_calm
@given(secrets())
def test_canonicalising_twice_is_once(uri: SecretUri) -> None:
    once = str(parse(str(uri)))
    assert str(parse(once)) == once == str(uri)


@_calm
@given(secrets(), secrets())
def test_two_secrets_never_share_a_uri(one: SecretUri, other: SecretUri) -> None:
    assert (str(one) == str(other)) == (one == other)


@_calm
@given(st.lists(segments, min_size=1, max_size=3), st.lists(segments, min_size=1, max_size=3))
def test_two_paths_never_share_a_uri(one: list[str], other: list[str]) -> None:
    assume(one != other)
    assert str(SecretUri("openbao", "kv2", "secret", tuple(one))) != str(
        SecretUri("openbao", "kv2", "secret", tuple(other))
    )


@_calm
@given(secrets())
def test_a_uri_is_made_of_plain_characters(uri: SecretUri) -> None:
    text = str(uri)
    assert text.isascii()
    assert not set(text) & set(' "<>\\^`{|}')


_escape = st.sampled_from(["%2e", "%2F", "%25", "%c3%bc", "%C3%BC", "%00", "%", "%zz", "..", ".", "*", "//", "/", "#"])
_noise = st.lists(
    st.text(max_size=4) | _escape | st.sampled_from(["?version=1", "?", "app", "a b", "ü", "&", "="]), max_size=8
)


@_calm
@given(st.sampled_from(["openbao+kv2://", "openbao+kv2://secret/", "yaml://", "OPENBAO+KV1://", ""]), _noise)
def test_any_text_is_one_secret_or_refused(prefix: str, noise: list[str]) -> None:
    text = prefix + "".join(noise)
    for mounts in (None, TABLE):
        try:
            canonical = str(parse(text, mounts))
        except Refused as refused:
            canonical, status = "", refused.status
        else:
            status = 400
            assert str(parse(canonical, mounts)) == canonical
        assert status == 400


@_calm
@given(st.lists(segments, min_size=1, max_size=4))
def test_a_request_and_a_uri_name_a_secret_alike(path: list[str]) -> None:
    uri = SecretUri("openbao", "kv2", "secret", tuple(path))
    raw = str(uri).removeprefix("openbao+kv2://secret/")
    operation = ask("GET", f"/v1/secret/data/{raw}")
    assert operation.uri == uri == parse(str(uri), TABLE)
    assert operation.upstream.path == f"/v1/secret/data/{raw}"


# -- spellings -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("OPENBAO+KV2://secret/App/DB", "openbao+kv2://secret/App/DB"),
        ("openbao+kv2://secret/a%c3%bc", "openbao+kv2://secret/a%C3%BC"),
        ("openbao+kv2://secret/a%2ab%21", "openbao+kv2://secret/a*b!"),
        ("openbao+kv2://secret/a#b/c", "openbao+kv2://secret/a#b%2Fc"),
        ("openbao+kv2://secret/a#b%2fc%3Fd%23e%25f", "openbao+kv2://secret/a#b%2Fc%3Fd%23e%25f"),
        ("openbao+kv2://secret/a#.", "openbao+kv2://secret/a#."),
        ("openbao+kv2://secret/a?version=0", "openbao+kv2://secret/a"),
        ("openbao+kv2://secret/a#k?version=7", "openbao+kv2://secret/a#k?version=7"),
        ("openbao+kv2://secret/", "openbao+kv2://secret/"),
        ("openbao+kv2://secret/app/", "openbao+kv2://secret/app/"),
        ("hashicorp+kv1://kv1/x", "hashicorp+kv1://kv1/x"),
        ("openbao+transit://transit/k", "openbao+transit://transit/k"),
        ("openbao+pki://pki/issue/web", "openbao+pki://pki/issue/web"),
        ("yaml://secret/path#key", "yaml://secret/path#key"),
        # As a person writes it, in a command or in JSON.
        ("openbao+kv2://secret/a b/ü", "openbao+kv2://secret/a%20b/%C3%BC"),
        (
            "openbao+kv2://secret/a|b\\c#pass word/1?version=3",
            "openbao+kv2://secret/a%7Cb%5Cc#pass%20word%2F1?version=3",
        ),
    ],
)
def test_a_spelling_with_one_reading_becomes_the_canonical_form(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", Code.INVALID_URI),
        ("secret/app/db", Code.INVALID_URI),
        ("://secret/app", Code.INVALID_URI),
        ("openbao:/secret/app", Code.INVALID_URI),
        ("openbao+://secret/app", Code.INVALID_URI),
        ("openbao+kv2+x://secret/app", Code.INVALID_URI),
        ("öpenbao+kv2://secret/app", Code.INVALID_URI),
        ("openbao+\u212av2://secret/app", Code.INVALID_URI),
        ("vault+kv2://secret/app", Code.INVALID_URI),
        ("https://secret/app", Code.INVALID_URI),
        ("openbao://secret/app", Code.INVALID_URI),
        ("openbao+kv2://secret", Code.INVALID_URI),
        ("yaml://secret", Code.INVALID_URI),
        ("openbao+kv2://secret/a#", Code.INVALID_URI),
        ("openbao+kv2://secret/a?version=1#k", Code.INVALID_URI),
        ("openbao+transit://transit/k#x", Code.INVALID_URI),
        ("openbao+kv2://secret/" + "a" * MAX_URI_CHARACTERS, Code.INVALID_URI),
        ("openbao+kv2://", Code.ILLEGAL_SEGMENT),
        ("openbao+kv2:///secret/app", Code.ILLEGAL_SEGMENT),
        ("openbao+kv2://secret//app", Code.ILLEGAL_SEGMENT),
        ("openbao+kv2://secret/app//", Code.ILLEGAL_SEGMENT),
        ("openbao+kv2://secret/../app", Code.ILLEGAL_SEGMENT),
        ("openbao+kv2://secret/%2e%2E/app", Code.ILLEGAL_SEGMENT),
        ("openbao+kv2://secret/.", Code.ILLEGAL_SEGMENT),
        ("openbao+kv2://secret/a%2fb", Code.ILLEGAL_ENCODING),
        ("openbao+kv2://secret/%61", Code.ILLEGAL_ENCODING),
        ("openbao+kv2://secret/%zz", Code.ILLEGAL_ENCODING),
        ("openbao+kv2://secret/%00", Code.ILLEGAL_ENCODING),
        ("openbao+kv2://secret/%ff", Code.ILLEGAL_ENCODING),
        ("openbao+kv2://secret/%e2%80%8b", Code.ILLEGAL_ENCODING),
        ("openbao+kv2://secret/a\u00a0b", Code.ILLEGAL_ENCODING),
        ("openbao+kv2://secret/a\u200bb", Code.ILLEGAL_ENCODING),
        ("openbao+kv2://secret/a\n", Code.ILLEGAL_ENCODING),
        ("openbao+kv2://secret/a\ud800", Code.ILLEGAL_ENCODING),
        ("openbao+kv2://secret/a#b#c", Code.ILLEGAL_ENCODING),
        ("openbao+kv2://secret/a#%6b", Code.ILLEGAL_ENCODING),
        ("openbao+kv2://secret/a#k\x00", Code.ILLEGAL_ENCODING),
        ("openbao+kv2://secret/*", Code.INVALID_WILDCARD),
        ("openbao+kv2://secret/app/%2A", Code.INVALID_WILDCARD),
        ("openbao+kv2://*/app", Code.INVALID_WILDCARD),
        ("openbao+kv2://secret/a?", Code.AMBIGUOUS_QUERY),
        ("openbao+kv2://secret/a?version=", Code.AMBIGUOUS_QUERY),
        ("openbao+kv2://secret/a?version=01", Code.AMBIGUOUS_QUERY),
        ("openbao+kv2://secret/a?version=-1", Code.AMBIGUOUS_QUERY),
        ("openbao+kv2://secret/a?version=1e3", Code.AMBIGUOUS_QUERY),
        ("openbao+kv2://secret/a?version=1&version=2", Code.AMBIGUOUS_QUERY),
        ("openbao+kv2://secret/a?version=1&x=2", Code.AMBIGUOUS_QUERY),
        ("openbao+kv2://secret/a?x=2", Code.AMBIGUOUS_QUERY),
        ("openbao+kv2://secret/a?Version=1", Code.AMBIGUOUS_QUERY),
        ("openbao+kv2://secret/a?version=1?version=2", Code.AMBIGUOUS_QUERY),
        ("openbao+kv1://kv1/a?version=1", Code.AMBIGUOUS_QUERY),
        ("yaml://secret/a?version=1", Code.AMBIGUOUS_QUERY),
        ("openbao+kv2://secret/app/#k", Code.PROVIDER_TRAILING_SLASH_MISMATCH),
        ("openbao+kv2://secret/app/?version=1", Code.PROVIDER_TRAILING_SLASH_MISMATCH),
        ("openbao+ssh://ssh/r", Code.UNSUPPORTED_ENGINE),
        ("yaml+kv2://secret/a", Code.UNSUPPORTED_ENGINE),
    ],
)
def test_a_text_with_two_readings_or_none_is_refused(text: str, code: Code) -> None:
    with pytest.raises(Refused) as caught:
        parse(text)
    assert caught.value.code is code


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("openbao+kv2://team/kv/x", SecretUri("openbao", "kv2", "team/kv", ("x",))),
        ("openbao://team/kv/x#k", SecretUri("openbao", "kv2", "team/kv", ("x",), "k")),
        ("openbao+kv2://ns1/child/secret/x", SecretUri("openbao", "kv2", "ns1/child/secret", ("x",))),
        ("openbao+kv1://kv1/x/", SecretUri("openbao", "kv1", "kv1", ("x",), folder=True)),
    ],
)
def test_with_mounts_the_longest_one_and_its_engine_are_known(text: str, found: SecretUri) -> None:
    assert parse(text, TABLE) == found


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("openbao+kv2://team/x", Code.TENANT_MOUNT_MISMATCH),
        ("openbao+kv2://nosuch/x", Code.TENANT_MOUNT_MISMATCH),
        ("openbao+kv1://secret/x", Code.UNSUPPORTED_ENGINE),
        ("openbao+totp://totp/x", Code.UNSUPPORTED_ENGINE),
        ("hashicorp+kv2://secret/x", Code.INVALID_URI),
        ("openbao+kv2://team/kv", Code.INVALID_URI),
    ],
)
def test_with_mounts_what_is_not_there_is_refused(text: str, code: Code) -> None:
    with pytest.raises(Refused) as caught:
        parse(text, TABLE)
    assert caught.value.code is code


def test_a_secret_without_its_version_and_key_is_the_secret() -> None:
    uri = parse("openbao+kv2://secret/a#k?version=3")
    assert str(uri.without_version()) == "openbao+kv2://secret/a#k"
    assert str(uri.without_version().without_fragment()) == "openbao+kv2://secret/a"
    assert str(uri.without_fragment()) == "openbao+kv2://secret/a?version=3"
    plain = parse("openbao+kv2://secret/a")
    assert plain.without_version() is plain.without_fragment() is plain


# -- requests ------------------------------------------------------------------------------------------------------
_ALWAYS_ENCODED = frozenset(" %/?#\\")


@st.composite
def spelt(draw: st.DrawFn, path: list[str]) -> str:
    """The path as some client might spell it: what may be encoded is or is not, in hexadecimal of either case."""
    letters = []
    for letter in "/".join(segment.replace("/", "") for segment in path):
        never = letter == "/" or (letter.isascii() and (letter.isalnum() or letter in "-._~"))
        may = letter.isascii() and letter not in _ALWAYS_ENCODED
        if never or (may and draw(st.booleans())):
            letters.append(letter)
        else:
            octets = "".join(f"%{octet:02X}" for octet in letter.encode())
            letters.append(octets if draw(st.booleans()) else octets.lower())
    return "".join(letters)


@settings(deadline=None, max_examples=40)
@given(st.data(), st.lists(segments, min_size=1, max_size=3), st.booleans())
@pytest.mark.parametrize(
    ("mount", "namespace", "below"),
    [
        ("secret", "", "data/"),
        ("secret", "ns1", "data/"),
        ("secret", "ns1/child", "metadata/"),
        ("team/kv", "", "subkeys/"),
        ("kv1", "", ""),
    ],
)
def test_spellings_of_one_request_are_one_secret(
    mount: str, namespace: str, below: str, data: st.DataObject, path: list[str], by_header: bool
) -> None:
    """And other paths are others: the URI holds the decoded segments, whatever the spelling."""
    target = f"{mount}/{below}{data.draw(spelt(path))}"
    asked = (
        ask("GET", f"/v1/{target}", headers={"x-vault-namespace": namespace})
        if by_header
        else ask("GET", f"/v1/{namespace}/{target}" if namespace else f"/v1/{target}")
    )
    assert asked.uri.mount == (f"{namespace}/{mount}" if namespace else mount)
    assert (asked.uri.path, asked.upstream.namespace) == (tuple(path), namespace)
    assert parse(str(asked.uri), TABLE) == asked.uri


@pytest.mark.parametrize(
    "spellings",
    [
        [("POST", "transit/encrypt/k1"), ("PUT", "transit/decrypt/k1"), ("GET", "transit/keys/k1")],
        [("GET", "pki/cert/0a:0b"), ("GET", "pki/cert/0A-0B"), ("GET", "pki/cert/0a:0B/raw/pem")],
        [("GET", "pki/ca"), ("GET", "pki/ca/pem"), ("GET", "pki/cert/ca")],
        [
            ("GET", "secret/data/a"),
            ("GET", "secret/metadata/a"),
            ("DELETE", "secret/data/a"),
            ("GET", "secret/data/a?version=0"),
        ],
        [("LIST", "secret/metadata/a"), ("LIST", "secret/metadata/a/"), ("GET", "secret/metadata/a?list=T")],
    ],
)
def test_what_openbao_runs_against_one_thing_has_one_uri(spellings: list[tuple[str, str]]) -> None:
    bodies = {"POST": b'{"plaintext": ""}', "PUT": b'{"ciphertext": ""}'}
    assert len({str(ask(method, f"/v1/{target}", bodies.get(method, b"")).uri) for method, target in spellings}) == 1
