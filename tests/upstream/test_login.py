"""The sidecar's own login against the real OpenBao: got, renewed, replaced, lost and found again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from sidecar.config import Upstream
from sidecar.errors import Code
from sidecar.ops.logs import mask
from sidecar.upstream import login as login_module
from sidecar.upstream.client import UpstreamClient, UpstreamFailure
from sidecar.upstream.login import BrokerLogin
from tests.real.openbao import SEEDS, OpenBao
from tests.support.clock import FakeClock
from tests.support.waiting import until
from tests.upstream.raw_server import Exchange, RawServer, answer, permit

pytestmark = pytest.mark.real

RULES = """
path "secret/data/app/*"      { capabilities = ["read"] }
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self"  { capabilities = ["update"] }
"""
READ = permit("/v1/secret/data/app/db")
FORBIDDEN = permit("/v1/secret/data/other/x")

Start = Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def _policy(openbao: OpenBao) -> None:
    openbao.policy("sidecar", RULES)


def approle(server: OpenBao, folder: Path, name: str, **options: Any) -> dict[str, Any]:
    """A role on the server, and how the sidecar is told of it."""
    role_id, secret_id = server.approle(name, "sidecar", **options)
    file = folder / f"{name}-secret-id"
    file.write_text(secret_id + "\n")
    return {"method": "approle", "role_id": role_id, "secret_id_file": file}


def paths(server: OpenBao, mark: int) -> list[str]:
    """What the server was asked since a mark."""
    return [request["path"] for request in server.requests(since=mark)]


@contextlib.asynccontextmanager
async def forwarding(address: str, login: BrokerLogin) -> AsyncIterator[UpstreamClient]:
    """A client that goes by this login."""
    client = UpstreamClient(Upstream(address=address, timeout_seconds=2), login)
    try:
        yield client
    finally:
        await client.close()


async def read_status(client: UpstreamClient) -> int | str:
    """The status of a read, or the failure's code."""
    try:
        received = await client.forward(READ)
        await received.read(10_000)
    except UpstreamFailure as failure:
        return str(failure.code)
    return received.status


async def recovered(client: UpstreamClient) -> None:
    """Waits until a read succeeds."""
    async with asyncio.timeout(20):
        while await read_status(client) != 200:
            await asyncio.sleep(0.02)


# -- got -----------------------------------------------------------------------------------------------------------
async def test_a_token_of_the_configuration_is_used(openbao: OpenBao, log_in: Start) -> None:
    token = openbao.token("sidecar", period="1h")
    login = await log_in(openbao.address, {"method": "token", "token": token})
    assert (login.ready, login.problem, login.token().reveal()) == (True, "", token)
    async with forwarding(openbao.address, login) as client:
        body = await (await client.forward(READ)).read(10_000)
    assert SEEDS["app/db"]["password"].encode() in body


async def test_a_token_that_never_ends_is_not_renewed(openbao: OpenBao, log_in: Start) -> None:
    login = await log_in(openbao.address, {"method": "token", "token": openbao.root_token})
    assert login.ready
    assert login._renew_at == float("inf")


async def test_an_approle_logs_in(openbao: OpenBao, log_in: Start, tmp_path: Path) -> None:
    login = await log_in(openbao.address, approle(openbao, tmp_path, "plain", token_period="1h"))
    async with forwarding(openbao.address, login) as client:
        assert await read_status(client) == 200


async def test_an_approle_logs_in_at_another_mount(openbao: OpenBao, log_in: Start, tmp_path: Path) -> None:
    auth = approle(openbao, tmp_path, "elsewhere", mount="team/approle", token_period="1h")
    login = await log_in(openbao.address, auth | {"mount": "team/approle"})
    assert login.ready


async def test_a_wrong_secret_id_is_said_and_tried_again_ever_slower(
    openbao: OpenBao, log_in: Start, tmp_path: Path
) -> None:
    auth = approle(openbao, tmp_path, "wrong")
    auth["secret_id_file"].write_text("guessed")
    login = await log_in(openbao.address, auth)
    assert not login.ready
    assert "invalid role or secret ID" in login.problem
    with pytest.raises(UpstreamFailure) as failed:
        login.token()
    assert (failed.value.code, failed.value.sent) == (Code.UPSTREAM_UNAVAILABLE, False)
    await until(lambda: login._failures >= 3, "it tried again")
    assert login._login_at - login._clock.elapsed() > 0.25


async def test_a_policy_that_lacks_the_look_up_is_named(openbao: OpenBao, log_in: Start) -> None:
    openbao.policy("blind", 'path "secret/*" { capabilities = ["read"] }')
    login = await log_in(openbao.address, {"method": "token", "token": openbao.token("blind", ttl="1h")})
    assert not login.ready
    assert "auth/token/lookup-self" in login.problem


async def test_a_token_with_counted_uses_is_refused(openbao: OpenBao, log_in: Start) -> None:
    token = openbao.token("sidecar", ttl="1h", num_uses=5)
    login = await log_in(openbao.address, {"method": "token", "token": token})
    assert not login.ready
    assert "number of uses" in login.problem


async def test_the_environment_has_no_say_in_the_login(
    openbao: OpenBao, log_in: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = approle(openbao, tmp_path, "environment", token_period="1h")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("VAULT_TOKEN", openbao.root_token)
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:1")
    monkeypatch.setenv("VAULT_NAMESPACE", "elsewhere")
    monkeypatch.setattr("hvac.v1.VAULT_CLIENT_CERT", "/nonexistent")
    mark = openbao.mark()
    login = await log_in(openbao.address, auth)
    assert login.ready
    (logged_in,) = [r for r in openbao.requests(since=mark) if r["path"] == "auth/approle/login"]
    assert "client_token" not in logged_in


# -- kept ----------------------------------------------------------------------------------------------------------
async def test_a_short_token_is_renewed_before_it_ends(openbao: OpenBao, log_in: Start, tmp_path: Path) -> None:
    auth = approle(openbao, tmp_path, "periodic", token_period="2s")
    mark = openbao.mark()
    login = await log_in(openbao.address, auth)
    token = login.token().reveal()
    await until(lambda: paths(openbao, mark).count("auth/token/renew-self") >= 3, "it was renewed three times", 20)
    assert login.token().reveal() == token
    assert paths(openbao, mark).count("auth/approle/login") == 1


async def test_a_token_near_its_max_ttl_is_replaced_and_there_is_always_one(
    openbao: OpenBao, log_in: Start, tmp_path: Path
) -> None:
    auth = approle(openbao, tmp_path, "limited", token_ttl="2s", token_max_ttl="4s")
    mark = openbao.mark()
    login = await log_in(openbao.address, auth)
    seen: set[str] = set()

    def seen_three() -> bool:
        seen.add(login.token().reveal())  # raises where there is none
        return len(seen) >= 3

    await until(seen_three, "it was replaced twice", 30)
    asked = paths(openbao, mark)
    assert "auth/token/renew-self" in asked
    assert not [path for path in asked if "revoke" in path]


async def test_a_token_that_cannot_be_renewed_is_replaced(openbao: OpenBao, log_in: Start, tmp_path: Path) -> None:
    login = await log_in(openbao.address, approle(openbao, tmp_path, "batch", token_type="batch", token_ttl="2s"))
    first = login.token().reveal()
    await until(lambda: login.token().reveal() != first, "it was replaced", 20)


async def test_a_token_file_is_read_again_when_it_changes(openbao: OpenBao, log_in: Start, tmp_path: Path) -> None:
    file = tmp_path / "token"
    first, second = (openbao.token("sidecar", period="1h") for _ in range(2))
    file.write_text(first + "\n")
    login = await log_in(openbao.address, {"method": "token_file", "token_file": file})
    assert login.token().reveal() == first
    beside = tmp_path / "beside"
    beside.write_text(second)
    beside.rename(file)
    await until(lambda: login.token().reveal() == second, "the new token is in use")


@pytest.mark.parametrize("content", ["", "\n", "s.not-a-token", "two\nlines", "s.\x00", "x" * 10_000])
async def test_a_token_file_that_makes_no_sense_leaves_the_old_token_in_use(
    content: str, openbao: OpenBao, log_in: Start, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    token = openbao.token("sidecar", period="1h")
    file.write_text(token)
    login = await log_in(openbao.address, {"method": "token_file", "token_file": file})
    file.write_text(content)
    await until(lambda: login.problem != "", "the problem was seen")
    assert login.token().reveal() == token
    assert "s.not-a-token" not in login.problem
    file.write_text(token)
    await until(lambda: login.problem == "", "all is well again")


async def test_a_file_that_makes_no_sense_keeps_no_token_from_being_renewed(
    openbao: OpenBao, log_in: Start, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(openbao.token("sidecar", period="2s"))
    login = await log_in(openbao.address, {"method": "token_file", "token_file": file})
    file.write_text("s.not-a-token")
    mark = openbao.mark()
    await until(lambda: paths(openbao, mark).count("auth/token/renew-self") >= 3, "it was renewed three times", 20)
    assert login.ready
    assert login.problem


async def test_stopping_revokes_nothing(openbao: OpenBao, tmp_path: Path) -> None:
    auth = approle(openbao, tmp_path, "stopped", token_period="1h")
    login = BrokerLogin(Upstream.model_validate({"address": openbao.address, "auth": auth}))
    await login.start()
    token = login.token().reveal()
    await login.stop()
    client = openbao.anonymous()
    client.token = token
    assert client.auth.token.lookup_self()["data"]["id"] == token


@pytest.mark.parametrize("ticks", range(6))
async def test_stopping_ends_even_while_the_upkeep_is_just_being_woken(ticks: int) -> None:
    auth = {"method": "token", "token": "s.NoSuchTokenAtAll"}
    async with RawServer(_close) as server:
        login = BrokerLogin(Upstream.model_validate({"address": server.address, "auth": auth}))
        await login.start()
        await asyncio.sleep(0)
        with pytest.raises(UpstreamFailure):
            login.token()  # wakes it
        for _ in range(ticks):
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await login.stop()


async def _close(exchange: Exchange) -> None:
    exchange.end()


# -- lost and found again ------------------------------------------------------------------------------------------
async def test_a_revoked_token_is_replaced_after_the_first_denial(
    openbao: OpenBao, log_in: Start, tmp_path: Path
) -> None:
    clock = FakeClock()
    login = await log_in(openbao.address, approle(openbao, tmp_path, "revoked", token_period="1h"), clock)
    first = login.token().reveal()
    async with forwarding(openbao.address, login) as client:
        assert await read_status(client) == 200
        openbao.root().auth.token.revoke(first)
        clock.advance(login_module.TRUST_SECONDS)
        assert await read_status(client) == "UPSTREAM_UNAVAILABLE"
        await recovered(client)
        assert login.token().reveal() != first


async def test_ordinary_denials_cost_one_look_up_and_no_login(openbao: OpenBao, log_in: Start, tmp_path: Path) -> None:
    clock = FakeClock()
    login = await log_in(openbao.address, approle(openbao, tmp_path, "denied", token_period="1h"), clock)
    mark = openbao.mark()
    async with forwarding(openbao.address, login) as client:
        for _ in range(2):
            clock.advance(login_module.TRUST_SECONDS)
            denied = await asyncio.gather(*(client.forward(FORBIDDEN) for _ in range(20)))
            for each in denied:
                assert each.status == 403
                assert b"permission denied" in await each.read(1000)
    asked = paths(openbao, mark)
    assert asked.count("secret/data/other/x") == 40
    assert asked.count("auth/token/lookup-self") == 2
    assert "auth/approle/login" not in asked


async def test_one_callers_cancellation_does_not_lose_the_look_up_for_the_others(
    openbao: OpenBao, log_in: Start
) -> None:
    clock = FakeClock()
    token = openbao.token("sidecar", period="1h")
    login = await log_in(openbao.address, {"method": "token", "token": token}, clock)
    clock.advance(login_module.TRUST_SECONDS)
    used = login.token()
    leaving, staying = (asyncio.create_task(login.still_good(READ, used)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying is True


async def test_a_token_that_ended_while_the_machine_slept_is_not_sent(openbao: OpenBao, log_in: Start) -> None:
    clock = FakeClock()
    token = openbao.token("sidecar", ttl="1h")
    login = await log_in(openbao.address, {"method": "token", "token": token}, clock)
    login.token()
    clock.advance(3600)
    with pytest.raises(UpstreamFailure):
        login.token()


async def test_an_openbao_that_is_stopped_sealed_and_started_again_is_found_again(
    log_in: Start, tmp_path: Path
) -> None:
    with OpenBao(tmp_path / "openbao", persistent=True) as server:
        server.root().sys.enable_secrets_engine("kv", path="secret", options={"version": "2"})
        server.put("app/db", {"password": "canary"})
        server.policy("sidecar", RULES)
        login = await log_in(server.address, approle(server, tmp_path, "persistent", token_period="2s"))
        async with forwarding(server.address, login) as client:
            assert await read_status(client) == 200
            server.stop()
            assert await read_status(client) == "UPSTREAM_UNAVAILABLE"
            await until(lambda: login.problem != "", "the login noticed", 20)
            server.start()
            # Sealed: OpenBao's own 503, or ours where the token has ended meanwhile.
            assert await read_status(client) in (503, "UPSTREAM_UNAVAILABLE")
            server.unseal()
            await recovered(client)
            await until(lambda: login.ready and login.problem == "", "the login is well", 20)


async def test_a_standby_is_as_good_as_the_leader_and_a_sealed_leader_is_found_again(
    log_in: Start, tmp_path: Path
) -> None:
    """The sidecar knows only the second of two nodes, which passes on what it is asked."""
    with OpenBao(tmp_path / "one", persistent=True) as leader, OpenBao(tmp_path / "two", joins=leader) as standby:
        leader.root().sys.enable_secrets_engine("kv", path="secret", options={"version": "2"})
        leader.put("app/db", {"password": "canary"})
        leader.policy("sidecar", RULES)
        login = await log_in(standby.address, approle(leader, tmp_path, "clustered", token_period="1h"))
        async with forwarding(standby.address, login) as client:
            await recovered(client)
            token, mark = login.token().reveal(), leader.mark()
            assert await read_status(client) == 200
            assert "secret/data/app/db" in paths(leader, mark)
            leader.seal()
            assert await read_status(client) in (500, 503, "UPSTREAM_UNAVAILABLE", "UPSTREAM_ERROR", "UPSTREAM_TIMEOUT")
            await asyncio.to_thread(leader.unseal)
            await recovered(client)
            assert login.token().reveal() == token


async def test_requests_wait_for_a_login_that_is_under_way(tmp_path: Path, log_in: Start) -> None:
    """OpenBao hangs while the sidecar logs in anew: those who ask meanwhile are served when it answers."""
    with OpenBao(tmp_path) as server:
        server.put("app/db", {"password": "canary"})
        server.policy("sidecar", RULES)
        login = await log_in(server.address, approle(server, tmp_path, "waited-for", token_period="1h"))
        async with forwarding(server.address, login) as client:
            login._session, login._login_at = None, 0.0  # as after a revocation that was noticed
            server.pause()
            waiting = [asyncio.create_task(read_status(client)) for _ in range(5)]
            await until(lambda: login._is_attempting, "the login is under way")
            assert not any(task.done() for task in waiting)
            server.resume()
            assert await asyncio.gather(*waiting) == [200] * 5


async def test_nobody_waits_while_openbao_is_left_alone(log_in: Start) -> None:
    login = await log_in("http://127.0.0.1:1", {"method": "token", "token": "s.aTokenThatIsLongEnough"})
    login._login_at = login._clock.elapsed() + 60
    with pytest.raises(UpstreamFailure) as failed:
        async with asyncio.timeout(5):
            await login.token_for(READ)
    assert failed.value.headers["Retry-After"]


async def test_an_openbao_that_hangs_costs_a_time_out_and_is_found_again(log_in: Start, tmp_path: Path) -> None:
    with OpenBao(tmp_path) as server:
        server.put("app/db", {"password": "canary"})
        login = await log_in(server.address, {"method": "token", "token": server.root_token})
        async with forwarding(server.address, login) as client:
            assert await read_status(client) == 200
            server.pause()
            assert await read_status(client) == "UPSTREAM_TIMEOUT"
            server.resume()
            await recovered(client)


async def test_a_sidecar_that_starts_before_openbao_logs_in_when_it_comes(log_in: Start, tmp_path: Path) -> None:
    server = OpenBao(tmp_path)
    login = await log_in(server.address, {"method": "token", "token": server.root_token})
    assert not login.ready
    assert "Connection" in login.problem
    with server:
        await until(lambda: login.ready, "it logged in", 20)


async def test_an_openbao_that_forgot_everything_is_logged_in_to_by_a_new_token(log_in: Start, tmp_path: Path) -> None:
    """A dev server restarted: the old token is unknown, the file's owner brings another."""
    file = tmp_path / "token"
    with OpenBao(tmp_path / "openbao") as server:
        server.put("app/db", {"password": "canary"})
        server.policy("sidecar", RULES)
        file.write_text(server.token("sidecar", period="1h"))
        login = await log_in(server.address, {"method": "token_file", "token_file": file})
        server.restart()
        server.put("app/db", {"password": "canary"})
        server.policy("sidecar", RULES)
        async with forwarding(server.address, login) as client:
            file.write_text(server.token("sidecar", period="1h"))
            await recovered(client)


# -- who else answers there ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "data",
    [
        answer(b"<html>", 200),
        answer(b"[]", 200),
        answer(b'{"data":null}', 200),
        answer(b'{"data":{"id":"s.x","ttl":"60","renewable":true,"expire_time":null}}', 200),
        answer(b'{"data":{"id":"s.x","ttl":true,"renewable":true,"expire_time":null}}', 200),
        answer(b'{"data":{"id":"s.x","ttl":-1,"renewable":true,"expire_time":null}}', 200),
        answer(b"", 307, "Location: http://127.0.0.1:1/v1/auth/token/lookup-self"),
        answer(b"{}", 500),
        answer(b'{"errors":["Vault is sealed"]}', 503),
        b"garbage\r\n\r\n",
        b"",
    ],
)
async def test_something_else_at_openbaos_address_is_not_logged_in_to(data: bytes, log_in: Start) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(data)
        exchange.end()

    async with RawServer(script) as server:
        login = await log_in(server.address, {"method": "token", "token": "s.aTokenThatIsLongEnough"})
        assert not login.ready
        assert login.problem
        assert "s.aTokenThatIsLongEnough" not in login.problem


# -- kept in -------------------------------------------------------------------------------------------------------
async def test_neither_log_nor_repr_tells_the_token(openbao: OpenBao, log_in: Start, tmp_path: Path) -> None:
    auth = approle(openbao, tmp_path, "quiet", token_ttl="2s", token_max_ttl="4s")
    secret_id = auth["secret_id_file"].read_text().strip()
    tokens: set[str] = set()
    structlog.reset_defaults()
    with capture_logs() as lines:
        login = await log_in(openbao.address, auth)

        def replaced() -> bool:
            tokens.add(login.token().reveal())
            return len(tokens) >= 2

        await until(replaced, "it was replaced", 20)
    shown = f"{lines}{login!r}{login.__dict__!r}{login.token()!r}"
    assert lines
    for secret in (*tokens, secret_id):
        assert secret not in shown
        if secret != secret_id:
            assert mask(f"a line with {secret} in it") == "a line with *** in it"


async def test_recent_tokens_and_their_accessors_are_known_to_the_release(
    openbao: OpenBao, log_in: Start, tmp_path: Path
) -> None:
    login = await log_in(openbao.address, approle(openbao, tmp_path, "canary", token_type="batch", token_ttl="2s"))
    first = login.token().reveal().encode()
    await until(lambda: login._session is not None and login._session.credential.reveal().encode() != first, "new", 20)
    assert first in login.own_secrets
    role = approle(openbao, tmp_path, "canary-service", token_period="1h")
    login = await log_in(openbao.address, role)
    looked_up = openbao.root().auth.token.lookup(login.token().reveal())["data"]
    assert login.own_secrets == (looked_up["id"].encode(), looked_up["accessor"].encode())
