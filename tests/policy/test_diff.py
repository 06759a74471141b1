"""Decisions are recorded where that is configured, and replayed against a candidate."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.caller.identity import Binding, BindingKind
from sidecar.decision.decide import Decider
from sidecar.decision.observed import Decision
from sidecar.decision.recording import Recorder
from sidecar.errors import Refused
from sidecar.policy.commands import UsageError, diff
from sidecar.policy.diff import recorded
from sidecar.surface.secret_uri import SecretUri
from tests.decision.making import DB, caller, cedar, clock, operation
from tests.policy.making import ALL, configured

KEY = SecretUri("openbao", "kv2", "secret", ("app", "db"), "password", 3)
CHANGED = """
@id("all") @max_uses("2") permit (principal == Workload::"app", action, resource in Mount::"secret")
unless { resource has fragment };
@id("owners") permit (principal, action, resource) when { resource has owner && resource.owner == principal.sub };
"""


async def made(folder: Path, recorder: Recorder) -> None:
    """A permit, a permit of a key, two denials, one of them with an owner."""
    config = configured(folder, ALL, grants={"negative_ttl_seconds": 0})
    policies = config.authorization.cedar.policies
    assert policies is not None
    decider = Decider(config, cedar(policies), clock())
    decider.on_decision.append(recorder.offer)

    async def owned() -> dict[str, str]:
        return {"owner": "bob"}

    mtls = Binding(BindingKind.MTLS, "b" * 43)
    for who, uri, attributes in (
        (caller("app", acr="gold", binding=mtls, token_jti="jti-canary"), DB, None),
        (caller("app"), KEY, None),
        (caller("stranger"), DB, None),
        (caller("bob"), DB, owned),
        (caller("bob"), DB, owned),
    ):
        try:
            await decider.permit(operation(uri=uri), who, correlation_id="c-1234567", attributes=attributes)
        except Refused:
            pass


async def written(folder: Path, path: Path, max_bytes: int = 2**20) -> Recorder:
    recorder = Recorder(path, max_bytes)
    task = asyncio.create_task(recorder.run())
    await made(folder, recorder)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    return recorder


def replayed(folder: Path, path: Path, policy: str, *, as_json: bool = True) -> tuple[int, Any]:
    config = configured(folder, ALL)
    candidate = folder / "candidate"
    candidate.mkdir(exist_ok=True)
    (candidate / "0.cedar").write_text(policy)
    out = io.StringIO()
    code = diff(config, [path], out, candidate=candidate, as_json=as_json)
    return code, json.loads(out.getvalue()) if as_json else out.getvalue()


async def test_a_recording_holds_the_question_for_its_owner_alone_and_no_token(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    await written(tmp_path, path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert "jti-canary" not in path.read_text()
    decisions = list(recorded([path]))
    assert [decision.code for decision in decisions] == ["", "", *["POLICY_DENIED"] * 3]
    first: Decision = decisions[0]
    assert (first.caller.acr, first.caller.binding.kind, first.operation.name) == ("gold", BindingKind.MTLS, "kv2.read")
    assert decisions[1].question.resource["id"] == str(KEY)
    assert decisions[3].question.resource["properties"]["owner"] == "bob"


def test_the_same_policies_differ_in_nothing(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    asyncio.run(written(tmp_path, path))
    assert replayed(tmp_path, path, ALL) == (0, {"decisions": 5, "unanswered": 0, "differences": []})


def test_a_candidates_differences_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    asyncio.run(written(tmp_path, path))
    code, told = replayed(tmp_path, path, CHANGED)
    assert code == 1
    assert [(one["kind"], one["subject"], one["count"], one["differs"]) for one in told["differences"]] == [
        ("would_permit", "bob", 2, []),
        ("other_obligations", "app", 1, ["max_uses"]),
        ("would_deny", "app", 1, []),
    ]
    _, table = replayed(tmp_path, path, CHANGED, as_json=False)
    assert "bob  read  openbao+kv2://secret/app/db: POLICY_DENIED → permit" in table
    assert table.splitlines()[-1] == "5 decisions, 4 would differ, 0 without an answer"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.symlink_to(path.parent / "target"),
        lambda path: os.mkfifo(path),
        lambda path: path.mkdir(),
        lambda path: (path.write_text(""), path.chmod(0o644)),
    ],
)
async def test_what_others_may_read_or_have_put_there_is_not_written_to(
    spoil: Callable[[Path], object], tmp_path: Path
) -> None:
    (tmp_path / "target").write_text("")
    path = tmp_path / "decisions.jsonl"
    spoil(path)
    recorder = await written(tmp_path, path)
    assert recorder.problem.startswith("decisions are not recorded: ")
    assert (tmp_path / "target").read_text() == ""


async def test_a_recording_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    for _ in range(10):
        await written(tmp_path, path, max_bytes=16_384)
    assert path.stat().st_size + Path(f"{path}.1").stat().st_size <= 16_384
    assert Path(f"{path}.1").stat().st_mode & 0o777 == 0o600
    assert list(recorded([Path(f"{path}.1"), path]))


def test_what_is_no_recording_is_told_with_its_line_and_a_torn_end_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    asyncio.run(written(tmp_path, path))
    good = path.read_text()
    path.write_text(good + good[:200])
    assert replayed(tmp_path, path, ALL)[1]["decisions"] == 5
    for bad in ('{"event": "SECRET_DENY"}\n', "[]\n", "nonsense\n", "[" * 100_000 + "\n", '{"recording": 2}\n'):
        path.write_text(good + bad)
        with pytest.raises(UsageError, match=r"decisions\.jsonl:6: "):
            replayed(tmp_path, path, ALL)


def test_without_a_candidate_there_is_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"authorization\.candidate"):
        diff(configured(tmp_path, ALL), [tmp_path / "x"], io.StringIO())
    with pytest.raises(UsageError, match=r"0\.cedar:1"):
        replayed(tmp_path, tmp_path / "x", "permit (principal")
