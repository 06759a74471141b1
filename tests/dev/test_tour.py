"""The tour holds against the real world, and notices where something does not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import requests

from sidecar.dev.evidence import Canaries, Seen, UnexpectedError, tells
from sidecar.dev.steps import Step
from sidecar.dev.tour import Outcome, show, take
from sidecar.dev.up import Speaker
from tests.dev.running import living_in
from tests.dev.world import SIDECAR


@pytest.mark.real
def test_every_step_of_the_tour_holds_and_nothing_stays(tmp_path: Path) -> None:
    done = subprocess.run(
        [SIDECAR, "dev", "tour"], capture_output=True, text=True, check=False, env={"TMPDIR": str(tmp_path)}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [line for line in done.stdout.splitlines() if line.startswith(("✓", "✗"))]
    assert len(steps) == 18
    assert all(line.startswith("✓") for line in steps)
    assert f"{len(steps)} of {len(steps)} steps" in done.stdout
    assert not any(tmp_path.iterdir())
    assert not living_in(tmp_path)


def _step(act: object) -> Step:
    def run() -> str:
        if isinstance(act, Exception):
            raise act
        return str(act)

    return Step("name", "what", "expected", run)


@pytest.mark.parametrize(
    "trouble",
    [UnexpectedError("503"), requests.ConnectionError("gone"), KeyError("grant"), subprocess.TimeoutExpired("x", 1)],
    ids=lambda trouble: type(trouble).__name__,
)
def test_a_step_that_gives_anything_else_has_failed(trouble: Exception) -> None:
    outcome = take(_step(trouble))
    assert not outcome.ok
    assert outcome.got


def test_a_failed_step_is_shown_as_failed(capsys: pytest.CaptureFixture[str]) -> None:
    show(Speaker(), [take(_step("fine")), take(_step(UnexpectedError("[red]503")))])
    said = capsys.readouterr().out
    assert "✓ name: what. must give: expected. gave: fine" in said
    assert "✗ name: what. must give: expected. gave: [red]503" in said
    assert "1 of 2 steps gave what they must." in said


def test_a_person_is_shown_a_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    show(Speaker(), [Outcome(_step(""), "[not markup]", ok=False)])
    said = capsys.readouterr().out
    assert "must give" in said
    assert "│" in said
    assert "[not markup]" in said


def test_a_planted_secret_is_found_whatever_surrounds_it(tmp_path: Path) -> None:
    canaries = Canaries()
    canaries.values.add("the-value-itself")
    canaries.add_token("header.payload-part.signature-part")
    for name, content in (
        ("clean", b'{"resource_ref":"x"}'),
        ("value", b"\x00\xffthe-value-itself\xff"),
        ("signature", b'"jti":"signature-part"'),
        ("path", b'{"path":"secret/app/db"}'),
    ):
        (tmp_path / name).write_bytes(content)
    found = canaries.found_in(sorted(tmp_path.iterdir()))
    assert found == ["a path in path", "a token or proof in signature", "a value in value"]


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"phase": "outcome", "effect": "deny", "code": "POLICY_DENIED"}, True),
        ({"phase": "outcome", "effect": "deny", "code": "PROOF_REPLAYED"}, False),
        ({"phase": "outcome", "effect": "permit", "code": None}, False),
        ({"phase": "intent", "effect": "deny", "code": "POLICY_DENIED"}, False),
    ],
)
def test_a_record_counts_only_where_it_tells_what_the_client_saw(record: dict[str, str | None], told: bool) -> None:
    assert tells(record, Seen("id", 403, "POLICY_DENIED")) is told
