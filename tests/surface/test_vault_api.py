"""Requests as callers may spell them: one reading, or none."""

from __future__ import annotations

import pytest

from sidecar.errors import Code, Refused
from sidecar.surface.headers import EXTENSION, HEADERS, UNKNOWN
from sidecar.surface.mounts import Mount, MountTable
from sidecar.surface.vault_api import VaultApi
from tests.surface.asking import API, ask, head_of, refusal


# -- the path ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("app/../db", Code.ILLEGAL_SEGMENT),
        ("app/./db", Code.ILLEGAL_SEGMENT),
        ("app//db", Code.ILLEGAL_SEGMENT),
        ("/app", Code.ILLEGAL_SEGMENT),
        ("app//", Code.ILLEGAL_SEGMENT),
        ("app/%2e%2e/db", Code.ILLEGAL_SEGMENT),
        ("app/.%2E/db", Code.ILLEGAL_SEGMENT),
        ("app/%2e", Code.ILLEGAL_SEGMENT),
        ("app%2fdb", Code.ILLEGAL_ENCODING),
        ("app%2F%2Fdb", Code.ILLEGAL_ENCODING),
        ("..%2fprivate", Code.ILLEGAL_ENCODING),
        ("%2fprivate/key", Code.ILLEGAL_ENCODING),
        ("%70rivate/key", Code.ILLEGAL_ENCODING),
        ("app/%31", Code.ILLEGAL_ENCODING),
        ("app/a%2Db", Code.ILLEGAL_ENCODING),
        ("app/a%2eb", Code.ILLEGAL_ENCODING),
        ("app/a%5fb", Code.ILLEGAL_ENCODING),
        ("app/a%7Eb", Code.ILLEGAL_ENCODING),
        ("app/%", Code.ILLEGAL_ENCODING),
        ("app/%a", Code.ILLEGAL_ENCODING),
        ("app/%zz", Code.ILLEGAL_ENCODING),
        ("app/%u0064b", Code.ILLEGAL_ENCODING),
        ("app/%00", Code.ILLEGAL_ENCODING),
        ("app/d%0ab", Code.ILLEGAL_ENCODING),
        ("app/%7f", Code.ILLEGAL_ENCODING),
        ("app/%c2%85", Code.ILLEGAL_ENCODING),
        ("app/%c2%a0", Code.ILLEGAL_ENCODING),
        ("app/%c2%ad", Code.ILLEGAL_ENCODING),
        ("app/%e2%80%8b", Code.ILLEGAL_ENCODING),
        ("app/%e2%80%8d", Code.ILLEGAL_ENCODING),
        ("app/%e2%80%a8", Code.ILLEGAL_ENCODING),
        ("app/%e3%80%80", Code.ILLEGAL_ENCODING),
        ("%ef%bb%bfapp", Code.ILLEGAL_ENCODING),
        ("app/%ee%80%80", Code.ILLEGAL_ENCODING),
        ("app/%f0%9f%bf%bf", Code.ILLEGAL_ENCODING),
        ("app%c0%afdb", Code.ILLEGAL_ENCODING),
        ("app/%ff", Code.ILLEGAL_ENCODING),
        ("app/%ed%a0%80", Code.ILLEGAL_ENCODING),
        ("app/\xc3\xbc", Code.ILLEGAL_ENCODING),
        ("app/a b", Code.ILLEGAL_ENCODING),
        ("app/a\\b", Code.ILLEGAL_ENCODING),
        ("app/a%7cb|%7", Code.ILLEGAL_ENCODING),
        ("app/db#x", Code.ILLEGAL_ENCODING),
        ("app/*", Code.INVALID_WILDCARD),
        ("app/%2a/db", Code.INVALID_WILDCARD),
        ("app/db/", Code.PROVIDER_TRAILING_SLASH_MISMATCH),
    ],
)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_path_with_two_readings_is_refused(method: str, path: str, code: Code) -> None:
    assert refusal(method, f"/v1/secret/data/{path}") is code


@pytest.mark.parametrize("letter", '"<>[]^`{|}')
def test_what_clients_leave_unencoded_is_the_secret_that_is_meant(letter: str) -> None:
    """hvac (`requests`) sends brackets, node-vault `|` and `^`, curl all; OpenBao reads both spellings alike."""
    raw, encoded = f"app/a{letter}b", f"app/a%{ord(letter):02X}b"
    asked = ask("GET", f"/v1/secret/data/{raw}")
    assert asked == ask("GET", f"/v1/secret/data/{encoded}")
    assert (str(asked.uri), asked.upstream.path) == (f"openbao+kv2://secret/{encoded}", f"/v1/secret/data/{encoded}")


@pytest.mark.parametrize(
    ("raw", "segments", "canonical"),
    [
        ("app/a%252fb", ("app", "a%2fb"), "app/a%252fb"),
        ("app/%252e%252e", ("app", "%2e%2e"), "app/%252e%252e"),
        ("app/a%5cb", ("app", "a\\b"), "app/a%5Cb"),
        ("app/a+b", ("app", "a+b"), "app/a+b"),
        ("app/a%2bb", ("app", "a+b"), "app/a+b"),
        ("app/a%20b", ("app", "a b"), "app/a%20b"),
        ("app;v=1/db", ("app;v=1", "db"), "app;v=1/db"),
        ("app/a%3Fb%23c", ("app", "a?b#c"), "app/a%3Fb%23c"),
        ("app/a*b", ("app", "a*b"), "app/a*b"),
        ("app/..x/a..b/...", ("app", "..x", "a..b", "..."), "app/..x/a..b/..."),
        ("app/%c3%bc", ("app", "ü"), "app/%C3%BC"),
        ("app/u%CC%88", ("app", "u\u0308"), "app/u%CC%88"),
        ("app/%D0%B0", ("app", "а"), "app/%D0%B0"),
        ("App/DB", ("App", "DB"), "App/DB"),
        ("data/metadata/config", ("data", "metadata", "config"), "data/metadata/config"),
    ],
)
def test_a_name_keeps_its_letters_and_gets_one_spelling(raw: str, segments: tuple[str, ...], canonical: str) -> None:
    operation = ask("GET", f"/v1/secret/data/{raw}")
    assert operation.uri.path == segments
    assert str(operation.uri) == f"openbao+kv2://secret/{canonical}"
    assert operation.upstream.path == f"/v1/secret/data/{canonical}"


def test_composed_and_decomposed_letters_are_two_secrets() -> None:
    assert ask("GET", "/v1/secret/data/%C3%BC").uri != ask("GET", "/v1/secret/data/u%CC%88").uri


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v1",
        "/V1/secret/data/x",
        "//v1/secret/data/x",
        "/%761/secret/data/x",
        "/v1%2fsecret/data/x",
        "/v2/secret/data/x",
        "/ui/",
        "/ui/../v1/secret/data/x",
        "/favicon.ico",
        "*",
        "http://bao/v1/secret/data/x",
    ],
)
def test_only_paths_below_v1_are_served(target: str) -> None:
    assert refusal("GET", target) is Code.OPERATION_FORBIDDEN


@pytest.mark.parametrize("target", ["/v1/", "/v1//", "/v1//secret/data/x", "/v1/./secret/data/x"])
def test_a_path_must_begin_with_a_name(target: str) -> None:
    assert refusal("GET", target) is Code.ILLEGAL_SEGMENT


# -- methods -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "SCAN", "HELP", "TRACE", "CONNECT", "get", "List", "PROPFIND"])
def test_a_method_that_no_operation_has_is_refused(method: str) -> None:
    assert refusal(method, "/v1/secret/data/app/db") is Code.OPERATION_FORBIDDEN


@pytest.mark.parametrize("name", ["x-http-method-override", "x-http-method", "x-method-override"])
def test_a_header_cannot_ask_for_another_method(name: str) -> None:
    assert refusal("GET", "/v1/secret/data/app/db", headers={name: "DELETE"}) is Code.OPERATION_FORBIDDEN


def test_every_name_of_the_headers_table_is_looked_at() -> None:
    assert all(name.startswith(EXTENSION) for name in (*HEADERS, *UNKNOWN))


def test_post_and_put_are_one_operation() -> None:
    body = b'{"data": {"a": "b"}}'
    assert ask("POST", "/v1/secret/data/x", body) == ask("PUT", "/v1/secret/data/x", body)


@pytest.mark.parametrize("method", ["GET", "LIST", "DELETE"])
def test_a_body_where_none_is_read_is_refused(method: str) -> None:
    target = "/v1/secret/metadata/app"
    assert refusal(method, target, b'{"list": true}') is Code.MALFORMED_REQUEST
    route = API.route(head_of(method, target))
    with pytest.raises(Refused) as caught:
        route.operation(b"{}")  # type: ignore[union-attr]  # none of these is answered locally
    assert caught.value.code is Code.MALFORMED_REQUEST


# -- lists ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("LIST", "metadata/app"),
        ("LIST", "metadata/app/"),
        ("LIST", "metadata/app?list=true"),
        *(("GET", f"metadata/app?list={true}") for true in ("1", "t", "T", "true", "True", "TRUE")),
        ("GET", "metadata/app/?list=true"),
    ],
)
def test_every_spelling_of_a_list_is_one_operation(method: str, target: str) -> None:
    operation = ask(method, f"/v1/secret/{target}")
    assert (operation.name, str(operation.uri)) == ("kv2.list", "openbao+kv2://secret/app/")
    assert (operation.upstream.method, operation.upstream.path) == ("LIST", "/v1/secret/metadata/app/")
    assert operation.upstream.query == ""


@pytest.mark.parametrize("value", ["", "0", "f", "false", "FALSE", "yes", "on", "maybe", "true%20", "%74rue", "tRue"])
@pytest.mark.parametrize("method", ["GET", "LIST"])
def test_a_list_that_is_not_plainly_true_is_refused(method: str, value: str) -> None:
    assert refusal(method, f"/v1/secret/metadata/app?list={value}") is Code.AMBIGUOUS_QUERY


def test_a_folder_is_not_read() -> None:
    assert refusal("GET", "/v1/secret/metadata/app/") is Code.PROVIDER_TRAILING_SLASH_MISMATCH
    assert refusal("DELETE", "/v1/secret/metadata/wr/a/") is Code.PROVIDER_TRAILING_SLASH_MISMATCH
    assert refusal("POST", "/v1/secret/data/", b"{}") is Code.PROVIDER_TRAILING_SLASH_MISMATCH


def test_list_on_another_method_is_an_unknown_name() -> None:
    assert refusal("DELETE", "/v1/secret/data/wr/a?list=true") is Code.AMBIGUOUS_QUERY
    assert refusal("POST", "/v1/secret/data/wr/a?list=true", b'{"data": {}}') is Code.AMBIGUOUS_QUERY


def test_a_list_is_given_in_pages() -> None:
    operation = ask("GET", "/v1/secret/metadata/app?list=true&after=ab+c%2F&limit=2")
    assert operation.upstream.query == "after=ab%20c%2F&limit=2"
    assert refusal("LIST", "/v1/secret/metadata/app?after=..%2Fx") is Code.AMBIGUOUS_QUERY
    assert refusal("LIST", "/v1/secret/metadata/app?after=%2E%2E") is Code.AMBIGUOUS_QUERY
    assert refusal("LIST", "/v1/secret/metadata/app?after=%ff") is Code.AMBIGUOUS_QUERY
    assert refusal("LIST", "/v1/secret/metadata/app?after=%zz") is Code.AMBIGUOUS_QUERY
    assert refusal("LIST", "/v1/secret/metadata/app?limit=-1") is Code.AMBIGUOUS_QUERY


@pytest.mark.parametrize("query", ["after=&limit=0", "after=", "limit=0"])
def test_a_page_without_bounds_is_the_whole_list(query: str) -> None:
    """Go's client sends both names, whatever it has."""
    assert ask("GET", f"/v1/secret/metadata/app?list=true&{query}") == ask("LIST", "/v1/secret/metadata/app")


# -- the query -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "query",
    [
        "version=1&version=2",
        "version=1&version=1",
        "version=01",
        "version=-1",
        "version=%2b1",
        "version=+1",
        "version=1e3",
        "version=0x1",
        "version=1.0",
        "version=",
        "version",
        "version=one",
        "version=1%20",
        "version=%31",
        "version=١",
        "version=1?",
        "version=1;version=2",
        "version=9999999999999999999",
        "Version=1",
        "vers%69on=1",
        "version[]=1",
        "depth=1",
        "a=b",
        "=",
        "&version=1",
        "version=1&",
        "x=%zz&version=1",
        "token=s.abc",
        "namespace=ns1",
    ],
)
def test_a_query_that_is_not_plain_is_refused(query: str) -> None:
    assert refusal("GET", f"/v1/secret/data/app/db?{query}") is Code.AMBIGUOUS_QUERY


@pytest.mark.parametrize("query", ["scan=true", "scan=false", "scan", "help=1", "help=0", "help", "list=true&scan=1"])
def test_scan_and_help_are_not_served(query: str) -> None:
    assert refusal("GET", f"/v1/secret/metadata/app?{query}") is Code.OPERATION_FORBIDDEN


def test_ten_thousand_names_do_not_hide_one() -> None:
    query = "&".join(f"a{index}=1" for index in range(10_001)) + "&list=true"
    assert refusal("GET", f"/v1/secret/metadata/app?{query}") is Code.AMBIGUOUS_QUERY


def test_an_empty_query_is_none() -> None:
    assert ask("GET", "/v1/secret/data/app/db?") == ask("GET", "/v1/secret/data/app/db")


def test_writes_and_deletes_take_no_query() -> None:
    for method, body in (("POST", b'{"data": {}}'), ("DELETE", b"")):
        assert refusal(method, "/v1/secret/data/app/db?version=1", body) is Code.AMBIGUOUS_QUERY


# -- headers -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", ["60", "1", "5m", "1h30m", "+60", "-1", "abc", "0x10", "00", "0, 60", "0.5s"])
def test_response_wrapping_is_refused(value: str) -> None:
    headers = {"x-vault-wrap-ttl": value}
    assert refusal("GET", "/v1/secret/data/app/db", headers=headers) is Code.OPERATION_FORBIDDEN


@pytest.mark.parametrize("value", ["", "0", "0s"])
def test_wrapping_that_is_off_is_no_wrapping(value: str) -> None:
    assert ask("GET", "/v1/secret/data/app/db", headers={"x-vault-wrap-ttl": value}).name == "kv2.read"


@pytest.mark.parametrize(
    "name",
    ["x-vault-inline-auth-path", "x-vault-inline-auth-parameter-1", "x-vault-unlock-key", "x-vault-new", "x-bao-token"],
)
def test_a_header_whose_meaning_is_not_known_is_refused(name: str) -> None:
    assert refusal("GET", "/v1/secret/data/app/db", headers={name: "1"}) is Code.OPERATION_FORBIDDEN
    assert refusal("GET", "/v1/auth/token/lookup-self", headers={name: "1"}) is Code.OPERATION_FORBIDDEN


def test_headers_that_clients_send_do_not_change_what_is_asked() -> None:
    plain = ask("GET", "/v1/secret/data/app/db")
    headers = {
        "x-vault-request": "true",
        "x-vault-token": "t",
        "x-vault-policy-override": "true",
        "x-vault-mfa": "x",
        "x-vault-index": "x",
        "x-vault-inconsistent": "forward-active-node",
        "x-vault-forward": "active-node",
        "x-vault-no-request-forwarding": "true",
        "x-vault-wrap-format": "jwt",
        "x-original-url": "/v1/secret/data/private/key",
        "range": "bytes=0-1",
        "user-agent": "hvac",
    }
    assert ask("GET", "/v1/secret/data/app/db", headers=headers) == plain


# -- mounts and engines --------------------------------------------------------------------------------------------
def test_a_mount_that_is_not_there_and_one_that_is_not_allowed_are_told_alike() -> None:
    table = MountTable([Mount("secret", "kv2"), Mount("other", "kv2"), Mount("other", "kv2", "ns1")], ["secret"])
    api = VaultApi(lambda: table)
    messages = set()
    for target in ("/v1/other/data/x", "/v1/nosuch/data/x", "/v1/ns1/other/data/x", "/v1/ns1/nosuch/data/x"):
        with pytest.raises(Refused) as caught:
            ask("GET", target, api=api)
        assert caught.value.code is Code.TENANT_MOUNT_MISMATCH
        messages.add((caught.value.message, caught.value.detail))
    assert len(messages) == 1


def test_an_engine_without_a_table_is_refused() -> None:
    assert refusal("GET", "/v1/totp/code/t1") is Code.UNSUPPORTED_ENGINE


def test_an_engine_without_a_table_is_no_oracle_for_mounts_of_others() -> None:
    table = MountTable([Mount("totp", "totp")], ["secret"])
    assert refusal("GET", "/v1/totp/code/t1", api=VaultApi(lambda: table)) is Code.TENANT_MOUNT_MISMATCH


@pytest.mark.parametrize("target", ["/v1/Secret/data/x", "/v1/secret./data/x", "/v1/secre/data/x", "/v1/team/data/x"])
def test_a_mount_is_its_whole_name_in_its_own_case(target: str) -> None:
    assert refusal("GET", target) is Code.TENANT_MOUNT_MISMATCH


def test_the_table_of_mounts_is_asked_for_each_request() -> None:
    tables = [MountTable([Mount("secret", "kv1")], ["secret"]), MountTable([Mount("secret", "kv2")], ["secret"])]
    api = VaultApi(tables.pop)
    assert ask("GET", "/v1/secret/data/x", api=api).name == "kv2.read"
    assert ask("GET", "/v1/secret/data/x", api=api).name == "kv1.read"


def test_the_provider_and_the_namespace_above_stand_in_what_is_built() -> None:
    table = MountTable([Mount("secret", "kv2", "ns1")], ["corp/ns1/secret"], "hashicorp", "corp")
    operation = ask("GET", "/v1/ns1/secret/data/x", api=VaultApi(lambda: table))
    assert str(operation.uri) == "hashicorp+kv2://corp/ns1/secret/x"
    assert (operation.upstream.path, operation.upstream.namespace) == ("/v1/secret/data/x", "corp/ns1")
