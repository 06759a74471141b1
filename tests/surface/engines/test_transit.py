"""Transit: the secret is the key; a batch spends one use for each item."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.errors import Code
from sidecar.surface.operation import Purpose
from tests.surface.asking import ask, refusal


def _body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("method", "target", "body", "name", "purpose", "key"),
    [
        ("POST", "encrypt/k1", _body(plaintext="aGk=", context="Yw=="), "encrypt", "execute", "k1"),
        ("PUT", "encrypt/k1", _body(plaintext="aGk="), "encrypt", "execute", "k1"),
        ("POST", "decrypt/k1", _body(ciphertext="vault:v1:x"), "decrypt", "execute", "k1"),
        ("POST", "rewrap/k1", _body(ciphertext="vault:v1:x", key_version=2), "rewrap", "execute", "k1"),
        ("POST", "sign/k1", _body(input="aGk=", hash_algorithm="sha2-512"), "sign", "execute", "k1"),
        ("POST", "sign/k1/sha2-256", _body(input="aGk=", prehashed=True), "sign", "execute", "k1"),
        ("POST", "verify/k1", _body(input="aGk=", signature="vault:v1:x"), "verify", "execute", "k1"),
        ("POST", "verify/k1/sha2-256", _body(input="aGk=", hmac="vault:v1:x"), "verify", "execute", "k1"),
        ("POST", "hmac/k1", _body(input="aGk="), "hmac", "execute", "k1"),
        ("POST", "hmac/k1/sha2-256", _body(input="aGk="), "hmac", "execute", "k1"),
        ("POST", "datakey/plaintext/k1", b"", "datakey", "execute", "k1"),
        ("POST", "datakey/wrapped/k1", _body(bits=256), "datakey", "execute", "k1"),
        ("POST", "random", b"", "random", "execute", ""),
        ("POST", "random/16", _body(format="hex"), "random", "execute", ""),
        ("POST", "random/platform/16", b"", "random", "execute", ""),
        ("POST", "hash/sha2-256", _body(input="aGk="), "hash", "execute", ""),
        ("GET", "export/encryption-key/k1", b"", "export", "read", "k1"),
        ("GET", "export/signing-key/k1/3", b"", "export", "read", "k1"),
        ("GET", "export/public-key/k1/latest?format=der", b"", "export", "read", "k1"),
        ("POST", "keys/k1", b"", "create_key", "write", "k1"),
        ("POST", "keys/k1", _body(type="ed25519", exportable=True), "create_key", "write", "k1"),
        ("POST", "keys/k1/rotate", b"", "rotate", "rotate", "k1"),
        ("PUT", "keys/k1/rotate", b"{}", "rotate", "rotate", "k1"),
        ("GET", "keys/k1", b"", "read_key", "read_metadata", "k1"),
        ("LIST", "keys", b"", "list", "read_metadata", ""),
        ("GET", "keys/?list=true&limit=5", b"", "list", "read_metadata", ""),
        ("GET", "keys/random", b"", "read_key", "read_metadata", "random"),
    ],
)
def test_each_operation_is_named_exactly(
    method: str, target: str, body: bytes, name: str, purpose: str, key: str
) -> None:
    operation = ask(method, f"/v1/transit/{target}", body)
    assert (operation.name, operation.purpose) == (f"transit.{name}", purpose)
    assert str(operation.uri) == f"openbao+transit://transit/{key}"
    assert operation.mutation == (purpose not in ("read", "read_metadata"))
    assert not operation.streams


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("DELETE", "keys/k1"),
        ("POST", "keys/k1/config"),
        ("POST", "keys/k1/trim"),
        ("POST", "keys/k1/import"),
        ("POST", "keys/k1/import_version"),
        ("DELETE", "keys/k1/soft-delete"),
        ("POST", "keys/k1/csr"),
        ("POST", "keys/k1/set-certificate"),
        ("GET", "backup/k1"),
        ("POST", "restore"),
        ("POST", "restore/k1"),
        ("GET", "byok-export/a/b"),
        ("POST", "derive-key/k1"),
        ("GET", "cache-config"),
        ("POST", "config/keys"),
        ("GET", "wrapping_key"),
        ("GET", "encrypt/k1"),
        ("POST", "encrypt/k1/x"),
        ("POST", "encrypt"),
        ("POST", "encrypt/k%20"),
        ("POST", "encrypt/k!"),
        ("POST", "encrypt/-k"),
        ("POST", "encrypt/%C3%BC"),
        ("POST", "sign/k1/sha2-256/x"),
        ("POST", "random/all/16/x"),
        ("POST", "random/elsewhere"),
        ("POST", "datakey/k1"),
        ("POST", "datakey/secret/k1"),
        ("GET", "export/encryption-key/k1/first"),
        ("LIST", "keys/k1"),
        ("PATCH", "keys/k1"),
    ],
)
def test_everything_else_is_forbidden(method: str, target: str) -> None:
    assert refusal(method, f"/v1/transit/{target}") is Code.OPERATION_FORBIDDEN


@pytest.mark.parametrize(
    ("target", "item"),
    [
        ("encrypt/k1", {"plaintext": "aGk=", "context": "Yw==", "key_version": 1, "reference": "r"}),
        ("decrypt/k1", {"ciphertext": "vault:v1:x", "associated_data": "YQ=="}),
        ("rewrap/k1", {"ciphertext": "vault:v1:x"}),
        ("sign/k1", {"input": "aGk=", "context": "Yw=="}),
        ("verify/k1", {"input": "aGk=", "signature": "vault:v1:x"}),
        ("hmac/k1", {"input": "aGk="}),
    ],
)
def test_a_batch_of_three_spends_three(target: str, item: dict[str, Any]) -> None:
    operation = ask("POST", f"/v1/transit/{target}", _body(batch_input=[item] * 3))
    assert (operation.uses, operation.purpose) == (3, Purpose.EXECUTE)
    assert operation.upstream.body == json.dumps({"batch_input": [item] * 3}, separators=(",", ":")).encode()


def test_a_null_beside_a_batch_is_no_item() -> None:
    operation = ask("POST", "/v1/transit/encrypt/k1", _body(plaintext=None, batch_input=[ITEM, ITEM]))
    assert operation.uses == 2


@pytest.mark.parametrize("target", ["keys/k1", "keys/k1/rotate", "datakey/wrapped/k1", "random/16"])
def test_a_null_for_a_body_is_none(target: str) -> None:
    """The command line sends it with `write -f`."""
    assert ask("PUT", f"/v1/transit/{target}", b"null\n") == ask("PUT", f"/v1/transit/{target}")
    assert refusal("PUT", "/v1/transit/hash/sha2-256", b"null") is Code.MALFORMED_REQUEST


ITEM = {"plaintext": "aGk="}


@pytest.mark.parametrize(
    "body",
    [
        _body(batch_input=[]),
        _body(batch_input=None),
        _body(batch_input=ITEM),
        _body(batch_input="[]"),
        _body(batch_input=[[ITEM]]),
        _body(batch_input=["aGk="]),
        _body(batch_input=[None]),
        _body(batch_input=[{"Plaintext": "aGk="}]),
        _body(batch_input=[{"plaintext": ["aGk="]}]),
        _body(batch_input=[{"plaintext": "aGk=", "batch_input": [ITEM]}]),
        _body(batch_input=[ITEM], plaintext="aGk="),
        _body(batch_input=[{}] * 1001),
        b'{"batch_input": [{}], "batch_input": [{}, {}]}',
        _body(Batch_Input=[ITEM]),
        _body(plaintext=["aGk="]),
        _body(plaintext=None),
        _body(plaintext="aGk=", context=None),
        _body(batch_input=[{"plaintext": None}]),
        _body(plaintext="aGk=", name="k2"),
        b"",
    ],
)
def test_a_batch_that_could_be_counted_otherwise_is_refused(body: bytes) -> None:
    assert refusal("POST", "/v1/transit/encrypt/k1", body) is Code.MALFORMED_REQUEST


@pytest.mark.parametrize(
    ("target", "fields"),
    [
        ("random/8", {"bytes": 4, "urlbytes": "2"}),
        ("keys/k1", {"external_key_ref": "a:b"}),
        ("keys/k1/rotate", {"external_key_ref": "a:b"}),
        ("keys/k1/rotate", {"name": "k2"}),
        ("sign/k1/sha2-256", {"input": "aGk=", "urlalgorithm": "sha2-512"}),
        ("datakey/plaintext/k1", {"plaintext": "wrapped"}),
    ],
)
def test_a_body_cannot_say_what_the_path_says(target: str, fields: dict[str, Any]) -> None:
    assert refusal("POST", f"/v1/transit/{target}", _body(**fields)) is Code.MALFORMED_REQUEST


def test_an_export_takes_its_formats_only() -> None:
    assert refusal("GET", "/v1/transit/export/public-key/k1?format=jwk") is Code.AMBIGUOUS_QUERY
    assert refusal("GET", "/v1/transit/export/public-key/k1?version=1") is Code.AMBIGUOUS_QUERY
