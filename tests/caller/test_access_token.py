"""What a good token says, and how it is remembered. What a bad one gets stands in tests/attack/test_token.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.caller import access_token, jose
from sidecar.errors import Code
from tests.support.desk import Desk, open_desk
from tests.support.tokens import Issuer


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(tmp_path) as desk:
        yield desk


@pytest.mark.parametrize(
    "algorithm", ["ES256", "ES384", "ES512", "EdDSA", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
)
async def test_each_algorithm_of_the_configuration_verifies(tmp_path: Path, algorithm: str) -> None:
    async with open_desk(tmp_path, issuer=Issuer(algorithm=algorithm)) as desk:
        assert (await desk.ask(desk.good_head())).subject == "app"
        good = desk.token()
        for index in (0, 40, -1):
            signature = bytearray(jose.decode(good.split(".")[2].encode()))
            signature[index] ^= 1
            forged = ".".join([*good.split(".")[:2], jose.encode(bytes(signature)).decode()])
            assert await desk.token_code(forged) is Code.TOKEN_INVALID


async def test_all_that_a_token_says_of_its_caller(desk: Desk) -> None:
    now = int(desk.clock.wall())
    claims: dict[str, Any] = {
        "sub": "spiffe://acme/app",
        "client_id": "client",
        "azp": "ignored",
        "act": {"sub": "agent", "act": {"sub": "user", "groups": ["a"]}},
        "scope": "secrets.read secrets.write",
        "aud": ["crud.secrets", "other"],
        "acr": "phr",
        "amr": ["hwk", "pin"],
        "auth_time": now - 9.5,
        "jti": "token-1",
        "iat": now - 1.5,
        "exp": now + 60.5,
        "workflow_run_id": "run-7",
        "node_id": "node-3",
        "system_id": "sys",
        "unheard-of": {"x": [1, 2.5, None]},
    }
    caller = await desk.ask(desk.good_head(**claims))
    assert caller.subject == "spiffe://acme/app"
    assert caller.issuer == "https://idp.example"
    assert caller.client_id == "client"
    assert caller.act == claims["act"]
    assert caller.scopes == {"secrets.read", "secrets.write"}
    assert caller.audience == ("crud.secrets", "other")
    assert (caller.acr, caller.amr, caller.auth_time) == ("phr", ("hwk", "pin"), int(now - 9.5))
    assert (caller.token_jti, caller.issued_at, caller.expires_at) == ("token-1", now - 1.5, now + 60)
    assert (caller.workflow_run_id, caller.node_id, caller.system_id) == ("run-7", "node-3", "sys")


async def test_a_token_that_says_as_little_as_it_may(desk: Desk) -> None:
    caller = await desk.ask(desk.good_head(client_id=None, iat=None, jti=None))
    assert (caller.client_id, caller.issued_at, caller.token_jti, caller.scopes) == ("", None, "", frozenset())


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": ""}, set()),
        ({"scope": "a"}, {"a"}),
        ({"scp": ["a", "b"]}, {"a", "b"}),
        ({"scp": "a b"}, {"a", "b"}),
        ({"scp": []}, set()),
    ],
)
async def test_scopes_in_each_spelling(desk: Desk, claims: dict[str, Any], scopes: set[str]) -> None:
    assert (await desk.ask(desk.good_head(**claims))).scopes == scopes


async def test_azp_names_the_client_where_client_id_does_not(desk: Desk) -> None:
    assert (await desk.ask(desk.good_head(client_id=None, azp="party"))).client_id == "party"


async def test_a_token_without_kid_is_taken_where_the_issuer_has_one_key(desk: Desk) -> None:
    token = desk.issuer.token({"kid": None}, cnf={"jkt": desk.key.jkt})
    await desk.ask(desk.head(token, desk.proof(token)))


async def test_tokens_without_a_type_are_taken_where_the_configuration_says_so(tmp_path: Path) -> None:
    untyped = Issuer("https://kubernetes.default.svc")
    issuers = [untyped.configured(tmp_path / "untyped.json", token_types=["at+jwt", ""])]
    async with open_desk(tmp_path, issuers=issuers) as desk:
        untyped.now = desk.clock.wall
        token = untyped.token({"typ": None}, cnf={"jkt": desk.key.jkt})
        await desk.ask(desk.head(token, desk.proof(token)))
        assert await desk.token_code(desk.issuer.token({"typ": None}, cnf={"jkt": desk.key.jkt})) is Code.TOKEN_INVALID


async def test_a_token_is_verified_once_and_remembered(desk: Desk) -> None:
    token = desk.token()
    for _ in range(3):
        await desk.ask(desk.head(token, desk.proof(token)))
    assert desk.authenticator.cache_sizes()["tokens"] == 1


async def test_what_was_refused_is_not_remembered(desk: Desk) -> None:
    await desk.token_code(desk.token(aud="other"))
    await desk.token_code(desk.token() + "A")
    assert desk.authenticator.cache_sizes()["tokens"] == 0


async def test_the_memory_of_tokens_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_token, "MAX_REMEMBERED_TOKENS", 4)
    async with open_desk(tmp_path) as desk:
        for _ in range(9):
            await desk.ask(desk.good_head())
        assert desk.authenticator.cache_sizes()["tokens"] == 4


async def test_a_token_of_sixteen_kibibytes_is_the_longest(desk: Desk) -> None:
    claims = desk.issuer.claims(cnf={"jkt": desk.key.jkt}, padding="x" * 11_500)
    longest = desk.issuer.compact(desk.issuer.header(), claims)
    assert len(longest) < access_token.MAX_TOKEN_CHARS
    await desk.ask(desk.head(longest, desk.proof(longest)))
    longer = desk.issuer.compact(desk.issuer.header(), claims | {"padding": "x" * 12_300})
    assert await desk.token_code(longer) is Code.TOKEN_INVALID


async def test_a_refusal_tells_nothing_of_the_token(desk: Desk) -> None:
    for claims in ({"aud": "tell-tale"}, {"iss": "tell-tale"}, {"sub": "tell\ntale"}, {"exp": "tell-tale"}):
        token = desk.issuer.compact(desk.issuer.header(), desk.issuer.claims(**claims))
        refused = await desk.refused(desk.head(token, desk.proof(token)))
        for text in (refused.message, refused.detail, *refused.headers.values()):
            assert "tell" not in text
            assert token not in text
