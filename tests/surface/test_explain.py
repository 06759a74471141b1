"""What `sidecar explain` and `sidecar uri` print."""

from __future__ import annotations

from sidecar.surface.explain import describe_uri, explain
from tests.surface.asking import API, TABLE, head_of


def test_a_request_is_explained() -> None:
    assert explain(head_of("GET", "/v1/ns1/secret/data/app/db?version=3"), b"", API) == {
        "canonical_uri": "openbao+kv2://ns1/secret/app/db?version=3",
        "operation": "kv2.read",
        "purpose": "read",
        "upstream": {
            "method": "GET",
            "path": "/v1/secret/data/app/db",
            "query": "version=3",
            "namespace": "ns1",
        },
    }


def test_a_body_is_part_of_the_explanation() -> None:
    body = b'{"custom_metadata": {"owner": "x"}}'
    explained = explain(head_of("PUT", "/v1/secret/metadata/app/db", None, body), body, API)
    assert (explained["operation"], explained["purpose"]) == ("kv2.metadata_write", "owner_update")


def test_a_local_answer_has_no_uri() -> None:
    assert explain(head_of("GET", "/v1/auth/token/lookup-self"), b"", API) == {
        "canonical_uri": None,
        "operation": "local.lookup-self",
        "purpose": None,
        "upstream": None,
    }
    assert explain(head_of("GET", "/v1/sys/leader"), b"", API)["upstream"] == {
        "method": "GET",
        "path": "/v1/sys/leader",
        "query": "",
        "namespace": "",
    }


def test_a_refusal_is_explained() -> None:
    assert explain(head_of("GET", "/v1/secret/data/app/%2e%2e"), b"", API) == {
        "error": {
            "code": "ILLEGAL_SEGMENT",
            "status": 400,
            "message": "a path has an empty, `.` or `..` segment",
        }
    }
    assert explain(head_of("POST", "/v1/secret/data/app"), b"{", API)["error"]["code"] == "MALFORMED_REQUEST"


def test_a_uri_is_described() -> None:
    expected = {
        "canonical_uri": "openbao+kv2://team/kv/app/db#a%2Fb?version=3",
        "provider": "openbao",
        "engine": "kv2",
        "mount": "team/kv",
        "path": "app/db",
        "fragment": "a/b",
        "version": 3,
        "folder": False,
    }
    text = "OpenBao+kv2://team/kv/app/db#a/b?version=3"
    assert describe_uri(text, TABLE) == expected
    assert describe_uri(text) == expected | {"mount": "team", "path": "kv/app/db"}
    assert describe_uri("openbao+kv2://secret/app/")["path"] == "app/"
    assert describe_uri("openbao+kv2://secret/")["path"] == ""


def test_a_bad_uri_is_described_too() -> None:
    assert describe_uri("openbao+kv2://secret/*")["error"]["code"] == "INVALID_WILDCARD"
