"""Tokens of each kind of issuer: what they must look like, and whom they name."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.caller.spiffe import trust_domain_of
from sidecar.errors import Code
from tests.support.desk import Desk, open_desk
from tests.support.tokens import Issuer

CLUSTER = "https://kubernetes.default.svc.cluster.local"
DOMAIN = "acme.example"
APP = f"spiffe://{DOMAIN}/ns/shop/sa/app"


class World:
    """An OAuth server, a cluster and a SPIFFE trust domain, all trusted by one desk; bindings are preferred."""

    def __init__(self, desk: Desk, cluster: Issuer, domain: Issuer) -> None:
        self.desk, self.oauth, self.cluster, self.domain = desk, desk.issuer, cluster, domain
        for issuer in (cluster, domain):
            issuer.now = desk.clock.wall

    async def subject(self, token: str) -> tuple[str, str]:
        """Whom a token is for: subject and issuer."""
        caller = await self.desk.ask(self.desk.head(token))
        return caller.subject, caller.issuer

    async def code(self, token: str) -> Code:
        """Why a token is refused."""
        return await self.desk.code(self.desk.head(token))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    cluster, domain = Issuer(CLUSTER, algorithm="RS256"), Issuer(f"spiffe://{DOMAIN}")
    bundle = {"keys": [domain.jwk | {"use": "jwt-svid"}], "spiffe_sequence": 1, "spiffe_refresh_hint": 300}
    (tmp_path / "bundle.json").write_text(json.dumps(bundle))
    issuers = [
        cluster.configured(tmp_path / "cluster.json", kind="kubernetes"),
        {"issuer": domain.url, "jwks_file": str(tmp_path / "bundle.json"), "algorithms": ["ES256"]},
    ]
    sections: dict[str, Any] = {
        "identity": {"binding": "preferred"},
        "anti_replay": {"unbound_token": "off"},
    }
    async with open_desk(tmp_path, issuers=issuers, **sections) as desk:
        yield World(desk, cluster, domain)


# -- Kubernetes ------------------------------------------------------------------------------------------------------
async def test_a_service_account_token_names_its_service_account_and_pod(world: World) -> None:
    caller = await world.desk.ask(world.desk.head(world.cluster.service_account_token()))
    assert (caller.subject, caller.issuer) == ("system:serviceaccount:shop:app", CLUSTER)
    assert caller.token_jti
    assert dict(caller.attributes) == {
        "kubernetes_namespace": "shop",
        "kubernetes_service_account": "app",
        "kubernetes_service_account_uid": "c0a8e3f1-93b7-4a52-8d0e-6f5b2d4c7e33",
        "kubernetes_pod": "app-5d9f",
        "kubernetes_pod_uid": "2f4d9a77-7a51-4b4e-a2ad-3a6f7d1e9c22",
        "kubernetes_node": "node-1",
    }


async def test_a_token_of_an_older_cluster_says_less(world: World) -> None:
    account: Any = {"namespace": "shop", "serviceaccount": {"name": "app", "uid": "u"}}
    token = world.cluster.service_account_token(jti=None, **{"kubernetes.io": account})
    caller = await world.desk.ask(world.desk.head(token))
    assert "kubernetes_pod" not in dict(caller.attributes)
    assert caller.token_jti == ""


@pytest.mark.parametrize(
    "about",
    [
        None,
        {},
        "shop",
        {"namespace": "shop"},
        {"namespace": "other", "serviceaccount": {"name": "app", "uid": "u"}},
        {"namespace": "shop", "serviceaccount": {"name": "other", "uid": "u"}},
        {"namespace": "shop", "serviceaccount": "app"},
        {"namespace": "shop", "serviceaccount": {"name": "app", "uid": 1}},
        {"namespace": "shop", "serviceaccount": {"name": "app"}, "pod": "p"},
        {"namespace": "shop", "serviceaccount": {"name": "app"}, "pod": {"name": "a\nb"}},
    ],
)
async def test_a_service_account_token_that_does_not_say_whose_it_is(world: World, about: Any) -> None:
    assert await world.code(world.cluster.service_account_token(**{"kubernetes.io": about})) is Code.TOKEN_INVALID


@pytest.mark.parametrize(
    "subject",
    ["app", "system:serviceaccount:shop:App", "system:serviceaccount:shop:app:x", "system:node:shop", APP, ""],
)
async def test_a_cluster_names_service_accounts_and_nothing_else(world: World, subject: str) -> None:
    assert await world.code(world.cluster.service_account_token(sub=subject)) is Code.TOKEN_INVALID


async def test_a_service_account_token_is_for_an_audience_and_a_time(world: World) -> None:
    cluster = world.cluster
    other = cluster.service_account_token(aud=["https://kubernetes.default.svc"])
    assert await world.code(other) is Code.AUDIENCE_MISMATCH
    assert await world.code(cluster.service_account_token(aud=None)) is Code.AUDIENCE_MISMATCH
    # The old tokens in Secrets: they never expire, and are for nobody in particular.
    assert await world.code(cluster.service_account_token(exp=None, aud=None)) is Code.TOKEN_INVALID
    assert await world.code(cluster.service_account_token(exp=1)) is Code.TOKEN_EXPIRED


@pytest.mark.parametrize("typ", ["at+jwt", "dpop+jwt", "logout+jwt", 1, ""])
async def test_a_service_account_token_of_another_type(world: World, typ: Any) -> None:
    assert await world.code(world.cluster.service_account_token(header={"typ": typ})) is Code.TOKEN_INVALID


async def test_a_cluster_gives_no_other_tokens(world: World) -> None:
    assert await world.code(world.cluster.token()) is Code.TOKEN_INVALID
    assert await world.code(world.cluster.token(sub="system:serviceaccount:shop:app")) is Code.TOKEN_INVALID


async def test_an_issuer_of_no_stated_kind_gives_both(tmp_path: Path) -> None:
    """The tokens are told apart by the claim that only a cluster writes; without it a `typ` is needed as ever."""
    cluster = Issuer(CLUSTER)
    issuers = [cluster.configured(tmp_path / "cluster.json")]
    async with open_desk(tmp_path, issuers=issuers, identity={"binding": "preferred"}) as desk:
        cluster.now = desk.clock.wall
        caller = await desk.ask(desk.head(cluster.service_account_token()))
        assert caller.subject == "system:serviceaccount:shop:app"
        await desk.ask(desk.head(cluster.token()))
        nothing: Any = {"kubernetes.io": None}
        untyped = cluster.service_account_token(**nothing)
        assert await desk.code(desk.head(untyped)) is Code.TOKEN_INVALID


# -- SPIFFE ----------------------------------------------------------------------------------------------------------
async def test_a_jwt_svid_is_found_by_its_trust_domain(world: World) -> None:
    issuer = world.domain.url
    for token in (
        world.domain.svid(APP),
        world.domain.svid(APP, header={"typ": "JOSE"}),
        world.domain.svid(APP, iss=issuer),
        world.domain.svid(APP, iss="https://spire.example"),  # what it says of itself finds no key
    ):
        assert await world.subject(token) == (APP, issuer)


async def test_a_jwt_svid_of_a_server_that_writes_its_iss(tmp_path: Path) -> None:
    spire = Issuer("https://oidc.acme.example")
    issuers = [spire.configured(tmp_path / "spire.json", kind="spiffe", trust_domain=DOMAIN)]
    sections: dict[str, Any] = {"identity": {"binding": "preferred"}, "anti_replay": {"unbound_token": "off"}}
    async with open_desk(tmp_path, issuers=issuers, **sections) as desk:
        spire.now = desk.clock.wall
        for token in (spire.svid(APP, iss=spire.url), spire.svid(APP)):
            caller = await desk.ask(desk.head(token))
            assert (caller.subject, caller.issuer) == (APP, spire.url)
        other = spire.svid("spiffe://other.example/app", iss=spire.url)
        assert await desk.code(desk.head(other)) is Code.TOKEN_INVALID


@pytest.mark.parametrize(
    ("header", "claims"),
    [
        ({"typ": "at+jwt"}, {}),
        ({"typ": 1}, {}),
        ({"x": "y"}, {}),
        ({"jku": "https://evil.example"}, {}),
        ({"kid": "another"}, {}),
        ({}, {"sub": f"spiffe://{DOMAIN}"}),
        ({}, {"sub": f"spiffe://{DOMAIN}/"}),
        ({}, {"sub": f"spiffe://{DOMAIN}/a//b"}),
        ({}, {"sub": f"spiffe://{DOMAIN}/a/../b"}),
        ({}, {"sub": f"spiffe://{DOMAIN}/%61"}),
        ({}, {"sub": f"spiffe://{DOMAIN}:443/a"}),
        ({}, {"sub": f"spiffe://user@{DOMAIN}/a"}),
        ({}, {"sub": f"SPIFFE://{DOMAIN}/a"}),
        ({}, {"sub": f"spiffe://{DOMAIN}/a?x"}),
        ({}, {"sub": f"spiffe://{DOMAIN}/" + "a" * 2048}),
        ({}, {"sub": "spiffe://other.example/a"}),
        ({}, {"sub": f"spiffe://{DOMAIN}.evil.example/a"}),
        ({}, {"sub": "app"}),
        ({}, {"exp": None}),
        ({}, {"iss": 1}),
        ({}, {"iss": [f"spiffe://{DOMAIN}"]}),
    ],
)
async def test_what_is_no_jwt_svid_of_the_trust_domain(
    world: World, header: dict[str, Any], claims: dict[str, Any]
) -> None:
    assert await world.code(world.domain.svid(APP, header=header, **claims)) is Code.TOKEN_INVALID


async def test_a_jwt_svid_needs_an_audience(world: World) -> None:
    for audience in (None, [], ["other"]):
        assert await world.code(world.domain.svid(APP, aud=audience)) is Code.AUDIENCE_MISMATCH


async def test_a_bundles_other_keys_verify_no_token(tmp_path: Path) -> None:
    """A SPIFFE bundle holds the keys of certificate authorities too."""
    domain = Issuer(f"spiffe://{DOMAIN}")
    issuers = [{"issuer": domain.url, "jwks_file": str(tmp_path / "bundle.json"), "algorithms": ["ES256"]}]
    for use in ("x509-svid", "sig", None, "unheard-of"):
        key = {name: value for name, value in (domain.jwk | {"use": use}).items() if value is not None}
        (tmp_path / "bundle.json").write_text(json.dumps({"keys": [key]}))
        async with open_desk(tmp_path, issuers=issuers, identity={"binding": "preferred"}) as desk:
            domain.now = desk.clock.wall
            assert await desk.code(desk.head(domain.svid(APP, jti="j"))) is Code.TOKEN_INVALID


# -- one issuer's subjects are not another's -------------------------------------------------------------------------
async def test_no_issuer_names_anothers_subjects(world: World) -> None:
    for subject in (APP, "system:serviceaccount:shop:app", "system:admin"):
        assert await world.code(world.oauth.token(sub=subject)) is Code.TOKEN_INVALID
    assert await world.subject(world.oauth.token(sub="spiffe://other.example/a"))
    assert await world.code(world.domain.svid("spiffe://other.example/a")) is Code.TOKEN_INVALID
    # An SVID that says it is from the OAuth server is looked up there, where its key is not.
    assert await world.code(world.domain.svid(APP, iss=world.oauth.url)) is Code.TOKEN_INVALID
    assert await world.code(world.oauth.compact(world.oauth.header(), {"sub": APP, "aud": "x"})) is Code.TOKEN_INVALID


def test_a_spiffe_id_has_one_spelling() -> None:
    assert trust_domain_of(APP) == DOMAIN
    assert trust_domain_of("spiffe://a_b-c.d/Path/with.dots-and_more") == "a_b-c.d"
    for wrong in (
        None,
        1,
        "",
        "https://a/b",
        "spiffe:///b",
        "spiffe://a/b/",
        "spiffe://a/b#c",
        "spiffe://a/é",
        f"{APP}\n",
    ):
        assert trust_domain_of(wrong) is None
