"""THREATS, DPOP: proofs for something else, proofs used twice, proofs by keys that are none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from sidecar.caller import dpop
from sidecar.caller.issuer_keys import FLOOR_SECONDS
from sidecar.caller.nonce import LIFETIME_SECONDS
from sidecar.caller.replay import ReplayStore
from sidecar.errors import Code, Refused
from tests.support.desk import ORIGIN, PATH, Desk, open_desk
from tests.support.jwks_server import JwksServer
from tests.support.proofs import ProofKey, ath
from tests.support.tokens import Issuer, compact, new_private_key, public_jwk, thumbprint


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(tmp_path) as desk:
        yield desk


# -- 01 --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["POST", "get", "Get", "LIST", "GET ", "", None, ["GET"], 1])
async def test_dpop_01_a_proof_for_another_method(desk: Desk, method: Any) -> None:
    assert await desk.proof_code(htm=method) is Code.PROOF_INVALID


@pytest.mark.parametrize(
    "url",
    [
        f"http://127.0.0.1:8201{PATH}",
        f"http://127.0.0.1{PATH}",
        f"https://127.0.0.1:8200{PATH}",
        f"http://127.0.0.2:8200{PATH}",
        f"http://evil.example:8200{PATH}",
        f"http://127.0.0.1:8200@evil.example{PATH}",
        f"http://user@127.0.0.1:8200{PATH}",
        f"http://127.0.0.1:8200.evil.example{PATH}",
        f"http://evil.example/http://127.0.0.1:8200{PATH}",
        f"http://evil.example?http://127.0.0.1:8200{PATH}",
        f"http://evil.example#http://127.0.0.1:8200{PATH}",
        f"{ORIGIN}{PATH}/",
        f"{ORIGIN}/{PATH}",
        f"{ORIGIN}{PATH}2",
        f"{ORIGIN}{PATH.upper()}",
        f"{ORIGIN}/v1/secret/data/app/d%62",
        f"{ORIGIN}/v1/secret/../secret/data/app/db",
        f"{ORIGIN}/v1/secret/data/app%2fdb",
        f"{ORIGIN}",
        f"{ORIGIN}/",
        f"{ORIGIN}/?{PATH}",
        f"{ORIGIN}/v1/other?{PATH}",
        f"{ORIGIN}/v1/other#{PATH}",
        PATH,
        f"//127.0.0.1:8200{PATH}",
        f"unix:///run/sidecar.sock{PATH}",
        "",
        None,
        1,
        [f"{ORIGIN}{PATH}"],
    ],
)
async def test_dpop_01_a_proof_for_another_url(desk: Desk, url: Any) -> None:
    assert await desk.proof_code(htu=url) is Code.PROOF_INVALID


@pytest.mark.parametrize(
    "url",
    [
        f"http://localhost:8200{PATH}",
        f"HTTP://LocalHost:8200{PATH}",
        f"{ORIGIN}{PATH}?version=3",
        f"{ORIGIN}{PATH}#key",
        f"{ORIGIN}{PATH}?a=#b?c",
    ],
)
async def test_dpop_01_query_fragment_and_case_of_the_origin_do_not_count(desk: Desk, url: str) -> None:
    token = desk.token()
    assert (await desk.ask(desk.head(token, desk.proof(token, url=url)))).proof_jti


async def test_dpop_01_the_default_port_is_no_port(tmp_path: Path) -> None:
    async with open_desk(tmp_path, listen={"public_urls": ["https://vault.example"]}) as desk:
        for origin in ("https://vault.example", "https://vault.example:443", "https://VAULT.example:443"):
            token = desk.token()
            await desk.ask(desk.head(token, desk.proof(token, url=f"{origin}{PATH}"), host="vault.example"))
        assert await desk.proof_code(url=f"http://vault.example{PATH}") is Code.PROOF_INVALID
        assert await desk.proof_code(url=f"https://vault.example:80{PATH}") is Code.PROOF_INVALID


async def test_dpop_01_a_unix_socket_is_http_localhost(tmp_path: Path) -> None:
    async with open_desk(tmp_path, listen={"address": "unix:///run/sidecar/sidecar.sock"}) as desk:
        token = desk.token()
        await desk.ask(desk.head(token, desk.proof(token, url=f"http://localhost{PATH}"), host="localhost"))
        assert await desk.proof_code(url=f"http://localhost:8200{PATH}") is Code.PROOF_INVALID


async def test_dpop_01_a_proof_for_another_token(desk: Desk) -> None:
    other = desk.token(sub="other")
    wrong: tuple[Any, ...] = (ath(other), "", None, 1, ath(other) + "=", desk.token())
    for value in wrong:
        assert await desk.proof_code(ath=value) is Code.PROOF_INVALID


async def test_dpop_01_a_proof_by_another_key(desk: Desk) -> None:
    thief = ProofKey(now=desk.clock.wall)
    token = desk.token()
    proof = thief.proof(token, url=f"{ORIGIN}{PATH}", nonce=desk.nonce)
    assert await desk.code(desk.head(token, proof)) is Code.BINDING_MISMATCH
    # The owner's key in the header, the thief's signature under it.
    forged = compact(desk.key.header(), desk.key.claims(token, url=f"{ORIGIN}{PATH}", nonce=desk.nonce), thief.sign)
    assert await desk.code(desk.head(token, forged)) is Code.PROOF_INVALID


async def test_dpop_01_too_old_or_from_the_future(desk: Desk) -> None:
    now = desk.clock.wall()
    for iat in (now - 60.5, now - 3600, now + 5.5, now + 3600, -1, 0, 10**300):
        assert await desk.proof_code(iat=iat) is Code.PROOF_INVALID
    no_dates: tuple[Any, ...] = (None, str(int(now)), True, [now], {})
    for value in no_dates:
        assert await desk.proof_code(iat=value) is Code.PROOF_INVALID
    for iat in (now - 60, now, now + 5):
        token = desk.token()
        await desk.ask(desk.head(token, desk.proof(token, iat=iat)))


async def test_dpop_01_dates_that_nobody_asked_for_count_all_the_same(desk: Desk) -> None:
    now = desk.clock.wall()
    for claims in ({"exp": now}, {"exp": "x"}, {"exp": True}, {"nbf": now + 6}, {"nbf": "x"}):
        assert await desk.proof_code(**claims) is Code.PROOF_INVALID
    token = desk.token()
    await desk.ask(desk.head(token, desk.proof(token, exp=now + 1, nbf=now)))


# -- 02 --------------------------------------------------------------------------------------------------------------
async def test_dpop_02_the_same_proof_again(desk: Desk) -> None:
    head = desk.good_head()
    await desk.ask(head)
    for _ in range(3):
        assert await desk.code(head) is Code.PROOF_REPLAYED


async def test_dpop_02_the_same_proof_many_times_at_once(tmp_path: Path) -> None:
    """Under a key that is not known yet, so that all of them wait for one fetch and go on together."""
    remote = Issuer("https://remote.example")
    async with JwksServer(remote.jwks()) as server:
        issuers = [{"issuer": remote.url, "jwks_uri": server.url, "algorithms": ["ES256"]}]
        async with open_desk(tmp_path, issuers=issuers) as desk:
            remote.now = desk.clock.wall
            for number in range(5):
                remote.rotate(f"rotated-{number}")
                server.document = remote.jwks()
                desk.clock.advance(FLOOR_SECONDS)
                token = remote.bound_token(desk.key.jkt)
                head = desk.head(token, desk.proof(token))
                results = await asyncio.gather(*(desk.ask(head) for _ in range(25)), return_exceptions=True)
                refused = [result for result in results if isinstance(result, Refused)]
                assert len(refused) == 24
                assert {refusal.code for refusal in refused} == {Code.PROOF_REPLAYED}


async def test_dpop_02_the_same_jti_in_another_proof(desk: Desk) -> None:
    token = desk.token()
    await desk.ask(desk.head(token, desk.proof(token, jti="once")))
    assert await desk.code(desk.head(token, desk.proof(token, jti="once"))) is Code.PROOF_REPLAYED
    # Another token of the same key does not make it another proof.
    other = desk.token(sub="other")
    assert await desk.code(desk.head(other, desk.proof(other, jti="once"))) is Code.PROOF_REPLAYED
    # Another application's jti is its own matter: nobody can use up another's.
    stranger = ProofKey(now=desk.clock.wall)
    theirs = desk.token(cnf={"jkt": stranger.jkt})
    proof = stranger.proof(theirs, url=f"{ORIGIN}{PATH}", nonce=desk.nonce, jti="once")
    await desk.ask(desk.head(theirs, proof))


async def test_dpop_02_changed_signature_bytes_do_not_make_another_proof(desk: Desk) -> None:
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    token = desk.token()
    header, claims = desk.key.header(), desk.key.claims(token, url=f"{ORIGIN}{PATH}", nonce=desk.nonce)
    proof = desk.key.compact(header, claims)
    await desk.ask(desk.head(token, proof))

    def malleable(data: bytes) -> bytes:
        signature = desk.key.sign(data)
        s = order - int.from_bytes(signature[32:], "big")
        return signature[:32] + s.to_bytes(32, "big")

    # (r, n-s) verifies just as well, and so does a fresh signature over the header spelt anew.
    twins = [compact(header, claims, malleable), desk.key.compact(header, claims)]
    twins += [desk.key.compact(json.dumps(header, indent=2).encode(), claims)]
    for twin in twins:
        assert await desk.code(desk.head(token, twin)) is Code.PROOF_REPLAYED
    longer = compact(header, claims, lambda data: (raw := desk.key.sign(data))[:32] + b"\x00" + raw[32:])
    assert await desk.code(desk.head(token, longer)) is Code.PROOF_INVALID
    for padded in (f"{proof}=", f"{proof}==", proof.replace(".", "=.", 1)):
        assert await desk.code(desk.head(token, padded)) is Code.PROOF_INVALID


async def test_dpop_02_after_a_restart_and_in_another_pod(desk: Desk, tmp_path: Path) -> None:
    """The nonce belongs to one process: a proof taken from one is worth nothing in another."""
    head = desk.good_head()
    await desk.ask(head)
    (tmp_path / "other").mkdir()
    async with open_desk(tmp_path / "other", issuer=desk.issuer) as other:
        desk.issuer.now = desk.clock.wall
        assert await other.code(head) is Code.PROOF_NONCE_REQUIRED


async def test_dpop_02_a_full_store_refuses_and_forgets_nothing(desk: Desk) -> None:
    desk.authenticator.replays = ReplayStore(desk.clock, max_entries=5)
    used = [desk.good_head() for _ in range(5)]
    for head in used:
        await desk.ask(head)
    refused = await desk.refused(desk.good_head())
    assert refused.code is Code.OVERLOADED
    for head in used:
        assert await desk.code(head) is Code.PROOF_REPLAYED


async def test_dpop_02_steps_of_the_wall_clock_do_not_make_old_proofs_young(desk: Desk) -> None:
    head = desk.good_head()
    used_at = desk.clock.wall()
    await desk.ask(head)
    # Long enough for the replay store to forget it, not long enough for the nonce to die of age.
    desk.clock.advance(310)
    desk.clock.set_wall(used_at + 1)
    assert await desk.code(head) is Code.PROOF_NONCE_REQUIRED
    await desk.ask(desk.good_head())


@pytest.mark.parametrize(("mode", "code"), [("optional", Code.PROOF_NONCE_REQUIRED), ("off", Code.PROOF_INVALID)])
async def test_dpop_02_clock_steps_where_no_nonce_is_required(tmp_path: Path, mode: str, code: Code) -> None:
    async with open_desk(tmp_path, anti_replay={"dpop_nonce": mode}) as desk:
        token = desk.token(exp=int(desk.clock.wall()) + 10_000)
        head = desk.head(token, desk.proof(token, nonce=None))
        used_at = desk.clock.wall()
        await desk.ask(head)
        desk.clock.advance(310)
        desk.clock.set_wall(used_at + 1)
        assert await desk.code(head) is code
        # An honest proof made by the same wrong clock cannot be told from it; with a nonce it can.
        fresh = desk.head(token, desk.proof(token, nonce=None))
        assert await desk.code(fresh) is code
        if mode == "optional":
            await desk.ask(desk.head(token, desk.proof(token)))
        desk.clock.advance(320)
        await desk.ask(desk.head(token, desk.proof(token, nonce=None)))


async def test_dpop_02_the_window_holds_across_clock_steps(tmp_path: Path) -> None:
    async with open_desk(tmp_path, anti_replay={"dpop_nonce": "off"}) as desk:
        token = desk.token(exp=int(desk.clock.wall()) + 10_000)
        head = desk.head(token, desk.proof(token))
        used_at = desk.clock.wall()
        await desk.ask(head)
        for step in (86_400.0, -86_400.0, 30.0, -29.0):
            desk.clock.step_wall(step)
            desk.clock.advance(1)
        desk.clock.set_wall(used_at)
        refused = await desk.refused(head)
        assert refused.code in (Code.PROOF_REPLAYED, Code.PROOF_INVALID)


# -- 03 --------------------------------------------------------------------------------------------------------------
async def test_dpop_03_nonce_missing_old_foreign_or_forged(desk: Desk, tmp_path: Path) -> None:
    old = desk.nonce
    desk.clock.advance(2 * LIFETIME_SECONDS)
    (tmp_path / "other").mkdir()
    async with open_desk(tmp_path / "other") as other:
        for nonce in (None, old, other.nonce, "", "x" * 24, 0, True, [desk.nonce]):
            token = desk.token()
            head = desk.head(token, desk.proof(token, nonce=nonce))
            refused = await desk.refused(head)
            assert refused.code is Code.PROOF_NONCE_REQUIRED
            assert refused.headers["DPoP-Nonce"] == desk.nonce
            assert 'DPoP error="use_dpop_nonce"' in refused.headers["WWW-Authenticate"]


async def test_dpop_03_a_rotation_in_the_middle_of_a_burst_loses_nobody(desk: Desk) -> None:
    desk.clock.advance(LIFETIME_SECONDS - 3)
    asked = []
    for _ in range(6):
        asked.append(desk.good_head())
        desk.clock.advance(1)
    assert len({head.headers["dpop"] for head in asked}) == 6
    for head in asked:
        await desk.ask(head)


async def test_dpop_03_a_nonce_that_is_given_where_it_is_optional_must_be_right(tmp_path: Path) -> None:
    async with open_desk(tmp_path, anti_replay={"dpop_nonce": "optional"}) as desk:
        token = desk.token()
        await desk.ask(desk.head(token, desk.proof(token, nonce=None)))
        await desk.ask(desk.head(token, desk.proof(token)))
        assert await desk.proof_code(nonce="wrong") is Code.PROOF_NONCE_REQUIRED


# -- 04 --------------------------------------------------------------------------------------------------------------
RSA_1024 = rsa.generate_private_key(public_exponent=65537, key_size=1024)


def short_rsa() -> dict[str, Any]:
    return public_jwk("RS256", RSA_1024)


@pytest.mark.parametrize(
    ("name", "bend"),
    [
        ("private part", lambda jwk: jwk | {"d": jwk["x"]}),
        ("symmetric", lambda jwk: {"kty": "oct", "k": jwk["x"]}),
        ("symmetric beside", lambda jwk: jwk | {"k": jwk["x"]}),
        ("RSA too short", lambda jwk: short_rsa()),
        ("RSA with e of 1", lambda jwk: public_jwk("RS256", new_private_key("RS256")) | {"e": "AQ"}),
        ("unknown curve", lambda jwk: jwk | {"crv": "secp256k1"}),
        ("another curve", lambda jwk: jwk | {"crv": "P-384"}),
        ("off the curve", lambda jwk: jwk | {"y": jwk["x"]}),
        ("certificate", lambda jwk: jwk | {"x5c": ["MIIB"]}),
        ("certificate URL", lambda jwk: jwk | {"x5u": "https://evil.example"}),
        ("unheard-of member", lambda jwk: jwk | {"extra": "member"}),
        ("members of another kind", lambda jwk: jwk | {"n": 1, "oth": []}),
        ("for encryption", lambda jwk: jwk | {"use": "enc"}),
        ("for signing only", lambda jwk: jwk | {"key_ops": ["sign"]}),
        ("for another algorithm", lambda jwk: jwk | {"alg": "ES384"}),
        ("a text", lambda jwk: json.dumps(jwk)),
        ("a list", lambda jwk: [jwk]),
        ("empty", lambda jwk: {}),
        ("missing", lambda jwk: None),
    ],
)
async def test_dpop_04_a_key_that_is_none(tmp_path: Path, name: str, bend: Any) -> None:
    identity = {"proof_algorithms": ["ES256", "ES384", "EdDSA", "RS256", "PS256"]}
    async with open_desk(tmp_path, identity=identity) as desk:
        jwk = bend(desk.key.jwk)
        for alg in ("ES256", "RS256"):
            assert await desk.proof_code(header={"jwk": jwk, "alg": alg}) is Code.PROOF_INVALID, name


async def test_dpop_04_a_weak_key_is_refused_even_where_the_token_is_bound_to_it(tmp_path: Path) -> None:
    async with open_desk(tmp_path, identity={"proof_algorithms": ["RS256"]}) as desk:
        weak = ProofKey("RS256", now=desk.clock.wall)
        weak.key = RSA_1024
        token = desk.token(cnf={"jkt": thumbprint(weak.jwk)})
        proof = weak.proof(token, url=f"{ORIGIN}{PATH}", nonce=desk.nonce)
        assert await desk.code(desk.head(token, proof)) is Code.PROOF_INVALID


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "JWT"},
        {"typ": "DPoP+jwt"},
        {"typ": "application/dpop+jwt"},
        {"typ": None},
        {"typ": ["dpop+jwt"]},
        {"alg": "none"},
        {"alg": "HS256"},
        {"alg": "ES384"},
        {"alg": "RS256"},
        {"alg": None},
        {"alg": ["ES256"]},
        {"crit": ["exp"]},
        {"crit": []},
        {"b64": False},
        {"zip": "DEF"},
        {"jku": "https://evil.example"},
        {"x5c": ["MIIB"]},
        {"cty": "JWT"},
        {"unheard-of": 1},
    ],
)
async def test_dpop_04_a_header_that_is_not_a_proofs(desk: Desk, header: dict[str, Any]) -> None:
    assert await desk.proof_code(header=header) is Code.PROOF_INVALID


async def test_dpop_04_an_algorithm_that_is_not_the_keys(tmp_path: Path) -> None:
    """P-256 with SHA-384 is a sound signature and no JWS algorithm; the others are not even that."""
    identity = {"proof_algorithms": ["ES256", "ES384", "EdDSA", "RS256", "PS256"]}
    async with open_desk(tmp_path, identity=identity) as desk:
        token = desk.token()
        claims = desk.key.claims(token, url=f"{ORIGIN}{PATH}", nonce=desk.nonce)
        for algorithm in ("ES384", "EdDSA", "RS256", "PS256"):
            proof = compact(
                desk.key.header(alg=algorithm),
                claims,
                lambda data: raw_signature(desk.key.key.sign(data, ec.ECDSA(hashes.SHA384()))),
            )
            assert await desk.code(desk.head(token, proof)) is Code.PROOF_INVALID
        for kind in ("EdDSA", "RS256", "ES384"):
            other = ProofKey(kind, now=desk.clock.wall)
            theirs = desk.token(cnf={"jkt": other.jkt})
            proof = other.compact(
                other.header(alg="ES256"), other.claims(theirs, url=f"{ORIGIN}{PATH}", nonce=desk.nonce)
            )
            assert await desk.code(desk.head(theirs, proof)) is Code.PROOF_INVALID


def raw_signature(der: bytes) -> bytes:
    r, s = decode_dss_signature(der)
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


async def test_dpop_04_json_that_is_read_in_two_ways(desk: Desk) -> None:
    token = desk.token()
    header, claims = json.dumps(desk.key.header()), json.dumps(desk.key.claims(token, nonce=desk.nonce))
    for name in ("jti", "htm", "htu", "iat", "ath", "nonce"):
        for twice in (f'{{"{name}":"x",{claims[1:]}', f'{claims[:-1]},"{name}":"x"}}'):
            proof = desk.key.compact(header.encode(), twice.encode())
            assert await desk.code(desk.head(token, proof)) is Code.PROOF_INVALID
    for name in ("typ", "alg", "jwk"):
        proof = desk.key.compact(f'{{"{name}":"x",{header[1:]}'.encode(), claims.encode())
        assert await desk.code(desk.head(token, proof)) is Code.PROOF_INVALID
    inner = header.replace('"kty"', '"crv": "P-521", "kty"')
    assert await desk.code(desk.head(token, desk.key.compact(inner.encode(), claims.encode()))) is Code.PROOF_INVALID


@pytest.mark.parametrize("jti", [None, "", "j" * 129, 1, True, ["x"], "a\nb", "a\x00b"])
async def test_dpop_04_a_jti_that_is_none(desk: Desk, jti: Any) -> None:
    assert await desk.proof_code(jti=jti) is Code.PROOF_INVALID


async def test_dpop_04_two_proofs(desk: Desk) -> None:
    token = desk.token()
    one, other = desk.proof(token), desk.proof(token)
    for value in (f"{one}, {other}", f"{one},{other}", f"{one} {other}", f"{one}, ", f", {one}"):
        assert await desk.code(desk.head(token, value)) is Code.PROOF_INVALID


@pytest.mark.parametrize("value", ["", " ", "x", "a.b", "a.b.c", "a.b.c.d.e", "..", "é.é.é", "\x00", "x" * 9000])
async def test_dpop_04_a_proof_that_is_none(desk: Desk, value: str) -> None:
    token = desk.token()
    assert await desk.code(desk.head(token, value)) is Code.PROOF_INVALID


async def test_dpop_04_no_downgrade_to_bearer(desk: Desk) -> None:
    token = desk.token()
    for head in (
        desk.head(authorization=f"Bearer {token}"),
        desk.head(None, desk.proof(token), authorization=f"Bearer {token}"),
        desk.head(token, desk.proof(token), authorization=f"Bearer {token}"),
        desk.head(authorization=f"DPoP {token}"),
        desk.head(token),
    ):
        refused = await desk.refused(head)
        assert refused.code is Code.BINDING_MISMATCH
        assert 'error="invalid_token"' in refused.headers["WWW-Authenticate"]


# -- 05 --------------------------------------------------------------------------------------------------------------
async def test_dpop_05_the_issuers_own_key_is_no_special_key(tmp_path: Path) -> None:
    async with open_desk(tmp_path) as desk:
        signing = ProofKey(now=desk.clock.wall)
        signing.key = desk.issuer.key
        proof_for: dict[str, Any] = {"url": f"{ORIGIN}{PATH}", "nonce": desk.nonce}
        unbound = desk.token(cnf=None)
        assert await desk.code(desk.head(unbound, signing.proof(unbound, **proof_for))) is Code.BINDING_MISMATCH
        bound_elsewhere = desk.token()
        proof = signing.proof(bound_elsewhere, **proof_for)
        assert await desk.code(desk.head(bound_elsewhere, proof)) is Code.BINDING_MISMATCH


async def test_dpop_05_a_token_signed_with_the_proofs_own_key(desk: Desk) -> None:
    claims = desk.issuer.claims(cnf={"jkt": desk.key.jkt})
    for header in (desk.issuer.header(), desk.issuer.header(jwk=desk.key.jwk), desk.issuer.header(kid=desk.key.jkt)):
        token = desk.key.compact(header, claims)
        assert await desk.token_code(token) is Code.TOKEN_INVALID


# -- 06 --------------------------------------------------------------------------------------------------------------
async def test_dpop_06_what_is_not_verified_takes_no_place(desk: Desk) -> None:
    token = desk.token()
    await desk.ask(desk.head(token, desk.proof(token)))
    before = dict(desk.authenticator.cache_sizes())
    strangers = [ProofKey(now=desk.clock.wall) for _ in range(10)]
    for number in range(200):
        stranger = strangers[number % 10]
        by_stranger = stranger.proof(token, url=f"{ORIGIN}{PATH}", nonce=desk.nonce)
        assert await desk.code(desk.head(token, by_stranger)) is Code.BINDING_MISMATCH
        unsigned = compact(
            desk.key.header(kid=str(number)),
            desk.key.claims(token, url=f"{ORIGIN}{PATH}", nonce=desk.nonce),
            lambda _data: bytes(64),
        )
        assert await desk.code(desk.head(token, unsigned)) is Code.PROOF_INVALID
    assert dict(desk.authenticator.cache_sizes()) == before


async def test_dpop_06_a_flood_by_other_keys_costs_no_signature_check(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = 0
    real = dpop.signature_check

    def counted(algorithm: str, key: Any) -> Callable[[bytes, bytes], object]:
        check = real(algorithm, key)

        def count(signature: bytes, data: bytes) -> object:
            nonlocal checks
            checks += 1
            return check(signature, data)

        return count

    monkeypatch.setattr(dpop, "signature_check", counted)
    token = desk.token()
    stranger = ProofKey(now=desk.clock.wall)
    for number in range(40):
        assert await desk.code(desk.head(token, stranger.proof(token, jti=str(number)))) is Code.BINDING_MISMATCH
    assert checks == 0
    await desk.ask(desk.head(token, desk.proof(token)))
    assert checks == 1
