"""What the decider answers, what it remembers, and what it asks only once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from sidecar.caller.identity import Binding, BindingKind, Caller
from sidecar.decision.decide import Decider
from sidecar.decision.pdp import PdpOutage
from sidecar.decision.permit import Denied, Obligations, Permit, Question, Verdict
from sidecar.errors import Code, Refused
from sidecar.ops.metrics import REGISTRY
from sidecar.surface.operation import Operation, Purpose
from tests.decision.making import (
    DB,
    ISSUER,
    NOW,
    OTHER_KEY,
    Desk,
    ScriptedPdp,
    caller,
    config,
    denying,
    operation,
    permitting,
    unbound,
)


def sample(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


async def code_of(desk: Desk, who: Caller | None = None, what: Operation | None = None) -> Code:
    with pytest.raises(Refused) as refused:
        await desk.permit(who, what)
    return refused.value.code


# -- the answers -----------------------------------------------------------------------------------------------------
async def test_a_permit_carries_the_verdict_for_the_record() -> None:
    desk = Desk(permitting(max_uses=3))
    permit = await desk.permit()
    assert permit.verdict.decision_id == "d-1"
    assert permit.verdict.policy_version == "v-1"
    assert permit.operation == operation()
    assert permit.caller == caller()


async def test_a_deny_tells_the_caller_nothing_of_the_policy_and_the_record_everything() -> None:
    verdict = Verdict(False, policies=("frozen",), reason="forbidden by frozen", policy_version="v-9")
    desk = Desk(ScriptedPdp(lambda _question: verdict))
    with pytest.raises(Denied) as denied:
        await desk.permit()
    assert denied.value.code is Code.POLICY_DENIED
    assert "frozen" not in denied.value.message
    assert denied.value.verdict == verdict


async def test_a_step_up_is_asked_for_as_rfc_9470_says_and_satisfied_by_the_next_token() -> None:
    desk = Desk(permitting(step_up_acr_values=("urn:gold", "urn:silver"), max_uses=5))
    with pytest.raises(Refused) as refused:
        await desk.permit(caller(acr="urn:bronze"))
    assert refused.value.code is Code.STEP_UP_REQUIRED
    assert refused.value.status == 401
    assert refused.value.wanted == {"acr_values": "urn:gold urn:silver"}
    assert not (await desk.permit(caller(acr="urn:silver"))).grant.hit
    assert not (await desk.permit(caller(acr="", amr=("urn:gold",)))).grant.hit


@pytest.mark.parametrize(
    ("auth_time", "taken"),
    [(None, False), (NOW, True), (NOW - 59, True), (NOW - 60, False), (NOW + 5, True), (NOW + 6, False)],
)
async def test_a_step_up_asks_for_a_recent_authentication(auth_time: int | None, taken: bool) -> None:
    desk = Desk(permitting(step_up_max_age_seconds=60))
    if taken:
        await desk.permit(caller(auth_time=auth_time))
        return
    with pytest.raises(Refused) as refused:
        await desk.permit(caller(auth_time=auth_time))
    assert refused.value.code is Code.STEP_UP_REQUIRED
    assert refused.value.wanted == {"max_age": "60"}


async def test_a_grant_does_not_outlive_the_authentication_that_was_asked_for() -> None:
    desk = Desk(permitting(step_up_max_age_seconds=60, ttl_seconds=600, max_uses=100))
    who = caller(auth_time=NOW - 20)
    await desk.spend(who)
    desk.clock.advance(39)
    assert (await desk.spend(who)).grant.hit
    desk.clock.advance(1)
    with pytest.raises(Refused, match=Code.STEP_UP_REQUIRED):
        await desk.spend(who)


async def test_a_step_up_beside_a_deny_is_asked_for_too() -> None:
    desk = Desk(ScriptedPdp(lambda _question: Verdict(False, Obligations(step_up_acr_values=("gold",)))))
    assert await code_of(desk, caller(acr="bronze")) is Code.STEP_UP_REQUIRED
    assert await code_of(desk, caller(acr="gold")) is Code.POLICY_DENIED


async def test_authorization_switched_off_permits_with_the_defaults() -> None:
    off = config(environment="dev", authorization={"enabled": False}, grants={"default_max_uses": 3})
    permit = await Decider(off, None, Desk(denying()).clock).permit(operation(), caller(), correlation_id="c")
    assert permit.grant.uses_left == 2
    assert permit.verdict.policy_version == "authorization-disabled"


def test_authorization_without_a_pdp_does_not_start() -> None:
    with pytest.raises(ValueError, match="no PDP"):
        Decider(config(), None, Desk(denying()).clock)


async def test_an_operation_of_no_uses_is_refused_even_under_a_live_grant() -> None:
    desk = Desk(permitting(max_uses=10))
    await desk.spend()
    with pytest.raises(Refused) as refused:
        await desk.permit(what=operation(uses=0))
    assert refused.value.code is Code.MALFORMED_REQUEST


async def test_a_batch_larger_than_a_grant_is_refused_without_asking_again_and_again() -> None:
    desk = Desk(permitting(max_uses=2))
    for _ in range(3):
        with pytest.raises(Denied) as denied:
            await desk.permit(what=operation(uses=3))
        assert denied.value.code is Code.OBLIGATION_UNMET
    assert len(desk.pdp.asked) == 1
    assert (await desk.permit(what=operation(uses=2))).grant.hit


async def test_a_notification_is_a_deny_where_nobody_publishes_it() -> None:
    notifying = permitting(notifications=({"to": "owner"},))
    assert await code_of(Desk(notifying)) is Code.OBLIGATION_UNMET
    decider = Decider(config(), notifying, Desk(notifying).clock, publishes_notifications=True)
    permit = await decider.permit(operation(), caller(), correlation_id="c")
    assert permit.verdict.obligations.notifications == ({"to": "owner"},)


# -- attributes ------------------------------------------------------------------------------------------------------
async def test_attributes_are_fetched_only_where_the_pdp_is_asked() -> None:
    desk, fetched = Desk(permitting(max_uses=2)), 0

    async def attributes() -> dict[str, str]:
        nonlocal fetched
        fetched += 1
        return {"owner": "team-a"}

    for _ in range(2):
        (await desk.permit(attributes=attributes)).reservation.commit()
    assert fetched == 1
    assert desk.pdp.asked[0].resource["properties"]["owner"] == "team-a"


async def test_attributes_that_cannot_be_fetched_are_absent_not_guessed() -> None:
    desk = Desk(permitting())

    async def attributes() -> dict[str, str]:
        raise Refused(Code.UPSTREAM_UNAVAILABLE, "down")

    await desk.permit(attributes=attributes)
    assert "owner" not in desk.pdp.asked[0].resource["properties"]


async def test_a_denial_for_want_of_attributes_is_not_remembered() -> None:
    """It is an outage's, not policy's: who is denied so is asked for again as soon as the attributes are back."""
    desk = Desk(ScriptedPdp(lambda asked: Verdict("owner" in asked.resource["properties"])))
    away = True

    async def attributes() -> dict[str, str]:
        if away:
            raise Refused(Code.UPSTREAM_UNAVAILABLE, "down")
        return {"owner": "app"}

    with pytest.raises(Refused):
        await desk.permit(attributes=attributes)
    assert desk.pdp.asked[0].context["attributes_unavailable"] is True
    away = False
    await desk.permit(attributes=attributes)
    assert "attributes_unavailable" not in desk.pdp.asked[1].context


# -- the negative cache ----------------------------------------------------------------------------------------------
async def test_a_denial_is_remembered_for_a_while_with_jitter() -> None:
    desk = Desk(denying())
    before = sample("sidecar_negative_cache_hits_total")
    assert [await code_of(desk) for _ in range(3)] == [Code.POLICY_DENIED] * 3
    assert len(desk.pdp.asked) == 1
    assert sample("sidecar_negative_cache_hits_total") == before + 2
    desk.clock.advance(2.49)
    await code_of(desk)
    assert len(desk.pdp.asked) == 1
    desk.clock.advance(2.51)
    await code_of(desk)
    assert len(desk.pdp.asked) == 2


async def test_a_remembered_denial_keeps_its_verdict() -> None:
    desk = Desk(denying())
    await code_of(desk)
    with pytest.raises(Denied) as denied:
        await desk.permit()
    assert denied.value.verdict.decision_id == "d-2"


async def test_a_negative_ttl_of_0_remembers_nothing() -> None:
    desk = Desk(denying(), config(grants={"negative_ttl_seconds": 0}))
    await code_of(desk)
    await code_of(desk)
    assert len(desk.pdp.asked) == 2


async def test_a_step_up_is_not_remembered() -> None:
    desk = Desk(permitting(step_up_acr_values=("gold",)))
    await code_of(desk)
    await code_of(desk)
    assert len(desk.pdp.asked) == 2


async def test_an_outage_is_not_remembered() -> None:
    def away(_question: Question) -> Verdict:
        raise PdpOutage("away")

    desk = Desk(ScriptedPdp(away))
    with pytest.raises(Refused) as refused:
        await desk.permit()
    assert refused.value.code is Code.PDP_UNAVAILABLE
    assert refused.value.headers["Retry-After"] == "1"
    desk.pdp.answer = lambda _question: Verdict(True)
    await desk.permit()


# -- single flight ---------------------------------------------------------------------------------------------------
async def test_the_pdp_is_asked_once_however_many_wait() -> None:
    desk = Desk(permitting(max_uses=1000))
    desk.pdp.gate = asyncio.Event()
    waiting = [asyncio.create_task(desk.permit()) for _ in range(300)]
    await desk.pdp.wait_until_asked()
    desk.pdp.gate.set()
    permits = await asyncio.gather(*waiting)
    assert len(desk.pdp.asked) == 1
    assert sorted(permit.grant.uses_left for permit in permits) == list(range(700, 1000))


async def test_those_whom_the_grant_does_not_suffice_ask_again() -> None:
    desk = Desk(permitting(max_uses=3))
    permits = await asyncio.gather(*(desk.spend() for _ in range(10)))
    assert len(permits) == 10
    assert len(desk.pdp.asked) == 4


async def test_different_keys_are_asked_at_the_same_time() -> None:
    desk = Desk(permitting())
    desk.pdp.gate = asyncio.Event()
    waiting = [asyncio.create_task(desk.permit(caller(f"app{index}"))) for index in range(20)]
    await desk.pdp.wait_until_asked(20)
    desk.pdp.gate.set()
    await asyncio.gather(*waiting)


async def test_a_fault_inside_the_pdp_refuses_everyone_who_waits() -> None:
    def broken(_question: Question) -> Verdict:
        raise KeyError("a bug")

    desk = Desk(ScriptedPdp(broken))
    results = await asyncio.gather(*(desk.permit() for _ in range(5)), return_exceptions=True)
    assert [result.code for result in results if isinstance(result, Refused)] == [Code.PDP_UNAVAILABLE] * 5
    assert len({id(result) for result in results}) == 5


async def test_closing_refuses_whoever_waits() -> None:
    desk = Desk(permitting())
    desk.pdp.gate = asyncio.Event()
    waiting = asyncio.create_task(desk.permit())
    await desk.pdp.wait_until_asked()
    await desk.decider.close()
    with pytest.raises(Refused) as refused:
        await waiting
    assert refused.value.code is Code.PDP_UNAVAILABLE


# -- taken back ------------------------------------------------------------------------------------------------------
async def test_dropping_a_subject_ends_its_grants_and_nobody_elses() -> None:
    desk = Desk(permitting(max_uses=10))
    for who in (caller("app"), caller("other"), caller("app", issuer="https://other.example")):
        await desk.spend(who)
    desk.decider.drop_subject(ISSUER, "app")
    assert not (await desk.spend(caller("app"))).grant.hit
    assert (await desk.spend(caller("other"))).grant.hit
    assert (await desk.spend(caller("app", issuer="https://other.example"))).grant.hit


async def test_dropping_all_ends_grants_and_forgets_denials() -> None:
    desk = Desk(permitting(max_uses=10))
    await desk.spend()
    desk.decider.drop_all()
    desk.pdp.answer = lambda _question: Verdict(False)
    assert await code_of(desk) is Code.POLICY_DENIED
    desk.decider.drop_all()
    desk.pdp.answer = lambda _question: Verdict(True)
    await desk.spend()


@pytest.mark.parametrize("drop", ["drop_all", "drop_subject"])
async def test_an_answer_from_before_a_drop_opens_no_grant(drop: str) -> None:
    desk = Desk(permitting(max_uses=10))
    desk.pdp.gate = asyncio.Event()
    waiting = asyncio.create_task(desk.permit())
    await desk.pdp.wait_until_asked()
    if drop == "drop_all":
        desk.decider.drop_all()
    else:
        desk.decider.drop_subject(ISSUER, "app")
    desk.pdp.gate.set()
    await waiting
    assert len(desk.pdp.asked) == 2


async def test_policies_that_change_faster_than_they_answer_permit_nothing() -> None:
    desk = Desk(permitting())

    def changing(_question: Question) -> Verdict:
        desk.decider.drop_all()
        return Verdict(True)

    desk.pdp.answer = changing
    assert await code_of(desk) is Code.PDP_UNAVAILABLE


async def test_a_session_termination_drops_that_subjects_grants_under_every_issuer() -> None:
    desk = Desk(permitting(max_uses=10))
    victims = [caller("mallory"), caller("mallory", issuer="https://other.example")]
    for who in [*victims, caller("alice")]:
        await desk.spend(who)
    desk.pdp.answer = lambda _question: Verdict(True, Obligations(max_uses=10, terminate_sessions=("mallory",)))
    await desk.spend(caller("bob"))
    desk.pdp.answer = lambda _question: Verdict(True, Obligations(max_uses=10))
    assert [(await desk.spend(who)).grant.hit for who in [*victims, caller("alice")]] == [False, False, True]


async def test_a_session_termination_beside_a_deny_counts() -> None:
    desk = Desk(permitting(max_uses=10))
    await desk.spend(caller("mallory"))
    desk.pdp.answer = lambda _question: Verdict(False, Obligations(terminate_sessions=("mallory",)))
    await code_of(desk, caller("bob"))
    assert await code_of(desk, caller("mallory")) is Code.POLICY_DENIED


async def test_a_permit_that_ends_the_session_of_its_own_caller_contradicts_itself() -> None:
    desk = Desk(permitting(terminate_sessions=("app",)))
    assert await code_of(desk) is Code.OBLIGATION_UNMET


# -- tokens ----------------------------------------------------------------------------------------------------------
async def test_an_unbound_token_may_spend_the_grant_it_opened_and_open_no_second_one() -> None:
    desk = Desk(permitting(max_uses=3))
    for _ in range(3):
        await desk.spend(unbound())
    assert await code_of(desk, unbound()) is Code.TOKEN_REPLAYED
    assert not (await desk.spend(unbound(token_jti="jti-2"))).grant.hit


async def test_the_window_starts_when_the_grant_opens() -> None:
    desk = Desk(permitting(max_uses=1), config(anti_replay={"window_seconds": 300}))
    await desk.spend(unbound())
    desk.clock.advance(299)
    assert await code_of(desk, unbound()) is Code.TOKEN_REPLAYED
    desk.clock.advance(1)
    await desk.spend(unbound())


async def test_a_denied_token_has_opened_nothing() -> None:
    desk = Desk(denying(), config(grants={"negative_ttl_seconds": 0}))
    assert await code_of(desk, unbound()) is Code.POLICY_DENIED
    desk.pdp.answer = lambda _question: Verdict(True)
    await desk.spend(unbound())


async def test_a_use_given_back_can_be_spent_by_the_same_token() -> None:
    desk = Desk(permitting(max_uses=1))
    (await desk.permit(unbound())).reservation.refund()
    await desk.spend(unbound())
    assert await code_of(desk, unbound()) is Code.TOKEN_REPLAYED


async def test_a_bound_tokens_jti_is_not_looked_at_unless_configured() -> None:
    desk = Desk(permitting(max_uses=1))
    await desk.spend()
    await desk.spend()
    strict = Desk(permitting(max_uses=1), config(anti_replay={"bound_token": "per_grant"}))
    await strict.spend()
    assert await code_of(strict) is Code.TOKEN_REPLAYED
    pod = Desk(permitting(max_uses=1), config(anti_replay={"bound_token": "per_grant"}))
    await pod.spend(caller(binding=Binding(BindingKind.POD)))
    assert await code_of(pod, caller(binding=Binding(BindingKind.POD))) is Code.TOKEN_REPLAYED


@pytest.mark.parametrize("choice", ["off", "single_use"])
async def test_other_choices_are_not_the_grants_matter(choice: str) -> None:
    desk = Desk(permitting(max_uses=1), config(anti_replay={"unbound_token": choice}))
    await desk.spend(unbound(token_jti=""))
    await desk.spend(unbound(token_jti=""))


async def test_a_token_without_a_jti_is_refused_where_one_is_needed() -> None:
    desk = Desk(permitting())
    assert await code_of(desk, unbound(token_jti="")) is Code.TOKEN_INVALID
    assert not desk.pdp.asked


async def test_the_anonymous_caller_of_a_development_world_has_no_token_to_replay() -> None:
    desk = Desk(permitting(max_uses=1))
    await desk.spend(Caller("anonymous", "", expires_at=NOW + 10**6))
    await desk.spend(Caller("anonymous", "", expires_at=NOW + 10**6))


async def test_a_token_whose_grant_a_policy_change_ended_may_ask_again() -> None:
    desk = Desk(permitting(max_uses=2))
    await desk.spend(unbound())
    desk.decider.drop_all()
    await desk.spend(unbound())
    await desk.spend(unbound())
    desk.decider.drop_all()
    assert await code_of(desk, unbound()) is Code.TOKEN_REPLAYED


async def test_a_token_whose_own_session_was_revoked_opens_nothing_more() -> None:
    desk = Desk(permitting(max_uses=2))
    await desk.spend(unbound())
    desk.decider.drop_subject(ISSUER, "app")
    assert await code_of(desk, unbound()) is Code.TOKEN_REPLAYED


async def test_a_token_that_expired_while_the_pdp_thought_opens_nothing() -> None:
    desk = Desk(permitting())
    desk.pdp.gate = asyncio.Event()
    waiting = asyncio.create_task(desk.permit(caller(expires_at=NOW + 1)))
    await desk.pdp.wait_until_asked()
    desk.clock.advance(1)
    desk.pdp.gate.set()
    with pytest.raises(Refused) as refused:
        await waiting
    assert refused.value.code is Code.TOKEN_EXPIRED


# -- bindings --------------------------------------------------------------------------------------------------------
async def test_another_binding_is_refused_while_a_grant_lives() -> None:
    desk = Desk(permitting(max_uses=10))
    await desk.spend()
    assert await code_of(desk, caller(binding=OTHER_KEY)) is Code.BINDING_CHANGED
    assert await code_of(desk, unbound()) is Code.BINDING_CHANGED
    assert len(desk.pdp.asked) == 1


async def test_another_binding_is_a_matter_of_purpose_and_uri() -> None:
    desk = Desk(permitting(max_uses=10))
    await desk.spend()
    other = caller(binding=OTHER_KEY)
    await desk.permit(other, operation("kv2.write", Purpose.WRITE))
    with pytest.raises(Refused) as refused:
        await desk.permit(other, operation("kv2.subkeys"))
    assert refused.value.code is Code.BINDING_CHANGED


async def test_a_token_issued_after_the_grant_opened_begins_anew() -> None:
    desk = Desk(permitting(max_uses=10))
    await desk.spend()
    desk.clock.advance(5)
    restarted = caller(binding=OTHER_KEY, issued_at=NOW + 1)
    assert not (await desk.spend(restarted)).grant.hit
    assert (await desk.spend(restarted)).grant.hit
    assert await code_of(desk, caller()) is Code.BINDING_CHANGED


@pytest.mark.parametrize("issued_at", [NOW, NOW - 1, None])
async def test_a_token_issued_at_or_before_the_opening_does_not(issued_at: float | None) -> None:
    desk = Desk(permitting(max_uses=10))
    await desk.spend()
    assert await code_of(desk, caller(binding=OTHER_KEY, issued_at=issued_at)) is Code.BINDING_CHANGED


@pytest.mark.parametrize(
    ("opener", "opened", "issued_at", "taken"),
    [
        (0, 0.9, 0, False),  # of the same second, and nothing tells which was first
        (-30, 0.9, 0, False),  # it may have been stolen in that second: the opener's age says nothing of it
        (-30, 0.9, 0.95, True),  # an issuer that writes fractions tells
        (-30, 0.9, 0.85, False),
        (-30, 0.9, 1, True),
        (4, 0.0, 3, False),  # the issuer's clock is ahead: older than the opener's by its own clock
        (4, 0.0, 4, False),
        (4, 0.0, 5, True),
        (None, 0.0, 1, True),
    ],
)
async def test_which_tokens_begin_anew(opener: float | None, opened: float, issued_at: float, taken: bool) -> None:
    """All in seconds from now: the `iat` of the token that opened the grant, the moment it did, and the other's."""
    desk = Desk(permitting(max_uses=10))
    desk.clock.advance(opened)
    await desk.spend(caller(issued_at=None if opener is None else NOW + opener))
    other = caller(binding=OTHER_KEY, issued_at=NOW + issued_at)
    if taken:
        assert not (await desk.spend(other)).grant.hit
    else:
        assert await code_of(desk, other) is Code.BINDING_CHANGED


NAMED = Binding(BindingKind.MTLS, "x5t-1", names_subject=True)
POD = Binding(BindingKind.POD, "", names_subject=True)
POD_USER = Binding(BindingKind.POD, "uid:1000", names_subject=True)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (NAMED, Binding(BindingKind.MTLS, "x5t-2", names_subject=True)),
        (POD, Binding(BindingKind.POD, "uid:1000", names_subject=True)),
        (
            Binding(BindingKind.POD, "uid:1000", names_subject=True),
            Binding(BindingKind.POD, "uid:0", names_subject=True),
        ),
    ],
    ids=["a renewed SVID", "TCP and Unix socket", "two users of the pod"],
)
async def test_renewed_names_of_the_subject_itself_are_no_change_of_binding(one: Binding, other: Binding) -> None:
    desk = Desk(permitting(max_uses=10))
    await desk.spend(caller(binding=one))
    assert not (await desk.spend(caller(binding=other, token_jti="renewed"))).grant.hit
    assert (await desk.spend(caller(binding=one))).grant.hit


@pytest.mark.parametrize("named", [NAMED, POD])
async def test_a_key_and_the_subject_itself_are_two_bindings(named: Binding) -> None:
    for one, other in ((named, caller().binding), (caller().binding, named)):
        desk = Desk(permitting(max_uses=10))
        await desk.spend(caller(binding=one))
        assert await code_of(desk, caller(binding=other, token_jti="other")) is Code.BINDING_CHANGED


async def test_separate_bindings_have_their_own_grants() -> None:
    desk = Desk(permitting(max_uses=2), config(grants={"on_binding_change": "separate"}))
    await desk.spend()
    assert not (await desk.spend(caller(binding=OTHER_KEY))).grant.hit
    assert (await desk.spend()).grant.uses_left == 0


@pytest.mark.parametrize("end", ["spent", "expired"])
async def test_a_grant_that_ended_holds_up_no_other_binding(end: str) -> None:
    desk = Desk(permitting(ttl_seconds=60, max_uses=1))
    if end == "spent":
        await desk.spend()
    else:
        (await desk.permit()).reservation.refund()
        desk.clock.advance(60)
    await desk.spend(caller(binding=OTHER_KEY))


async def test_two_bindings_at_once_do_not_both_open() -> None:
    desk = Desk(permitting(max_uses=10))
    desk.pdp.gate = asyncio.Event()
    waiting = [asyncio.create_task(desk.permit(who)) for who in (caller(), caller(binding=OTHER_KEY))]
    await desk.pdp.wait_until_asked(2)
    desk.pdp.gate.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results].count(Permit) == 1
    assert [result.code for result in results if isinstance(result, Refused)] == [Code.BINDING_CHANGED]


# -- bounds ----------------------------------------------------------------------------------------------------------
async def test_a_full_table_serves_the_request_and_stores_nothing() -> None:
    desk = Desk(permitting(max_uses=10), config(grants={"max_entries": 2}))
    await desk.spend(caller("a"))
    await desk.spend(caller("b"))
    assert [(await desk.spend(caller("c"))).grant.hit for _ in range(3)] == [False] * 3
    assert [(await desk.spend(caller(name))).grant.hit for name in "ab"] == [True, True]
    assert desk.decider.standing.cache_sizes()["grants"] == 2


async def test_where_replays_cannot_be_remembered_a_token_that_needs_it_is_refused() -> None:
    desk = Desk(permitting(max_uses=10), config(grants={"max_entries": 2}))
    await desk.spend(unbound("a", token_jti="a"))
    await desk.spend(unbound("b", token_jti="b"))
    assert await code_of(desk, unbound("c", token_jti="c")) is Code.OVERLOADED
    assert not (await desk.spend(caller("d"))).grant.hit


async def test_too_many_decisions_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.decision.decide.MAX_FLIGHTS", 2)
    desk = Desk(permitting())
    desk.pdp.gate = asyncio.Event()
    waiting = [asyncio.create_task(desk.permit(caller(name))) for name in "ab"]
    await desk.pdp.wait_until_asked(2)
    assert await code_of(desk, caller("c")) is Code.OVERLOADED
    desk.pdp.gate.set()
    await asyncio.gather(*waiting)


async def test_one_callers_many_secrets_leave_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of a bulk request's is a decision of its own."""
    monkeypatch.setattr("sidecar.decision.decide.MAX_FLIGHTS", 8)
    desk = Desk(permitting())
    desk.pdp.gate = asyncio.Event()
    many = [operation(uri=replace(DB, path=(f"s{number}",))) for number in range(7)]
    waiting = [asyncio.create_task(desk.permit(caller("greedy"), one)) for one in many[:6]]
    await desk.pdp.wait_until_asked(6)
    assert await code_of(desk, caller("greedy"), many[6]) is Code.OVERLOADED
    waiting.append(asyncio.create_task(desk.permit(caller("other"))))
    await desk.pdp.wait_until_asked(7)
    desk.pdp.gate.set()
    await asyncio.gather(*waiting)
    await desk.spend(caller("greedy"), many[6])


async def test_the_tables_sizes_are_told() -> None:
    desk = Desk(permitting(max_uses=2))
    await desk.spend(unbound())
    assert desk.decider.standing.cache_sizes() == {"grants": 1, "token_marks": 1, "denials": 0}
    assert DB in [shown["uri"] for shown in desk.decider.standing.snapshot()]
