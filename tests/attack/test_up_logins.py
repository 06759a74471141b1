"""UP in the modes where OpenBao is asked with the callers' own logins: exchange and passthrough."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from sidecar.door.head import Head
from sidecar.errors import Code, Refused
from sidecar.surface.mounts import Mount, MountTable
from sidecar.surface.token_calls import TokenCalls
from sidecar.surface.vault_api import VaultApi
from sidecar.upstream.release import Release
from tests.real.openbao import SEEDS, OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.clock import FakeClock
from tests.support.tokens import Issuer
from tests.support.waiting import until
from tests.upstream.exchanging import MOUNT, asks, caller, exchanging, take_callers
from tests.upstream.raw_server import FixedLogin

pytestmark = pytest.mark.real
CALLERS = 1000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[OpenBao]:
    with OpenBao(tmp_path_factory.mktemp("openbao")) as started:
        for path, values in SEEDS.items():
            started.put(path, values)
        take_callers(started, issuer, token_ttl="1h")
        yield started


# -- exchange ------------------------------------------------------------------------------------------------------
@pytest.mark.timeout(300)
async def test_up_07_a_thousand_interleaved_callers_each_act_as_themselves(server: OpenBao, issuer: Issuer) -> None:
    """OpenBao's own audit says as whom each path was asked: the path names its caller."""
    everybody = [caller(issuer, f"app-{number}") for number in range(CALLERS)]
    # The same subject with another JWT, and the same JWT twice at once.
    turns = [*everybody, *everybody[:200], *(caller(issuer, f"app-{number}") for number in range(100))]
    random.Random(7).shuffle(turns)
    gate, mark = asyncio.Semaphore(200), server.mark()
    async with exchanging(server) as (login, client):

        async def ask(number: int) -> None:
            async with gate:
                received = await client.forward(asks(turns[number], f"{turns[number].subject}/x"))
                await received.read(10_000)
                assert received.status == 404

        await asyncio.gather(*map(ask, range(len(turns))))
        assert len(login) == CALLERS + 100
    entries = [entry for entry in server.audit(mark) if entry["type"] == "request"]
    read = [entry for entry in entries if entry["request"]["path"].startswith("secret/data/app-")]
    assert len(read) == len(turns)
    for entry in read:
        subject = entry["request"]["path"].split("/")[2]
        assert entry["auth"]["display_name"] == f"{MOUNT}-{subject}"
    logins = [entry["request"]["data"]["jwt"] for entry in entries if entry["request"]["path"] == f"auth/{MOUNT}/login"]
    assert len(logins) == len(set(logins)) == CALLERS + 100


async def test_up_07_a_token_that_ends_while_it_is_used_serves_nobody_else(server: OpenBao, issuer: Issuer) -> None:
    clock = FakeClock()
    issuer_now, issuer.now = issuer.now, issuer.now
    first = caller(issuer, exp=int(clock.wall()) + 30)
    second = caller(issuer, exp=int(clock.wall()) + 300)
    async with exchanging(server, clock, timeout_seconds=5) as (login, client):
        under_way = await client.forward(asks(first))
        token = (await login.token_for(asks(first))).credential.reveal()
        clock.advance(31)
        await until(lambda: len(login) == 0, "the first login was dropped")
        answer = await under_way.read(10_000)  # what it was permitted, it gets
        assert SEEDS["app/db"]["password"].encode() in answer
        assert token.encode() in under_way.secrets  # and what it must not get is still known
        with pytest.raises(Refused) as refused:
            await client.forward(asks(first))
        assert refused.value.code is Code.TOKEN_EXPIRED
        assert (await login.token_for(asks(second))).credential.reveal() != token
    issuer.now = issuer_now


async def test_up_02_a_callers_exchanged_token_does_not_leave_even_to_that_caller(
    server: OpenBao, issuer: Issuer
) -> None:
    """Canary: a secret that holds the token, read whole and as a stream; what a caller holds could be used past the
    sidecar."""
    who = caller(issuer)
    async with exchanging(server) as (login, client):
        token = (await login.token_for(asks(who))).credential.reveal()
        accessor = server.root().auth.token.lookup(token)["data"]["accessor"]
        release = Release(FixedLogin())
        for secret in (token, accessor):
            server.put("up-02/exchanged", {"copied": secret, "long": "x" * 3000})
            asked = asks(who, "up-02/exchanged")
            received = await client.forward(asked)
            with pytest.raises(Refused):
                release.body(asked, received.status, await received.read(100_000), received.secrets)
            received = await client.forward(asked)
            with pytest.raises(Refused):
                [piece async for piece in release.stream(received)]
        received = await client.forward(asks(caller(issuer)))
        assert release.body(asks(who), received.status, await received.read(10_000), received.secrets)


def test_up_02_in_exchange_no_token_of_openbaos_is_in_an_answer_a_log_or_a_record(
    tmp_path: Path, server: OpenBao, issuer: Issuer
) -> None:
    auth = {"mode": "exchange", "role": "caller", "mount": MOUNT, "token": None}
    with SidecarProcess(tmp_path, server, issuer, {"upstream": {"auth": auth}}) as process:
        mark, client = server.mark(), process.hvac()
        assert (
            client.secrets.kv.v2.read_secret_version(path="app/db", raise_on_deleted_version=True)["data"]["data"]
            == SEEDS["app/db"]
        )
        client.secrets.kv.v2.create_or_update_secret(path="e2e/exchange", secret={"a": "1"})
        looked_up = client.lookup_token()["data"]
        assert looked_up["id"] == client.token  # the JWT, answered here
        (made,) = (
            entry["auth"]["client_token"]
            for entry in server.audit(mark)
            if entry["type"] == "response" and entry["request"]["path"] == f"auth/{MOUNT}/login"
        )
        server.put("e2e/copied", {"token": made})
        with pytest.raises(Exception, match="no usable answer"):
            client.secrets.kv.v2.read_secret_version(path="e2e/copied", raise_on_deleted_version=True)
        assert 'sidecar_cache_entries{cache="exchanged_logins"} 1.0' in process.metrics()
        used = {e["request"]["client_token"] for e in server.audit(mark) if e["request"]["path"].startswith("secret/")}
        assert used == {made, server.root_token}  # the root's is this test's
        assert process.verify() == 0
        assert made.encode() not in process.spool_bytes()
    assert made not in process.log.read_text()
    assert server.root().auth.token.lookup(made)["data"]["id"] == made  # the end of the sidecar revokes nothing


# -- passthrough ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def passthrough(tmp_path_factory: pytest.TempPathFactory, server: OpenBao, issuer: Issuer) -> Iterator[SidecarProcess]:
    overrides: dict[str, Any] = {
        "upstream": {"auth": {"mode": "passthrough", "token": None}},
        "identity": {"binding": "preferred"},
        "anti_replay": {"unbound_token": "off"},
    }
    with SidecarProcess(tmp_path_factory.mktemp("passthrough"), server, issuer, overrides) as process:
        yield process


def ask(
    process: SidecarProcess, method: str, path: str, token: str | None, jwt: str | None = None, body: Any = None
) -> requests.Response:
    """One request with an OpenBao token and a JWT."""
    headers = {"Authorization": f"Bearer {jwt or process.issuer.token()}"}
    if token is not None:
        headers["X-Vault-Token"] = token
    return requests.request(method, f"{process.url}/v1/{path}", headers=headers, json=body, timeout=30)


def test_up_01_with_passthrough_openbao_sees_the_callers_own_token_and_its_no_is_unchanged(
    passthrough: SidecarProcess, server: OpenBao
) -> None:
    token = server.token("callers", ttl="1h")
    mark = server.mark()
    answer = ask(passthrough, "GET", "secret/data/app/db", token)
    assert answer.json()["data"]["data"] == SEEDS["app/db"]
    assert {request["client_token"] for request in server.requests(mark)} == {token}
    denied = ask(passthrough, "GET", "secret/data/forbidden", token)
    direct = requests.get(f"{server.address}/v1/secret/data/forbidden", headers={"X-Vault-Token": token}, timeout=9)
    assert (denied.status_code, denied.content) == (direct.status_code, direct.content) == (403, direct.content)
    assert token.encode() not in passthrough.spool_bytes()
    assert token not in passthrough.log.read_text()


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Authorization": "Bearer JWT"}, 401, "TOKEN_MISSING"),
        ({"X-Vault-Token": "JWT"}, 401, "TOKEN_MISSING"),
        ({"X-Vault-Token": "OWN"}, 401, "TOKEN_MISSING"),
        ({"Authorization": "Bearer OWN", "X-Vault-Token": "OWN"}, 401, "TOKEN_INVALID"),
        ({"Authorization": "Bearer JWT", "X-Vault-Token": "JWT"}, 400, "AMBIGUOUS_CREDENTIALS"),
        ({"Authorization": "Bearer JWT", "X-Vault-Token": "OWN,OTHER"}, 400, "AMBIGUOUS_CREDENTIALS"),
        ({"Authorization": "Bearer JWT", "X-Vault-Token": "OWN OTHER"}, 400, "MALFORMED_REQUEST"),
        ({"Authorization": "Bearer JWT", "X-Vault-Token": "OWN\u00e9"}, 400, "MALFORMED_REQUEST"),
        ({"Authorization": "Bearer JWT", "X-Vault-Token": "x" * 5000}, 400, "MALFORMED_REQUEST"),
    ],
)
def test_up_01_neither_half_of_the_credentials_is_enough(
    headers: dict[str, str], status: int, code: str, passthrough: SidecarProcess, server: OpenBao, issuer: Issuer
) -> None:
    own, jwt = server.token("callers", ttl="1h"), issuer.token()
    mark = server.mark()
    credentials = {"JWT": jwt, "OWN": own}  # put in in one go: a JWT may have the letters of the other in it
    given = {
        name: re.sub("JWT|OWN", lambda found: credentials[found[0]], value).encode("latin-1")
        for name, value in headers.items()
    }
    answer = requests.get(f"{passthrough.url}/v1/secret/data/app/db", headers=given, timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert server.requests(mark) == []


def test_up_01_a_callers_own_token_calls_go_to_openbao_and_are_written_down(
    passthrough: SidecarProcess, server: OpenBao
) -> None:
    token = server.token("callers", ttl="1h")
    mark = server.mark()
    assert ask(passthrough, "GET", "auth/token/lookup-self", token).json()["data"]["id"] == token
    renewed = ask(passthrough, "POST", "auth/token/renew-self", token, body={"increment": "30m"})
    assert renewed.json()["auth"]["client_token"] == token
    assert ask(passthrough, "PUT", "auth/token/revoke-self", token).status_code == 204
    assert ask(passthrough, "GET", "auth/token/lookup-self", token).status_code == 403
    assert {request["client_token"] for request in server.requests(mark)} == {token}
    named = [(record["operation"], record["phase"]) for record in passthrough.records()[-6:]]
    assert named == [
        ("token.lookup_self", "outcome"),
        ("token.renew_self", "intent"),
        ("token.renew_self", "outcome"),
        ("token.revoke_self", "intent"),
        ("token.revoke_self", "outcome"),
        ("token.lookup_self", "outcome"),
    ]
    assert ask(passthrough, "GET", "auth/token/lookup-self", None).json()["code"] == "TOKEN_MISSING"


def test_up_01_a_callers_login_goes_to_openbao_without_any_token(
    passthrough: SidecarProcess, server: OpenBao, issuer: Issuer
) -> None:
    mark = server.mark()
    body = {"role": "caller", "jwt": issuer.token()}
    for brought in (None, server.root_token):
        answer = ask(passthrough, "POST", f"auth/{MOUNT}/login", brought, body=body)
        token = answer.json()["auth"]["client_token"]
        assert ask(passthrough, "GET", "secret/data/app/db", token).status_code == 200
    logins = [request for request in server.requests(mark) if request["path"] == f"auth/{MOUNT}/login"]
    assert [request.get("client_token") for request in logins] == [None, None]
    named = [(record["operation"], record["phase"]) for record in passthrough.records()[-6:]]
    assert named == [("auth.login", "intent"), ("auth.login", "outcome"), ("kv2.read", "outcome")] * 2
    assert token.encode() not in passthrough.spool_bytes()


def test_up_01_a_login_that_is_no_login_can_do_nothing(passthrough: SidecarProcess, server: OpenBao) -> None:
    """A user named `login` would be made by a path of a login's shape; without a token OpenBao does not make it."""
    server.enable_auth("userpass")
    made = ask(passthrough, "POST", "auth/userpass/users/login", server.root_token, body={"password": "x"})
    assert made.status_code == 403
    assert "login" not in str(server.root().read("auth/userpass/users/login"))


OTHERS: list[tuple[str, str, Any]] = [
    ("POST", "auth/token/lookup", {"token": "OTHER"}),
    ("POST", "auth/token/lookup-self", {"token": "OTHER"}),
    ("POST", "auth/token/lookup-accessor", {"accessor": "OTHER"}),
    ("POST", "auth/token/renew", {"token": "OTHER"}),
    ("POST", "auth/token/renew-self", {"token": "OTHER"}),
    ("POST", "auth/token/renew-self/OTHER", None),
    ("POST", "auth/token/renew-accessor", {"accessor": "OTHER"}),
    ("POST", "auth/token/revoke", {"token": "OTHER"}),
    ("POST", "auth/token/revoke-self", {"token": "OTHER"}),
    ("POST", "auth/token/revoke-accessor", {"accessor": "OTHER"}),
    ("POST", "auth/token/revoke-orphan", {"token": "OTHER"}),
    ("LIST", "auth/token/accessors", None),
    ("POST", "auth/token/create", {}),
    ("POST", "auth/token/create-orphan", {}),
    ("POST", "auth/token/create/role", {}),
    ("POST", "auth/token/login", {}),
    ("POST", "auth/token/roles/login", {}),
    ("POST", "auth/token/tidy", None),
    ("GET", "auth/userpass/login", None),
    ("POST", "auth/userpass/users/eve", {"password": "x"}),
    ("POST", "auth/approle/role/x/secret-id", {}),
    ("POST", f"auth/{MOUNT}/login", {"role": "caller", "jwt": "x", "token": "OTHER"}),
    ("POST", f"auth/{MOUNT}/login?role=caller", {"jwt": "x"}),
    ("POST", f"auth/{MOUNT}/login/", {"jwt": "x"}),
    ("POST", f"auth/{MOUNT}/config", {"jwt_validation_pubkeys": []}),
    ("POST", "sys/capabilities", {"token": "OTHER", "path": "x"}),
    ("POST", "sys/capabilities-accessor", {"accessor": "OTHER", "path": "x"}),
    ("POST", "sys/wrapping/wrap", {"a": "b"}),
    ("GET", "cubbyhole/x", None),
    ("POST", "sys/auth/x", {"type": "userpass"}),
]


@pytest.mark.parametrize(("method", "path", "body"), OTHERS)
def test_up_01_nobody_acts_on_the_tokens_of_others(
    method: str, path: str, body: Any, passthrough: SidecarProcess, server: OpenBao
) -> None:
    """Even where the caller's own OpenBao token could: it is root's here."""
    mark = server.mark()
    answer = ask(passthrough, method, path, server.root_token, body=body)
    assert answer.status_code in (400, 403)
    assert answer.json()["code"] in (
        "OPERATION_FORBIDDEN",
        "MALFORMED_REQUEST",
        "AMBIGUOUS_QUERY",
        "TENANT_MOUNT_MISMATCH",
        "PROVIDER_TRAILING_SLASH_MISMATCH",
    )
    assert server.requests(mark) == []


def test_up_01_with_a_client_certificate_of_the_sidecars_no_login_is_passed_on() -> None:
    """OpenBao's `cert` method would take it for the caller's, whatever the body says."""
    serves = TokenCalls.under("passthrough", own_certificate=True)
    assert serves is TokenCalls.OWN
    api = VaultApi(lambda: MountTable([Mount("secret", "kv2")], ["secret"]), token_calls=serves)
    assert api.token_call(Head("GET", "/v1/auth/token/lookup-self", None, {})) is not None
    for path in ("/v1/auth/cert/login", "/v1/auth/jwt/login", "/v1/auth/team/cert/login"):
        head = Head("POST", path, None, {})
        assert api.token_call(head) is None
        with pytest.raises(Refused):
            api.route(head)


@pytest.mark.parametrize("mode", ["broker", "exchange"])
def test_up_01_in_the_other_modes_no_call_about_tokens_is_passed_on(mode: str) -> None:
    assert TokenCalls.under(mode, own_certificate=False) is TokenCalls.NONE
