"""THREATS, TOKEN: forged, foreign, stale and malformed access tokens."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwcrypto import jwe
from jwcrypto.jwk import JWK

from sidecar.caller import issuer_keys, key_fetch
from sidecar.door.head import Head
from sidecar.errors import Code
from tests.support.desk import PATH, Desk, open_desk
from tests.support.jwks_server import JwksServer
from tests.support.tokens import Issuer, b64, compact, new_private_key, public_jwk, sign


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(tmp_path) as desk:
        yield desk


async def test_the_token_that_the_attacks_bend_is_taken(desk: Desk) -> None:
    caller = await desk.ask(desk.good_head())
    assert caller.subject == "app"


# -- 01 --------------------------------------------------------------------------------------------------------------
def bound_claims(desk: Desk, **claims: Any) -> dict[str, Any]:
    return desk.issuer.claims(cnf={"jkt": desk.key.jkt}, **claims)


async def test_token_01_alg_none_and_confusion(desk: Desk) -> None:
    issuer, claims = desk.issuer, bound_claims(desk)
    for name in ("none", "None", "NONE", "nOnE", "", None, 0, ["ES256"], "es256"):
        header = issuer.header(alg=name)
        for signature in (b"\x00", issuer.sign(b"x")):
            forged = compact(header, claims, lambda _data, signature=signature: signature)  # type: ignore[misc] # a default binds the loop's value
            assert await desk.token_code(forged) is Code.TOKEN_INVALID
        assert await desk.token_code(f"{b64(json.dumps(header))}.{b64(json.dumps(claims))}.") is Code.TOKEN_INVALID

    public = issuer.key.public_key()
    secrets = (
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(issuer.jwk).encode(),
        b"",
    )
    for secret in secrets:
        for alg in ("HS256", "ES256"):
            forged = compact(
                issuer.header(alg=alg),
                claims,
                lambda data, secret=secret: hmac.digest(secret, data, hashlib.sha256),  # type: ignore[misc] # the same
            )
            assert await desk.token_code(forged) is Code.TOKEN_INVALID


async def test_token_01_an_algorithm_that_is_not_the_keys(tmp_path: Path) -> None:
    """RS256 and PS256 are both accepted of this issuer; each key says which it is for, and each curve has its hash."""
    rsa = Issuer(algorithm="RS256")
    curve = new_private_key("ES384")
    issuers = [
        {"issuer": "https://both.example", "jwks_file": str(tmp_path / "both.json"), "algorithms": ["ES256", "PS256"]}
    ]
    (tmp_path / "both.json").write_text(
        json.dumps({"keys": [rsa.jwk, public_jwk("ES384", curve) | {"kid": "curve"}]}),
    )
    async with open_desk(tmp_path, issuers=issuers) as desk:
        claims = bound_claims(desk, iss="https://both.example")
        for alg, kid, key in (("PS256", "key-1", rsa.key), ("RS256", "key-1", rsa.key)):
            token = compact({"typ": "JWT", "alg": alg, "kid": kid}, claims, lambda data, a=alg, k=key: sign(a, k, data))  # type: ignore[misc] # the same
            assert await desk.token_code(token) is Code.TOKEN_INVALID
        mismatched = compact(
            {"typ": "JWT", "alg": "ES256", "kid": "curve"},
            claims,
            lambda data: sign("ES384", curve, data),
        )
        assert await desk.token_code(mismatched) is Code.TOKEN_INVALID


async def test_token_01_signatures_that_are_none(desk: Desk) -> None:
    issuer, claims = desk.issuer, bound_claims(desk)
    good = issuer.token(cnf={"jkt": desk.key.jkt})
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    der = issuer.key.sign(b"x", ec.ECDSA(hashes.SHA256()))
    forged = [
        bytes(64),
        b"\x00" * 63 + b"\x01",
        b"\x00" * 31 + b"\x01" + bytes(32),
        order.to_bytes(32, "big") * 2,
        b"\xff" * 64,
        b"\x01",
        bytes(65),
        bytes(96),
        der,
    ]
    for signature in forged:
        token = compact(issuer.header(), claims, lambda _data, signature=signature: signature)  # type: ignore[misc] # the same
        assert await desk.token_code(token) is Code.TOKEN_INVALID
    # The very signature, over other claims, and by another key.
    other = issuer.token(cnf={"jkt": desk.key.jkt}, sub="admin")
    swapped = ".".join([*other.split(".")[:2], good.split(".")[2]])
    assert await desk.token_code(swapped) is Code.TOKEN_INVALID
    assert await desk.token_code(compact(issuer.header(), claims, desk.key.sign)) is Code.TOKEN_INVALID


async def test_token_01_another_spelling_of_a_good_token(desk: Desk) -> None:
    good = desk.token()
    header, payload, signature = good.split(".")
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    # The last letter of 64 bytes carries four bits that mean nothing.
    tail = last[last.index(signature[-1]) ^ 1]
    spellings = [
        f"{good}=",
        f"{good}==",
        f"{header}=.{payload}.{signature}",
        f"{header}.{payload}=.{signature}",
        f"{header}.{payload}.{signature[:-1]}{tail}",
        f"{header}.{payload}.{base64.b64encode(base64.urlsafe_b64decode(signature + '==')).decode()}",
        f" {good}",
        f"{good} ",
        f"{good}\n",
        f"{good}.",
        f".{good}",
        f"{header}..{signature}",
        f"{header}.{payload}",
        f"{header[:4]}\n{header[4:]}.{payload}.{signature}",
        good.replace(".", ".."),
        good.replace("e", "е", 1),  # a Cyrillic letter
        "",
        "x",
        "\x00",
    ]
    await desk.ask(desk.head(good, desk.proof(good)))
    for spelling in spellings:
        if spelling:
            head = desk.head(spelling, desk.proof(good))
            assert await desk.code(head) is Code.TOKEN_INVALID, spelling


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("header", '{"typ":"at+jwt","alg":"none","alg":"ES256","kid":"key-1"}'),
        ("header", '{"typ":"JWT","typ":"at+jwt","alg":"ES256","kid":"key-1"}'),
        ("header", '{"typ":"at+jwt","alg":"ES256","kid":"key-1","\\u0061lg":"ES256"}'),
        ("header", '["at+jwt"]'),
        ("header", "{"),
        ("header", ""),
        ("header", '{"typ":"at+jwt","alg":"ES256","kid":"key-1"}}'),
        ("header", "\ufeff{}"),
        ("payload", '"iss"'),
        ("payload", "null"),
        ("payload", "[" * 5000 + "]" * 5000),
    ],
)
async def test_token_01_json_that_is_read_in_two_ways(desk: Desk, part: str, text: str) -> None:
    issuer = desk.issuer
    if part == "header":
        token = issuer.compact(text.encode(), bound_claims(desk))
    else:
        token = issuer.compact(issuer.header(), text.encode())
    assert await desk.token_code(token) is Code.TOKEN_INVALID


@pytest.mark.parametrize("name", ["sub", "aud", "exp", "cnf", "iss", "jti", "scope", "unheard-of"])
async def test_token_01_a_repeated_claim(desk: Desk, name: str) -> None:
    claims = json.dumps(bound_claims(desk, scope="a", **{"unheard-of": 1}))
    twice = f'{{"{name}":{json.dumps("admin")},{claims[1:]}'
    assert await desk.token_code(desk.issuer.compact(desk.issuer.header(), twice.encode())) is Code.TOKEN_INVALID


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["exp"]},
        {"crit": []},
        {"crit": ["b64"], "b64": True},
        {"b64": False},
        {"b64": True},
        {"zip": "DEF"},
        {"cty": "JWT"},
        {"cty": "at+jwt"},
        {"enc": "A256GCM"},
    ],
)
async def test_token_01_header_parameters_that_change_the_reading(desk: Desk, header: dict[str, Any]) -> None:
    token = desk.issuer.token(header, cnf={"jkt": desk.key.jkt})
    assert await desk.token_code(token) is Code.TOKEN_INVALID


async def test_token_01_an_encrypted_and_a_nested_token(desk: Desk) -> None:
    recipient = JWK.generate(kty="EC", crv="P-256")
    encrypted = jwe.JWE(
        desk.token().encode(), json.dumps({"alg": "ECDH-ES", "enc": "A256GCM", "typ": "at+jwt", "cty": "JWT"})
    )
    encrypted.add_recipient(recipient)
    assert await desk.token_code(encrypted.serialize(compact=True)) is Code.TOKEN_INVALID
    nested = desk.issuer.compact(desk.issuer.header(cty="JWT"), desk.token().encode())
    assert await desk.token_code(nested) is Code.TOKEN_INVALID
    general = json.dumps({"payload": b64(b"{}"), "signatures": []})
    assert await desk.code(desk.head(general.replace(",", ""), "x")) is Code.TOKEN_INVALID


# -- 02 --------------------------------------------------------------------------------------------------------------
async def test_token_02_a_key_that_the_token_brings(desk: Desk) -> None:
    attacker = Issuer(kid="key-1")
    for header in (
        {"jwk": attacker.jwk},
        {"jku": "https://evil.example/jwks.json"},
        {"x5u": "https://evil.example/cert.pem"},
        {"x5c": ["MIIB"]},
    ):
        for kid in ("key-1", "another", None):
            token = attacker.token(header | {"kid": kid}, cnf={"jkt": desk.key.jkt}, iat=int(desk.clock.wall()))
            assert await desk.token_code(token) is Code.TOKEN_INVALID
            # Not even beside the right signature: what is not read is not passed over either.
            signed = desk.issuer.token(header, cnf={"jkt": desk.key.jkt})
            assert await desk.token_code(signed) is Code.TOKEN_INVALID


@pytest.mark.parametrize(
    "kid",
    [
        "../../../../dev/null",
        "' OR 1=1 --",
        "key-1\x00",
        "key-1 ",
        "KEY-1",
        "",
        "k" * 100_000,
        "k" * 257,
        1,
        None,
        ["key-1"],
    ],
)
async def test_token_02_kid_is_a_name_and_nothing_else(tmp_path: Path, kid: object) -> None:
    async with open_desk(tmp_path) as desk:
        desk.issuer.write_jwks(desk.jwks_file, public_jwk("ES256", new_private_key()) | {"kid": "key-2"})
        desk.clock.advance(2)
        claims = bound_claims(desk)
        header = desk.issuer.header() | {"kid": kid}
        assert await desk.token_code(desk.issuer.compact(header, claims)) is Code.TOKEN_INVALID


# -- 03 --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "iss",
    [
        "https://idp.example/",
        "https://IDP.example",
        "HTTPS://idp.example",
        "https://idp.example:443",
        "https://user@idp.example",
        "https://idp.example.evil.example",
        "https://idp.example#",
        "https://idp.example?",
        " https://idp.example",
        "https://idp.example\n",
        "http://idp.example",
        "",
        None,
        1,
        ["https://idp.example"],
        {"https://idp.example": 1},
    ],
)
async def test_token_03_an_issuer_that_is_nearly_the_right_one(desk: Desk, iss: object) -> None:
    claims = bound_claims(desk) | {"iss": iss}
    assert await desk.token_code(desk.issuer.compact(desk.issuer.header(), claims)) is Code.TOKEN_INVALID


async def test_token_03_the_same_kid_under_two_issuers(tmp_path: Path) -> None:
    other = Issuer("https://other.example", kid="key-1")
    async with open_desk(tmp_path, issuers=[other.configured(tmp_path / "other.json")]) as desk:
        other.now = desk.clock.wall
        own = other.bound_token(desk.key.jkt)
        assert (await desk.ask(desk.head(own, desk.proof(own)))).issuer == "https://other.example"
        borrowed = other.bound_token(desk.key.jkt, iss=desk.issuer.url)
        assert await desk.token_code(borrowed) is Code.TOKEN_INVALID
        lent = desk.token(iss=other.url)
        assert await desk.token_code(lent) is Code.TOKEN_INVALID


# -- 04 --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("aud", "code"),
    [
        (None, Code.AUDIENCE_MISMATCH),
        ([], Code.AUDIENCE_MISMATCH),
        ("another", Code.AUDIENCE_MISMATCH),
        (["another", "crud.secrets.evil"], Code.AUDIENCE_MISMATCH),
        ("CRUD.SECRETS", Code.AUDIENCE_MISMATCH),
        ("crud.secrets ", Code.AUDIENCE_MISMATCH),
        ("another crud.secrets", Code.AUDIENCE_MISMATCH),
        ("", Code.TOKEN_INVALID),
        (1, Code.TOKEN_INVALID),
        (True, Code.TOKEN_INVALID),
        ({"crud.secrets": 1}, Code.TOKEN_INVALID),
        (["crud.secrets", 1], Code.TOKEN_INVALID),
        ([["crud.secrets"]], Code.TOKEN_INVALID),
        (["crud.secrets"] * 65, Code.TOKEN_INVALID),
    ],
)
async def test_token_04_audience(desk: Desk, aud: object, code: Code) -> None:
    claims = bound_claims(desk, aud=aud)
    assert await desk.token_code(desk.issuer.compact(desk.issuer.header(), claims)) is code


async def test_token_04_one_audience_of_several(desk: Desk) -> None:
    caller = await desk.ask(desk.good_head(aud=["other", "crud.secrets"]))
    assert caller.audience == ("other", "crud.secrets")


@pytest.mark.parametrize(
    ("claim", "value", "code"),
    [
        ("exp", None, Code.TOKEN_INVALID),
        ("exp", "9999999999", Code.TOKEN_INVALID),
        ("exp", True, Code.TOKEN_INVALID),
        ("exp", [9999999999], Code.TOKEN_INVALID),
        ("exp", -1, Code.TOKEN_INVALID),
        ("exp", 253_402_300_800, Code.TOKEN_INVALID),
        ("exp", 10**300, Code.TOKEN_INVALID),
        ("exp", 0, Code.TOKEN_EXPIRED),
        ("nbf", "0", Code.TOKEN_INVALID),
        ("nbf", False, Code.TOKEN_INVALID),
        ("iat", "0", Code.TOKEN_INVALID),
        ("iat", 10**300, Code.TOKEN_INVALID),
    ],
)
async def test_token_04_dates_that_are_none(desk: Desk, claim: str, value: object, code: Code) -> None:
    claims = bound_claims(desk)
    claims.pop(claim, None)
    if value is not None:
        claims[claim] = value
    assert await desk.token_code(desk.issuer.compact(desk.issuer.header(), claims)) is code


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999", "0x10", "01", "1_000"])
async def test_token_04_numbers_that_are_none(desk: Desk, text: str) -> None:
    claims = json.dumps(bound_claims(desk, exp=77)).replace('"exp": 77', f'"exp": {text}')
    assert await desk.token_code(desk.issuer.compact(desk.issuer.header(), claims.encode())) is Code.TOKEN_INVALID


async def test_token_04_a_null_date_is_no_date(desk: Desk) -> None:
    for claim in ("exp", "nbf", "iat"):
        claims = bound_claims(desk) | {claim: None}
        assert await desk.token_code(desk.issuer.compact(desk.issuer.header(), claims)) is Code.TOKEN_INVALID


async def test_token_04_a_date_may_have_a_fraction_and_be_far_off(desk: Desk) -> None:
    now = desk.clock.wall()
    caller = await desk.ask(desk.good_head(exp=now + 10.75, iat=now - 0.5))
    assert caller.expires_at == int(now + 10.75)
    assert (await desk.ask(desk.good_head(exp=253_402_300_799))).expires_at == 253_402_300_799


async def test_token_04_the_skew_is_for_tokens_that_seem_too_new(desk: Desk) -> None:
    now = desk.clock.wall()
    for claim in ("nbf", "iat"):
        await desk.ask(desk.good_head(**{claim: now + 4}))
        token = desk.token(**{claim: now + 6})
        assert await desk.token_code(token) is Code.TOKEN_INVALID
    assert await desk.token_code(desk.token(exp=now)) is Code.TOKEN_EXPIRED
    await desk.ask(desk.good_head(exp=now + 0.1))


async def test_token_04_clock_steps(desk: Desk) -> None:
    token = desk.token(nbf=int(desk.clock.wall()))
    await desk.ask(desk.head(token, desk.proof(token)))
    desk.clock.step_wall(-3600)
    assert await desk.token_code(token) is Code.TOKEN_INVALID  # not valid yet, remembered or not
    desk.clock.step_wall(2 * 3600)
    assert await desk.token_code(token) is Code.TOKEN_EXPIRED


# -- 05 --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "typ",
    ["dpop+jwt", "logout+jwt", "secevent+jwt", "id+jwt", "JWE", "at+jwt2", "text/at+jwt", "", None, 1, ["at+jwt"]],
)
async def test_token_05_another_type(desk: Desk, typ: object) -> None:
    header = desk.issuer.header(typ=typ)
    assert await desk.token_code(desk.issuer.compact(header, bound_claims(desk))) is Code.TOKEN_INVALID


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt", "JWT", "jwt"])
async def test_token_05_the_types_that_are_taken(desk: Desk, typ: str) -> None:
    token = desk.issuer.token({"typ": typ}, cnf={"jkt": desk.key.jkt})
    assert (await desk.ask(desk.head(token, desk.proof(token)))).subject == "app"


@pytest.mark.parametrize(
    "claims",
    [
        {"at_hash": "x"},
        {"c_hash": "x"},
        {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}},
    ],
)
async def test_token_05_an_id_token_or_logout_token_of_the_general_type(desk: Desk, claims: dict[str, Any]) -> None:
    token = desk.issuer.token({"typ": "JWT"}, cnf={"jkt": desk.key.jkt}, **claims)
    assert await desk.token_code(token) is Code.TOKEN_INVALID
    id_token = desk.issuer.token({"typ": "JWT"}, cnf={"jkt": desk.key.jkt}, aud="app-client")
    assert await desk.token_code(id_token) is Code.AUDIENCE_MISMATCH


async def test_token_05_a_proof_is_no_token(desk: Desk) -> None:
    proof = desk.proof(desk.token())
    assert await desk.code(desk.head(proof, proof)) is Code.TOKEN_INVALID


# -- 06 --------------------------------------------------------------------------------------------------------------
async def test_token_06_a_revoked_key_takes_its_remembered_tokens_with_it(desk: Desk) -> None:
    token = desk.token()
    await desk.ask(desk.head(token, desk.proof(token)))
    desk.issuer.rotate("key-2")
    desk.issuer.write_jwks(desk.jwks_file)
    desk.clock.advance(1.1)
    assert await desk.token_code(token) is Code.TOKEN_INVALID
    await desk.ask(desk.good_head())


async def test_token_06_another_key_under_the_same_kid_is_another_key(desk: Desk) -> None:
    token = desk.token()
    await desk.ask(desk.head(token, desk.proof(token)))
    desk.issuer.rotate("key-1")
    desk.issuer.write_jwks(desk.jwks_file)
    desk.clock.advance(1.1)
    assert await desk.token_code(token) is Code.TOKEN_INVALID


@pytest.mark.parametrize(
    "document", ["none", "ten thousand", "oversize", "garbage", "redirect", "slow", "error", "gone", "twice"]
)
async def test_token_06_a_jwks_endpoint_that_misbehaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, document: str
) -> None:
    """Keys once read outlive an endpoint that fails, for an hour; not one that says there are none."""
    monkeypatch.setattr(key_fetch, "FETCH_TIMEOUT_SECONDS", 0.2)
    issuer = Issuer("https://remote.example")
    async with JwksServer(issuer.jwks()) as server:
        issuers = [{"issuer": issuer.url, "jwks_uri": server.url, "algorithms": ["ES256"]}]
        async with open_desk(tmp_path, issuers=issuers) as desk:
            issuer.now = desk.clock.wall
            token = issuer.bound_token(desk.key.jkt, exp=int(desk.clock.wall()) + 100_000)
            await desk.ask(desk.head(token, desk.proof(token)))
            server.serve(document)
            desk.clock.advance(issuer_keys.FLOOR_SECONDS)
            unknown = issuer.token({"kid": "unknown"}, cnf={"jkt": desk.key.jkt})
            assert await desk.token_code(unknown) is Code.TOKEN_INVALID
            assert server.fetches >= 2
            if document == "none":
                assert await desk.token_code(token) is Code.TOKEN_INVALID
                return
            await desk.ask(desk.head(token, desk.proof(token)))
            assert desk.authenticator.problems.keys() == {issuer.url}
            desk.clock.advance(issuer_keys.STALE_LIMIT_SECONDS)
            assert await desk.token_code(token) is Code.TOKEN_INVALID


# -- 07 --------------------------------------------------------------------------------------------------------------
async def test_token_07_a_flood_of_unknown_kids_costs_one_fetch(tmp_path: Path) -> None:
    issuer = Issuer("https://remote.example")
    async with JwksServer(issuer.jwks()) as server:
        issuers = [{"issuer": issuer.url, "jwks_uri": server.url, "algorithms": ["ES256"]}]
        async with open_desk(tmp_path, issuers=issuers) as desk:
            issuer.now = desk.clock.wall
            assert server.fetches == 1
            desk.clock.advance(issuer_keys.FLOOR_SECONDS)
            for number in range(50):
                token = issuer.token({"kid": f"unknown-{number}"}, cnf={"jkt": desk.key.jkt})
                assert await desk.token_code(token) is Code.TOKEN_INVALID
            assert server.fetches == 2
            # The owner of a rotated key waits for the floor, no longer.
            issuer.rotate("key-2")
            server.document = issuer.jwks()
            rotated = issuer.bound_token(desk.key.jkt)
            assert await desk.token_code(rotated) is Code.TOKEN_INVALID
            desk.clock.advance(issuer_keys.FLOOR_SECONDS)
            await desk.ask(desk.head(rotated, desk.proof(rotated)))
            assert server.fetches == 3
            # What no key could verify asks for none.
            desk.clock.advance(issuer_keys.FLOOR_SECONDS)
            headers: tuple[dict[str, Any], ...] = ({"alg": "RS256"}, {"alg": "none"}, {"typ": "x"}, {"crit": []})
            for header in headers:
                assert await desk.token_code(issuer.token(header, cnf={"jkt": desk.key.jkt})) is Code.TOKEN_INVALID
            assert server.fetches == 3


# -- 08 --------------------------------------------------------------------------------------------------------------
async def test_token_08_a_remembered_token_expires_all_the_same(desk: Desk) -> None:
    token = desk.token(exp=int(desk.clock.wall()) + 60)
    await desk.ask(desk.head(token, desk.proof(token)))
    desk.clock.advance(59)
    await desk.ask(desk.head(token, desk.proof(token)))
    desk.clock.advance(1)
    assert await desk.token_code(token) is Code.TOKEN_EXPIRED


# -- 09 --------------------------------------------------------------------------------------------------------------
async def test_token_09_two_credentials(desk: Desk) -> None:
    one, other = desk.token(), desk.token(sub="other")
    for scheme in ("Bearer", "DPoP", "Basic"):
        head = desk.head(one, desk.proof(one), authorization=f"{scheme} {other}")
        assert await desk.code(head) is Code.AMBIGUOUS_CREDENTIALS
    for head in (
        desk.head(f"{one}, {other}", desk.proof(one)),
        desk.head(None, desk.proof(one), authorization=f"DPoP {one}, DPoP {other}"),
        desk.head(one, desk.proof(one), authorization="DPoP"),
        desk.head(one, desk.proof(one), authorization=""),
    ):
        assert await desk.code(head) is Code.AMBIGUOUS_CREDENTIALS
    twice = desk.head(one, desk.proof(one), authorization=f"DPoP {one}")
    assert (await desk.ask(twice)).subject == "app"


async def test_token_09_a_token_in_the_query_is_no_credential(desk: Desk) -> None:
    head = desk.head()
    asked = Head("GET", PATH, f"access_token={desk.token()}", head.headers)
    assert await desk.code(asked) is Code.TOKEN_MISSING


# -- 10 --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "sub",
    [
        None,
        "",
        " \n",
        "a\x00b",
        "a\nb",
        "\x1b[31mred",
        "a\u202eb",
        "s" * 513,
        "s" * 65_536,
        1,
        True,
        ["app"],
        {"app": 1},
    ],
)
async def test_token_10_a_subject_that_is_none(desk: Desk, sub: object) -> None:
    claims = bound_claims(desk) | {"sub": sub}
    if sub is None:
        claims.pop("sub")
    assert await desk.token_code(desk.issuer.compact(desk.issuer.header(), claims)) is Code.TOKEN_INVALID


@pytest.mark.parametrize(
    "claims",
    [
        {"client_id": "a\nb"},
        {"azp": ["a"], "client_id": None},
        {"jti": "j" * 513},
        {"jti": 7},
        {"acr": 1},
        {"amr": "pwd"},
        {"amr": ["pwd", 1]},
        {"amr": ["x"] * 65},
        {"auth_time": "1"},
        {"scope": 1},
        {"scope": "a  b"},
        {"scope": 'a "b"'},
        {"scope": "a\nb"},
        {"scope": " ".join("a" * 300)},
        {"scp": ["a b"]},
        {"scope": "a", "scp": ["b"]},
        {"workflow_run_id": {"a": 1}},
        {"node_id": "n" * 513},
        {"system_id": ""},
    ],
)
async def test_token_10_claims_that_are_not_what_they_should_be(desk: Desk, claims: dict[str, Any]) -> None:
    assert await desk.token_code(desk.token(**claims)) is Code.TOKEN_INVALID


def chain(depth: int) -> dict[str, Any]:
    return {"sub": "actor"} | ({"act": chain(depth - 1)} if depth > 1 else {})


@pytest.mark.parametrize(
    "act",
    [
        chain(5),
        {},
        "actor",
        ["actor"],
        {"sub": "a\nb"},
        {"sub": {"deep": 1}},
        {"groups": ["a", {"b": 1}]},
        {"a\nb": "c"},
        {f"n{number}": "x" for number in range(65)},
        {"sub": "a", "act": {}},
        {"sub": "a", "act": None},
    ],
)
async def test_token_10_delegation_chains_that_are_none(desk: Desk, act: object) -> None:
    assert await desk.token_code(desk.token(act=act)) is Code.TOKEN_INVALID


async def test_token_10_a_chain_a_thousand_deep(desk: Desk) -> None:
    deep = '{"sub":"a","act":' * 700 + '{"sub":"a"}' + "}" * 700
    claims = json.dumps(bound_claims(desk))
    token = desk.issuer.compact(desk.issuer.header(), f'{{"act":{deep},{claims[1:]}'.encode())
    assert await desk.token_code(token) is Code.TOKEN_INVALID


async def test_token_10_a_chain_of_four_is_carried_through(desk: Desk) -> None:
    caller = await desk.ask(desk.good_head(act=chain(4)))
    assert caller.act == chain(4)
