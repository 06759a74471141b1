"""Public keys: one spelling, one thumbprint, nothing weak, nothing private."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st
from jwcrypto.jwk import JWK

from sidecar.caller import jose, jwk
from tests.support.tokens import b64, new_private_key, public_jwk

EC = public_jwk("ES256", new_private_key())
OKP = public_jwk("EdDSA", new_private_key("EdDSA"))
RSA = public_jwk("RS256", new_private_key("RS256"))


def number(value: int) -> str:
    return b64(value.to_bytes((value.bit_length() + 7) // 8, "big"))


@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "ES512", "EdDSA", "RS256", "PS256"])
def test_the_thumbprint_is_the_one_another_library_computes(algorithm: str) -> None:
    key = public_jwk(algorithm, new_private_key(algorithm))
    public = jwk.parse(key | {"kid": "x", "use": "sig"})
    assert public.thumbprint == JWK(**key).thumbprint()
    assert public.kind is jwk.KIND_OF_ALGORITHM[algorithm]


def test_the_thumbprint_of_rfc_7638_section_3_1() -> None:
    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3okn"
        "jhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6q"
        "MQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awa"
        "pJzKnqDKgw"
    )
    public = jwk.parse({"kty": "RSA", "n": modulus, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"})
    assert public.thumbprint == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def short_rsa() -> dict[str, Any]:
    return public_jwk("RS256", rsa.generate_private_key(public_exponent=65537, key_size=1024))


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({}, id="empty"),
        pytest.param(EC | {"d": EC["x"]}, id="private part"),
        pytest.param(RSA | {"p": "AQAB"}, id="private RSA part"),
        pytest.param({"kty": "oct", "k": b64(b"k" * 32)}, id="symmetric"),
        pytest.param(EC | {"k": "AQAB"}, id="symmetric part in a public key"),
        pytest.param(EC | {"kty": "ec"}, id="kind in another case"),
        pytest.param(EC | {"kty": ["EC"]}, id="kind is a list"),
        pytest.param(EC | {"crv": "secp256k1"}, id="unknown curve"),
        pytest.param(EC | {"crv": "P-384"}, id="another curve's length"),
        pytest.param(EC | {"crv": None}, id="curve is null"),
        pytest.param(OKP | {"crv": "Ed448"}, id="unknown Edwards curve"),
        pytest.param(OKP | {"crv": "X25519"}, id="a curve that does not sign"),
        pytest.param(EC | {"y": EC["x"]}, id="off the curve"),
        pytest.param(EC | {"x": b64(bytes(32)), "y": b64(bytes(32))}, id="the point at nowhere"),
        pytest.param(EC | {"x": b64(b"\xff" * 32)}, id="coordinate beyond the field"),
        pytest.param(EC | {"x": EC["x"] + "="}, id="padding"),
        pytest.param(EC | {"x": b64(b"\x00" + jose.decode(EC["x"].encode()))}, id="a leading zero too many"),
        pytest.param(EC | {"x": "é" * 43}, id="not ASCII"),
        pytest.param({"kty": "EC", "crv": "P-256", "x": EC["x"]}, id="without y"),
        pytest.param(OKP | {"x": b64(b"\x01" * 31)}, id="short Edwards key"),
        pytest.param(short_rsa(), id="RSA of 1024 bits"),
        pytest.param(RSA | {"n": number(2**16384 - 1)}, id="RSA of 16384 bits"),
        pytest.param(RSA | {"e": number(1)}, id="e of 1"),
        pytest.param(RSA | {"e": number(3)}, id="e of 3"),
        pytest.param(RSA | {"e": number(65538)}, id="even e"),
        pytest.param(RSA | {"e": number(2**64 + 1)}, id="huge e"),
        pytest.param(RSA | {"e": b64(b"\x00\x01\x00\x01")}, id="leading zero"),
        pytest.param(RSA | {"n": ""}, id="empty modulus"),
    ],
)
def test_a_bad_key_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(jose.Malformed):
        jwk.parse(bad)


@given(
    st.dictionaries(
        st.sampled_from(["kty", "crv", "x", "y", "n", "e"]),
        st.sampled_from(["EC", "RSA", "OKP", "P-256", "Ed25519", "AQAB", EC["x"], EC["y"], RSA["n"]])
        | st.none()
        | st.integers()
        | st.text(max_size=5),
    )
)
def test_nothing_but_a_refusal_comes_of_garbage(garbage: dict[str, Any]) -> None:
    try:
        jwk.parse(garbage)
    except jose.Malformed:
        pass


@pytest.mark.parametrize(
    ("members", "allowed"),
    [
        ({}, True),
        ({"use": "sig", "alg": "ES256", "key_ops": ["verify"]}, True),
        ({"use": "enc"}, False),
        ({"alg": "ES384"}, False),
        ({"key_ops": ["sign"]}, False),
        ({"key_ops": "verify"}, False),
        ({"use": None}, False),
    ],
)
def test_a_key_says_itself_what_it_is_for(members: dict[str, Any], allowed: bool) -> None:
    assert jwk.restrictions_allow(members, "ES256") is allowed
