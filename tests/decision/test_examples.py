"""The example policies and the how-to's do what they say, under the schema that the sidecar ships."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest

from sidecar.caller.identity import Caller
from sidecar.decision.cedar import CedarPdp
from sidecar.decision.cedar.policy_set import OWN_SCHEMA
from sidecar.decision.permit import Obligations, Verdict
from sidecar.surface.secret_uri import SecretUri, parse
from tests.decision.making import DB, caller, cedar, cedar_folder, question

ROOT: Final = Path(__file__).parents[2]
EXAMPLES: Final = ROOT / "deploy/policies/examples"
HOW_TO: Final = ROOT / "docs/how-to/write-cedar-policies.md"


def schema(folder: Path) -> Path:
    """The shipped one with the examples' own types."""
    path = folder / "schema.cedarschema"
    path.write_text(OWN_SCHEMA.read_text(encoding="utf-8") + "\nentity Switch { running: Bool };\n", encoding="utf-8")
    return path


def example(name: str, folder: Path, entities: str | None = None) -> CedarPdp:
    policies = cedar_folder(folder / "policies", **{name: (EXAMPLES / f"{name}.cedar").read_text(encoding="utf-8")})
    paths = {} if entities is None else {"entities": EXAMPLES / entities}
    return cedar(policies, schema=schema(folder), **paths)


async def asked(
    pdp: CedarPdp, who: Caller | str, uri: str, purpose: str = "read", name: str = "kv2.read", **attributes: str
) -> Verdict:
    who = caller(who) if isinstance(who, str) else who
    return await pdp.evaluate(question(who, parse(uri), purpose, name, attributes))


def test_every_example_is_looked_at_here() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{path.stem}"' in source for path in EXAMPLES.glob("*.cedar"))


async def test_per_team_and_mount(tmp_path: Path) -> None:
    pdp = example("per-team-and-mount", tmp_path, "teams.json")
    assert pdp.warnings == ()
    own, shared = "openbao+kv2://payments/db", "openbao+kv2://secret/shared/tls"
    assert (await asked(pdp, "payments-api", own)).obligations == Obligations(300, 20)
    assert (await asked(pdp, "payments-api", own, "write", "kv2.write")).obligations == Obligations(max_uses=1)
    assert not (await asked(pdp, "payments-api", own, "destroy_versions", "kv2.destroy")).permit
    assert not (await asked(pdp, "search-indexer", own)).permit
    assert (await asked(pdp, "search-indexer", shared)).permit
    assert not (await asked(pdp, "stranger", shared)).permit


async def test_break_glass(tmp_path: Path) -> None:
    pdp = example("break-glass", tmp_path)
    uri = "openbao+kv2://secret/production/db"
    on_call = caller("alice", scopes=frozenset({"break-glass"}))
    verdict = await asked(pdp, on_call, uri)
    assert verdict.obligations == Obligations(120, 1, step_up_acr_values=("urn:example:acr:phishing-resistant",))
    assert not (await asked(pdp, "alice", uri)).permit
    assert not (await asked(pdp, on_call, uri, "write", "kv2.write")).permit
    assert not (await asked(pdp, on_call, "openbao+kv2://secret/app/db")).permit


async def test_owner_may_write(tmp_path: Path) -> None:
    pdp = example("owner-may-write", tmp_path)
    write: dict[str, Any] = {"purpose": "write", "name": "kv2.write"}
    assert (await asked(pdp, "alice", str(DB), **write, owner="alice")).permit
    assert not (await asked(pdp, "bob", str(DB), **write, owner="alice")).permit
    assert not (await asked(pdp, "alice", str(DB), **write)).permit
    hand_over = await asked(pdp, "alice", str(DB), "owner_update", "kv2.metadata_write", owner="alice")
    assert hand_over.obligations.step_up_acr_values


async def test_one_key_for_one_team(tmp_path: Path) -> None:
    pdp = example("one-key-for-one-team", tmp_path, "teams.json")
    assert pdp.warnings == ()
    key = f"{DB}#root_password"
    assert not (await asked(pdp, "payments-api", key)).permit
    assert not (await asked(pdp, "payments-api", f"{key}?version=2")).permit
    assert (await asked(pdp, "dba-console", f"{key}?version=2")).permit
    whole = await asked(pdp, "payments-api", str(DB))
    assert whole.obligations.release == frozenset({"user", "password", "host"})
    assert (await asked(pdp, "dba-console", str(DB))).obligations.release is None
    assert not (await asked(pdp, "stranger", str(DB))).permit


@pytest.mark.parametrize("running", [False, True])
async def test_ci_between_deploys(tmp_path: Path, running: bool) -> None:
    switches = tmp_path / "switches.json"
    switches.write_text((EXAMPLES / "switches.json").read_text().replace("false", json.dumps(running)))
    text = (EXAMPLES / "ci-between-deploys.cedar").read_text(encoding="utf-8")
    policies = cedar_folder(tmp_path / "policies", **{"ci-between-deploys": text})
    pdp = cedar(policies, schema=schema(tmp_path), entities=switches)
    run = caller("ci", workflow_run_id="run-1")
    assert (await asked(pdp, run, "openbao+kv2://secret/ci/registry")).permit is not running
    assert not (await asked(pdp, "ci", "openbao+kv2://secret/ci/registry")).permit
    assert not (await asked(pdp, run, str(DB))).permit


async def test_database_credentials_once(tmp_path: Path) -> None:
    pdp = example("database-credentials-once", tmp_path, "teams.json")
    role = "openbao+database://database/creds/reporting"
    assert (await asked(pdp, "reporting", role, name="database.creds")).obligations == Obligations(30, 1)
    assert not (await asked(pdp, "other", role, name="database.creds")).permit
    static = SecretUri("openbao", "database", "database", ("static-creds", "reporting"))
    assert not (await asked(pdp, "reporting", str(static), name="database.static_creds")).permit


async def test_the_how_tos_policies_are_right(tmp_path: Path) -> None:
    blocks = re.findall(r"```(cedar|json)\n(.*?)```", HOW_TO.read_text(encoding="utf-8"), re.DOTALL)
    policies = [text for kind, text in blocks if kind == "cedar"]
    (entities,) = [text for kind, text in blocks if kind == "json"]
    path = tmp_path / "entities.json"
    path.write_text(entities)
    pdp = cedar(cedar_folder(tmp_path / "policies", *policies), schema=schema(tmp_path), entities=path)
    assert len(pdp) == len(policies) == 5
    assert pdp.warnings == ()
    assert (await asked(pdp, "app", str(DB))).policies == ("app-reads",)
    assert not (await asked(pdp, "app", "openbao+kv2://secret/app/frozen#key?version=3")).permit
    assert (await asked(pdp, "payments-api", "openbao+kv2://payments/db")).policies == ("payments-reads",)
