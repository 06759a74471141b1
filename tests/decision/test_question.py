"""What a PDP is asked is what the request is; nothing is guessed, nothing spliced."""

from __future__ import annotations

from sidecar.caller.identity import Binding, Caller
from sidecar.surface.secret_uri import SecretUri
from tests.decision.making import DB, DPOP, ISSUER, NOW, caller, question


def test_the_question_has_the_contracts_shape() -> None:
    who = caller(act={"sub": "robot"}, acr="gold", amr=("pwd", "otp"), auth_time=NOW - 60, workflow_run_id="run-1")
    attributes = {"owner": "team-a", "created_by": "alice", "created_at": "2026-01-01T00:00:00Z", "env": "prod"}
    uri = SecretUri("openbao", "kv2", "secret", ("app", "db"), "password", 3)
    asked = question(who, uri, attributes=attributes)
    assert asked.subject == {
        "type": "workload",
        "id": "app",
        "properties": {
            "issuer": ISSUER,
            "client_id": "app-client",
            "scopes": ["secrets.read"],
            "act": {"sub": "robot"},
            "acr": "gold",
            "amr": ["pwd", "otp"],
            "auth_time": NOW - 60,
        },
    }
    assert asked.action == {"name": "read", "properties": {"operation": "kv2.read"}}
    assert asked.resource == {
        "type": "secret",
        "id": "openbao+kv2://secret/app/db#password?version=3",
        "properties": {
            "tenant_id": "acme",
            "provider": "openbao",
            "engine": "kv2",
            "mount": "secret",
            "path": "app/db",
            "fragment": "password",
            "version": 3,
            "owner": "team-a",
            "created_by": "alice",
            "created_at": "2026-01-01T00:00:00Z",
        },
    }
    assert asked.context == {
        "cnf_binding": {"kind": "dpop", "thumbprint": DPOP.thumbprint},
        "aud": ["crud.secrets"],
        "token_jti": "jti-1",
        "correlation_id": "c-1234567",
        "workflow_run_id": "run-1",
        "resource_attributes": {"env": "prod"},
    }


def test_what_is_not_known_is_absent() -> None:
    asked = question(Caller("app", ISSUER, binding=Binding()), DB)
    assert asked.subject["properties"] == {"issuer": ISSUER, "scopes": [], "amr": []}
    assert not {"owner", "fragment", "version"} & asked.resource["properties"].keys()
    assert asked.context == {
        "cnf_binding": {"kind": "none"},
        "aud": [],
        "resource_attributes": {},
        "correlation_id": "c-1234567",
    }


def test_parts_are_spelt_as_in_the_canonical_uri() -> None:
    uri = SecretUri("openbao", "kv2", "ns 1/team/kv", ("a?b", "c#d", "é"), "x/y#z?v")
    properties = question(uri=uri).resource["properties"]
    assert properties["mount"] == "ns%201/team/kv"
    assert properties["path"] == "a%3Fb/c%23d/%C3%A9"
    assert properties["fragment"] == "x%2Fy%23z%3Fv"


def test_a_folders_path_ends_with_a_slash_and_a_mounts_is_empty() -> None:
    assert (
        question(uri=SecretUri("openbao", "kv2", "secret", ("app",), folder=True)).resource["properties"]["path"]
        == "app/"
    )
    assert question(uri=SecretUri("openbao", "kv2", "secret", (), folder=True)).resource["properties"]["path"] == ""


def test_a_secret_without_an_engine_has_none() -> None:
    properties = question(uri=SecretUri("yaml", "", "secret", ("app",), "key")).resource["properties"]
    assert "engine" not in properties
    assert properties["provider"] == "yaml"
