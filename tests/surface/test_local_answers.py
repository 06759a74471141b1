"""What clients ask when they start is answered for the caller, and never with the sidecar's own identity."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from sidecar.caller.identity import Binding, BindingKind, Caller, Credential
from sidecar.errors import Code, Refused
from sidecar.surface.local_answers import answer
from sidecar.surface.mounts import Mount, MountTable
from sidecar.surface.operation import LocalAnswer, LocalAnswerKind, UpstreamRequest
from tests.surface.asking import local, refusal

NOW = 1_800_000_000.5
CALLER = Caller("app", "https://idp.test", issued_at=1_799_999_900, expires_at=1_800_000_300, token=Credential("jwt-1"))
TABLE = MountTable(
    [
        Mount("secret", "kv2"),
        Mount("team/kv", "kv2"),
        Mount("kv1", "kv1"),
        Mount("transit", "transit"),
        Mount("other", "kv2"),
        Mount("secret", "kv2", "ns1"),
    ],
    ["secret", "team/kv", "kv1", "transit", "ns1/secret"],
)


def _data(asked: LocalAnswer, caller: Caller = CALLER) -> dict[str, Any]:
    status, body = answer(asked, caller, TABLE, NOW)
    assert status == 200
    envelope = orjson.loads(body)
    assert envelope.keys() == {
        "request_id",
        "lease_id",
        "renewable",
        "lease_duration",
        "data",
        "wrap_info",
        "warnings",
        "auth",
    }
    assert envelope["auth"] is None
    data: dict[str, Any] = envelope["data"]
    return data


# -- which they are ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("method", "target", "kind"),
    [
        ("GET", "auth/token/lookup-self", LocalAnswerKind.LOOKUP_SELF),
        ("POST", "auth/token/renew-self", LocalAnswerKind.RENEW_SELF),
        ("PUT", "auth/token/renew-self", LocalAnswerKind.RENEW_SELF),
        ("POST", "auth/token/revoke-self", LocalAnswerKind.REVOKE_SELF),
        ("PUT", "auth/token/revoke-self", LocalAnswerKind.REVOKE_SELF),
        ("GET", "sys/internal/ui/mounts", LocalAnswerKind.UI_MOUNTS),
        ("GET", "sys/internal/ui/mounts/", LocalAnswerKind.UI_MOUNTS),
    ],
)
def test_these_never_reach_openbao(method: str, target: str, kind: LocalAnswerKind) -> None:
    for headers in ({}, {"x-vault-namespace": "ns1/"}):
        asked = local(method, f"/v1/{target}", headers)
        assert (asked.kind, asked.upstream) == (kind, None)


@pytest.mark.parametrize(
    ("target", "kind", "query"),
    [
        ("sys/health", LocalAnswerKind.SYS_HEALTH, ""),
        (
            "sys/health?standbyok=true&activecode=299",
            LocalAnswerKind.SYS_HEALTH,
            "standbyok=true&activecode=299",
        ),
        ("sys/health?standbyok", LocalAnswerKind.SYS_HEALTH, "standbyok=true"),
        (  # what Go's client asks, misspelling and all
            "sys/health?drsecondarycode=299&haunhealhty=299&performancestandbycode=299&removedcode=299&sealedcode=299",
            LocalAnswerKind.SYS_HEALTH,
            "drsecondarycode=299&haunhealhty=299&performancestandbycode=299&removedcode=299&sealedcode=299",
        ),
        ("sys/seal-status", LocalAnswerKind.SYS_SEAL_STATUS, ""),
        ("sys/leader", LocalAnswerKind.SYS_LEADER, ""),
    ],
)
def test_the_server_s_state_is_asked_of_openbao(target: str, kind: LocalAnswerKind, query: str) -> None:
    path = "/v1/" + target.partition("?")[0]
    assert local("GET", f"/v1/{target}") == LocalAnswer(kind, upstream=UpstreamRequest("GET", path, query))


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "auth/token/lookup-self"),
        ("GET", "auth/token/renew-self"),
        ("DELETE", "auth/token/revoke-self"),
        ("GET", "auth/token/lookup-self/"),
        ("GET", "auth/token/lookup-self/x"),
        ("GET", "auth/token/lookup"),
        ("POST", "auth/token/lookup"),
        ("POST", "auth/token/create"),
        ("POST", "auth/token/renew"),
        ("POST", "auth/token/revoke"),
        ("POST", "auth/token/revoke-orphan"),
        ("GET", "auth/token/lookup-accessor/x"),
        ("POST", "auth/userpass/login/alice"),
        ("POST", "auth/kubernetes/login"),
        ("GET", "auth"),
        ("GET", "auth/"),
        ("GET", "auth/Token/lookup-self"),
        ("GET", "sys"),
        ("GET", "sys/"),
        ("HEAD", "sys/health"),
        ("OPTIONS", "sys/health"),
        ("POST", "sys/health"),
        ("GET", "sys/health/"),
        ("HEAD", "sys/seal-status"),
        ("PUT", "sys/seal"),
        ("PUT", "sys/unseal"),
        ("PUT", "sys/step-down"),
        ("PUT", "sys/init"),
        ("GET", "sys/mounts"),
        ("GET", "sys/auth"),
        ("POST", "sys/mounts/x"),
        ("GET", "sys/raw/x"),
        ("GET", "sys/policies/acl/x"),
        ("GET", "sys/storage/raft/snapshot"),
        ("GET", "sys/pprof/goroutine"),
        ("GET", "sys/metrics"),
        ("GET", "sys/config/state/sanitized"),
        ("GET", "sys/audit"),
        ("PUT", "sys/generate-root/attempt"),
        ("PUT", "sys/rekey/init"),
        ("POST", "sys/wrapping/wrap"),
        ("POST", "sys/wrapping/unwrap"),
        ("POST", "sys/wrapping/lookup"),
        ("POST", "sys/capabilities-self"),
        ("PUT", "sys/leases/lookup"),
        ("GET", "sys/leases/renew"),
        ("PUT", "sys/renew"),
        ("PUT", "sys/revoke/database/creds/app/x"),
        ("PUT", "sys/leases/revoke-prefix/database"),
        ("POST", "sys/workflows/execute/x"),
        ("POST", "sys/tools/random"),
        ("POST", "sys/internal/ui/mounts"),
        ("LIST", "sys/internal/ui/mounts"),
        ("GET", "sys/internal/ui/resultant-acl"),
        ("GET", "sys/internal/specs/openapi"),
    ],
)
def test_everything_else_below_sys_and_auth_is_forbidden(method: str, target: str) -> None:
    assert refusal(method, f"/v1/{target}") is Code.OPERATION_FORBIDDEN


@pytest.mark.parametrize(
    "target",
    [
        "auth/token/lookup-self?token=other",
        "sys/internal/ui/mounts?list=true",
        "sys/seal-status?x=1",
        "sys/health?list=true",
        "sys/health?activecode=100",
        "sys/health?activecode=2000",
        "sys/health?activecode=%32%30%30",
        "sys/health?standbyok=false",
        "sys/health?activecode=200&activecode=500",
    ],
)
def test_their_queries_are_closed_too(target: str) -> None:
    assert refusal("GET", f"/v1/{target}") is Code.AMBIGUOUS_QUERY


def test_health_is_not_served_in_namespaces_as_openbao_has_it() -> None:
    assert refusal("GET", "/v1/sys/health", headers={"x-vault-namespace": "root"}) is Code.OPERATION_FORBIDDEN
    assert local("GET", "/v1/sys/leader", {"x-vault-namespace": "ns1"}).kind is LocalAnswerKind.SYS_LEADER


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("auth/token/%6cookup-self", Code.ILLEGAL_ENCODING),
        ("%61uth/token/lookup-self", Code.ILLEGAL_ENCODING),
        ("sys%2fhealth", Code.ILLEGAL_ENCODING),
        ("sys//health", Code.ILLEGAL_SEGMENT),
        ("sys/../sys/health", Code.ILLEGAL_SEGMENT),
        ("SYS/health", Code.TENANT_MOUNT_MISMATCH),
        ("ns1/auth/token/lookup-self", Code.TENANT_MOUNT_MISMATCH),
    ],
)
def test_their_paths_are_read_like_all_others(target: str, code: Code) -> None:
    assert refusal("GET", f"/v1/{target}") is code


# -- what they are answered ----------------------------------------------------------------------------------------
def test_a_caller_sees_its_own_token() -> None:
    assert _data(LocalAnswer(LocalAnswerKind.LOOKUP_SELF)) == {
        "accessor": "",
        "creation_time": 1_799_999_900,
        "creation_ttl": 400,
        "display_name": "app",
        "entity_id": "",
        "expire_time": "2027-01-15T08:05:00Z",
        "explicit_max_ttl": 0,
        "id": "jwt-1",
        "issue_time": "2027-01-15T07:58:20Z",
        "meta": None,
        "num_uses": 0,
        "orphan": True,
        "path": "auth/token/lookup-self",
        "policies": [],
        "renewable": False,
        "ttl": 300,
        "type": "service",
    }


@pytest.mark.parametrize(
    "caller",
    [
        Caller("app", "i", expires_at=1_800_000_300, token=Credential("jwt"), binding=Binding(BindingKind.POD)),
        Caller("app", "i", expires_at=1_800_000_300),
    ],
)
def test_the_pod_s_token_is_not_handed_out(caller: Caller) -> None:
    data = _data(LocalAnswer(LocalAnswerKind.LOOKUP_SELF), caller)
    assert (data["id"], data["creation_time"]) == ("pod", 1_800_000_000)


@pytest.mark.parametrize("moment", [-(10**30), 0, 10**30])
def test_times_that_no_calendar_has_are_told_all_the_same(moment: int) -> None:
    caller = Caller("app", "i", issued_at=moment, expires_at=moment)
    assert _data(LocalAnswer(LocalAnswerKind.LOOKUP_SELF), caller)["ttl"] >= 0


def test_a_token_is_not_renewed_here() -> None:
    with pytest.raises(Refused) as caught:
        answer(LocalAnswer(LocalAnswerKind.RENEW_SELF), CALLER, TABLE, NOW)
    assert (caught.value.code, caught.value.status) == (Code.MALFORMED_REQUEST, 400)


def test_revoking_oneself_is_answered_with_nothing() -> None:
    assert answer(LocalAnswer(LocalAnswerKind.REVOKE_SELF), CALLER, TABLE, NOW) == (204, b"")


def test_mounts_are_the_tenant_s_own() -> None:
    data = _data(local("GET", "/v1/sys/internal/ui/mounts"))
    assert list(data["secret"]) == ["kv1/", "secret/", "team/kv/", "transit/"]
    assert data["auth"] == {}
    kinds = {path: (mount["type"], mount["options"]) for path, mount in data["secret"].items()}
    assert kinds["secret/"] == ("kv", {"version": "2"})
    assert kinds["kv1/"] == ("kv", {"version": "1"})
    assert kinds["transit/"] == ("transit", None)
    in_namespace = _data(local("GET", "/v1/sys/internal/ui/mounts", {"x-vault-namespace": "ns1"}))
    assert list(in_namespace["secret"]) == ["secret/"]


@pytest.mark.parametrize(
    ("target", "namespace", "path"),
    [
        ("secret", "", "secret/"),
        ("secret/app/db", "", "secret/"),
        ("secret/app/", "", "secret/"),
        ("team/kv/data/x", "", "team/kv/"),
        ("secret/app/db", "ns1", "secret/"),
        ("ns1/secret/app/db", "", "ns1/secret/"),
        ("secret/a%20b", "", "secret/"),
    ],
)
def test_a_client_learns_which_mount_a_path_lies_in(target: str, namespace: str, path: str) -> None:
    data = _data(local("GET", f"/v1/sys/internal/ui/mounts/{target}", {"x-vault-namespace": namespace}))
    assert (data["path"], data["type"], data["options"]) == (path, "kv", {"version": "2"})


@pytest.mark.parametrize(
    ("target", "namespace"),
    [("other/x", ""), ("nosuch/x", ""), ("team", ""), ("secret", "ns2"), ("ns1/secret", "ns1"), ("sys/x", "")],
)
def test_a_mount_of_somebody_else_is_403_as_is_one_that_is_not_there(target: str, namespace: str) -> None:
    asked = local("GET", f"/v1/sys/internal/ui/mounts/{target}", {"x-vault-namespace": namespace})
    with pytest.raises(Refused) as caught:
        answer(asked, CALLER, TABLE, NOW)
    assert (caught.value.status, caught.value.code) == (403, Code.OPERATION_FORBIDDEN)
    assert caught.value.message.startswith("preflight capability check returned 403")


def test_what_is_asked_of_openbao_has_no_answer_here() -> None:
    with pytest.raises(Refused) as caught:
        answer(LocalAnswer(LocalAnswerKind.SYS_HEALTH), CALLER, TABLE, NOW)
    assert caught.value.code is Code.OPERATION_FORBIDDEN
