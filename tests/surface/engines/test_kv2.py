"""KV version 2: every prefix named exactly, and what a body decides."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from sidecar.errors import Code
from sidecar.surface.operation import Operation, Purpose
from tests.surface.asking import MERGE_PATCH, ask, refusal

VERSIONS = b'{"versions": [1, 2]}'
SECRET = b'{"data": {"a": "b"}}'


@pytest.mark.parametrize(
    ("method", "target", "body", "name", "purpose", "uri"),
    [
        ("GET", "data/app/db", b"", "kv2.read", "read", "app/db"),
        ("GET", "data/app/db?version=3", b"", "kv2.read", "read", "app/db?version=3"),
        ("POST", "data/app/db", SECRET, "kv2.write", "write", "app/db"),
        ("PATCH", "data/app/db", SECRET, "kv2.patch", "write", "app/db"),
        ("DELETE", "data/app/db", b"", "kv2.delete", "delete", "app/db"),
        ("POST", "delete/app/db", VERSIONS, "kv2.delete", "delete", "app/db"),
        ("PUT", "undelete/app/db", VERSIONS, "kv2.undelete", "undelete", "app/db"),
        ("PUT", "destroy/app/db", VERSIONS, "kv2.destroy", "destroy_versions", "app/db"),
        ("GET", "subkeys/app/db?version=2&depth=1", b"", "kv2.subkeys", "read_metadata", "app/db?version=2"),
        ("GET", "metadata/app/db", b"", "kv2.metadata_read", "read_metadata", "app/db"),
        ("POST", "metadata/app/db", b'{"max_versions": 5}', "kv2.metadata_write", "write", "app/db"),
        ("PATCH", "metadata/app/db", b'{"max_versions": 5}', "kv2.metadata_write", "write", "app/db"),
        ("DELETE", "metadata/app/db", b"", "kv2.delete_all", "destroy_versions", "app/db"),
        ("LIST", "metadata/app", b"", "kv2.list", "read_metadata", "app/"),
        ("LIST", "metadata", b"", "kv2.list", "read_metadata", ""),
        ("LIST", "metadata/", b"", "kv2.list", "read_metadata", ""),
        # A secret may be called like a prefix.
        ("GET", "data/data", b"", "kv2.read", "read", "data"),
        ("GET", "data/config", b"", "kv2.read", "read", "config"),
        ("GET", "data/data/data/x", b"", "kv2.read", "read", "data/data/x"),
        ("GET", "data/metadata/app/db", b"", "kv2.read", "read", "metadata/app/db"),
        ("DELETE", "metadata/destroy/x", b"", "kv2.delete_all", "destroy_versions", "destroy/x"),
        ("POST", "delete/destroy/x", VERSIONS, "kv2.delete", "delete", "destroy/x"),
    ],
)
@pytest.mark.parametrize("mount", ["secret", "team/kv", "ns1/secret"])
def test_each_prefix_is_named_exactly(
    mount: str, method: str, target: str, body: bytes, name: str, purpose: str, uri: str
) -> None:
    operation = ask(method, f"/v1/{mount}/{target}", body, MERGE_PATCH if method == "PATCH" else None)
    assert (operation.name, operation.purpose, str(operation.uri)) == (name, purpose, f"openbao+kv2://{mount}/{uri}")
    assert operation.mutation == (purpose not in ("read", "read_metadata"))
    assert operation.streams == (not operation.mutation)
    assert operation.uses == 1


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("GET", "", b""),
        ("LIST", "", b""),
        ("GET", "config", b""),
        ("POST", "config", b'{"max_versions": 1}'),
        ("GET", "data", b""),
        ("POST", "data", SECRET),
        ("DELETE", "metadata", b""),
        ("LIST", "data/app", b""),
        ("LIST", "subkeys/app", b""),
        ("LIST", "detailed-metadata/app", b""),
        ("GET", "detailed-metadata/app?list=true", b""),
        ("DELETE", "delete/app/db", b""),
        ("GET", "delete/app/db", b""),
        ("GET", "destroy/app/db", b""),
        ("POST", "subkeys/app/db", b"{}"),
        ("PATCH", "delete/app/db", VERSIONS),
        ("GET", "DATA/app/db", b""),
        ("GET", "app/db", b""),
        ("POST", "app/db", b'{"v": "x"}'),
        ("DELETE", "app/db", b""),
        ("GET", "versions/app/db", b""),
    ],
)
def test_everything_else_is_forbidden(method: str, target: str, body: bytes) -> None:
    headers = MERGE_PATCH if method == "PATCH" else None
    assert refusal(method, f"/v1/secret/{target}".rstrip("/"), body, headers) is Code.OPERATION_FORBIDDEN


def test_version_0_is_the_latest_which_needs_no_name() -> None:
    operation = ask("GET", "/v1/secret/data/x?version=0")
    assert str(operation.uri) == "openbao+kv2://secret/x"
    assert operation.upstream.query == ""
    assert ask("GET", "/v1/secret/subkeys/x?version=0&depth=2").upstream.query == "depth=2"


def test_a_version_reaches_openbao() -> None:
    operation = ask("GET", "/v1/secret/data/x?version=3")
    assert (operation.uri.version, operation.upstream.query) == (3, "version=3")


# -- writes --------------------------------------------------------------------------------------------------------
def _body(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()


def _sent(operation: Operation) -> Any:
    assert operation.upstream.body is not None
    return orjson.loads(operation.upstream.body)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"data": {"a": {"b": [1, None]}}}, {"data": {"a": {"b": [1, None]}}}),
        ({"data": {}, "options": {}}, {"data": {}, "options": {}}),
        ({"data": {}, "options": {"cas": 0}}, {"data": {}, "options": {"cas": 0}}),
        ({"data": {}, "options": {"cas": "3"}}, {"data": {}, "options": {"cas": 3}}),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_secret_is_written_with_its_options(method: str, given: dict[str, Any], sent: dict[str, Any]) -> None:
    headers = MERGE_PATCH if method == "PATCH" else None
    assert _sent(ask(method, "/v1/secret/data/x", _body(given), headers)) == sent


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"v": "x"},
        {"data": None},
        {"data": "x"},
        {"data": '{"v": 1}'},
        {"data": [{"v": 1}]},
        {"data": {}, "Data": {}},
        {"data": {}, "options": None},
        {"data": {}, "options": "x"},
        {"data": {}, "options": [{"cas": 1}]},
        {"data": {}, "options": {"cas": -1}},
        {"data": {}, "options": {"cas": True}},
        {"data": {}, "options": {"cas": 1.0}},
        {"data": {}, "options": {"cas": "01"}},
        {"data": {}, "options": {"CAS": 1}},
        {"data": {}, "path": "private/key"},
        {"data": {}, "version": 1},
    ],
)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_secret_s_body_holds_what_it_must_and_nothing_else(method: str, body: dict[str, Any]) -> None:
    headers = MERGE_PATCH if method == "PATCH" else None
    assert refusal(method, "/v1/secret/data/x", _body(body), headers) is Code.MALFORMED_REQUEST


def test_a_write_without_a_body_is_refused() -> None:
    assert refusal("POST", "/v1/secret/data/x") is Code.MALFORMED_REQUEST


# -- versions ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "sent"),
    [([1, 2], [1, 2]), (["1", "2"], [1, 2]), ("1,2", [1, 2]), ("3", [3]), (3, [3]), ([2, 1, 2], [2, 1, 2])],
)
@pytest.mark.parametrize("prefix", ["delete", "undelete", "destroy"])
def test_versions_are_sent_as_numbers(prefix: str, given: object, sent: list[int]) -> None:
    assert _sent(ask("POST", f"/v1/secret/{prefix}/x", _body({"versions": given}))) == {"versions": sent}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"versions": []},
        {"versions": ""},
        {"versions": None},
        {"versions": [0]},
        {"versions": 0},
        {"versions": [-1]},
        {"versions": [1.5]},
        {"versions": [True]},
        {"versions": ["0x1"]},
        {"versions": ["01"]},
        {"versions": [" 1"]},
        {"versions": "1, 2"},
        {"versions": "1,,2"},
        {"versions": [[1]]},
        {"versions": {"a": 1}},
        {"versions": list(range(1, 1002))},
        {"versions": [1], "path": "other"},
        {"Versions": [1]},
    ],
)
@pytest.mark.parametrize("prefix", ["delete", "undelete", "destroy"])
def test_versions_that_are_no_plain_numbers_are_refused(prefix: str, body: dict[str, Any]) -> None:
    assert refusal("POST", f"/v1/secret/{prefix}/x", _body(body)) is Code.MALFORMED_REQUEST


# -- metadata ------------------------------------------------------------------------------------------------------
def _metadata(method: str, body: dict[str, Any]) -> Operation:
    return ask(method, "/v1/secret/metadata/x", _body(body), MERGE_PATCH if method == "PATCH" else None)


SETTINGS = {
    "max_versions": 5,
    "cas_required": True,
    "delete_version_after": "3h",
    "metadata_cas": 2,
    "metadata_cas_required": False,
}


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_settings_are_written_under_write(method: str) -> None:
    operation = _metadata(method, SETTINGS)
    assert operation.purpose is Purpose.WRITE
    assert _sent(operation) == SETTINGS


@pytest.mark.parametrize("labels", [{"owner": "eve"}, {"team": "x"}, {}])
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_whoever_replaces_all_labels_changes_the_owner(method: str, labels: dict[str, Any]) -> None:
    """OpenBao replaces the whole of custom_metadata: an owner that is not in it is gone."""
    assert _metadata(method, {"custom_metadata": labels}).purpose is Purpose.OWNER_UPDATE


@pytest.mark.parametrize(
    ("labels", "purpose"),
    [
        ({"owner": "eve"}, Purpose.OWNER_UPDATE),
        ({"owner": None}, Purpose.OWNER_UPDATE),
        ({"owner": "eve", "team": "x"}, Purpose.OWNER_UPDATE),
        ({"team": "x", "old": None}, Purpose.WRITE),
        ({"Owner": "x"}, Purpose.WRITE),
        ({}, Purpose.WRITE),
    ],
)
def test_a_merge_changes_the_owner_where_it_names_it(labels: dict[str, Any], purpose: Purpose) -> None:
    assert _metadata("PATCH", {"custom_metadata": labels}).purpose is purpose


def test_an_escaped_owner_is_the_owner() -> None:
    body = rb'{"custom_metadata": {"\u006fwner": "eve"}}'
    assert ask("PATCH", "/v1/secret/metadata/x", body, MERGE_PATCH).purpose is Purpose.OWNER_UPDATE


@pytest.mark.parametrize("name", ["created_by", "created_at"])
@pytest.mark.parametrize(
    ("method", "value"), [("POST", "eve"), ("PUT", ""), ("PATCH", "eve"), ("PATCH", ""), ("PATCH", None)]
)
def test_who_made_a_secret_and_when_is_not_a_client_s_to_write(method: str, value: str | None, name: str) -> None:
    body = _body({"custom_metadata": {name: value, "owner": "x"}})
    headers = MERGE_PATCH if method == "PATCH" else None
    assert refusal(method, "/v1/secret/metadata/x", body, headers) is Code.OPERATION_FORBIDDEN


@pytest.mark.parametrize(
    "body",
    [
        {"custom_metadata": None},
        {"custom_metadata": "owner=eve"},
        {"custom_metadata": [{"owner": "eve"}]},
        {"custom_metadata": {"owner": ["eve"]}},
        {"custom_metadata": {"owner": {"name": "eve"}}},
        {"Custom_Metadata": {"owner": "eve"}},
        {"max_versions": [1]},
        {"max_versions": {}},
        {"metadata_cas": -1},
        {"data": {}},
        {"owner": "eve"},
        {"list": True},
    ],
)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_labels_are_an_object_of_plain_values(method: str, body: dict[str, Any]) -> None:
    headers = MERGE_PATCH if method == "PATCH" else None
    assert refusal(method, "/v1/secret/metadata/x", _body(body), headers) is Code.MALFORMED_REQUEST
