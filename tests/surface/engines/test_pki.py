"""PKI: one name for one thing, and nothing of the operator's."""

from __future__ import annotations

import pytest

from sidecar.errors import Code
from sidecar.surface.operation import Purpose
from tests.surface.asking import ask, refusal


@pytest.mark.parametrize("operation", ["issue", "sign"])
def test_a_certificate_is_made_under_a_role(operation: str) -> None:
    asked = ask("POST", f"/v1/pki/{operation}/web", b'{"common_name": "a.test", "ttl": "1h", "ip_sans": ["127.0.0.1"]}')
    assert (asked.name, asked.purpose, asked.mutation) == (f"pki.{operation}", Purpose.EXECUTE, True)
    assert str(asked.uri) == f"openbao+pki://pki/{operation}/web"
    assert not asked.streams


@pytest.mark.parametrize(
    ("paths", "name", "uri"),
    [
        (["ca", "ca/pem", "cert/ca", "cert/ca/raw", "cert/ca/raw/pem"], "pki.read_ca", "ca"),
        (["ca_chain", "cert/ca_chain"], "pki.read_ca", "ca_chain"),
        (["crl", "crl/pem", "cert/crl"], "pki.read_crl", "crl"),
        (["crl/delta", "crl/delta/pem", "cert/delta-crl"], "pki.read_crl", "crl/delta"),
        (
            ["cert/0A-1b-2C", "cert/0a:1B:2c", "cert/0a:1b:2c/raw", "cert/0a-1b-2c/raw/pem"],
            "pki.read_cert",
            "cert/0a:1b:2c",
        ),
    ],
)
def test_several_encodings_of_one_thing_have_one_name(paths: list[str], name: str, uri: str) -> None:
    for path in paths:
        operation = ask("GET", f"/v1/pki/{path}")
        assert (operation.name, str(operation.uri)) == (name, f"openbao+pki://pki/{uri}")
        assert operation.upstream.path == f"/v1/pki/{path}"
        assert operation.purpose is Purpose.READ_METADATA


@pytest.mark.parametrize("folder", ["certs", "certs/revoked", "issuers", "roles"])
def test_names_are_listed(folder: str) -> None:
    operation = ask("LIST", f"/v1/pki/{folder}")
    assert (operation.name, str(operation.uri)) == ("pki.list", f"openbao+pki://pki/{folder}/")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "crl/rotate"),
        ("GET", "crl/rotate-delta"),
        ("GET", "roles/web"),
        ("POST", "roles/web"),
        ("DELETE", "root"),
        ("POST", "root/generate/internal"),
        ("POST", "root/sign-intermediate"),
        ("POST", "root/sign-self-issued"),
        ("POST", "sign-verbatim"),
        ("POST", "sign-verbatim/web"),
        ("POST", "issuer/default/issue/web"),
        ("POST", "issuer/default/sign/web"),
        ("POST", "issuer/default/sign-verbatim"),
        ("GET", "issuer/default/pem"),
        ("POST", "cel/issue/web"),
        ("POST", "revoke-with-key"),
        ("POST", "tidy"),
        ("GET", "config/urls"),
        ("POST", "config/ca"),
        ("GET", "acme/directory"),
        ("POST", "acme/new-order"),
        ("POST", "roles/web/acme/new-order"),
        ("GET", "issuer/default/acme/directory"),
        ("POST", "ocsp"),
        ("GET", "cert/xyz"),
        ("GET", "cert/0a:1"),
        ("GET", "cert"),
        ("LIST", "keys"),
        ("LIST", "certs/detailed"),
        ("GET", "issue/web"),
        ("POST", "issue/%C3%BC"),
    ],
)
def test_everything_else_is_forbidden(method: str, path: str) -> None:
    assert refusal(method, f"/v1/pki/{path}") is Code.OPERATION_FORBIDDEN


@pytest.mark.parametrize("field", ["role", "issuer_ref", "use_csr_common_name", "subject_key_id"])
def test_the_role_alone_says_who_signs(field: str) -> None:
    body = b'{"common_name": "a.test", "%s": "x"}' % field.encode()
    assert refusal("POST", "/v1/pki/issue/web", body) is Code.MALFORMED_REQUEST


def test_a_role_takes_its_fields_only_in_their_kind() -> None:
    assert refusal("POST", "/v1/pki/issue/web", b'{"common_name": ["a", "b"]}') is Code.MALFORMED_REQUEST
    assert refusal("POST", "/v1/pki/issue/web", b'{"alt_names": {"a": 1}}') is Code.MALFORMED_REQUEST
    assert refusal("POST", "/v1/pki/issue/web", b'{"alt_names": [["a"]]}') is Code.MALFORMED_REQUEST
    assert refusal("POST", "/v1/pki/issue/web", b'{"csr": "x"}') is Code.MALFORMED_REQUEST


@pytest.mark.parametrize("serial", ["0A-1b-2C", "0a:1B:2c", "0a:1b:2c"])
def test_a_certificate_to_revoke_is_named_by_its_serial_number_in_one_spelling(serial: str) -> None:
    asked = ask("POST", "/v1/pki/revoke", b'{"serial_number": "%s"}' % serial.encode())
    assert (asked.name, asked.purpose, asked.mutation) == ("pki.revoke", Purpose.REVOKE, True)
    assert asked.holds == "certificate:pki:0a:1b:2c"
    assert asked.upstream.body == b'{"serial_number":"0a:1b:2c"}'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"serial_number": ""}',
        b'{"serial_number": ["0a:1b"]}',
        b'{"serial_number": 10}',
        b'{"serial_number": "0a:1b,0c:1d"}',
        b'{"certificate": "-----BEGIN CERTIFICATE-----"}',
        b'{"serial_number": "0a:1b", "certificate": "-----BEGIN CERTIFICATE-----"}',
    ],
)
def test_a_certificate_is_named_by_nothing_else(body: bytes) -> None:
    assert refusal("POST", "/v1/pki/revoke", body) is Code.MALFORMED_REQUEST
