"""Every way in which a request may say who it is, and what comes of it."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.caller.identity import Binding, BindingKind
from sidecar.door.head import Head, Peer
from sidecar.errors import Code, Refused
from sidecar.ops.metrics import REGISTRY
from tests.support.certificates import Authority
from tests.support.desk import PATH, TCP, Desk, open_desk
from tests.support.proofs import ProofKey
from tests.support.tokens import Issuer

CERTIFICATE = Authority().issue()
OTHER_CERTIFICATE = Authority().issue()
TLS = Peer("tls", CERTIFICATE.der)
PREFERRED: dict[str, Any] = {"identity": {"binding": "preferred"}}


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(tmp_path) as desk:
        yield desk


@pytest.fixture
async def preferred(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(tmp_path, **PREFERRED) as desk:
        yield desk


# -- how a token comes -----------------------------------------------------------------------------------------------
async def test_a_dpop_token_in_either_header(desk: Desk) -> None:
    token = desk.token()
    for head in (
        desk.head(token, desk.proof(token)),
        desk.head(None, desk.proof(token), authorization=f"DPoP {token}"),
        desk.head(None, desk.proof(token), authorization=f"dpop   {token}"),
        desk.head(token, desk.proof(token), authorization=f"DPoP {token}"),
    ):
        caller = await desk.ask(head)
        assert caller.binding == Binding(BindingKind.DPOP, desk.key.jkt)
        assert caller.token is not None
        assert caller.token.reveal() == token
        assert token not in repr(caller)


async def test_the_proofs_jti_is_in_the_callers_record(desk: Desk) -> None:
    token = desk.token()
    assert (await desk.ask(desk.head(token, desk.proof(token, jti="proof-1")))).proof_jti == "proof-1"


@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "EdDSA", "RS256", "PS256"])
async def test_proofs_by_each_algorithm_of_the_configuration_and_by_no_other(tmp_path: Path, algorithm: str) -> None:
    async with open_desk(tmp_path, identity={"proof_algorithms": [algorithm]}) as desk:
        desk.key = ProofKey(algorithm, now=desk.clock.wall)
        await desk.ask(desk.good_head())
        desk.key = ProofKey("ES256" if algorithm != "ES256" else "ES384", now=desk.clock.wall)
        assert await desk.code(desk.good_head()) is Code.PROOF_INVALID


async def test_nobody_without_a_token(desk: Desk) -> None:
    for head in (
        desk.head(),
        desk.head(None, desk.proof(desk.token())),
        desk.head(""),
        desk.head(authorization="Basic dXNlcjpwYXNz"),
        desk.head(authorization="DPoP"),
        desk.head(authorization="DPoP "),
        desk.head(authorization="Bearer"),
        desk.head(authorization=""),
        desk.head(authorization="Negotiate x"),
    ):
        refused = await desk.refused(head)
        assert refused.code is Code.TOKEN_MISSING
        assert refused.headers["WWW-Authenticate"] == 'DPoP algs="ES256 ES384 EdDSA"'
        assert refused.headers["DPoP-Nonce"] == desk.nonce


async def test_an_openbao_token_is_no_access_token(desk: Desk) -> None:
    for token in ("root", "hvs.CAESIJ", "s.abcdefghijklmnopqrstuvwx"):
        assert await desk.code(desk.head(token)) is Code.TOKEN_INVALID


# -- bindings --------------------------------------------------------------------------------------------------------
async def test_an_unbound_token_where_a_binding_is_required(desk: Desk) -> None:
    token = desk.token(cnf=None)
    for head in (
        desk.head(token),
        desk.head(authorization=f"Bearer {token}"),
        desk.head(authorization=f"DPoP {token}"),
    ):
        assert await desk.code(head) is Code.BINDING_REQUIRED
    assert await desk.code(desk.head(token, desk.proof(token))) is Code.BINDING_MISMATCH
    assert await desk.code(desk.head(token), TLS) is Code.BINDING_REQUIRED


async def test_an_unbound_token_where_a_binding_is_preferred(preferred: Desk) -> None:
    token = preferred.token(cnf=None)
    for head in (preferred.head(token), preferred.head(authorization=f"Bearer {token}")):
        assert (await preferred.ask(head)).binding == Binding()
    assert await preferred.code(preferred.head(token, preferred.proof(token))) is Code.BINDING_MISMATCH
    assert await preferred.code(preferred.head(authorization=f"DPoP {token}")) is Code.BINDING_MISMATCH
    with_proof = preferred.head(None, preferred.proof(token), authorization=f"Bearer {token}")
    assert await preferred.code(with_proof) is Code.BINDING_MISMATCH


async def test_preferred_does_not_loosen_a_bound_token(preferred: Desk) -> None:
    token = preferred.token()
    for head in (preferred.head(token), preferred.head(authorization=f"Bearer {token}")):
        assert await preferred.code(head) is Code.BINDING_MISMATCH
    assert await preferred.token_code(preferred.token(aud="other")) is Code.AUDIENCE_MISMATCH


async def test_a_token_bound_to_a_certificate(desk: Desk) -> None:
    token = desk.issuer.certificate_token(CERTIFICATE.thumbprint)
    for head in (desk.head(token), desk.head(authorization=f"Bearer {token}")):
        assert (await desk.ask(head, TLS)).binding == Binding(BindingKind.MTLS, CERTIFICATE.thumbprint)
        assert await desk.code(head, TCP) is Code.BINDING_MISMATCH
        assert await desk.code(head, Peer("tls", OTHER_CERTIFICATE.der)) is Code.BINDING_MISMATCH
    assert await desk.code(desk.head(token, desk.proof(token)), TLS) is Code.BINDING_MISMATCH
    assert await desk.code(desk.head(authorization=f"DPoP {token}"), TLS) is Code.BINDING_MISMATCH


async def test_a_token_bound_to_both_needs_both(desk: Desk) -> None:
    token = desk.token(cnf={"jkt": desk.key.jkt, "x5t#S256": CERTIFICATE.thumbprint})
    caller = await desk.ask(desk.head(token, desk.proof(token)), TLS)
    assert caller.binding == Binding(BindingKind.DPOP_MTLS, f"{desk.key.jkt}+{CERTIFICATE.thumbprint}")
    assert await desk.code(desk.head(token), TLS) is Code.BINDING_MISMATCH
    assert await desk.code(desk.head(token, desk.proof(token)), TCP) is Code.BINDING_MISMATCH
    assert await desk.code(desk.head(authorization=f"Bearer {token}"), TLS) is Code.BINDING_MISMATCH


@pytest.mark.parametrize(
    ("cnf", "code"),
    [
        ({"jwk": {"kty": "EC"}}, Code.BINDING_MISMATCH),
        ({"kid": "x"}, Code.BINDING_MISMATCH),
        ({"x5t": "x"}, Code.BINDING_MISMATCH),
        ({"unheard-of": 1}, Code.BINDING_MISMATCH),
        ({"jkt": "GOOD", "unheard-of": 1}, Code.BINDING_MISMATCH),
        ({}, Code.TOKEN_INVALID),
        ([], Code.TOKEN_INVALID),
        ("x", Code.TOKEN_INVALID),
        ({"jkt": None}, Code.TOKEN_INVALID),
        ({"jkt": ""}, Code.TOKEN_INVALID),
        ({"jkt": "x"}, Code.TOKEN_INVALID),
        ({"jkt": "A" * 44}, Code.TOKEN_INVALID),
        ({"jkt": "é" * 43}, Code.TOKEN_INVALID),
        ({"jkt": ["GOOD"]}, Code.TOKEN_INVALID),
        ({"x5t#S256": "x"}, Code.TOKEN_INVALID),
    ],
)
async def test_a_confirmation_that_cannot_be_met(preferred: Desk, cnf: Any, code: Code) -> None:
    if isinstance(cnf, dict) and cnf.get("jkt") == "GOOD":
        cnf = cnf | {"jkt": preferred.key.jkt}
    token = preferred.token(cnf=cnf)
    for head in (preferred.head(token), preferred.head(token, preferred.proof(token))):
        assert await preferred.code(head) is code
    null = preferred.issuer.compact(preferred.issuer.header(), preferred.issuer.claims() | {"cnf": None})
    assert await preferred.code(preferred.head(null)) is Code.TOKEN_INVALID


# -- token jti -------------------------------------------------------------------------------------------------------
async def test_a_token_of_single_use(tmp_path: Path) -> None:
    async with open_desk(tmp_path, **PREFERRED, anti_replay={"unbound_token": "single_use"}) as desk:
        token = desk.token(cnf=None, jti="once")
        before = REGISTRY.get_sample_value("sidecar_replays_total", {"kind": "token"}) or 0.0
        # What the sidecar answers itself spends nothing.
        for _ in range(2):
            await desk.authenticator.authenticate(desk.head(token), TCP, spend=False)
        await desk.ask(desk.head(token))
        refused = await desk.refused(desk.head(token))
        assert refused.code is Code.TOKEN_REPLAYED
        assert refused.status == 403
        assert REGISTRY.get_sample_value("sidecar_replays_total", {"kind": "token"}) == before + 1
        # The jti counts, not the bytes; bound tokens are another matter.
        assert await desk.code(desk.head(desk.token(cnf=None, jti="once", sub="other"))) is Code.TOKEN_REPLAYED
        bound = desk.token(jti="once")
        for _ in range(2):
            await desk.ask(desk.head(bound, desk.proof(bound)))


async def test_a_token_of_single_use_is_spent_until_it_expires(tmp_path: Path) -> None:
    async with open_desk(tmp_path, **PREFERRED, anti_replay={"unbound_token": "single_use"}) as desk:
        token = desk.token(cnf=None, exp=int(desk.clock.wall()) + 3600)
        await desk.ask(desk.head(token))
        desk.clock.advance(3500)
        assert await desk.code(desk.head(token)) is Code.TOKEN_REPLAYED
        desk.clock.step_wall(-250)
        desk.clock.advance(200)
        assert await desk.code(desk.head(token)) is Code.TOKEN_REPLAYED


async def test_the_same_jti_of_two_issuers(tmp_path: Path) -> None:
    other = Issuer("https://other.example")
    issuers = [other.configured(tmp_path / "other.json")]
    async with open_desk(tmp_path, issuers=issuers, **PREFERRED, anti_replay={"unbound_token": "single_use"}) as desk:
        other.now = desk.clock.wall
        await desk.ask(desk.head(desk.token(cnf=None, jti="once")))
        await desk.ask(desk.head(other.token(jti="once")))


async def test_bound_tokens_of_single_use(tmp_path: Path) -> None:
    async with open_desk(tmp_path, anti_replay={"bound_token": "single_use"}) as desk:
        token = desk.token()
        await desk.ask(desk.head(token, desk.proof(token)))
        assert await desk.token_code(token) is Code.TOKEN_REPLAYED


@pytest.mark.parametrize("policy", ["single_use", "per_grant"])
async def test_a_token_needs_a_jti_where_the_policy_looks_at_it(tmp_path: Path, policy: str) -> None:
    async with open_desk(tmp_path, **PREFERRED, anti_replay={"unbound_token": policy, "bound_token": policy}) as desk:
        assert await desk.code(desk.head(desk.token(cnf=None, jti=None))) is Code.TOKEN_INVALID
        assert await desk.token_code(desk.token(jti=None)) is Code.TOKEN_INVALID


async def test_a_token_needs_no_jti_where_nobody_looks_at_it(tmp_path: Path) -> None:
    async with open_desk(tmp_path, **PREFERRED, anti_replay={"unbound_token": "off"}) as desk:
        token = desk.token(cnf=None, jti=None)
        for _ in range(2):
            await desk.ask(desk.head(token))


async def test_a_refused_request_uses_nothing_up(tmp_path: Path) -> None:
    async with open_desk(tmp_path, anti_replay={"bound_token": "single_use"}) as desk:
        token = desk.token()
        assert await desk.code(desk.head(token, desk.proof(token, htm="POST"))) is Code.PROOF_INVALID
        assert await desk.code(desk.head(token, desk.proof(token, nonce="wrong"))) is Code.PROOF_NONCE_REQUIRED
        assert len(desk.authenticator.replays) == 0
        await desk.ask(desk.head(token, desk.proof(token)))


async def test_a_replayed_proof_is_counted(desk: Desk) -> None:
    before = REGISTRY.get_sample_value("sidecar_replays_total", {"kind": "proof"}) or 0.0
    head = desk.good_head()
    await desk.ask(head)
    assert await desk.code(head) is Code.PROOF_REPLAYED
    assert REGISTRY.get_sample_value("sidecar_replays_total", {"kind": "proof"}) == before + 1


# -- without identity ------------------------------------------------------------------------------------------------
async def test_where_identity_is_not_required_nobody_is_anonymous_and_somebody_is_checked(tmp_path: Path) -> None:
    async with open_desk(tmp_path, environment="dev", identity={"required": False}) as desk:
        caller = await desk.ask(desk.head())
        assert (caller.subject, caller.issuer, caller.binding, caller.token) == ("anonymous", "", Binding(), None)
        assert caller.expires_at > desk.clock.wall() + 10**9
        assert await desk.code(desk.head("root")) is Code.TOKEN_INVALID
        assert await desk.code(desk.head(desk.token(cnf=None))) is Code.BINDING_REQUIRED
        assert await desk.code(desk.head(None, desk.proof(desk.token()))) is Code.TOKEN_MISSING
        assert await desk.code(desk.head(authorization="Basic x")) is Code.TOKEN_MISSING
        assert (await desk.ask(desk.good_head())).subject == "app"


# -- challenges ------------------------------------------------------------------------------------------------------
async def test_every_refusal_of_a_credential_is_a_challenge(desk: Desk) -> None:
    token, expired = desk.token(), desk.token(exp=1)
    cases = {
        Code.TOKEN_INVALID: (desk.head("root"), "invalid_token"),
        Code.TOKEN_EXPIRED: (desk.head(expired, desk.proof(expired)), "invalid_token"),
        Code.BINDING_MISMATCH: (desk.head(token), "invalid_token"),
        Code.PROOF_INVALID: (desk.head(token, "x"), "invalid_dpop_proof"),
        Code.PROOF_NONCE_REQUIRED: (desk.head(token, desk.proof(token, nonce=None)), "use_dpop_nonce"),
    }
    for code, (head, error) in cases.items():
        refused = await desk.refused(head)
        assert refused.code is code
        challenge = refused.headers["WWW-Authenticate"]
        assert re.fullmatch(
            rf'DPoP error="{error}", error_description="[\x20\x21\x23-\x5b\x5d-\x7e]+", algs="ES256 ES384 EdDSA"',
            challenge,
        )
        assert refused.headers["DPoP-Nonce"] == desk.nonce
        assert token not in str(refused.headers)


async def test_bearer_is_offered_where_it_can_be_taken(preferred: Desk, tmp_path: Path) -> None:
    assert (await preferred.refused(preferred.head())).headers["WWW-Authenticate"].endswith(", Bearer")


async def test_no_nonce_where_nonces_are_off(tmp_path: Path) -> None:
    async with open_desk(tmp_path, anti_replay={"dpop_nonce": "off"}) as desk:
        assert desk.authenticator.nonce_headers() == {}
        token = desk.token()
        await desk.ask(desk.head(token, desk.proof(token, nonce=None)))
        await desk.ask(desk.head(token, desk.proof(token, nonce="any")))
        assert "DPoP-Nonce" not in (await desk.refused(desk.head())).headers


# -- the listener's names --------------------------------------------------------------------------------------------
async def test_the_port_that_the_system_chose(desk: Desk) -> None:
    desk.authenticator.listens_on(["127.0.0.1:41234"])
    token = desk.token()
    url = f"http://127.0.0.1:41234{PATH}"
    await desk.ask(desk.head(token, desk.proof(token, url=url)))
    assert await desk.proof_code() is Code.PROOF_INVALID
    desk.authenticator.check_origin(Head("GET", PATH, None, {"host": "localhost:41234"}))


async def test_a_tls_listener_is_https(tmp_path: Path) -> None:
    tls = {"cert_file": str(tmp_path / "cert.pem"), "key_file": str(tmp_path / "key.pem")}
    async with open_desk(tmp_path, listen={"tls": tls}) as desk:
        token = desk.token()
        await desk.ask(desk.head(token, desk.proof(token, url=f"https://localhost:8200{PATH}")))
        assert await desk.proof_code() is Code.PROOF_INVALID


# -- readiness -------------------------------------------------------------------------------------------------------
async def test_without_keys_it_is_not_ready_and_no_token_is_taken(desk: Desk) -> None:
    assert desk.authenticator.ready
    desk.jwks_file.write_text('{"keys":[]}')
    desk.clock.advance(1)
    refused = await desk.refused(desk.good_head())
    assert refused.code is Code.TOKEN_INVALID
    assert "0 keys" in refused.detail
    assert not desk.authenticator.ready
    assert desk.authenticator.problems.keys() == {desk.issuer.url}


async def test_keys_are_read_again_when_the_operator_says_so(desk: Desk) -> None:
    desk.issuer.rotate("key-2")
    desk.issuer.write_jwks(desk.jwks_file)
    await desk.authenticator.reload()
    await desk.ask(desk.good_head())


# -- whatever comes --------------------------------------------------------------------------------------------------
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 2**63, 2**64, 1e308, 0.5, "", "x", "\x00", "\u202e", "é", "A" * 43, "A" * 5000),
    *([], [[]], ["x"], [None], {}, {"": None}, {"jkt": None}, {"act": {}}),
)


async def test_whatever_a_claim_is_the_caller_is_known_or_refused(preferred: Desk) -> None:
    """Every claim and header member of token and proof, in every odd shape: nothing but a refusal comes of it."""
    outcomes = set()
    token = preferred.token()
    for value in ODD_VALUES:
        for name in (*preferred.issuer.claims(), "nbf", "cnf", "act", "scope", "scp", "amr", "acr", "auth_time", "azp"):
            odd = preferred.issuer.compact(preferred.issuer.header(), preferred.issuer.claims() | {name: value})
            outcomes.add(await outcome(preferred, preferred.head(odd)))
        for name in (*preferred.issuer.header(), "crit", "jwk", "b64", "cty", "x"):
            odd = preferred.issuer.compact(preferred.issuer.header() | {name: value}, preferred.issuer.claims())
            outcomes.add(await outcome(preferred, preferred.head(odd)))
        claims = preferred.key.claims(token, url=f"http://127.0.0.1:8200{PATH}", nonce=preferred.nonce)
        for name in (*claims, "exp", "nbf"):
            odd = preferred.key.compact(preferred.key.header(), claims | {name: value})
            outcomes.add(await outcome(preferred, preferred.head(token, odd)))
        for header in (
            *({name: value} for name in (*preferred.key.header(), "crit", "kid")),
            *({"jwk": preferred.key.jwk | {name: value}} for name in ("kty", "crv", "x", "y", "use", "key_ops")),
        ):
            odd = preferred.key.compact(preferred.key.header() | header, claims)
            outcomes.add(await outcome(preferred, preferred.head(token, odd)))
    assert outcomes == {"taken", *WHAT_CREDENTIALS_GET}


WHAT_CREDENTIALS_GET = {
    *(Code.TOKEN_INVALID, Code.TOKEN_EXPIRED, Code.AUDIENCE_MISMATCH, Code.BINDING_MISMATCH),
    *(Code.PROOF_INVALID, Code.PROOF_NONCE_REQUIRED, Code.PROOF_REPLAYED),
}


async def outcome(desk: Desk, head: Head) -> str:
    try:
        await desk.ask(head)
    except Refused as refused:
        return refused.code
    return "taken"


async def test_whatever_bytes_are_changed_the_caller_is_known_or_refused(desk: Desk) -> None:
    chance = random.Random(9449)
    token = desk.token()
    for _ in range(1500):
        original = [token, desk.proof(token)]
        given = list(original)
        which = chance.randrange(2)
        text = list(given[which])
        for _ in range(chance.randint(1, 3)):
            where = chance.randrange(len(text))
            text[where : where + chance.randint(0, 2)] = chance.choice("AZaz09-_.=,+/ {}\x00\xe9")
        given[which] = "".join(text)
        got = await outcome(desk, desk.head(*given))
        assert got in {*WHAT_CREDENTIALS_GET, Code.AMBIGUOUS_CREDENTIALS} or given == original
