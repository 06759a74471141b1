"""The product's main job, end to end: real OpenBao, the real process, a client nobody here wrote."""

from __future__ import annotations

from pathlib import Path

import hvac.exceptions
import pytest
import requests

from sidecar.client.key import DPoPKey
from tests.real.openbao import SEEDS, OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer

pytestmark = [
    pytest.mark.real,
    # hvac's own `patch` reads without saying what it wants of deleted versions.
    pytest.mark.filterwarnings("ignore:The raise_on_deleted_version parameter:DeprecationWarning"),
]


def code_of(response: requests.Response) -> str:
    return str(response.json()["code"])


def test_hvac_reads_writes_lists_and_deletes_through_the_sidecar(sidecar: SidecarProcess) -> None:
    kv = sidecar.hvac().secrets.kv.v2
    assert kv.read_secret_version(path="app/db")["data"]["data"] == SEEDS["app/db"]
    assert kv.create_or_update_secret(path="e2e/one", secret={"a": "1"})["data"]["version"] == 1
    assert kv.patch(path="e2e/one", secret={"b": "2"})["data"]["version"] == 2
    assert kv.read_secret_version(path="e2e/one", version=1)["data"]["data"] == {"a": "1"}
    assert "one" in kv.list_secrets(path="e2e")["data"]["keys"]
    assert kv.read_secret_metadata(path="e2e/one")["data"]["current_version"] == 2
    kv.delete_latest_version_of_secret(path="e2e/one")
    kv.undelete_secret_versions(path="e2e/one", versions=[2])
    kv.delete_secret_versions(path="e2e/one", versions=[1])
    kv.destroy_secret_versions(path="e2e/one", versions=[1])
    assert kv.read_secret_metadata(path="e2e/one")["data"]["versions"]["1"]["destroyed"] is True
    kv.delete_metadata_and_all_versions(path="e2e/one")
    with pytest.raises(hvac.exceptions.InvalidPath):
        kv.read_secret_metadata(path="e2e/one")


def test_a_read_has_one_record_and_a_write_intent_and_outcome(sidecar: SidecarProcess) -> None:
    before = len(sidecar.records())
    client = sidecar.hvac()
    client.secrets.kv.v2.read_secret_version(path="app/api")
    client.secrets.kv.v2.create_or_update_secret(path="e2e/two", secret={"a": "1"})
    records = [record for record in sidecar.records()[before:] if record["event"] == "SECRET_PERMIT"]
    assert [(record["operation"], record["phase"]) for record in records] == [
        ("kv2.read", "outcome"),
        ("kv2.write", "intent"),
        ("kv2.write", "outcome"),
    ]
    read, intent, outcome = records
    assert read["subject"]["sub"] == "app"
    assert read["purpose"] == "read"
    assert read["binding"]["kind"] == "dpop"
    assert read["upstream"]["status"] == 200
    assert read["kv_version"] == 1
    assert read["proof_jti"]
    assert intent["resource_ref"] == outcome["resource_ref"] != read["resource_ref"]
    assert intent["correlation_id"] == outcome["correlation_id"]
    assert sidecar.verify() == 0


def test_a_subject_without_a_policy_is_denied_and_nothing_reaches_openbao(
    sidecar: SidecarProcess, openbao: OpenBao
) -> None:
    mark = openbao.mark()
    with pytest.raises(hvac.exceptions.Forbidden) as caught:
        sidecar.hvac("stranger").secrets.kv.v2.read_secret_version(path="app/db")
    assert "POLICY_DENIED" in caught.value.text
    assert openbao.requests(since=mark) == []
    assert sidecar.records()[-1]["code"] == "POLICY_DENIED"


def test_the_same_proof_again_is_a_replay(sidecar: SidecarProcess) -> None:
    key = DPoPKey.generate()
    token = sidecar.issuer.bound_token(key.thumbprint, sub="endless")  # nobody else here has a key of its own for it
    path = "/v1/secret/data/app/db"
    nonce = sidecar.get(path, token, DPoP=key.proof("GET", sidecar.url + path, token)).headers["DPoP-Nonce"]
    proof = key.proof("GET", sidecar.url + path, token, nonce)
    assert sidecar.get(path, token, DPoP=proof).status_code == 200
    again = sidecar.get(path, token, DPoP=proof)
    assert (again.status_code, code_of(again)) == (401, "PROOF_REPLAYED")
    permitted, denied = sidecar.records()[-2:]
    assert (denied["event"], denied["code"], denied["operation"]) == ("SECRET_DENY", "PROOF_REPLAYED", "kv2.read")
    assert denied["resource_ref"] == permitted["resource_ref"]
    assert denied["token_jti"] == permitted["token_jti"]  # whose token it was; nobody proved to be its sender
    assert (denied["subject"]["sub"], denied["binding"]["kind"]) == ("endless", "none")


def test_a_challenge_names_the_nonce_the_standard_way(sidecar: SidecarProcess) -> None:
    key = DPoPKey.generate()
    token = sidecar.issuer.bound_token(key.thumbprint)
    path = "/v1/secret/data/app/db"
    answer = sidecar.get(path, token, DPoP=key.proof("GET", sidecar.url + path, token))
    assert (answer.status_code, code_of(answer)) == (401, "PROOF_NONCE_REQUIRED")
    assert 'error="use_dpop_nonce"' in answer.headers["WWW-Authenticate"]
    assert answer.headers["DPoP-Nonce"]


def test_a_stolen_token_with_another_key_is_a_binding_mismatch(sidecar: SidecarProcess) -> None:
    token = sidecar.issuer.bound_token(DPoPKey.generate().thumbprint)
    path = "/v1/secret/data/app/db"
    nonce = sidecar.get(path).headers["DPoP-Nonce"]
    thief = DPoPKey.generate()
    answer = sidecar.get(path, token, DPoP=thief.proof("GET", sidecar.url + path, token, nonce))
    assert (answer.status_code, code_of(answer)) == (401, "BINDING_MISMATCH")
    as_bearer = sidecar.get(path, Authorization=f"Bearer {token}")
    assert (as_bearer.status_code, code_of(as_bearer)) == (401, "BINDING_MISMATCH")


def test_a_grant_serves_its_uses_and_then_the_pdp_is_asked_afresh(sidecar: SidecarProcess) -> None:
    kv = sidecar.hvac(client_id="counting").secrets.kv.v2
    before = len(sidecar.records())
    for _ in range(3):
        kv.read_secret_version(path="other/x")
    grants = [record["grant"] for record in sidecar.records()[before:] if record["event"] == "SECRET_PERMIT"]
    assert [(grant["hit"], grant["uses_left"]) for grant in grants] == [(False, 1), (True, 0), (False, 1)]


def test_a_mount_outside_the_tenants_is_refused_like_one_that_is_not_there(sidecar: SidecarProcess) -> None:
    key = DPoPKey.generate()
    token = sidecar.issuer.bound_token(key.thumbprint)
    answers = [sidecar.get(f"/v1/{mount}/data/app/db", token) for mount in ("team/kv", "nowhere")]
    assert [(answer.status_code, code_of(answer)) for answer in answers] == [(400, "TENANT_MOUNT_MISMATCH")] * 2
    assert answers[0].json()["errors"] == answers[1].json()["errors"]
    assert "sidecar_tenant_mount_violations_total 2.0" in sidecar.metrics()


def test_without_a_token_the_answer_asks_for_one(sidecar: SidecarProcess) -> None:
    answer = sidecar.get("/v1/secret/data/app/db")
    assert (answer.status_code, code_of(answer)) == (401, "TOKEN_MISSING")
    assert answer.headers["WWW-Authenticate"].startswith("DPoP")
    assert answer.headers["Cache-Control"] == "no-store"


def test_health_needs_no_token_and_says_what_openbao_says(sidecar: SidecarProcess, openbao: OpenBao) -> None:
    through = sidecar.get("/v1/sys/health")
    direct = requests.get(f"{openbao.address}/v1/sys/health", timeout=5)
    assert through.status_code == direct.status_code == 200
    assert through.json().keys() == direct.json().keys()


def test_the_callers_own_token_is_looked_up_here(sidecar: SidecarProcess, openbao: OpenBao) -> None:
    mark = openbao.mark()
    client = sidecar.hvac()
    answer = client.auth.token.lookup_self()
    assert answer["data"]["id"] == client.token
    assert answer["data"]["renewable"] is False
    assert client.is_authenticated()
    assert openbao.requests(since=mark) == []
    client.auth.token.revoke_self()


def test_a_browser_and_a_foreign_host_are_refused(sidecar: SidecarProcess) -> None:
    browser = sidecar.get("/v1/secret/data/app/db", Origin="http://evil.example")
    assert (browser.status_code, code_of(browser)) == (403, "OPERATION_FORBIDDEN")
    rebound = sidecar.get("/v1/secret/data/app/db", Host="evil.example")
    assert (rebound.status_code, code_of(rebound)) == (400, "MALFORMED_REQUEST")


def test_the_spool_and_the_log_hold_no_value_path_token_or_salt(sidecar: SidecarProcess, openbao: OpenBao) -> None:
    client = sidecar.hvac()
    client.secrets.kv.v2.create_or_update_secret(path="canary-path/leaf", secret={"canary-key": "canary-value"})
    client.secrets.kv.v2.read_secret_version(path="canary-path/leaf")
    written = sidecar.spool_bytes() + sidecar.log.read_bytes() + sidecar.metrics().encode()
    for canary in (
        "canary-path",
        "canary-key",
        "canary-value",
        client.token,
        client.token.split(".")[2],
        openbao.root_token,
        SEEDS["app/db"]["password"],
        "salt-canary",
    ):
        assert canary.encode() not in written, canary


def test_metrics_carry_the_contracts_names(sidecar: SidecarProcess) -> None:
    text = sidecar.metrics()
    for name in (
        "sidecar_decisions_total",
        "sidecar_denies_total",
        "sidecar_grants_total",
        "sidecar_pep_seconds_bucket",
        "sidecar_pdp_seconds_bucket",
        "sidecar_upstream_seconds_bucket",
        "sidecar_audit_records_total",
        "sidecar_audit_backlog_bytes",
        "sidecar_cache_entries",
    ):
        assert name in text, name


def test_mounts_that_are_not_configured_are_discovered(tmp_path: Path, openbao: OpenBao, issuer: Issuer) -> None:
    with SidecarProcess(tmp_path, openbao, issuer, {"mounts": None}) as process:
        kv = process.hvac().secrets.kv.v2
        assert kv.read_secret_version(path="app/db")["data"]["data"] == SEEDS["app/db"]
        token = issuer.bound_token(DPoPKey.generate().thumbprint)
        assert code_of(process.get("/v1/cubbyhole/x", token)) == "TENANT_MOUNT_MISMATCH"


def test_a_configured_mount_that_openbao_has_otherwise_is_ambiguous(
    tmp_path: Path, openbao: OpenBao, issuer: Issuer
) -> None:
    with SidecarProcess(tmp_path, openbao, issuer, {"mounts": [{"path": "secret", "engine": "kv1"}]}) as process:
        mark = openbao.mark()
        token = issuer.bound_token(DPoPKey.generate().thumbprint)
        answer = process.get("/v1/secret/app/db", token)
        assert (answer.status_code, code_of(answer)) == (400, "AMBIGUOUS_MOUNT")
        assert openbao.requests(since=mark) == []
