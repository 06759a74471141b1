"""KV version 1: the path is the secret."""

from __future__ import annotations

import pytest

from sidecar.errors import Code
from tests.surface.asking import MERGE_PATCH, ask, refusal


@pytest.mark.parametrize(
    ("method", "target", "body", "name", "uri"),
    [
        ("GET", "app/db", b"", "kv1.read", "app/db"),
        ("GET", "data/metadata/x", b"", "kv1.read", "data/metadata/x"),
        ("POST", "app/db", b'{"v": "x", "ttl": "1h"}', "kv1.write", "app/db"),
        ("PUT", "app/db", b"{}", "kv1.write", "app/db"),
        ("DELETE", "app/db", b"", "kv1.delete", "app/db"),
        ("LIST", "app", b"", "kv1.list", "app/"),
        ("LIST", "app/db", b"", "kv1.list", "app/db/"),
        ("GET", "app/?list=true", b"", "kv1.list", "app/"),
    ],
)
def test_each_operation_is_named_exactly(method: str, target: str, body: bytes, name: str, uri: str) -> None:
    operation = ask(method, f"/v1/kv1/{target}", body)
    assert (operation.name, str(operation.uri)) == (name, f"openbao+kv1://kv1/{uri}")


@pytest.mark.parametrize("target", ["/v1/kv1", "/v1/kv1/"])
def test_the_mount_itself_is_listed(target: str) -> None:
    operation = ask("LIST", target)
    assert (str(operation.uri), operation.upstream.path) == ("openbao+kv1://kv1/", "/v1/kv1/")


def test_what_version_1_does_not_have_is_refused() -> None:
    assert refusal("PATCH", "/v1/kv1/x", b"{}", MERGE_PATCH) is Code.OPERATION_FORBIDDEN
    assert refusal("GET", "/v1/kv1/x?version=1") is Code.AMBIGUOUS_QUERY
    assert refusal("GET", "/v1/kv1") is Code.OPERATION_FORBIDDEN
    assert refusal("POST", "/v1/kv1/x") is Code.MALFORMED_REQUEST
    assert refusal("POST", "/v1/kv1/wr/", b"{}") is Code.PROVIDER_TRAILING_SLASH_MISMATCH
