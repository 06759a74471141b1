"""The grant table: exact keys, exact uses, an end in time."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sidecar.caller.identity import Binding, BindingKind, Credential
from sidecar.decision.grants import grant_key
from sidecar.ops.metrics import REGISTRY
from sidecar.surface.operation import Purpose
from sidecar.surface.secret_uri import SecretUri
from tests.decision.making import DB, NOW, OTHER_KEY, Desk, caller, config, operation, permitting, question

CALLER = caller(attributes=(("namespace", "a"),), act={"sub": "robot"}, acr="gold", amr=("pwd",), auth_time=NOW - 60)


def counted(result: str) -> float:
    return REGISTRY.get_sample_value("sidecar_grants_total", {"result": result}) or 0.0


# -- the key ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "https://other.example"},
        {"subject": "app2"},
        {"client_id": "other"},
        {"client_id": ""},
        {"attributes": (("namespace", "b"),)},
        {"attributes": ()},
        {"act": {}},
        {"act": {"sub": "robot2"}},
        {"act": {"sub": "robot", "act": {"sub": "human"}}},
        {"act": {"sub": 1}},
        {"act": {"sub": True}},
        {"scopes": frozenset()},
        {"scopes": frozenset({"secrets.write"})},
        {"audience": ("crud.secrets", "other")},
        {"acr": "silver"},
        {"amr": ("pwd", "otp")},
        {"auth_time": NOW - 61},
        {"auth_time": None},
        {"binding": OTHER_KEY},
        {"binding": Binding()},
        {"binding": Binding(BindingKind.MTLS, CALLER.binding.thumbprint)},
        {"workflow_run_id": "run-2"},
        {"node_id": "node-2"},
        {"system_id": "system-2"},
    ],
    ids=str,
)
def test_each_part_of_the_caller_is_part_of_the_key(change: dict[str, Any]) -> None:
    other = dataclasses.replace(CALLER, **change)
    assert grant_key(operation(), other, "acme") != grant_key(operation(), CALLER, "acme")


OTHERS: dict[str, Any] = {
    "subject": "app2",
    "issuer": "https://other.example",
    "client_id": "other",
    "act": {},
    "attributes": (),
    "scopes": frozenset(),
    "audience": (),
    "acr": "silver",
    "amr": (),
    "auth_time": None,
    "token_jti": "jti-2",
    "issued_at": NOW,
    "expires_at": NOW + 9,
    "binding": OTHER_KEY,
    "proof_jti": "p-2",
    "workflow_run_id": "run-2",
    "node_id": "node-2",
    "system_id": "system-2",
    "token": Credential("another"),
    "upstream_token": Credential("another"),
}
"""Another value for each field of a caller."""


def test_whatever_the_pdp_sees_of_a_caller_is_part_of_the_key() -> None:
    """Each field, also one that somebody adds: where the question changes by it, so does the key; but for the `jti`."""
    assert OTHERS.keys() == {field.name for field in dataclasses.fields(CALLER)}
    for name, value in OTHERS.items():
        other = dataclasses.replace(CALLER, **{name: value})
        is_seen = question(other) != question(CALLER) and name != "token_jti"
        assert (grant_key(operation(), other, "acme") != grant_key(operation(), CALLER, "acme")) is is_seen, name


def test_true_and_1_in_act_are_two_callers() -> None:
    one, true = caller(act={"sub": 1}), caller(act={"sub": True})
    assert grant_key(operation(), one, "acme") != grant_key(operation(), true, "acme")


@pytest.mark.parametrize(
    "change",
    [
        {"name": "kv2.subkeys"},
        {"purpose": Purpose.WRITE},
        {"uri": dataclasses.replace(DB, provider="hashicorp")},
        {"uri": dataclasses.replace(DB, engine="kv1")},
        {"uri": dataclasses.replace(DB, mount="ns1/secret")},
        {"uri": dataclasses.replace(DB, path=("app", "DB"))},
        {"uri": dataclasses.replace(DB, fragment="password")},
        {"uri": dataclasses.replace(DB, version=3)},
        {"uri": dataclasses.replace(DB, folder=True)},
    ],
    ids=str,
)
def test_each_part_of_the_operation_is_part_of_the_key(change: dict[str, Any]) -> None:
    other = dataclasses.replace(operation(), **change)
    assert grant_key(other, CALLER, "acme") != grant_key(operation(), CALLER, "acme")


def test_the_tenant_is_part_of_the_key() -> None:
    assert grant_key(operation(), CALLER, "acme") != grant_key(operation(), CALLER, "other")


def test_what_differs_in_each_request_is_not_part_of_the_key() -> None:
    later = dataclasses.replace(
        CALLER, token_jti="jti-2", proof_jti="p-2", issued_at=NOW, expires_at=NOW + 9, act=dict(CALLER.act)
    )
    again = operation(uri=SecretUri("openbao", "kv2", "secret", ("app", "db")))
    assert grant_key(again, later, "acme") == grant_key(operation(), CALLER, "acme")


# -- uses ------------------------------------------------------------------------------------------------------------
async def test_a_grant_serves_its_uses_and_then_the_pdp_is_asked_afresh() -> None:
    desk = Desk(permitting(max_uses=2))
    states = [(await desk.spend()).grant for _ in range(5)]
    assert [(state.hit, state.uses_left) for state in states] == [
        (False, 1),
        (True, 0),
        (False, 1),
        (True, 0),
        (False, 1),
    ]
    assert len(desk.pdp.asked) == 3


async def test_a_refunded_use_is_there_again() -> None:
    desk = Desk(permitting(max_uses=1))
    for _ in range(5):
        (await desk.permit()).reservation.refund()
    assert len(desk.pdp.asked) == 1
    (await desk.permit()).reservation.commit()
    await desk.permit()
    assert len(desk.pdp.asked) == 2


@pytest.mark.parametrize(("first", "uses_left"), [("commit", 8), ("refund", 9)])
async def test_the_first_of_commit_and_refund_counts(first: str, uses_left: int) -> None:
    desk = Desk(permitting(max_uses=10))
    permit = await desk.permit()
    getattr(permit.reservation, first)()
    for _ in range(3):
        permit.reservation.refund()
        permit.reservation.commit()
    assert (await desk.permit()).grant.uses_left == uses_left


async def test_a_reserved_use_is_nobody_elses() -> None:
    desk = Desk(permitting(max_uses=1))
    held = await desk.permit()
    other = await desk.permit()
    assert len(desk.pdp.asked) == 2
    held.reservation.commit()
    other.reservation.commit()


async def test_a_refund_to_a_grant_that_another_took_the_place_of_gives_nobody_more() -> None:
    desk = Desk(permitting(max_uses=1))
    held = await desk.permit()
    await desk.spend()
    held.reservation.refund()
    await desk.spend()
    assert len(desk.pdp.asked) == 3


async def test_a_batch_spends_one_use_for_each_item() -> None:
    desk = Desk(permitting(max_uses=5))
    assert (await desk.spend(what=operation(uses=3))).grant.uses_left == 2
    assert (await desk.spend(what=operation(uses=3))).grant.uses_left == 2
    assert len(desk.pdp.asked) == 2


async def test_the_configured_terms_hold_where_the_pdp_gives_none() -> None:
    desk = Desk(permitting(), config(grants={"default_ttl_seconds": 10, "default_max_uses": 2}))
    assert (await desk.permit()).grant.expires_at == NOW + 10
    assert (await desk.permit()).grant == (await Desk(permitting(), desk.config).permit()).grant.__class__(
        True, 0, NOW + 10
    )


# -- time ------------------------------------------------------------------------------------------------------------
async def test_a_grant_ends_with_its_ttl() -> None:
    desk = Desk(permitting(ttl_seconds=60, max_uses=100))
    assert (await desk.spend()).grant.expires_at == NOW + 60
    desk.clock.advance(59.9)
    assert (await desk.spend()).grant.hit
    desk.clock.advance(0.1)
    assert not (await desk.spend()).grant.hit


@pytest.mark.parametrize("ttl", [3601, 10**15])
async def test_a_ttl_above_the_maximum_is_clipped(ttl: int) -> None:
    desk = Desk(permitting(ttl_seconds=ttl, max_uses=100))
    assert (await desk.permit(caller(expires_at=NOW + 10**6))).grant.expires_at == NOW + 3600


async def test_a_grant_never_outlives_the_token_that_opened_it() -> None:
    desk = Desk(permitting(ttl_seconds=600, max_uses=100))
    assert (await desk.spend(caller(expires_at=NOW + 30))).grant.expires_at == NOW + 30
    desk.clock.advance(30)
    assert not (await desk.spend(caller(expires_at=NOW + 3600))).grant.hit


# -- counted ---------------------------------------------------------------------------------------------------------
async def test_each_look_up_is_counted_once() -> None:
    desk = Desk(permitting(ttl_seconds=60, max_uses=2))
    results = ("hit", "miss", "expired", "exhausted")
    before = {result: counted(result) for result in results}
    await desk.spend()  # miss
    await desk.spend()  # hit
    await desk.spend()  # exhausted
    desk.clock.advance(60)
    await desk.spend()  # expired
    assert {result: counted(result) - before[result] for result in results} == dict.fromkeys(results, 1.0)


async def test_a_used_up_grant_holds_no_place() -> None:
    desk = Desk(permitting(max_uses=1))
    await desk.spend()
    assert desk.decider.standing.cache_sizes()["grants"] == 0
    assert desk.decider.standing.snapshot() == []


async def test_the_snapshot_shows_live_grants_and_uses_left() -> None:
    desk = Desk(permitting(max_uses=5))
    await desk.spend()
    held = await desk.permit()
    (shown,) = desk.decider.standing.snapshot()
    assert shown["uri"] == DB
    assert (shown["max_uses"], shown["uses_left"], shown["uses_reserved"]) == (5, 3, 1)
    assert shown["expires_in_seconds"] == 300
    assert shown["decision_id"] == "d-1"
    held.reservation.refund()
    desk.clock.advance(301)
    assert desk.decider.standing.snapshot() == []
