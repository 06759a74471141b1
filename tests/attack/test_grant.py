"""THREATS, group GRANT, as far as decisions and grants meet them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sidecar.caller.identity import Binding, Caller
from sidecar.decision.grants import Grant, grant_key
from sidecar.decision.pdp import PdpOutage
from sidecar.decision.permit import Obligations, Permit, Question, Verdict
from sidecar.errors import Code, Refused
from sidecar.surface.operation import Operation, Purpose
from sidecar.surface.secret_uri import SecretUri
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
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess


async def refusal(desk: Desk, who: Caller | None = None, what: Operation | None = None) -> Refused:
    with pytest.raises(Refused) as refused:
        await desk.permit(who, what)
    return refused.value


# -- 01: more than max_uses ------------------------------------------------------------------------------------------
async def test_grant_01_concurrency_cancellation_and_retries_release_no_more_than_max_uses() -> None:
    desk = Desk(permitting(max_uses=5))
    released: Counter[str] = Counter()

    async def attacker(index: int) -> None:
        for attempt in range(20):
            try:
                permit = await desk.permit(unbound())
            except Refused:
                return
            try:
                await asyncio.sleep(0)
                if (index + attempt) % 3:
                    permit.reservation.commit()
                    released[permit.verdict.decision_id] += 1
            finally:
                permit.reservation.refund()
                permit.reservation.refund()

    tasks = [asyncio.create_task(attacker(index)) for index in range(100)]
    for index, task in enumerate(tasks):
        if index % 5 == 0:
            await asyncio.sleep(0)
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert released == {"d-1": 5}
    assert len(desk.pdp.asked) == 1


@pytest.mark.real
def test_grant_01_pipelined_requests_and_head_on_many_connections_release_no_more(
    unbound_sidecar: SidecarProcess, openbao: OpenBao
) -> None:
    """Eight requests in one write on each of eight connections; some of them cut before the answers are read."""
    token = unbound_sidecar.issuer.token(sub="app")
    mark = openbao.mark()

    def attack(number: int) -> int:
        heads = [
            f"{'HEAD' if (number + index) % 4 == 3 else 'GET'} /v1/secret/data/app/db HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{unbound_sidecar.port}\r\nX-Vault-Token: {token}\r\n"
            f"{'Connection: close' if index == 7 else 'Accept: */*'}\r\n\r\n"
            for index in range(8)
        ]
        with socket.create_connection(("127.0.0.1", unbound_sidecar.port), timeout=30) as wire:
            wire.sendall("".join(heads).encode())
            if number % 4 == 0:
                wire.recv(12)  # the head of the first answer, and gone
                return 0
            received = b""
            with contextlib.suppress(ConnectionResetError):
                while data := wire.recv(65536):
                    received += data
        return received.count(b"HTTP/1.1 200 ")

    with ThreadPoolExecutor(8) as attackers:
        released = sum(attackers.map(attack, range(8)))
    asked = [request for request in openbao.requests(since=mark) if request["path"] == "secret/data/app/db"]
    assert released <= 2
    assert len(asked) == 2


# -- 02: a stretched ttl ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("step", [-3600, -1, 3600])
async def test_grant_02_a_wall_clock_set_by_hand_neither_stretches_nor_shortens_a_grant(step: float) -> None:
    desk = Desk(permitting(ttl_seconds=60, max_uses=100))
    await desk.spend()
    desk.clock.step_wall(step)
    desk.clock.advance(59)
    assert (await desk.spend()).grant.hit
    desk.clock.advance(1)
    assert not (await desk.spend(caller(expires_at=NOW + 10**6))).grant.hit


async def test_grant_02_the_ttl_counts_from_the_answer_not_from_when_somebody_got_to_use_it() -> None:
    desk = Desk(permitting(ttl_seconds=60, max_uses=100))
    await desk.spend()
    desk.clock.advance(30)
    await desk.spend()  # using it
    await desk.spend(
        caller(expires_at=NOW + 10**6, issued_at=NOW + 30, token_jti="refreshed")
    )  # or refreshing the token
    desk.clock.advance(30)
    assert not (await desk.spend()).grant.hit


async def test_grant_02_an_answer_that_slept_with_the_process_is_no_answer() -> None:
    desk = Desk(permitting(ttl_seconds=60))

    def after_a_night(_question: Question) -> Verdict:
        desk.clock.advance(8 * 3600)
        return Verdict(True)

    desk.pdp.answer = after_a_night
    assert (await refusal(desk)).code is Code.PDP_UNAVAILABLE


async def test_grant_02_a_grant_ends_with_the_token_even_under_a_longer_ttl() -> None:
    desk = Desk(permitting(ttl_seconds=3600, max_uses=100))
    await desk.spend(caller(expires_at=NOW + 20))
    desk.clock.advance(20)
    assert not (await desk.spend(caller(token_jti="jti-2"))).grant.hit


# -- 03: used for something else -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "what",
    [
        operation("kv2.subkeys", Purpose.READ_METADATA),
        operation("kv2.write", Purpose.WRITE),
        operation("kv2.delete", Purpose.DELETE),
        operation("kv1.read"),
        operation(uri=dataclasses.replace(DB, version=1)),
        operation(uri=dataclasses.replace(DB, fragment="password")),
        operation(uri=dataclasses.replace(DB, mount="ns1/secret")),
        operation(uri=dataclasses.replace(DB, path=("app", "db2"))),
    ],
    ids=lambda what: f"{what.name}-{what.uri}",
)
async def test_grant_03_a_grant_for_read_serves_nothing_else(what: Operation) -> None:
    desk = Desk(permitting(max_uses=100))
    await desk.spend()
    assert not (await desk.spend(what=what)).grant.hit


async def test_grant_03_decrypt_never_rides_on_encrypt() -> None:
    desk = Desk(permitting(max_uses=100))
    key = SecretUri("openbao", "transit", "transit", ("orders",))
    await desk.spend(what=operation("transit.encrypt", Purpose.EXECUTE, key))
    desk.pdp.answer = lambda _question: Verdict(False)
    assert (await refusal(desk, what=operation("transit.decrypt", Purpose.EXECUTE, key))).code is Code.POLICY_DENIED


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "https://evil.example"},
        {"scopes": frozenset()},
        {"act": {"sub": "robot"}},
        {"client_id": "other"},
        {"acr": "bronze"},
        {"workflow_run_id": "run-2"},
    ],
    ids=str,
)
async def test_grant_03_another_caller_asks_for_itself(change: dict[str, Any]) -> None:
    desk = Desk(permitting(max_uses=100))
    await desk.spend()
    desk.pdp.answer = lambda _question: Verdict(False)
    assert (await refusal(desk, caller(**change))).code is Code.POLICY_DENIED


async def test_grant_03_another_tenants_sidecar_has_other_keys() -> None:
    acme, other = (
        Desk(permitting(max_uses=100), config(tenant={"id": name, "allowed_mounts": ["secret"]}))
        for name in ("acme", "other")
    )
    await acme.spend()
    stolen = next(acme.decider.standing.grants.grants())
    other.decider.standing.grants.add(stolen)  # as if tables were shared
    assert not (await other.spend()).grant.hit


# -- 04: the binding changed -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("thief", [caller(binding=OTHER_KEY), unbound(), caller(binding=OTHER_KEY, token_jti="own")])
async def test_grant_04_a_thief_neither_spends_nor_poisons_the_owners_grant(thief: Caller) -> None:
    desk = Desk(permitting(max_uses=3))
    await desk.spend()
    for _ in range(50):
        assert (await refusal(desk, thief)).code is Code.BINDING_CHANGED
    assert len(desk.pdp.asked) == 1
    assert [(await desk.spend()).grant.uses_left for _ in range(2)] == [1, 0]


async def test_grant_04_a_thief_who_waits_for_the_same_answer_does_not_get_it() -> None:
    desk = Desk(permitting(max_uses=3))
    desk.pdp.gate = asyncio.Event()
    owner = asyncio.create_task(desk.permit())
    await desk.pdp.wait_until_asked()
    thief = asyncio.create_task(desk.permit(caller(binding=OTHER_KEY)))
    await desk.pdp.wait_until_asked(2)
    desk.pdp.gate.set()
    results = await asyncio.gather(owner, thief, return_exceptions=True)
    assert isinstance(results[0], Permit)
    assert isinstance(results[1], Refused)
    assert results[1].code is Code.BINDING_CHANGED


@pytest.mark.parametrize(("before", "after"), [(-3600, 3600), (0, -1800), (3600, -3600)])
async def test_grant_04_a_clock_set_back_makes_no_older_token_newer(before: float, after: float) -> None:
    """A token from before the grant, under another key; the clock was wrong when the grant opened, or is now."""
    desk = Desk(permitting(ttl_seconds=60, max_uses=3))
    desk.clock.step_wall(before)
    await desk.spend(caller(expires_at=NOW + 10**6))
    desk.clock.step_wall(after)
    desk.clock.advance(5)
    thief = caller(binding=OTHER_KEY, token_jti="own", issued_at=NOW - 10, expires_at=NOW + 10**6)
    assert (await refusal(desk, thief)).code is Code.BINDING_CHANGED
    restarted = caller(binding=OTHER_KEY, token_jti="new", issued_at=NOW + 3610, expires_at=NOW + 10**6)
    assert not (await desk.spend(restarted)).grant.hit


# -- 05: cache exhaustion --------------------------------------------------------------------------------------------
async def test_grant_05_an_attackers_keys_evict_no_honest_grant_replay_or_denial() -> None:
    desk = Desk(permitting(max_uses=100), config(grants={"max_entries": 50}))
    await desk.spend()
    await desk.spend(unbound("once", token_jti="honest"), operation(uri=SecretUri("openbao", "kv2", "secret", ("x",))))
    desk.pdp.answer = lambda _question: Verdict(False)
    await refusal(desk, caller("denied"))
    desk.pdp.answer = lambda _question: Verdict(True, Obligations(max_uses=100))
    for index in range(1000):
        uri = SecretUri("openbao", "kv2", "secret", ("walk", str(index)))
        with contextlib.suppress(Refused):
            await desk.spend(unbound(f"attacker{index % 20}", token_jti=f"a{index}"), operation(uri=uri))
        await desk.spend(caller("attacker", binding=OTHER_KEY), operation(uri=uri))
    assert all(size <= 50 for size in desk.decider.standing.cache_sizes().values())
    assert (await desk.spend()).grant.hit
    asked = len(desk.pdp.asked)
    assert (await refusal(desk, caller("denied"))).code is Code.POLICY_DENIED
    assert len(desk.pdp.asked) == asked
    desk.decider.drop_subject(ISSUER, "once")
    once = unbound("once", token_jti="honest")
    known = operation(uri=SecretUri("openbao", "kv2", "secret", ("x",)))
    assert (await refusal(desk, once, known)).code is Code.TOKEN_REPLAYED


async def test_grant_05_one_subject_cannot_fill_the_table() -> None:
    desk = Desk(permitting(max_uses=100), config(grants={"max_entries": 100}))
    for index in range(300):
        uri = SecretUri("openbao", "kv2", "secret", ("walk", str(index)))
        await desk.spend(caller("greedy"), operation(uri=uri))
    await desk.spend()
    assert (await desk.spend()).grant.hit


async def test_grant_05_100_000_subjects_walk_the_table_and_one_honest_grant_survives() -> None:
    """At the real size. Their grants are put straight into the table: 100,000 questions to a PDP show no more."""
    desk = Desk(permitting(ttl_seconds=3600, max_uses=100))
    table, limit = desk.decider.standing.grants, desk.config.grants.max_entries
    assert limit == 100_000
    await desk.spend()
    now, wall, verdict = desk.clock.elapsed(), desk.clock.wall(), Verdict(True)
    what, kept = operation(), 0
    _, *rest = grant_key(what, caller(), "acme")
    terms: dict[str, Any] = {
        "max_uses": 1,
        "expires": now + 3600,
        "expires_at": wall + 3600,
        "opened": now,
        "opened_at": wall,
    }
    for index in range(limit):
        walker = Caller(f"walker{index}", ISSUER)
        key = (walker.subject, *rest)
        kept += table.add(Grant(table, key, what, walker, verdict, **terms))
    assert kept == limit - 1
    assert desk.decider.standing.cache_sizes()["grants"] == limit
    await desk.spend(caller("latecomer"))  # a full table refuses nobody: it keeps nothing of it
    asked = len(desk.pdp.asked)
    assert not (await desk.spend(caller("latecomer"))).grant.hit
    assert len(desk.pdp.asked) == asked + 1
    assert (await desk.spend()).grant.hit
    desk.clock.advance(3601)
    await desk.spend(caller("latecomer", expires_at=NOW + 10**6))
    assert (await desk.spend(caller("latecomer", expires_at=NOW + 10**6))).grant.hit


# -- 06: the negative cache ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "attacker",
    [
        caller(binding=OTHER_KEY),
        caller(binding=Binding()),
        caller(scopes=frozenset()),
        caller(issuer="https://evil.example"),
        caller(act={"sub": "robot"}),
    ],
)
async def test_grant_06_an_attackers_denial_is_not_an_honest_callers(attacker: Caller) -> None:
    desk = Desk(denying(), config(anti_replay={"unbound_token": "off"}))
    assert (await refusal(desk, attacker)).code is Code.POLICY_DENIED
    desk.pdp.answer = lambda _question: Verdict(True)
    await desk.spend()


async def test_grant_06_an_outage_is_not_cached_as_a_denial() -> None:
    desk = Desk(denying())

    def away(_question: Question) -> Verdict:
        raise PdpOutage("away")

    desk.pdp.answer = away
    assert (await refusal(desk)).code is Code.PDP_UNAVAILABLE
    desk.pdp.answer = lambda _question: Verdict(True)
    await desk.spend()


async def test_grant_06_those_denied_together_do_not_come_back_together() -> None:
    desk = Desk(denying(), config(grants={"negative_ttl_seconds": 10}))
    for index in range(200):
        await refusal(desk, caller(f"app{index}"))
    waiting, came_back = set(range(200)), []
    while waiting:
        desk.clock.advance(1)
        for index in sorted(waiting):
            asked = len(desk.pdp.asked)
            await refusal(desk, caller(f"app{index}"))
            if len(desk.pdp.asked) > asked:
                waiting.discard(index)
                came_back.append(desk.clock.elapsed() - 1000)
    per_second = Counter(came_back)
    assert set(per_second) <= {6, 7, 8, 9, 10}  # jitter shortens by up to half
    assert max(per_second.values()) < 100


# -- 07: single flight -----------------------------------------------------------------------------------------------
async def test_grant_07_one_callers_cancellation_does_not_kill_the_others_answer() -> None:
    desk = Desk(permitting(max_uses=100))
    desk.pdp.gate = asyncio.Event()
    first, *others = [asyncio.create_task(desk.permit()) for _ in range(20)]
    await desk.pdp.wait_until_asked()
    first.cancel()
    await asyncio.wait([first])
    desk.pdp.gate.set()
    assert all(isinstance(permit, Permit) for permit in await asyncio.gather(*others))
    assert len(desk.pdp.asked) == 1


async def test_grant_07_one_callers_used_up_token_does_not_refuse_the_others() -> None:
    """A token that opened a grant for `encrypt` leads the question for `decrypt`, and must not spoil its answer."""
    key = SecretUri("openbao", "transit", "transit", ("orders",))
    encrypt, decrypt = (operation(f"transit.{name}", Purpose.EXECUTE, key) for name in ("encrypt", "decrypt"))
    desk = Desk(permitting(max_uses=100))
    desk.pdp.gate = asyncio.Event()
    tasks = [
        asyncio.create_task(desk.permit(unbound(token_jti="used"), encrypt)),
        asyncio.create_task(desk.permit(unbound(token_jti="used"), decrypt)),
        asyncio.create_task(desk.permit(unbound(token_jti="fresh"), decrypt)),
    ]
    await desk.pdp.wait_until_asked(2)
    desk.pdp.gate.set()
    first, replayed, fresh = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, Permit)
    assert isinstance(replayed, Refused)
    assert replayed.code is Code.TOKEN_REPLAYED
    assert isinstance(fresh, Permit)


async def test_grant_07_no_callers_attributes_reach_anothers_decision() -> None:
    def by_subject(question: Question) -> Verdict:
        return Verdict(question.subject["id"] == "app", decision_id=str(question.subject["id"]))

    desk = Desk(ScriptedPdp(by_subject))
    names = ["app", "mallory"] * 50
    results = await asyncio.gather(*(desk.permit(caller(name)) for name in names), return_exceptions=True)
    for name, result in zip(names, results, strict=True):
        assert isinstance(result, Permit) is (name == "app")
        if isinstance(result, Permit):
            assert result.verdict.decision_id == "app"
            assert result.caller.subject == "app"


# -- 08: the token's jti ---------------------------------------------------------------------------------------------
async def test_grant_08_a_replayed_token_opens_no_second_grant_in_the_window() -> None:
    desk = Desk(permitting(ttl_seconds=60, max_uses=2), config(anti_replay={"window_seconds": 300}))
    await desk.spend(unbound())
    await desk.spend(unbound())
    assert (await refusal(desk, unbound())).code is Code.TOKEN_REPLAYED
    desk.clock.advance(299)
    assert (await refusal(desk, unbound())).code is Code.TOKEN_REPLAYED
    assert len(desk.pdp.asked) == 1


async def test_grant_08_a_bound_token_that_may_open_one_grant_opens_one() -> None:
    desk = Desk(permitting(max_uses=1), config(anti_replay={"bound_token": "per_grant"}))
    await desk.spend()
    assert (await refusal(desk)).code is Code.TOKEN_REPLAYED
    assert (await refusal(desk, caller(binding=OTHER_KEY))).code is Code.TOKEN_REPLAYED  # nor under another key
    await desk.spend(caller(token_jti="jti-2"))


async def test_grant_08_after_a_restart_counts_begin_anew_and_the_pdp_is_asked() -> None:
    """The limit that the contract states: what a process remembers in memory ends with it, its grants too."""
    desk = Desk(permitting(max_uses=1))
    await desk.spend(unbound())
    restarted = Desk(permitting(max_uses=1), clock=desk.clock)
    assert not (await restarted.spend(unbound())).grant.hit
    assert len(restarted.pdp.asked) == 1
    assert (await refusal(restarted, unbound())).code is Code.TOKEN_REPLAYED


async def test_grant_08_a_token_whose_grant_expired_unspent_is_replayed_too() -> None:
    desk = Desk(permitting(ttl_seconds=60, max_uses=2))
    await desk.spend(unbound())
    desk.clock.advance(60)
    assert (await refusal(desk, unbound())).code is Code.TOKEN_REPLAYED


async def test_grant_08_across_purposes_and_secrets_a_token_opens_one_grant_of_each() -> None:
    desk = Desk(permitting(max_uses=1))
    write, other = operation("kv2.write", Purpose.WRITE), operation(uri=dataclasses.replace(DB, path=("x",)))
    for what in (operation(), write, other):
        await desk.spend(unbound(), what)
    for what in (operation(), write, other):
        assert (await refusal(desk, unbound(), what)).code is Code.TOKEN_REPLAYED


async def test_grant_08_another_operation_of_the_same_purpose_is_no_way_around_it() -> None:
    desk = Desk(permitting(max_uses=1))
    key = SecretUri("openbao", "transit", "transit", ("orders",))
    await desk.spend(unbound(), operation("transit.encrypt", Purpose.EXECUTE, key))
    replayed = await refusal(desk, unbound(), operation("transit.decrypt", Purpose.EXECUTE, key))
    assert replayed.code is Code.TOKEN_REPLAYED


async def test_grant_08_a_wall_clock_set_by_hand_does_not_reopen_the_window() -> None:
    desk = Desk(permitting(max_uses=1))
    await desk.spend(unbound())
    desk.clock.step_wall(+1800)
    assert (await refusal(desk, unbound())).code is Code.TOKEN_REPLAYED
    desk.clock.step_wall(-3600)
    assert (await refusal(desk, unbound())).code is Code.TOKEN_REPLAYED
