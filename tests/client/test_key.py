"""The application's key and what it signs."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwcrypto.jwk import JWK

from sidecar.client import DPoPKey
from tests.support.proofs import ath


def read(proof: str, key: DPoPKey) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, verified by another library."""
    public = jwt.PyJWK(key.jwk, "ES256").key
    return jwt.get_unverified_header(proof), jwt.decode(proof, public, ["ES256"], options={"verify_iat": False})


def test_a_proof_says_what_rfc_9449_section_4_2_asks_for() -> None:
    key = DPoPKey.generate()
    header, claims = read(key.proof("GET", "https://host/path?query=1#x", "token", "nonce"), key)
    assert header == {"typ": "dpop+jwt", "alg": "ES256", "jwk": key.jwk}
    assert claims.pop("jti")
    assert abs(claims.pop("iat") - time.time()) < 5
    assert claims == {"htm": "GET", "htu": "https://host/path", "ath": ath("token"), "nonce": "nonce"}


def test_a_proof_for_the_token_endpoint_names_no_token() -> None:
    key = DPoPKey.generate()
    _, claims = read(key.proof("POST", "https://idp.example/token"), key)
    assert claims.keys() == {"jti", "htm", "htu", "iat"}


def test_no_two_proofs_have_the_same_jti() -> None:
    key = DPoPKey.generate()
    assert len({read(key.proof("GET", "http://a/b"), key)[1]["jti"] for _ in range(50)}) == 50


def test_the_thumbprint_is_the_one_another_library_computes() -> None:
    key = DPoPKey.generate()
    assert key.thumbprint == JWK(**key.jwk).thumbprint()
    assert set(key.jwk) == {"kty", "crv", "x", "y"}


def test_a_key_is_saved_for_its_owner_only_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "dpop.pem"
    key = DPoPKey.generate()
    before = os.umask(0)
    try:
        key.save(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert DPoPKey.load(path).thumbprint == key.thumbprint
    assert [entry.name for entry in tmp_path.iterdir()] == ["dpop.pem"]


def test_saving_replaces_a_symbolic_link_and_does_not_write_through_it(tmp_path: Path) -> None:
    target, path = tmp_path / "target", tmp_path / "dpop.pem"
    target.write_text("mine")
    path.symlink_to(target)
    DPoPKey.generate().save(path)
    assert target.read_text() == "mine"
    assert not path.is_symlink()


def test_a_key_that_cannot_be_saved_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "dpop.pem").mkdir()
    with pytest.raises(OSError):
        DPoPKey.generate().save(tmp_path / "dpop.pem")
    assert [entry.name for entry in tmp_path.iterdir()] == ["dpop.pem"]


def test_the_key_is_made_once(tmp_path: Path) -> None:
    first = DPoPKey.load_or_generate(tmp_path / "dpop.pem")
    assert DPoPKey.load_or_generate(tmp_path / "dpop.pem").thumbprint == first.thumbprint


def test_what_is_no_p_256_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="P-256"):
        DPoPKey(ec.generate_private_key(ec.SECP384R1()))
    path = tmp_path / "key.pem"
    for key in (ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()):
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        with pytest.raises(ValueError, match="P-256"):
            DPoPKey.load(path)
    path.write_text("garbage")
    with pytest.raises(ValueError):
        DPoPKey.load_or_generate(path)


def test_a_key_shows_itself_to_nobody() -> None:
    key = DPoPKey.generate()
    private = key._private_key.private_numbers().private_value
    shown = repr(key) + json.dumps(key.jwk)
    assert key.thumbprint in shown
    assert str(private) not in shown
    assert f"{private:x}" not in shown
