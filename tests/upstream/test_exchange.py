"""A login for each caller against the real OpenBao: got once, kept apart, dropped with the JWT, found again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidecar.caller.identity import Caller
from sidecar.config import Upstream
from sidecar.decision.permit import Permit
from sidecar.errors import Code, Refused
from sidecar.surface.secret_uri import SecretUri
from sidecar.upstream import exchange
from sidecar.upstream.client import UpstreamClient, UpstreamFailure
from tests.real.openbao import OpenBao
from tests.support.clock import FakeClock
from tests.support.tokens import Issuer
from tests.support.waiting import until
from tests.upstream.exchanging import MOUNT, asks, caller, exchanging, take_callers
from tests.upstream.raw_server import Exchange, RawServer, answer
from tests.upstream.test_login import paths

pytestmark = pytest.mark.real
LOGIN = f"auth/{MOUNT}/login"


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[OpenBao]:
    with OpenBao(tmp_path_factory.mktemp("openbao")) as started:
        started.put("app/db", {"password": "canary"})
        take_callers(started, issuer, token_ttl="1h")
        yield started


async def status(client: UpstreamClient, asked: Permit) -> int | str:
    """The status of an answer, or the code of a refusal."""
    try:
        received = await client.forward(asked)
        await received.read(10_000)
    except Refused as refused:
        return str(refused.code)
    return received.status


def leasing(who: Caller) -> Permit:
    """A permit whose engine makes leases."""
    asked = asks(who)
    return replace(
        asked, operation=replace(asked.operation, uri=SecretUri("openbao", "database", "db", ("creds", "x")))
    )


async def test_many_requests_with_one_jwt_are_one_login(server: OpenBao, issuer: Issuer) -> None:
    mark, who = server.mark(), caller(issuer)
    async with exchanging(server) as (login, client):
        assert set(await asyncio.gather(*(status(client, asks(who)) for _ in range(50)))) == {200}
        assert len(login) == 1
    assert paths(server, mark).count(LOGIN) == 1


async def test_another_jwt_of_the_same_subject_is_another_login(server: OpenBao, issuer: Issuer) -> None:
    async with exchanging(server) as (login, _):
        first, second = caller(issuer), caller(issuer)
        shown = [await login.token_for(asks(who)) for who in (first, second, first)]
        assert shown[0].credential.reveal() == shown[2].credential.reveal() != shown[1].credential.reveal()


@pytest.mark.parametrize("claims", [{"aud": "elsewhere"}, {"iss": "x", "exp": 5_000_000_000, "nbf": 4_000_000_000}])
async def test_whom_openbao_does_not_let_in_is_denied_and_not_tried_again_at_once(
    claims: dict[str, Any], server: OpenBao, issuer: Issuer
) -> None:
    mark, clock = server.mark(), FakeClock(time.time())
    who = caller(issuer, **claims)
    async with exchanging(server, clock) as (login, client):
        for _ in range(3):
            assert await status(client, asks(who)) == "POLICY_DENIED"
        assert paths(server, mark).count(LOGIN) == 1
        clock.advance(exchange.REFUSED_SECONDS)
        assert await status(client, asks(who)) == "POLICY_DENIED"
        assert paths(server, mark).count(LOGIN) == 2
        assert login.problem == ""
        assert await status(client, asks(caller(issuer))) == 200


async def test_a_role_that_is_not_there_is_told_to_the_operator_and_not_to_the_caller(
    server: OpenBao, issuer: Issuer
) -> None:
    auth = {"mode": "exchange", "role": "nobody", "mount": MOUNT}
    async with exchanging(server, auth=auth) as (login, _):
        with pytest.raises(Refused) as refused:
            await login.token_for(asks(caller(issuer)))
        assert "nobody" in refused.value.detail
        assert "nobody" not in refused.value.message


async def test_without_a_jwt_there_is_nothing_to_log_in_with(server: OpenBao) -> None:
    async with exchanging(server) as (_, client):
        assert await status(client, asks(Caller("anonymous", ""))) == "TOKEN_MISSING"


async def test_the_login_ends_with_the_jwt_and_is_revoked_once_nothing_uses_it(server: OpenBao, issuer: Issuer) -> None:
    clock = FakeClock(time.time())
    who = caller(issuer, exp=int(clock.wall()) + 60)
    async with exchanging(server, clock, timeout_seconds=5) as (login, _):
        token = (await login.token_for(asks(who))).credential.reveal()
        clock.advance(61)
        with pytest.raises(Refused) as refused:
            await login.token_for(asks(who))
        assert refused.value.code is Code.TOKEN_EXPIRED
        await until(lambda: len(login) == 0, "it was dropped")
        assert server.root().auth.token.lookup(token)["data"]["id"] == token  # a request may be under way with it
        mark = server.mark()
        clock.advance(20)
        await until(lambda: "auth/token/revoke-self" in paths(server, mark), "it was revoked")


async def test_what_may_have_a_lease_is_never_revoked_and_is_renewed_while_the_jwt_lives(
    server: OpenBao, issuer: Issuer
) -> None:
    clock = FakeClock(time.time())
    who = caller(issuer, exp=int(clock.wall()) + 3000)
    mark = server.mark()
    async with exchanging(server, clock, timeout_seconds=5) as (login, _):
        await login.token_for(leasing(who))
        await login.token_for(asks(caller(issuer, exp=int(clock.wall()) + 3000)))
        clock.advance(2500)
        await until(lambda: "auth/token/renew-self" in paths(server, mark), "it was renewed")
        clock.advance(600)
        await until(lambda: len(login) == 0, "both were dropped")
        clock.advance(60)
        await until(lambda: "auth/token/revoke-self" in paths(server, mark), "the one without a lease was revoked")
        await asyncio.sleep(0)
        asked = paths(server, mark)
        assert (asked.count("auth/token/renew-self"), asked.count("auth/token/revoke-self")) == (1, 1)


async def test_a_token_that_openbao_revoked_is_replaced_and_a_denial_is_the_callers(
    server: OpenBao, issuer: Issuer
) -> None:
    clock = FakeClock(time.time())
    who = caller(issuer)
    async with exchanging(server, clock) as (login, client):
        assert await status(client, asks(who, "forbidden")) == 403
        clock.advance(exchange.TRUST_SECONDS)
        assert await status(client, asks(who, "forbidden")) == 403  # looked up, and still good
        server.root().auth.token.revoke((await login.token_for(asks(who))).credential.reveal())
        clock.advance(exchange.TRUST_SECONDS)
        assert await status(client, asks(who)) == "UPSTREAM_UNAVAILABLE"
        assert await status(client, asks(who)) == 200


async def test_where_openbao_is_away_callers_are_told_to_come_back_and_then_are_served(
    tmp_path: Path, issuer: Issuer
) -> None:
    with OpenBao(tmp_path) as away:
        async with exchanging(away, timeout_seconds=2) as (login, client):
            who = caller(issuer)
            away.stop()
            with pytest.raises(UpstreamFailure) as failed:
                await client.forward(asks(who, method="POST", body=b'{"data":{}}'))
            assert (failed.value.code, failed.value.sent) == (Code.UPSTREAM_UNAVAILABLE, False)
            assert failed.value.headers["Retry-After"]
            assert login.problem
            away.start()
            take_callers(away, issuer)
            away.put("app/db", {"password": "canary"})
            assert await status(client, asks(who)) == 200
            assert login.problem == ""


async def test_a_full_table_drops_the_login_used_longest_ago_but_none_that_may_have_a_lease(
    server: OpenBao, issuer: Issuer
) -> None:
    async with exchanging(server, max_sessions=2) as (login, _):
        leaser, reader = caller(issuer, "leaser"), caller(issuer, "reader")
        kept = (await login.token_for(leasing(leaser))).credential
        await login.token_for(asks(reader))
        await login.token_for(asks(caller(issuer, "third")))
        assert len(login) == 2
        assert (await login.token_for(asks(leaser))).credential is kept
        await login.token_for(leasing(caller(issuer, "fourth")))
        with pytest.raises(Refused) as refused:
            await login.token_for(asks(reader))
        assert refused.value.code is Code.OVERLOADED


async def test_one_callers_cancellation_does_not_end_the_login_of_the_others(issuer: Issuer) -> None:
    go_on = asyncio.Event()

    async def script(exchanged: Exchange) -> None:
        await go_on.wait()
        if exchanged.target.endswith(b"/login"):
            await exchanged.send(answer(b'{"auth":{"client_token":"s.TheTokenOfThatCaller000"}}'))
        else:
            await exchanged.send(answer(b'{"data":{"ttl":60,"renewable":true,"expire_time":"2030","accessor":"a"}}'))

    async with RawServer(script) as raw, exchanging(raw.address) as (login, _):
        who = caller(issuer)
        leaving, staying = (asyncio.create_task(login.token_for(asks(who))) for _ in range(2))
        await until(lambda: len(raw.exchanges) == 1, "the login is under way")
        leaving.cancel()
        go_on.set()
        assert (await staying).credential.reveal() == "s.TheTokenOfThatCaller000"
        assert len(raw.exchanges) == 2


async def test_neither_repr_nor_state_shows_a_token(server: OpenBao, issuer: Issuer) -> None:
    async with exchanging(server) as (login, _):
        shown = await login.token_for(asks(caller(issuer)))
        assert shown.credential.reveal() not in f"{login.__dict__!r}{shown!r}{login._sessions!r}"


def test_the_default_mount_is_that_of_the_method() -> None:
    def mount(**auth: Any) -> str:
        configured = {"address": "http://127.0.0.1:1", "auth": {"mode": "exchange"} | auth}
        return exchange.ExchangeLogin(Upstream.model_validate(configured))._mount

    assert (mount(), mount(method="kubernetes"), mount(mount="team/jwt")) == ("jwt", "kubernetes", "team/jwt")
