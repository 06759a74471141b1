"""The embedded PDP: what policies see, and that nothing but a clean permit permits."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import cedarpy
import pytest

from sidecar.caller.identity import Binding, Caller
from sidecar.decision.cedar import PolicyError
from sidecar.decision.cedar import policy_set as policy_sets
from sidecar.decision.cedar.entities import EntityBase, NotCedarError, cedar_value, hierarchy
from sidecar.decision.cedar.policy_set import OWN_SCHEMA
from sidecar.decision.permit import Denied, Obligations, Question
from sidecar.errors import Code
from sidecar.surface.operation import Purpose
from sidecar.surface.secret_uri import SecretUri
from tests.decision.making import DB, ISSUER, NOW, caller, cedar, cedar_folder, question

PASSWORD_3 = SecretUri("openbao", "kv2", "secret", ("app", "db"), "password", 3)
ANY = "permit (principal, action, resource);"


async def permits(folder: Path, asked: Question | None = None, **paths: Path) -> bool:
    return (await cedar(folder, **paths).evaluate(asked or question())).permit


# -- what policies see -----------------------------------------------------------------------------------------------
async def test_nothing_is_permitted_that_no_policy_permits(tmp_path: Path) -> None:
    folder = cedar_folder(tmp_path / "p", 'permit (principal == Workload::"other", action, resource);')
    verdict = await cedar(folder).evaluate(question())
    assert not verdict.permit
    assert verdict.policies == ()


@pytest.mark.parametrize(
    ("uri", "above"),
    [
        (DB, ["Folder secret/app", "Mount secret"]),
        (
            PASSWORD_3,
            [
                "Secret openbao+kv2://secret/app/db#password",
                "Secret openbao+kv2://secret/app/db",
                "Secret openbao+kv2://secret/app/db?version=3",
                "Folder secret/app",
                "Mount secret",
            ],
        ),
        (SecretUri("openbao", "kv2", "secret", ("top",)), ["Mount secret"]),
        (SecretUri("openbao", "kv2", "secret", ("app",), folder=True), ["Folder secret/app", "Mount secret"]),
        (SecretUri("openbao", "kv2", "secret", (), folder=True), ["Mount secret"]),
        (
            SecretUri("openbao", "kv2", "ns1/team/kv", ("a b", "c", "d")),
            ["Folder ns1/team/kv/a%20b", "Folder ns1/team/kv/a%20b/c", "Mount ns1/team/kv"],
        ),
        (
            SecretUri("openbao", "kv2", "secret", ("a?version=1", "b#c"), "k#?"),
            ["Secret openbao+kv2://secret/a%3Fversion=1/b%23c", "Folder secret/a%3Fversion=1", "Mount secret"],
        ),
    ],
    ids=str,
)
def test_a_secret_is_in_what_the_contract_says(uri: SecretUri, above: list[str]) -> None:
    assert [" ".join(uid) for uid in hierarchy(question(uri=uri).resource)] == above


@pytest.mark.parametrize(
    "uri",
    [
        DB,
        PASSWORD_3,
        SecretUri("openbao", "kv2", "secret", ("app", "db"), "password"),
        SecretUri("openbao", "kv2", "secret", ("app", "db"), None, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "what",
    ['Secret::"openbao+kv2://secret/app/db"', 'Folder::"secret/app"', 'Mount::"secret"'],
)
async def test_a_forbid_by_in_holds_for_versions_and_keys(tmp_path: Path, uri: SecretUri, what: str) -> None:
    folder = cedar_folder(tmp_path / "p", ANY, f"forbid (principal, action, resource in {what});")
    assert not await permits(folder, question(uri=uri))


async def test_a_forbid_on_one_version_holds_for_its_keys_and_not_for_other_versions(tmp_path: Path) -> None:
    folder = cedar_folder(
        tmp_path / "p", ANY, 'forbid (principal, action, resource in Secret::"openbao+kv2://secret/app/db?version=3");'
    )
    assert not await permits(folder, question(uri=PASSWORD_3))
    assert await permits(folder, question(uri=DB))


@pytest.mark.parametrize(
    "condition",
    [
        f'principal.issuer == "{ISSUER}"',
        'principal.sub == "app" && principal.client_id == "app-client"',
        'principal.scopes.contains("secrets.read")',
        'principal.acr == "gold" && principal.amr.contains("otp") && principal.auth_time > 0',
        'principal.act.sub == "robot" && principal.act.act.sub == "human"',
        'resource.tenant_id == "acme" && resource.provider == "openbao" && resource.engine == "kv2"',
        'resource.mount == "secret" && resource.path like "app/*"',
        'resource.fragment == "password" && resource.version == 3',
        'resource.owner == "team-a" && context.resource_attributes.env == "prod"',
        'context.operation == "kv2.read" && context.aud.contains("crud.secrets")',
        'context.cnf_binding.kind == "dpop" && context.cnf_binding has thumbprint',
        'context.token_jti == "jti-1" && context.correlation_id == "c-1234567" && context.workflow_run_id == "run-1"',
        'action == Action::"read" && action in [Action::"read", Action::"write"]',
    ],
)
async def test_policies_see_the_request(tmp_path: Path, condition: str) -> None:
    who = caller(
        act={"sub": "robot", "act": {"sub": "human"}},
        acr="gold",
        amr=("pwd", "otp"),
        auth_time=NOW - 60,
        workflow_run_id="run-1",
    )
    folder = cedar_folder(tmp_path / "p", f"permit (principal, action, resource) when {{ {condition} }};")
    assert await permits(folder, question(who, PASSWORD_3, attributes={"owner": "team-a", "env": "prod"}))


@pytest.mark.parametrize(
    "attribute",
    ["principal has acr", "principal has act", "principal has client_id", "resource has owner", "resource has version"],
)
async def test_what_is_not_known_is_not_there(tmp_path: Path, attribute: str) -> None:
    folder = cedar_folder(tmp_path / "p", f"permit (principal, action, resource) unless {{ {attribute} }};")
    assert await permits(folder, question(Caller("app", ISSUER, binding=Binding())))


@pytest.mark.parametrize(
    "subject",
    [
        'app"',
        'x" || true || "',
        'app", action, resource); permit (principal == Workload::"app',
        "a\\",
        "a\nb",
        "a\x00b",
        "é́",
        '{"__entity": {"type": "Workload", "id": "admin"}}',
        'Workload::"admin"',
    ],
)
async def test_no_subject_passes_for_another_whatever_is_in_it(tmp_path: Path, subject: str) -> None:
    folder = cedar_folder(tmp_path / "p", 'permit (principal == Workload::"admin", action, resource);')
    assert not await permits(folder, question(caller(subject)))
    everyone = cedar_folder(tmp_path / "q", ANY)
    assert await permits(everyone, question(caller(subject)))


@pytest.mark.parametrize(
    "act",
    [
        {"__entity": {"type": "Workload", "id": "admin"}},
        {"sub": {"__entity": {"type": "Workload", "id": "admin"}}},
        {"sub": {"__extn": {"fn": "ip", "arg": "10.0.0.1"}}},
        {"__expr": 'Workload::"admin"'},
        {"n": 2**63},
        {"n": 1.5},
        {"n": None},
    ],
)
async def test_a_claim_that_cedar_would_read_as_something_else_is_denied(tmp_path: Path, act: dict[str, Any]) -> None:
    verdict = await cedar(cedar_folder(tmp_path / "p", ANY)).evaluate(question(caller(act=act)))
    assert not verdict.permit
    assert "cannot be put before policies" in verdict.reason


async def test_custom_metadata_cannot_pass_for_an_entity(tmp_path: Path) -> None:
    folder = cedar_folder(tmp_path / "p", ANY)
    assert not await permits(folder, question(attributes={"__entity": "x"}))


def test_only_json_that_cedar_has_too_is_taken() -> None:
    assert cedar_value({"a": [1, True, "x", {"b": -(2**63)}]}) == {"a": [1, True, "x", {"b": -(2**63)}]}
    for value in (1.0, None, 2**63, -(2**63) - 1, {"__x": 1}, ["ok", {"__entity": {}}], b"x", (1,)):
        with pytest.raises(NotCedarError):
            cedar_value(value)


async def test_a_text_that_is_no_unicode_is_denied(tmp_path: Path) -> None:
    verdict = await cedar(cedar_folder(tmp_path / "p", ANY)).evaluate(question(caller("\ud800")))
    assert not verdict.permit


# -- evaluation errors -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("effect", ["permit", "forbid"])
async def test_a_policy_that_fails_to_evaluate_denies_and_is_named(tmp_path: Path, effect: str) -> None:
    failing = f'@id("careless")\n{effect} (principal, action, resource) when {{ resource.owner == "team-a" }};'
    verdict = await cedar(cedar_folder(tmp_path / "p", ANY, failing)).evaluate(question())
    assert not verdict.permit
    assert "careless" in verdict.reason
    assert "1.cedar:1" in verdict.reason
    assert (await cedar(tmp_path / "p").evaluate(question(attributes={"owner": "x"}))).permit


# -- obligations -----------------------------------------------------------------------------------------------------
async def test_annotations_of_the_determining_policies_are_the_obligations(tmp_path: Path) -> None:
    folder = cedar_folder(
        tmp_path / "p",
        f'@id("a") @ttl_seconds("60") @max_uses("9") @release("user,password") {ANY}',
        f'@id("b") @max_uses("3") @release("password,host") @step_up("gold") @doc("why") {ANY}',
        '@id("c") @max_uses("1") permit (principal == Workload::"other", action, resource);',
    )
    verdict = await cedar(folder).evaluate(question())
    assert verdict.obligations == Obligations(60, 3, frozenset({"password"}), ("gold",))
    assert set(verdict.policies) == {"a", "b"}


async def test_obligations_of_two_policies_that_contradict_each_other_deny(tmp_path: Path) -> None:
    folder = cedar_folder(tmp_path / "p", f'@id("a") @release("user") {ANY}', f'@id("b") @release("password") {ANY}')
    with pytest.raises(Denied) as denied:
        await cedar(folder).evaluate(question())
    assert denied.value.code is Code.OBLIGATION_UNMET
    assert set(denied.value.verdict.policies) == {"a", "b"}


async def test_a_deny_names_the_forbids(tmp_path: Path) -> None:
    folder = cedar_folder(tmp_path / "p", ANY, '@id("frozen") forbid (principal, action, resource);')
    verdict = await cedar(folder).evaluate(question())
    assert verdict.policies == ("frozen",)
    assert len(verdict.decision_id) == 32


async def test_a_policy_without_an_id_is_named_by_its_place(tmp_path: Path) -> None:
    folder = cedar_folder(tmp_path / "p", base=f"// a comment; with a semicolon\n\n  {ANY}\n")
    assert (await cedar(folder).evaluate(question())).policies == ("base.cedar:3",)


# -- large sets ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("chunk", [1, 2, 3, 256])
async def test_a_set_evaluated_in_pieces_decides_as_a_whole(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_sets, "CHUNK", chunk)
    folder = cedar_folder(
        tmp_path / "p",
        '@id("p1") permit (principal, action == Action::"read", resource);',
        '@id("f1") forbid (principal == Workload::"mallory", action, resource);',
        '@id("p2") @max_uses("2") permit (principal, action == Action::"read", resource in Folder::"secret/app");',
        '@id("p3") permit (principal, action == Action::"write", resource);',
        '@id("f2") forbid (principal, action == Action::"write", resource in Folder::"secret/app");',
    )
    pdp = cedar(folder)
    read = await pdp.evaluate(question())
    assert (read.permit, set(read.policies), read.obligations.max_uses) == (True, {"p1", "p2"}, 2)
    assert (await pdp.evaluate(question(caller("mallory")))).policies == ("f1",)
    written = await pdp.evaluate(question(purpose="write", name="kv2.write"))
    assert (written.permit, written.policies) == (False, ("f2",))
    assert not (await pdp.evaluate(question(purpose="delete", name="kv2.delete"))).permit


async def test_other_work_goes_on_while_a_large_set_is_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_sets, "CHUNK", 10)
    pdp = cedar(cedar_folder(tmp_path / "p", ANY * 1000))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    assert len((await pdp.evaluate(question())).policies) == len(pdp) == 1000
    task.cancel()
    assert turns >= 90


# -- the entities file -----------------------------------------------------------------------------------------------
def entities_file(tmp_path: Path, *entities: tuple[str, str, dict[str, Any], list[tuple[str, str]]]) -> Path:
    path = tmp_path / "entities.json"
    path.write_text(
        json.dumps(
            [
                {
                    "uid": {"type": kind, "id": name},
                    "attrs": attrs,
                    "parents": [{"type": above, "id": of} for above, of in parents],
                }
                for kind, name, attrs, parents in entities
            ]
        )
    )
    return path


async def test_groups_come_from_the_entities_file(tmp_path: Path) -> None:
    entities = entities_file(
        tmp_path,
        ("Workload", "app", {"level": 3}, [("Team", "payments")]),
        ("Team", "payments", {}, [("Department", "finance")]),
        ("Secret", "openbao+kv2://secret/app/db", {"class": "red"}, [("Vault", "crown")]),
        ("Folder", "secret/app", {}, [("Vault", "apps")]),
    )
    folder = cedar_folder(
        tmp_path / "p",
        'permit (principal in Department::"finance", action, resource in Vault::"crown")'
        ' when { principal.level == 3 && principal.issuer != "" && resource in Vault::"apps" };',
    )
    assert await permits(folder, question(uri=PASSWORD_3), entities=entities)
    assert not await permits(folder, question(caller("other"), PASSWORD_3), entities=entities)
    assert not await permits(folder, question(uri=SecretUri("openbao", "kv2", "secret", ("x",))), entities=entities)


async def test_entities_that_only_policies_name_are_there_too(tmp_path: Path) -> None:
    entities = entities_file(tmp_path, ("Switch", "frozen", {"on": False}, []), ("Workload", "boss", {"in": True}, []))
    folder = cedar_folder(
        tmp_path / "p",
        'permit (principal, action, resource) when { !(Switch::"frozen".on) && Workload::"boss"["in"] };',
    )
    assert await permits(folder, entities=entities)


@pytest.mark.parametrize(
    "entity",
    [
        ("Workload", "app", {"issuer": "https://evil.example"}, []),
        ("Workload", "app", {"scopes": ["secrets.write"]}, []),
        ("Secret", "openbao+kv2://secret/app/db", {"owner": "mallory"}, []),
    ],
)
def test_an_entities_file_cannot_speak_for_the_token_or_the_uri(tmp_path: Path, entity: Any) -> None:
    with pytest.raises(PolicyError, match="the request does"):
        cedar(cedar_folder(tmp_path / "p", ANY), entities=entities_file(tmp_path, entity))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[",
        "[1]",
        '[{"uid": 1}]',
        '[{"uid": {"type": "Team", "id": "a"}, "attrs": {}, "parents": [{"type": "Team", "id": "a"}]}]',
        '[{"uid": {"type": "T", "id": "a"}, "attrs": {}}, {"uid": {"type": "T", "id": "a"}, "attrs": {"x": 1}}]',
        '[{"uid": {"type": "T", "id": "a"}, "attrs": {"x": 1.5}, "parents": []}]',
    ],
)
def test_an_entities_file_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(PolicyError, match="entities"):
        EntityBase(text)


# -- the schema ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("purpose", list(Purpose))
@pytest.mark.parametrize("uri", [DB, PASSWORD_3, SecretUri("yaml", "", "secret", ("a",), "k")], ids=str)
def test_what_the_sidecar_asks_is_what_its_schema_says(purpose: Purpose, uri: SecretUri) -> None:
    """Evaluated by Cedar under the schema, which refuses requests and entities that do not conform."""
    who = caller(act={"sub": "robot", "act": {"sub": "x"}}, acr="gold", amr=("otp",), auth_time=NOW, node_id="n")
    schema = cedarpy.Schema.from_str(OWN_SCHEMA.read_text(encoding="utf-8"))
    for asked in (question(who, uri, purpose, attributes={"owner": "a", "created_at": "b"}), question(purpose=purpose)):
        request = {
            "principal": {"type": "Workload", "id": asked.subject["id"]},
            "action": {"type": "Action", "id": asked.action["name"]},
            "resource": {"type": "Secret", "id": asked.resource["id"]},
            "context": {**asked.context, "operation": "kv2.read"},
        }
        entities = EntityBase(None).for_request(asked, frozenset())
        result = cedarpy.is_authorized(request, ANY, entities, schema)
        assert result.diagnostics.errors == []
        assert result.allowed


def test_a_policy_that_does_not_conform_to_the_configured_schema_is_refused_with_its_place(tmp_path: Path) -> None:
    folder = cedar_folder(tmp_path / "p", f'{ANY}\npermit (principal, action == Action::"raed", resource);')
    with pytest.raises(PolicyError, match=r"0\.cedar:2: .*raed"):
        cedar(folder, schema=OWN_SCHEMA)


def test_a_schema_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    schema = tmp_path / "schema"
    for text in ("entity", "{", '{"": {"entityTypes": 1}}'):
        schema.write_text(text)
        with pytest.raises(PolicyError, match="schema"):
            cedar(cedar_folder(tmp_path / "p", ANY), schema=schema)


def test_without_a_schema_what_the_sidecars_own_would_find_is_a_warning(tmp_path: Path) -> None:
    folder = cedar_folder(
        tmp_path / "p",
        'permit (principal, action, resource) when { resource.owner == "team-a" };',
        'permit (principal, action, resource) when { resource.ownr == "team-a" };',
        'permit (principal in Group::"x", action, resource);',
    )
    warnings = cedar(folder).warnings
    assert {warning.partition(":")[0] for warning in warnings} == {"0.cedar", "1.cedar", "2.cedar"}
    assert any("0.cedar:1" in warning and "owner" in warning for warning in warnings)
    assert any("1.cedar:1" in warning and "ownr" in warning for warning in warnings)


# -- the version -----------------------------------------------------------------------------------------------------
def test_the_policy_version_is_the_digest_of_the_files(tmp_path: Path) -> None:
    folder = cedar_folder(tmp_path / "p", b="permit (principal, action, resource);\n", a="// none\n" + ANY)
    entities = entities_file(tmp_path)
    texts = [(folder / "a.cedar").read_bytes(), (folder / "b.cedar").read_bytes()]
    assert cedar(folder).policy_version == hashlib.sha256(b"".join(texts)).hexdigest()
    with_entities = hashlib.sha256(b"".join([*texts, entities.read_bytes()])).hexdigest()
    assert cedar(folder, entities=entities).policy_version == with_entities
