"""Why was this denied? Answered in one look: by the record, `sidecar audit why` and `/debug/grants`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from sidecar.dev.ports import LOOPBACK
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer

pytestmark = pytest.mark.real

POLICIES = """
@id("app-reads") @max_uses("3") @ttl_seconds("60")
permit (principal == Workload::"app", action == Action::"read", resource in Mount::"secret")
when { context.cnf_binding.kind == "none" && principal.issuer != "nobody" };

@id("frozen")
forbid (principal, action, resource in Secret::"openbao+kv2://secret/app/api")
unless { principal.scopes.contains("thaw") };
"""
OVERRIDES: dict[str, Any] = {
    "identity": {"binding": "preferred"},
    "tenant": {"allowed_mounts": ["secret"]},
    "grants": {"negative_ttl_seconds": 60},
}


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer) -> Iterator[SidecarProcess]:
    sidecar = SidecarProcess(tmp_path_factory.mktemp("why"), openbao, issuer, OVERRIDES)
    (sidecar.policies / "policies.cedar").write_text(POLICIES)
    with sidecar:
        yield sidecar


def record_of(process: SidecarProcess, answer: requests.Response) -> dict[str, Any]:
    (record,) = [one for one in process.records() if one.get("correlation_id") == answer.headers["X-Correlation-ID"]]
    return record


def why(process: SidecarProcess, answer: requests.Response) -> str:
    command = [sys.executable, "-m", "sidecar", "audit", "why", answer.headers["X-Correlation-ID"], str(process.spool)]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


def test_a_forbid_is_named_with_what_it_looked_at_and_the_set_in_force(process: SidecarProcess) -> None:
    token = process.issuer.token(sub="app")
    answer = process.get("/v1/secret/data/app/api", token)
    record = record_of(process, answer)
    assert (answer.status_code, record["stage"], record["code"]) == (403, "decision", "POLICY_DENIED")
    assert record["policies"] == ["frozen"]
    assert record["attributes_used"] == ["principal.scopes"]
    assert record["grant_state"] == "none"
    again = record_of(process, process.get("/v1/secret/data/app/api", token))
    assert again["grant_state"] == "denied"
    assert again["policy_version"] == record["policy_version"]
    assert len(record["policy_version"]) == 64
    told = why(process, answer)
    for what in ("POLICY_DENIED", "frozen", "principal.scopes", record["policy_version"], "decision: "):
        assert what in told
    assert "app/api" not in told


@pytest.mark.parametrize(
    ("path", "token", "stage", "code"),
    [
        ("/v1/secret/data/app//x", {}, "surface", "ILLEGAL_SEGMENT"),
        ("/v1/secret/data/app/x", None, "caller", "TOKEN_MISSING"),
        ("/v1/sys/raw/x", {}, "surface", "OPERATION_FORBIDDEN"),
        ("/v1/secret/data/app/db", {"sub": "nobody"}, "decision", "POLICY_DENIED"),
    ],
)
def test_every_refusal_says_its_stage_and_the_policies_in_force(
    process: SidecarProcess, path: str, token: dict[str, Any] | None, stage: str, code: str
) -> None:
    answer = process.get(path, None if token is None else process.issuer.token(**token))
    record = record_of(process, answer)
    assert (record["stage"], record["code"]) == (stage, code)
    assert len(record["policy_version"]) == 64


def test_a_spent_grant_and_a_used_token_are_told_apart_from_policy(process: SidecarProcess) -> None:
    token = process.issuer.token(sub="app")
    first = process.get("/v1/secret/data/app/db?version=1", token)
    record = record_of(process, first)
    assert (first.status_code, record["stage"], record["policies"]) == (200, None, ["app-reads"])
    assert record["attributes_used"] == ["context.cnf_binding.kind", "principal.issuer"]
    for _ in range(2):
        assert process.get("/v1/secret/data/app/db?version=1", token).status_code == 200
    denied = process.get("/v1/secret/data/app/db?version=1", token)
    record = record_of(process, denied)
    assert (record["code"], record["grant_state"], record["stage"]) == ("TOKEN_REPLAYED", "spent", "decision")
    assert "used up" in why(process, denied)


def test_debug_lists_live_grants_by_reference_and_never_by_path(process: SidecarProcess) -> None:
    answer = process.get("/v1/secret/data/app/db", process.issuer.token(sub="app"))
    record = record_of(process, answer)
    shown = requests.get(f"http://{LOOPBACK}:{process.ops_port}/debug/grants", timeout=5)
    assert shown.status_code == 200
    assert "app/db" not in shown.text
    (grant,) = [one for one in shown.json()["grants"] if one["resource_ref"] == record["resource_ref"]]
    assert (grant["uses_left"], grant["max_uses"], grant["subject"]) == (2, 3, "app")
    assert 0 < grant["expires_in_seconds"] <= 60
    one = requests.get(f"http://{LOOPBACK}:{process.ops_port}/debug?limit=1", timeout=5).json()
    assert len(one["grants"]) == 1
    bad = requests.get(f"http://{LOOPBACK}:{process.ops_port}/debug?limit=1001", timeout=5)
    assert bad.status_code == 400


def test_a_failing_policy_denies_and_names_no_path_in_the_log(
    tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer
) -> None:
    process = SidecarProcess(tmp_path_factory.mktemp("failing"), openbao, issuer, OVERRIDES)
    (process.policies / "policies.cedar").write_text(
        '@id("looks") permit (principal, action, resource) when { resource.owner == "canary-value" };'
    )
    with process:
        answer = process.get("/v1/secret/data/app/db", process.issuer.token(sub="canary-subject"))
        assert answer.status_code == 403
        log = process.log.read_text()
    assert "`looks` (policies.cedar:1)" in log
    assert "secret/app/db" not in log
    assert "canary" not in log


def test_a_correlation_id_that_is_not_there_is_said_so(process: SidecarProcess) -> None:
    command = [sys.executable, "-m", "sidecar", "audit", "why", "c-unknown", str(process.spool)]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 1
    assert "no record" in done.stdout
    assert json.dumps("c-unknown") not in done.stdout
