"""Files of cases: what teams put into their CI."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import pytest

from sidecar.config.tree import Config
from sidecar.policy.commands import UsageError, run_cases_file
from tests.policy.making import ALL, configured

ROOT: Final = Path(__file__).parents[2]
EXAMPLES: Final = ROOT / "deploy/policies/examples"
GOOD: Final = """
- {subject: app, purpose: read, uri: "openbao+kv2://secret/app/db", expect: permit, policies: [all]}
- name: a stranger
  subject: stranger
  purpose: read
  uri: openbao+kv2://secret/app/db
  expect: deny
"""


def ran(config: Config, path: Path, *, as_json: bool = False, junit: Path | None = None) -> tuple[int, str]:
    out = io.StringIO()
    return run_cases_file(config, path, out, as_json=as_json, junit_file=junit), out.getvalue()


def problem(config: Config, path: Path) -> str:
    with pytest.raises(UsageError) as found:
        ran(config, path)
    return str(found.value)


def written(folder: Path, text: str, name: str = "cases.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.cedar")), ids=lambda path: path.stem)
def test_every_example_has_cases_and_they_hold(path: Path, tmp_path: Path) -> None:
    entities = {"ci-between-deploys": "switches.json", "break-glass": None, "owner-may-write": None}
    named = entities.get(path.stem, "teams.json")
    config = configured(tmp_path, path.read_text(), entities=None if named is None else EXAMPLES / named)
    code, told = ran(config, EXAMPLES / f"{path.stem}.cases.yaml")
    assert code == 0, told
    assert "all as expected" in told
    permits = told.count("  permit")
    assert 0 < permits < told.count("\n") - 1, "cases that all permit, or all deny, show little"


@pytest.mark.parametrize("form", ["list", "cases", "json"])
def test_cases_come_as_a_list_under_a_key_or_as_json(form: str, tmp_path: Path) -> None:
    import yaml

    config = configured(tmp_path, ALL)
    listed = yaml.safe_load(GOOD)
    texts = {"list": GOOD, "cases": "cases:" + GOOD, "json": json.dumps({"cases": listed}, indent="\t")}
    path = written(tmp_path, texts[form], "cases.json" if form == "json" else "cases.yaml")
    code, told = ran(config, path)
    assert (code, told.splitlines()[-1]) == (0, "2 cases, all as expected")


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ("expect: permit, policies: [other]", "expected policies other, got all"),
        ("expect: deny", "expected deny, got permit"),
        ("expect: permit, obligations: {max_uses: 4}", "expected max_uses 4, got 3"),
        ("expect: permit, obligations: {ttl_seconds: 60}", "expected ttl_seconds 60, got None"),
        ("expect: permit, obligations: {release: [a]}", "expected release ['a'], got None"),
        ("expect: permit, subject: stranger", "expected permit, got deny POLICY_DENIED: no policy permits"),
        ("expect: deny, subject: stranger, code: STEP_UP_REQUIRED", "expected STEP_UP_REQUIRED, got POLICY_DENIED"),
        ("expect: permit, uses: 4", "expected permit, got deny OBLIGATION_UNMET: 4 uses at once"),
    ],
)
def test_what_is_not_as_expected_is_told_with_its_line(changed: str, complaint: str, tmp_path: Path) -> None:
    subject = "" if "subject" in changed else "subject: app, "
    path = written(tmp_path, f'\n- {{{subject}purpose: read, uri: "openbao+kv2://secret/app/db", {changed}}}\n')
    code, told = ran(configured(tmp_path, ALL), path)
    assert code == 1
    assert f"cases.yaml:2: {complaint}" in told
    assert told.splitlines()[-1] == "1 cases, 1 failed"


def test_scopes_count_beside_policy_where_they_are_enforced(tmp_path: Path) -> None:
    config = configured(tmp_path, ALL, scopes={"enforce": True})
    text = """
- {claims: {sub: app, scope: other secrets.read}, purpose: read, uri: "openbao+kv2://secret/x", expect: permit}
- {subject: app, purpose: read, uri: "openbao+kv2://secret/x", expect: deny, code: SCOPE_MISSING}
- claims: {sub: stranger, scope: secrets.read}
  purpose: read
  uri: openbao+kv2://secret/x
  expect: deny
  code: POLICY_DENIED
"""
    assert ran(config, written(tmp_path, text))[0] == 0


def test_what_a_token_says_reaches_the_policies(tmp_path: Path) -> None:
    policy = """permit (principal, action, resource) when {
        principal.issuer == "https://other" && principal.client_id == "c" && principal.scopes.contains("s") &&
        principal.acr == "gold" && principal.amr.contains("hwk") && principal.act.sub == "robot" &&
        context.aud.contains("x") && context.workflow_run_id == "w" && context.node_id == "n" &&
        context.system_id == "y" && context.cnf_binding.kind == "mtls" && context.operation == "kv2.patch" &&
        resource.owner == "alice" && context.resource_attributes.env == "prod" && resource.version == 3 };"""
    text = """
- subject: app
  claims: {iss: "https://other", client_id: c, scope: s, acr: gold, amr: [hwk], act: {sub: robot}, aud: x,
           workflow_run_id: w, node_id: n, system_id: y}
  binding: mtls
  purpose: write
  operation: kv2.patch
  uri: openbao+kv2://secret/a?version=3
  attributes: {owner: alice, env: prod}
  expect: permit
"""
    code, told = ran(configured(tmp_path, policy), written(tmp_path, text))
    assert code == 0, told


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "cases.yaml:1: holds no list of cases"),
        ("[]", "cases.yaml:1: holds no list of cases"),
        ("just: this", "cases.yaml:1: holds no list of cases"),
        ("- a\n- b: [", "cases.yaml:2: "),
        (GOOD + "- 7\n", "cases.yaml:8: "),
        (GOOD.replace("name:", "nam:"), "cases.yaml:3: nam: Extra inputs are not permitted"),
        (GOOD.replace("expect: deny", "expect: maybe"), "cases.yaml:7: expect: Input should be 'permit' or 'deny'"),
        (GOOD.replace("purpose: read\n", "purpose: peek\n"), "cases.yaml:5: purpose: Input should be 'read'"),
        (GOOD.replace("  uri: openbao+kv2://secret/app/db\n", ""), "cases.yaml:3: uri: Field required"),
        (
            GOOD.replace("uri: openbao+kv2://secret/app/db", "uri: openbao+kv2://secret//db"),
            "cases.yaml:6: uri: ILLEGAL",
        ),
        (GOOD.replace("uri: openbao+kv2://secret/app/db", "uri: openbao+kv2://other/db"), "cases.yaml:6: uri: TENANT"),
        (GOOD.replace("subject: stranger", "subject: 7"), "cases.yaml:4: subject: Input should be a valid string"),
        (GOOD.replace("  subject: stranger\n", ""), "cases.yaml:3: give either subject or claims.sub"),
        (GOOD + "  expect: deny\n", "cases.yaml:8: the key 'expect' stands twice"),
        (GOOD + "  uses: 0\n", "cases.yaml:8: uses: Input should be greater than or equal to 1"),
        (GOOD + "  obligations:\n    max_uses: many\n", "cases.yaml:9: obligations.max_uses: "),
        (GOOD + "  binding: !!python/object:os.system x\n", "cases.yaml:8: "),
        ("- &a {subject: x}\n- *a\n", "an alias"),
        (GOOD.replace("stranger\n  purp", '"\\ud800"\n  purp'), "cases.yaml:3: is not Unicode text"),
        ("- " * 5000, "cases.yaml"),
    ],
)
def test_a_wrong_file_is_told_with_the_line(text: str, complaint: str, tmp_path: Path) -> None:
    assert complaint in problem(configured(tmp_path, ALL), written(tmp_path, text))


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("expect: permit", "expect: 1").replace("purpose: read\n", "purpose: 1\n")
    found = problem(configured(tmp_path, ALL), written(tmp_path, text)).splitlines()
    assert [line.split(":")[1] for line in found] == ["2", "5"]


def test_what_is_no_file_or_no_text_is_told(tmp_path: Path) -> None:
    config = configured(tmp_path, ALL)
    assert "No such file" in problem(config, tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"- \xff\xfe")
    assert "UTF-8" in problem(config, tmp_path / "binary.yaml")
    assert "0.cedar:1" in problem(configured(tmp_path, "permit (principal"), written(tmp_path, GOOD))


def test_the_results_come_as_json_and_junit(tmp_path: Path) -> None:
    path = written(
        tmp_path, GOOD.replace("a stranger", '"a \\u001b[2J <stranger>"').replace("expect: deny", "expect: permit")
    )
    junit = tmp_path / "report.xml"
    code, told = ran(configured(tmp_path, ALL), path, as_json=True, junit=junit)
    first, second = json.loads(told)
    assert code == 1
    assert (first["passed"], first["effect"], first["policies"], first["obligations"]) == (
        True,
        "permit",
        ["all"],
        {"max_uses": 3},
    )
    assert (second["passed"], second["code"], second["place"]) == (False, "POLICY_DENIED", "cases.yaml:3")
    suite = ElementTree.fromstring(junit.read_bytes())
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert "<stranger>" in str(suite[1].get("name"))
    assert "\x1b" not in junit.read_text()
    with pytest.raises(UsageError, match="Is a directory"):
        ran(configured(tmp_path, ALL), path, junit=tmp_path)
