"""DPOP 02 and 03, GRANT 08 over replicas: several sidecars behind one address, one real Valkey between them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.caller.identity import Caller
from sidecar.config import AntiReplay
from sidecar.decision.decide import Decider
from sidecar.decision.permit import Permit
from sidecar.door.head import Head
from sidecar.errors import Code, Refused
from sidecar.shared_replays.store import SharedReplays
from tests.decision.making import ScriptedPdp, config, denying, operation, permitting, unbound
from tests.real.replay_server import ReplayServer
from tests.support.certificates import Authority
from tests.support.clock import RunningClock
from tests.support.desk import Desk, open_desk, refusal
from tests.support.proofs import ProofKey
from tests.support.tokens import Issuer

pytestmark = pytest.mark.real

SECONDS = 20.0


class Replicas:
    """Sidecars that share a store, an issuer and an application with its key."""

    def __init__(self, folder: Path, store: str, **replay: Any) -> None:
        self._folder = folder
        self._issuer = Issuer()
        self._key = ProofKey()
        self._replay = {"store": store, "store_timeout_ms": 10_000} | replay
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Replicas:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._stack.aclose()

    async def another(self, **sections: Any) -> Desk:
        """One more."""
        desk = await self._stack.enter_async_context(self.replica(**sections))
        self._issuer.now = RunningClock().wall
        return desk

    @contextlib.asynccontextmanager
    async def replica(self, **sections: Any) -> AsyncIterator[Desk]:
        """One that ends with the context."""
        replay = self._replay | sections.pop("anti_replay", {})
        async with open_desk(
            self._folder, issuer=self._issuer, clock=RunningClock(), anti_replay=replay, **sections
        ) as desk:
            desk.key = self._key
            yield desk


@pytest.fixture
async def replicas(tmp_path: Path, replay_server: ReplayServer) -> AsyncIterator[Replicas]:
    async with Replicas(tmp_path, replay_server.url) as replicas:
        yield replicas


async def eventually(what: Callable[[], bool]) -> None:
    """Waits until it is so."""
    async with asyncio.timeout(SECONDS):
        while not what():
            await asyncio.sleep(0.02)


async def outcome(desk: Desk, head: Head) -> str:
    try:
        await desk.ask(head)
    except Refused as refused:
        return refused.code
    return "taken"


def problem(desk: Desk) -> str:
    assert desk.shared is not None
    return desk.shared.problem


# -- DPOP 02, DPOP 03: one proof, one nonce --------------------------------------------------------------------------
async def test_dpop_02_a_proof_used_at_one_replica_is_refused_at_the_other(replicas: Replicas) -> None:
    one, other = await replicas.another(), await replicas.another()
    head = one.good_head()
    assert await outcome(one, head) == "taken"
    assert await outcome(other, head) == Code.PROOF_REPLAYED
    assert await outcome(one, head) == Code.PROOF_REPLAYED
    assert await outcome(other, other.good_head()) == "taken"


async def test_dpop_03_a_nonce_of_one_replica_is_taken_at_the_other_and_without_a_store_it_is_not(
    replicas: Replicas, tmp_path: Path
) -> None:
    one, other = await replicas.another(), await replicas.another()
    assert one.nonce
    assert one.nonce == other.nonce
    assert await outcome(other, one.good_head()) == "taken"
    alone = await replicas.another(anti_replay={"store": "memory"})
    assert await outcome(alone, one.good_head()) == Code.PROOF_NONCE_REQUIRED


async def test_dpop_02_of_two_hundred_uses_at_once_over_two_replicas_exactly_one_is_taken(replicas: Replicas) -> None:
    one, other = await replicas.another(), await replicas.another()
    head = one.good_head()
    seen = Counter(await asyncio.gather(*(outcome((one, other)[turn % 2], head) for turn in range(200))))
    assert seen == {"taken": 1, Code.PROOF_REPLAYED: 199}


async def test_dpop_02_a_replica_that_begins_anew_knows_what_was_used(replicas: Replicas) -> None:
    async with replicas.replica() as one:
        head = one.good_head()
        assert await outcome(one, head) == "taken"
    anew = await replicas.another()
    assert await outcome(anew, head) == Code.PROOF_REPLAYED
    assert await outcome(anew, anew.good_head()) == "taken"


async def test_dpop_02_a_store_that_was_emptied_takes_every_nonce_with_it(
    replicas: Replicas, replay_server: ReplayServer
) -> None:
    one, other = await replicas.another(), await replicas.another()
    head, unused, nonce = one.good_head(), one.good_head(), one.nonce
    assert await outcome(one, head) == "taken"
    replay_server.client().flushall()
    assert await outcome(other, head) == Code.PROOF_NONCE_REQUIRED
    assert await outcome(other, unused) == Code.PROOF_NONCE_REQUIRED
    assert other.nonce not in (nonce, None)
    assert await outcome(other, other.good_head()) == "taken"
    assert await outcome(one, other.good_head()) in ("taken", Code.PROOF_NONCE_REQUIRED)  # it may not know yet
    await eventually(lambda: one.nonce == other.nonce)
    assert await outcome(one, other.good_head()) == "taken"


async def test_dpop_02_without_a_nonce_an_emptied_store_refuses_proofs_from_before(
    replicas: Replicas, replay_server: ReplayServer
) -> None:
    sections = {"anti_replay": {"dpop_nonce": "off"}, "identity": {"clock_skew_seconds": 0}}
    async with replicas.replica(**sections) as one:
        await asyncio.sleep(1.1)  # a proof's date is in whole seconds, and must be after the store's beginning
        head = one.good_head()
        assert await outcome(one, head) == "taken"
    replay_server.client().flushall()
    anew = await replicas.another(**sections)
    assert await outcome(anew, head) == Code.PROOF_INVALID


async def test_dpop_02_a_store_that_comes_back_with_an_old_snapshot_takes_every_nonce_with_it(
    replicas: Replicas, replay_server: ReplayServer
) -> None:
    one, other = await replicas.another(), await replicas.another()
    before, nonce = one.good_head(), one.nonce
    assert await outcome(one, before) == "taken"
    replay_server.client().save()
    after = one.good_head()
    assert await outcome(one, after) == "taken"
    replay_server.kill()
    replay_server.start()
    assert replay_server.client().dbsize() >= 2, "the snapshot was read"
    await eventually(lambda: not problem(other) and other.nonce not in (nonce, None))
    for head in (before, after):
        assert await outcome(other, head) in (Code.PROOF_NONCE_REQUIRED, Code.PROOF_REPLAYED)
    assert await outcome(other, other.good_head()) == "taken"


@pytest.mark.parametrize("step", [-3600, -301, 301, 3600])
async def test_dpop_02_a_replica_whose_clock_was_set_takes_no_used_proof(replicas: Replicas, step: int) -> None:
    one, other = await replicas.another(), await replicas.another()
    head = one.good_head()
    assert await outcome(one, head) == "taken"
    other.clock.step_wall(step)
    refusals = (Code.PROOF_INVALID, Code.PROOF_REPLAYED, Code.TOKEN_INVALID, Code.TOKEN_EXPIRED)
    assert await outcome(other, head) in refusals
    other.clock.step_wall(-step)
    assert await outcome(other, head) == Code.PROOF_REPLAYED


@pytest.mark.parametrize("step", [-400, 400])
async def test_dpop_02_a_step_of_the_stores_own_clock_takes_every_nonce_with_it(replicas: Replicas, step: int) -> None:
    """Seen from a sidecar: its elapsed time and the store's clock went different ways."""
    one, other = await replicas.another(), await replicas.another()
    head, nonce = one.good_head(), one.nonce
    assert await outcome(one, head) == "taken"
    other.clock._elapsed -= step
    unused = one.good_head()
    assert await outcome(other, unused) == Code.PROOF_NONCE_REQUIRED
    assert other.nonce not in (nonce, None)
    assert await outcome(other, head) == Code.PROOF_NONCE_REQUIRED
    assert await outcome(other, other.good_head()) == "taken"
    await eventually(lambda: one.nonce == other.nonce)


async def test_dpop_02_a_request_cancelled_while_the_store_is_asked_has_used_its_proof(
    replicas: Replicas, replay_server: ReplayServer
) -> None:
    one, other = await replicas.another(), await replicas.another()
    head = one.good_head()
    replay_server.signal(signal.SIGSTOP)
    try:
        asking = asyncio.create_task(one.ask(head))
        await asyncio.sleep(0.05)  # it is under way; nothing tells of it
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    finally:
        replay_server.signal(signal.SIGCONT)
    await eventually(lambda: not problem(one) and not problem(other))
    assert await outcome(one, head) == Code.PROOF_REPLAYED
    seen = [await outcome(other, head) for _ in range(3)]
    assert seen[1:] == [Code.PROOF_REPLAYED] * 2  # taken once at most, and by nobody else before


# -- a store that is away, or is none --------------------------------------------------------------------------------
async def refused_for_want_of_a_store(desk: Desk) -> str:
    refused = await desk.refused(desk.good_head())
    assert refused.code is Code.UPSTREAM_UNAVAILABLE
    assert refused.status == 503
    assert refused.headers["Retry-After"]
    assert "replay store" in refused.message
    return refused.detail


async def test_dpop_02_a_store_that_is_stopped_refuses_in_time_and_comes_back(
    replicas: Replicas, replay_server: ReplayServer
) -> None:
    desk = await replicas.another(anti_replay={"store_timeout_ms": 300})
    assert await outcome(desk, desk.good_head()) == "taken"
    replay_server.signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(SECONDS):
            await refused_for_want_of_a_store(desk)
            await eventually(lambda: problem(desk) != "")
            await refused_for_want_of_a_store(desk)
    finally:
        replay_server.signal(signal.SIGCONT)
    await eventually(lambda: not problem(desk))
    assert await outcome(desk, desk.good_head()) == "taken"


async def test_dpop_02_a_store_that_was_killed_refuses_and_comes_back(
    replicas: Replicas, replay_server: ReplayServer
) -> None:
    desk = await replicas.another()
    replay_server.kill()
    await refused_for_want_of_a_store(desk)
    late = await replicas.another()  # one that begins meanwhile
    assert late.nonce is None
    refused = await late.refused(late.head(late.token(), late.proof(late.token(), nonce="none")))
    assert refused.code is Code.UPSTREAM_UNAVAILABLE
    replay_server.start()
    for one in (desk, late):
        await eventually(lambda one=one: not problem(one))  # type: ignore[misc]
        assert await outcome(one, one.good_head()) == "taken"


async def test_dpop_02_a_full_store_refuses_and_forgets_nothing(
    replicas: Replicas, replay_server: ReplayServer
) -> None:
    one, other = await replicas.another(), await replicas.another()
    head = one.good_head()
    assert await outcome(one, head) == "taken"
    replay_server.client().config_set("maxmemory", 1)
    assert await refused_for_want_of_a_store(other) == "the replay store: it is full"
    await eventually(lambda: problem(other) == "it is full")
    replay_server.client().config_set("maxmemory", 0)
    await eventually(lambda: not problem(other))
    assert await outcome(other, head) == Code.PROOF_REPLAYED
    assert await outcome(other, other.good_head()) == "taken"


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda client: client.config_set("maxmemory-policy", "allkeys-lru"), "noeviction"),
        (lambda client: client.config_set("maxmemory-policy", "volatile-ttl"), "noeviction"),
        (lambda client: client.replicaof("127.0.0.1", 1), "replica"),
    ],
    ids=["evicts anything", "evicts what ends", "a replica"],
)
async def test_dpop_02_a_store_that_may_forget_is_none(
    replicas: Replicas, replay_server: ReplayServer, spoil: Callable[[Any], None], why: str
) -> None:
    before = await replicas.another()
    spoil(replay_server.client())
    fresh = await replicas.another()
    assert why in await refused_for_want_of_a_store(fresh)
    await eventually(lambda: why in problem(before))
    await refused_for_want_of_a_store(before)


async def test_dpop_02_somebody_elses_value_under_our_names_is_no_answer(
    replicas: Replicas, replay_server: ReplayServer
) -> None:
    desk = await replicas.another()
    client = replay_server.client()
    (name,) = client.keys("openbao-sidecar:acme:nonces:*")
    client.set(name, "v1:0:none")
    await refused_for_want_of_a_store(desk)
    client.delete(name)
    client.lpush(name, "a list")
    await eventually(lambda: "WRONGTYPE" in problem(desk))
    await refused_for_want_of_a_store(desk)
    client.delete(name)
    await eventually(lambda: not problem(desk))
    assert await outcome(desk, desk.good_head()) == "taken"


async def test_dpop_02_nothing_in_the_store_tells_of_tokens_proofs_or_callers(
    replicas: Replicas, replay_server: ReplayServer
) -> None:
    desk = await replicas.another(anti_replay={"bound_token": "single_use"})
    token = desk.token(jti="jti-canary", sub="subject-canary")
    await desk.ask(desk.head(token, desk.proof(token, jti="proof-canary")))
    client = replay_server.client()
    names = client.keys("*")
    stored = b"\n".join([*names, *(client.get(name) for name in names)])
    assert stored.count(b"openbao-sidecar:acme:") == len(names) >= 3
    for canary in ("canary", token, token.split(".")[1], desk.key.jkt, desk.issuer.claims()["iss"]):
        assert canary.encode() not in stored
    assert all(client.pttl(name) > 0 for name in names), "nothing stays for ever"


# -- TOKEN, GRANT 08: one token ---------------------------------------------------------------------------------------
async def test_grant_08_a_token_of_single_use_is_used_once_over_all_replicas(replicas: Replicas) -> None:
    sections = {"anti_replay": {"bound_token": "single_use"}}
    one, other = await replicas.another(**sections), await replicas.another(**sections)
    token = one.token()
    heads = [one.head(token, one.proof(token)) for _ in range(40)]
    seen = Counter(await asyncio.gather(*(outcome((one, other)[turn % 2], head) for turn, head in enumerate(heads))))
    assert seen == {"taken": 1, Code.TOKEN_REPLAYED: 39}


class Deciders:
    """The deciders of two replicas, each asking a PDP of its own."""

    def __init__(self, server: ReplayServer, pdps: list[ScriptedPdp]) -> None:
        self.clock = RunningClock()
        replay = {"store": server.url, "store_timeout_ms": 10_000}
        self.config = config(anti_replay=replay)
        self.shared = [SharedReplays(self.config.anti_replay, "acme", self.clock) for _ in pdps]
        self.all = [
            Decider(self.config, pdp, self.clock, shared=shared) for pdp, shared in zip(pdps, self.shared, strict=True)
        ]

    async def __aenter__(self) -> Deciders:
        for shared in self.shared:
            await shared.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        for decider in self.all:
            await decider.close()
        for shared in self.shared:
            await shared.stop()

    def app(self, **fields: Any) -> Caller:
        return unbound(expires_at=int(self.clock.wall()) + 3600, **fields)

    async def permit(self, number: int, caller: Caller) -> Permit:
        return await self.all[number].permit(operation(), caller, correlation_id="c-1234567")

    async def outcome(self, number: int, caller: Caller) -> str:
        try:
            await self.permit(number, caller)
        except Refused as refused:
            return refused.code
        return "taken"


async def test_grant_08_a_token_opens_one_grant_over_all_replicas(replay_server: ReplayServer) -> None:
    async with Deciders(replay_server, [permitting(max_uses=3), permitting(max_uses=3)]) as deciders:
        app = deciders.app()
        seen = await asyncio.gather(*(deciders.outcome(number % 2, app) for number in range(20)))
        assert Counter(seen) == {"taken": 3, Code.TOKEN_REPLAYED: 17}
        assert {Counter(seen[0::2])["taken"], Counter(seen[1::2])["taken"]} == {0, 3}, "one replica has them all"
        assert await deciders.outcome(0, deciders.app(token_jti="jti-2")) == "taken"
        assert await deciders.outcome(1, deciders.app(token_jti="jti-2")) == Code.TOKEN_REPLAYED


async def test_grant_08_what_the_pdp_denies_uses_no_token_up(replay_server: ReplayServer) -> None:
    async with Deciders(replay_server, [denying(), permitting()]) as deciders:
        app = deciders.app()
        assert await deciders.outcome(0, app) == Code.POLICY_DENIED
        assert await deciders.outcome(1, app) == "taken"


async def test_grant_08_a_grant_taken_back_gives_the_token_back_to_all_replicas(replay_server: ReplayServer) -> None:
    async with Deciders(replay_server, [permitting(max_uses=3), permitting()]) as deciders:
        app = deciders.app()
        (await deciders.permit(0, app)).reservation.commit()
        assert await deciders.outcome(1, app) == Code.TOKEN_REPLAYED
        deciders.all[0].drop_all()
        async with asyncio.timeout(SECONDS):
            while await deciders.outcome(1, app) != "taken":
                await asyncio.sleep(0.02)
        assert await deciders.outcome(0, app) == Code.TOKEN_REPLAYED


async def test_grant_08_who_goes_away_while_the_store_is_asked_leaves_no_grant_and_no_hanging_waiter(
    replay_server: ReplayServer,
) -> None:
    async with Deciders(replay_server, [permitting(), permitting()]) as deciders:
        app, second = deciders.app(), deciders.app(token_jti="jti-2")
        replay_server.signal(signal.SIGSTOP)
        try:
            gone = asyncio.create_task(deciders.permit(0, app))
            stays = asyncio.create_task(deciders.permit(0, second))
            await asyncio.sleep(0.05)  # both wait for the store
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
        finally:
            replay_server.signal(signal.SIGCONT)
        async with asyncio.timeout(SECONDS):
            (await stays).reservation.commit()
            # The mark of the one who went is given back.
            while await deciders.outcome(1, app) != "taken":
                await asyncio.sleep(0.02)


async def test_grant_08_without_its_store_no_grant_is_opened_and_live_ones_go_on(replay_server: ReplayServer) -> None:
    async with Deciders(replay_server, [permitting(max_uses=5)]) as deciders:
        app, other = deciders.app(), deciders.app(subject="other", token_jti="jti-2")
        assert await deciders.outcome(0, app) == "taken"
        replay_server.kill()
        try:
            refused = await refusal(deciders.permit(0, other))
            assert refused.code is Code.UPSTREAM_UNAVAILABLE
            assert await deciders.outcome(0, app) == "taken"
        finally:
            replay_server.start()


# -- the way to it ----------------------------------------------------------------------------------------------------
async def test_dpop_02_the_way_to_the_store_is_tls_with_its_certificate_and_a_password(tmp_path: Path) -> None:
    """By redis-server, since the packaged Valkey has no TLS."""
    server = ReplayServer(tmp_path, Authority(), password="store-password-canary")
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("store-password-canary\n")
    wrong.write_text("something else\n")
    foreign = Authority().write(tmp_path, "foreign")
    server.start()
    try:
        for password, ca, fits in (
            (right, server.ca_file, True),
            (wrong, server.ca_file, False),
            (None, server.ca_file, False),
            (right, foreign, False),
            (right, None, False),
        ):
            replay = AntiReplay(
                store=server.url, store_password_file=password, store_ca_file=ca, store_timeout_ms=10_000
            )
            shared = SharedReplays(replay, "acme", RunningClock())
            await shared.start()
            assert (shared.problem == "") is fits, shared.problem
            assert "canary" not in shared.problem
            if fits:
                assert await shared.claim("proof", "a", 60) is not None
                assert await shared.claim("proof", "a", 60) is None
            await shared.stop()
        named = server.url.replace("//", "//default@")
        shared = SharedReplays(
            AntiReplay(store=named, store_password_file=right, store_ca_file=server.ca_file, store_timeout_ms=10_000),
            "acme",
            RunningClock(),
        )
        await shared.start()
        assert shared.problem == ""
        assert await shared.claim("proof", "a", 60) is None
        await shared.stop()
    finally:
        server.kill()
