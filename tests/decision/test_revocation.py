"""What a revocation fits, and what is none: one that fits nothing must not look as if it had worked."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from sidecar.decision.permit import Permit, Question, Verdict
from sidecar.decision.revocation import EVERYTHING, Revocation, RevocationError, parse
from sidecar.errors import Code, Refused
from sidecar.surface.operation import Purpose
from sidecar.surface.secret_uri import SecretUri
from tests.decision.making import DB, ISSUER, Desk, caller, denying, operation, permitting, unbound

CLAIM = (ISSUER, "app", Purpose.READ, dataclasses.replace(DB, fragment="pass/word", version=3))


@pytest.mark.parametrize(
    ("members", "fits"),
    [
        ({"all": True}, True),
        ({"subject": "app"}, True),
        ({"subject": "App"}, False),
        ({"issuer": ISSUER}, True),
        ({"issuer": f"{ISSUER}/"}, False),
        ({"subject": "app", "issuer": ISSUER}, True),
        ({"subject": "app", "issuer": "https://other.example"}, False),
        ({"uri_prefix": "openbao+kv2://"}, True),
        ({"uri_prefix": "openbao+kv2://secret/"}, True),
        ({"uri_prefix": "openbao+kv2://secret/app/d"}, True),
        ({"uri_prefix": "openbao+kv2://secret/app/db#pass%2Fword"}, True),
        ({"uri_prefix": "openbao+kv2://secret/app/db#pass%2Fword?version=3"}, True),
        ({"uri_prefix": "openbao+kv2://secret/app/db/"}, False),
        ({"uri_prefix": "openbao+kv2://Secret/"}, False),
        ({"uri_prefix": "openbao+kv2://secret/", "subject": "other"}, False),
    ],
)
def test_everything_that_is_given_must_fit(members: dict[str, Any], fits: bool) -> None:
    assert parse(members).fits(CLAIM) is fits


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"all": False},
        {"all": 1},
        {"all": "true"},
        {"all": True, "subject": "app"},
        {"Subject": "app"},
        {"subject": None},
        {"subject": ""},
        {"subject": ["app"]},
        {"subject": "app\n"},
        {"subject": "a" * 4097},
        {"subject": "app", "uri": "openbao+kv2://secret/"},
        {"uri_prefix": "secret/app"},
        {"uri_prefix": "/v1/secret/data/app"},
        {"uri_prefix": "openbao://secret/app"},
        {"uri_prefix": "OpenBao+kv2://secret/app"},
        {"uri_prefix": "openbao+kv2:/secret/app"},
        {"uri_prefix": "openbao+kv2://secret/a b"},
        {"uri_prefix": "openbao+kv2://secret/a%2fb"},
        {"uri_prefix": "openbao+kv2://secret/%61pp"},
        {"uri_prefix": "openbao+kv2://secret/%41pp"},
        {"uri_prefix": "openbao+kv2://secret/a%2"},
        {"uri_prefix": "openbao+kv2://secret/ä"},
        {"uri_prefix": "openbao+kv2://secret/*/db\u202e"},
    ],
)
def test_what_could_miss_what_it_means_is_refused(members: dict[str, Any]) -> None:
    with pytest.raises(RevocationError):
        parse(members)


def test_what_names_nothing_is_everything_and_only_that() -> None:
    assert EVERYTHING.is_all
    assert not Revocation("app").is_all


async def held(desk: Desk, *whos: tuple[str, SecretUri]) -> None:
    for subject, uri in whos:
        await desk.spend(caller(subject), operation(uri=uri))


async def test_grants_that_fit_end_and_others_go_on() -> None:
    desk, other = Desk(permitting(max_uses=100)), dataclasses.replace(DB, path=("other",))
    pairs = [(subject, uri) for subject in ("app", "second") for uri in (DB, other)]
    await held(desk, *pairs)
    assert desk.decider.revoke(Revocation("app", None, "openbao+kv2://secret/app/").fits) == 1
    hits = {pair: (await desk.spend(caller(pair[0]), operation(uri=pair[1]))).grant.hit for pair in pairs}
    assert hits == {pair: pair != ("app", DB) for pair in pairs}


async def test_denials_that_fit_are_forgotten_and_others_are_not() -> None:
    desk = Desk(denying())
    for subject in ("app", "second"):
        with pytest.raises(Refused):
            await desk.permit(caller(subject))
    desk.decider.revoke(Revocation("app").fits)
    desk.pdp.answer = lambda _question: Verdict(True)
    await desk.permit(caller("app"))
    with pytest.raises(Refused, match=Code.POLICY_DENIED):
        await desk.permit(caller("second"))


async def test_a_decision_under_way_is_asked_anew() -> None:
    desk = Desk(permitting(max_uses=100))
    desk.pdp.gate = asyncio.Event()
    hit = asyncio.create_task(desk.permit(caller("app")))
    missed = asyncio.create_task(desk.permit(caller("second")))
    await desk.pdp.wait_until_asked(2)
    desk.decider.revoke(Revocation("app").fits)
    desk.pdp.answer = lambda question: Verdict(question.subject["id"] != "app")
    desk.pdp.gate.set()
    results = await asyncio.gather(hit, missed, return_exceptions=True)
    assert isinstance(results[0], Refused)
    assert results[0].code is Code.POLICY_DENIED
    assert isinstance(results[1], Permit)
    assert [question.subject["id"] for question in desk.pdp.asked] == ["app", "second", "app"]


async def test_what_the_pdp_said_before_a_revocation_is_worth_nothing() -> None:
    """It permits, then access is taken back while its answer is on the way, and asked anew it denies."""
    desk = Desk(denying())

    def permitted_then_revoked(_question: Question) -> Verdict:
        desk.decider.revoke(Revocation("app").fits)
        desk.pdp.answer = lambda _question: Verdict(False)
        return Verdict(True)

    desk.pdp.answer = permitted_then_revoked
    with pytest.raises(Refused, match=Code.POLICY_DENIED):
        await desk.permit()
    assert len(desk.pdp.asked) == 2


async def test_a_token_whose_grant_was_taken_back_may_open_it_again_and_a_used_up_one_may_not() -> None:
    desk = Desk(permitting(max_uses=2))
    await desk.spend(unbound("app", token_jti="half"))
    for _ in range(2):
        await desk.spend(unbound("second", token_jti="spent"))
    desk.decider.revoke(Revocation(issuer=ISSUER).fits)
    await desk.spend(unbound("app", token_jti="half"))
    with pytest.raises(Refused, match=Code.TOKEN_REPLAYED):
        await desk.spend(unbound("second", token_jti="spent"))


async def test_a_use_reserved_before_a_revocation_does_not_come_back_to_life_after_it() -> None:
    desk = Desk(permitting(max_uses=2))
    permit = await desk.permit()
    desk.decider.drop_all()
    permit.reservation.refund()
    assert not (await desk.spend()).grant.hit
    assert [grant["uses_left"] for grant in desk.decider.standing.snapshot()] == [1]
