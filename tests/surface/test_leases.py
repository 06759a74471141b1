"""Leases, renewed and revoked: by URL or by body one operation, and nothing else of `sys/leases/`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.errors import Code
from sidecar.surface.operation import Purpose
from tests.surface.asking import ask, refusal

ID = "database/creds/app/Cl5RHMyqZp6gUpU6CM5RZCO3"


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize(("action", "purpose"), [("renew", Purpose.RENEW), ("revoke", Purpose.REVOKE)])
@pytest.mark.parametrize(
    ("url", "sent"),
    [(f"/{ID}", b""), (f"/{ID}", b"null"), ("", body(lease_id=ID)), (f"/{ID}", body(lease_id=ID))],
    ids=["url", "url and null", "body", "both"],
)
def test_a_lease_is_one_operation_however_it_is_named(
    method: str, action: str, purpose: Purpose, url: str, sent: bytes
) -> None:
    asked = ask(method, f"/v1/sys/leases/{action}{url}", sent)
    assert (asked.name, asked.purpose, asked.mutation) == (f"lease.{action}", purpose, True)
    assert str(asked.uri) == "openbao+database://database/creds/app"
    assert asked.holds == f"lease:{ID}"
    upstream = asked.upstream
    assert (upstream.method, upstream.path, upstream.query) == ("PUT", f"/v1/sys/leases/{action}", "")
    assert json.loads(upstream.body or b"") == {"lease_id": ID}
    assert not asked.streams


def test_what_else_the_body_says_is_passed_on() -> None:
    renewed = ask("PUT", "/v1/sys/leases/renew", body(lease_id=ID, increment=600))
    assert json.loads(renewed.upstream.body or b"") == {"lease_id": ID, "increment": 600}
    revoked = ask("PUT", f"/v1/sys/leases/revoke/{ID}", body(sync=True))
    assert json.loads(revoked.upstream.body or b"") == {"lease_id": ID, "sync": True}


def test_a_lease_of_an_issued_certificate_is_known_by_its_role() -> None:
    assert str(ask("PUT", "/v1/sys/leases/revoke/pki/issue/web/0a-1b").uri) == "openbao+pki://pki/issue/web"


FOREIGN = [
    "x",
    "database/creds/app",
    "database/creds/app/",
    "database/creds/app/x/y",
    "database/static-creds/app/x",
    "database//creds/app/x",
    "database/creds/../creds/app/x",
    "database/creds/./app/x",
    "/database/creds/app/x",
    "database/creds/app/*",
    "database/creds/app/\u200bx",
    "database/creds/\u00fc/x",
    "database/creds/app/" + "x" * 3000,
    "auth/userpass/login/alice/x",
    "nowhere/creds/app/x",
    "secret/data/app/x",
    "secret/creds/app/x",
    "pki/ca/x",
    "pki/revoke/x",
    "ns1/secret/data/x",
]


@pytest.mark.parametrize("lease_id", FOREIGN)
def test_an_id_that_no_served_operation_made_is_refused_like_somebody_else_s(lease_id: str) -> None:
    assert refusal("PUT", "/v1/sys/leases/revoke", body(lease_id=lease_id)) is Code.OPERATION_FORBIDDEN


@pytest.mark.parametrize(
    ("method", "target", "sent", "code"),
    [
        ("PUT", f"/v1/sys/leases/revoke/{ID}", body(lease_id=ID + "x"), Code.OPERATION_FORBIDDEN),
        ("PUT", f"/v1/sys/leases/renew/{ID}", body(lease_id=ID[:-1]), Code.OPERATION_FORBIDDEN),
        ("PUT", f"/v1/sys/leases/renew/{ID}", body(lease_id=""), Code.MALFORMED_REQUEST),
        ("PUT", "/v1/sys/leases/renew", b"", Code.MALFORMED_REQUEST),
        ("PUT", "/v1/sys/leases/renew", b"{}", Code.MALFORMED_REQUEST),
        ("PUT", "/v1/sys/leases/renew", body(lease_id=[ID]), Code.MALFORMED_REQUEST),
        ("PUT", "/v1/sys/leases/renew", body(lease_id={"a": ID}), Code.MALFORMED_REQUEST),
        ("PUT", "/v1/sys/leases/renew", body(lease_id=1), Code.MALFORMED_REQUEST),
        ("PUT", "/v1/sys/leases/renew", body(lease_id=None), Code.MALFORMED_REQUEST),
        ("PUT", "/v1/sys/leases/renew", body(lease_id=ID, url_lease_id=ID), Code.MALFORMED_REQUEST),
        ("PUT", "/v1/sys/leases/renew", body(lease_id=ID, Lease_ID=ID), Code.MALFORMED_REQUEST),
        ("PUT", "/v1/sys/leases/renew", b'{"lease_id":"%s","lease_id":"x"}' % ID.encode(), Code.MALFORMED_REQUEST),
        ("PUT", "/v1/sys/leases/renew", b"lease_id=" + ID.encode(), Code.MALFORMED_REQUEST),
        ("PUT", "/v1/sys/leases/revoke", body(lease_id=ID, increment=1), Code.MALFORMED_REQUEST),
        ("PUT", f"/v1/sys/leases/renew/{ID}/", b"", Code.PROVIDER_TRAILING_SLASH_MISMATCH),
        ("PUT", "/v1/sys/leases/renew/", body(lease_id=ID), Code.PROVIDER_TRAILING_SLASH_MISMATCH),
        ("PUT", f"/v1/sys/leases/renew/{ID.replace('/', '%2f')}", b"", Code.ILLEGAL_ENCODING),
        ("PUT", f"/v1/sys/leases/re%6eew/{ID}", b"", Code.ILLEGAL_ENCODING),
        ("PUT", f"/v1/sys/leases/renew//{ID}", b"", Code.ILLEGAL_SEGMENT),
        ("PUT", f"/v1/sys/leases/renew/{ID}?sync=true", b"", Code.AMBIGUOUS_QUERY),
        ("PUT", f"/v1/sys/leases/renew/{ID}?help=1", b"", Code.OPERATION_FORBIDDEN),
        ("GET", f"/v1/sys/leases/renew/{ID}", b"", Code.OPERATION_FORBIDDEN),
        ("DELETE", f"/v1/sys/leases/revoke/{ID}", b"", Code.OPERATION_FORBIDDEN),
        ("LIST", "/v1/sys/leases/lookup/database/creds/app", b"", Code.OPERATION_FORBIDDEN),
        ("GET", "/v1/sys/leases", b"", Code.OPERATION_FORBIDDEN),
        ("PUT", "/v1/sys/leases/lookup", body(lease_id=ID), Code.OPERATION_FORBIDDEN),
        ("PUT", "/v1/sys/leases/revoke-prefix/database", b"", Code.OPERATION_FORBIDDEN),
        ("PUT", "/v1/sys/leases/revoke-force/database", b"", Code.OPERATION_FORBIDDEN),
        ("PUT", "/v1/sys/leases/tidy", b"", Code.OPERATION_FORBIDDEN),
        ("GET", "/v1/sys/leases/count", b"", Code.OPERATION_FORBIDDEN),
        ("PUT", "/v1/sys/leases/Revoke", body(lease_id=ID), Code.OPERATION_FORBIDDEN),
        ("PUT", "/v1/sys/renew", body(lease_id=ID), Code.OPERATION_FORBIDDEN),
        ("PUT", f"/v1/sys/revoke/{ID}", b"", Code.OPERATION_FORBIDDEN),
        ("PUT", "/v1/ns1/sys/leases/revoke", body(lease_id=ID), Code.TENANT_MOUNT_MISMATCH),
    ],
    ids=str,
)
def test_whatever_else_is_tried_with_leases_is_refused(method: str, target: str, sent: bytes, code: Code) -> None:
    assert refusal(method, target, sent) is code


def test_a_header_s_namespace_is_the_lease_s() -> None:
    """The mount `database` stands in the root only."""
    headers = {"x-vault-namespace": "ns1"}
    assert refusal("PUT", "/v1/sys/leases/renew", body(lease_id=ID), headers) is Code.OPERATION_FORBIDDEN
