"""A candidate beside the policies in force, in the real process: records, metrics, recordings, and no effect."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from sidecar.dev.ports import LOOPBACK
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.real

IN_FORCE = """
@id("app") @max_uses("5") permit (principal == Workload::"app", action, resource in Mount::"secret");
@id("old") permit (principal == Workload::"old", action, resource in Mount::"secret");
"""
# Only the candidate looks at what a secret's metadata says: it is fetched for it.
CANDIDATE = """
@id("app") @max_uses("5") @release("canary_key")
permit (principal == Workload::"app", action, resource in Mount::"secret");
@id("new") permit (principal == Workload::"new", action, resource in Mount::"secret") when { resource has created_at };
"""


def test_differences_are_records_and_metrics_and_never_an_effect(
    tmp_path: Path, openbao: OpenBao, issuer: Issuer
) -> None:
    folder, recording = tmp_path / "candidate", tmp_path / "decisions.jsonl"
    folder.mkdir()
    (folder / "0.cedar").write_text("nonsense")
    overrides = {
        "identity": {"binding": "preferred"},
        "authorization": {
            "candidate": {"pdp": "cedar", "cedar": {"policies": str(folder)}},
            "recordings": {"file": str(recording)},
        },
    }
    process = SidecarProcess(tmp_path / "sidecar", openbao, issuer, overrides)
    (process.policies / "policies.cedar").write_text(IN_FORCE)

    def asked(subject: str) -> int:
        return process.get("/v1/secret/data/app/db", process.issuer.token(sub=subject)).status_code

    def until(text: str) -> None:
        wait_until(lambda: text in process.metrics(), text)

    with process:  # it starts although the candidate cannot be read
        ready = requests.get(f"http://{LOOPBACK}:{process.ops_port}/readyz", timeout=5).json()
        assert "candidate: its policies are refused" in ready["checks"]["pdp"]["warning"]
        assert asked("app") == 200
        until('sidecar_candidate_decisions_total{result="error"} 1.0')
    (folder / "0.cedar").write_text(CANDIDATE)
    with process:
        assert [asked(subject) for subject in ("app", "old", "new", "stranger")] == [200, 200, 403, 403]
        until('sidecar_candidate_decisions_total{result="same"} 1.0')
        for kind in ("would_permit", "would_deny", "other_obligations"):
            until(f'sidecar_candidate_decisions_total{{result="{kind}"}} 1.0')
    assert process.verify() == 0
    records = [one for one in process.records() if one["event"] == "POLICY_DIFFERENCE"]
    told = {one["subject"]["sub"]: (one["difference"], one["effect"], one["candidate"]["effect"]) for one in records}
    assert told == {
        "app": ("other_obligations", "permit", "permit"),
        "old": ("would_deny", "permit", "deny"),
        "new": ("would_permit", "deny", "permit"),
    }
    (app,) = [one for one in records if one["subject"]["sub"] == "app"]
    assert app["differs"] == ["release"]
    assert app["candidate"]["policies"] == ["app"]
    decided = [one for one in process.records() if one.get("correlation_id") == app["correlation_id"]]
    assert {one["event"] for one in decided} == {"SECRET_PERMIT", "POLICY_DIFFERENCE"}
    assert len({one["resource_ref"] for one in decided}) == 1
    assert b"canary_key" not in process.spool_bytes()
    assert b"app/db" not in process.spool_bytes()
    command = [sys.executable, "-m", "sidecar", "policy", "diff", "--config", str(process.config_file), "--json"]
    done = subprocess.run([*command, str(recording)], capture_output=True, check=False, text=True)
    assert done.returncode == 1, done.stderr
    kinds = {one["subject"]: one["kind"] for one in json.loads(done.stdout)["differences"]}
    assert kinds == {"app": "other_obligations", "old": "would_deny", "new": "would_permit"}
    why = [sys.executable, "-m", "sidecar", "audit", "why", app["correlation_id"], str(process.spool)]
    assert "other_obligations: permit by app" in subprocess.run(why, capture_output=True, check=True, text=True).stdout
