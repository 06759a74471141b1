"""The closed table of the Secrets API: what each endpoint takes, and that it takes nothing else."""

from __future__ import annotations

from typing import Final

import pytest

from sidecar.errors import Code, Refused
from sidecar.surface.secrets.endpoints import ROOT, ROWS, Call, Endpoint, Row, recognise
from tests.surface.asking import JSON, head_of

CANARY: Final = "canary-of-a-value"
EACH: Final = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.endpoint)
SAMPLES: Final = {
    "uri": "openbao+kv2://secret/app/db%23password",
    "prefix": "openbao+kv2://secret/app/",
    "q": "db",
    "version": "3",
    "destroy": "true",
    "limit": "7",
    "cursor": "YQ",
}


def target(row: Row, query: str | None = None) -> str:
    """The endpoint's target with every name of its query, or with the query that is given."""
    text = "&".join(f"{name}={SAMPLES[name]}" for name in row.query) if query is None else query
    return f"{ROOT}{row.path}{'?' if text else ''}{text}"


def refusal(row: Row, query: str | None = None, **headers: str) -> Refused:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    with pytest.raises(Refused) as caught:
        recognise(head_of(row.method, target(row, query), given))
    assert CANARY not in caught.value.message
    return caught.value


def test_every_endpoint_has_exactly_one_row() -> None:
    assert sorted(row.endpoint for row in ROWS) == sorted(Endpoint)
    assert len({(row.method, row.path) for row in ROWS}) == len(ROWS)


def test_only_the_description_is_public() -> None:
    assert [row.endpoint for row in ROWS if row.public] == [Endpoint.OPENAPI]
    assert [row.endpoint for row in ROWS if not row.purposes] == [Endpoint.BULK, Endpoint.OPENAPI]


@EACH
def test_a_request_with_all_that_it_takes_is_recognised(row: Row) -> None:
    call = recognise(head_of(row.method, target(row)))
    assert call.endpoint is row.endpoint
    assert set(call.query) == set(row.query)
    assert call.query.get("uri", "openbao+kv2://secret/app/db#password") == "openbao+kv2://secret/app/db#password"


@EACH
def test_another_method_is_refused_and_the_served_ones_are_named(row: Row) -> None:
    for method in ("PUT", "PATCH", "HEAD", "LIST", "OPTIONS", "get"):
        with pytest.raises(Refused) as caught:
            recognise(head_of(method, ROOT + row.path))
        assert caught.value.code is (Code.OPERATION_FORBIDDEN if method == "HEAD" else Code.METHOD_NOT_ALLOWED)
        assert row.method in caught.value.headers["Allow"].split(", ")


@pytest.mark.parametrize("path", ["/", "/value/", "//value", "/Value", "/%76alue", "/value;a=b", "/../v1/secret", "x"])
def test_a_path_that_is_none_of_the_table_is_refused(path: str) -> None:
    with pytest.raises(Refused) as caught:
        recognise(head_of("GET", ROOT + path))
    assert caught.value.code is Code.OPERATION_FORBIDDEN


@EACH
def test_a_precondition_that_is_not_served_is_not_passed_over(row: Row) -> None:
    """`If-None-Match: *` would have nothing overwritten. Where nothing changes there is nothing to guard."""
    for name in ("if_none_match", "if_unmodified_since", "if_modified_since", "if_range"):
        if row.method == "GET":
            recognise(head_of(row.method, target(row), {name.replace("_", "-"): "*"}))
        else:
            assert refusal(row, **{name: "*"}).code is Code.MALFORMED_REQUEST


@EACH
def test_a_name_that_is_not_taken_is_refused(row: Row) -> None:
    known = target(row).partition("?")[2]
    assert refusal(row, f"{known}&{CANARY}=1".lstrip("&")).code is Code.AMBIGUOUS_QUERY
    assert refusal(row, f"{known}&URI=1".lstrip("&")).code is Code.AMBIGUOUS_QUERY
    assert refusal(row, f"{known}&".lstrip("&") or "&").code is Code.AMBIGUOUS_QUERY


@EACH
def test_a_name_that_stands_twice_is_refused(row: Row) -> None:
    for name in row.query:
        assert refusal(row, f"{target(row).partition('?')[2]}&{name}={SAMPLES[name]}").code is Code.AMBIGUOUS_QUERY


@EACH
def test_what_must_be_there_is_asked_for(row: Row) -> None:
    for name in row.must:
        rest = "&".join(f"{other}={SAMPLES[other]}" for other in row.must if other != name)
        for query in (rest, f"{rest}&{name}=".lstrip("&")):
            refused = refusal(row, query)
            assert (refused.code, name in refused.message) == (Code.MALFORMED_REQUEST, True)


@pytest.mark.parametrize("raw", [f"{CANARY}%", "%zz", "%2", "a b", "ä", "a%00%ff", "a\\b", '"', "<"])
def test_a_value_that_is_not_percent_encoded_utf8_is_refused_unquoted(raw: str) -> None:
    row = next(row for row in ROWS if row.endpoint is Endpoint.VALUE)
    assert refusal(row, f"uri={raw}").code is Code.AMBIGUOUS_QUERY


@pytest.mark.parametrize(
    ("endpoint", "query"),
    [
        *((Endpoint.VALUE, f"uri=x&version={number}") for number in ("0", "-1", "01", "1e3", "", "9" * 30, "٣", "3.0")),
        *((Endpoint.LIST, f"prefix=x&limit={number}") for number in ("0", "1001", "-1", "", "ten", "+5")),
        *((Endpoint.DELETE, f"uri=x&destroy={word}") for word in ("True", "1", "yes", "")),
    ],
)
def test_numbers_and_booleans_have_one_spelling(endpoint: Endpoint, query: str) -> None:
    row = next(row for row in ROWS if row.endpoint is endpoint)
    assert refusal(row, query).code is Code.AMBIGUOUS_QUERY


@EACH
def test_if_match_is_taken_where_a_version_is_written_and_nowhere_else(row: Row) -> None:
    """A precondition that would be ignored is refused: the caller relies on it."""
    if not row.if_match:
        assert refusal(row, if_match='"3"').code is Code.MALFORMED_REQUEST
        return
    assert recognise(head_of(row.method, target(row), {"if-match": '"3"'})).cas == 3
    for tag in ("3", "*", 'W/"3"', '"03"', '"3", "4"', '""', f'"{CANARY}"', '"99999999999999999"'):
        assert refusal(row, if_match=tag).code is Code.MALFORMED_REQUEST


@EACH
def test_an_idempotency_key_is_taken_by_rotate_bulk_copy_and_move(row: Row) -> None:
    takes = row.endpoint in (Endpoint.ROTATE, Endpoint.BULK, Endpoint.COPY, Endpoint.MOVE)
    assert row.idempotent is takes
    if not takes:
        assert refusal(row, idempotency_key="key").code is Code.MALFORMED_REQUEST
        return
    assert recognise(head_of(row.method, target(row), {"idempotency-key": "key"})).idempotency_key == "key"
    for key in ("", "k" * 129, "two words", "ä", "a\tb"):
        assert refusal(row, idempotency_key=key).code is Code.MALFORMED_REQUEST


@EACH
def test_a_body_is_taken_where_there_is_a_model_and_of_json_only(row: Row) -> None:
    call = Call(row, headers=JSON)
    if row.body is None:
        call.check_body(b"")
        with pytest.raises(Refused) as caught:
            call.check_body(b"{}")
        assert caught.value.code is Code.MALFORMED_REQUEST
        return
    call.check_body(b"{}")
    with pytest.raises(Refused):
        Call(row, headers={"content-type": "application/x-www-form-urlencoded"}).check_body(b"a=b")
