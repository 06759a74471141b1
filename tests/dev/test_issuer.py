"""The development issuer's tokens and metadata, read by libraries that know the standards and not this project."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp.test_utils import TestClient, TestServer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sidecar.dev.issuer import Confirmation, DevIssuer, application, issuer_url, load_or_make_key

URL = issuer_url(4711)


@pytest.fixture
def issuer(tmp_path: Path) -> DevIssuer:
    return DevIssuer.from_file(URL, tmp_path / "key.pem")


def _read(token: str, issuer: DevIssuer, **options: Any) -> dict[str, Any]:
    key = jwt.PyJWKSet.from_dict(issuer.jwks())[jwt.get_unverified_header(token)["kid"]]
    claims: dict[str, Any] = jwt.decode(
        token,
        key,
        algorithms=["ES256"],
        audience="crud.secrets",
        issuer=URL,
        options={"require": ["exp", "iat", "jti"]},
    )
    return claims


def test_a_token_follows_the_access_token_profile(issuer: DevIssuer) -> None:
    """RFC 9068, section 2: header type and required claims."""
    token = issuer.mint("app", audience="crud.secrets", ttl_seconds=90, scope="secrets.read")
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "typ": "at+jwt", "kid": issuer.kid}
    claims = _read(token, issuer)
    assert claims.keys() == {"iss", "sub", "aud", "client_id", "iat", "exp", "jti", "scope"}
    assert (claims["sub"], claims["client_id"], claims["scope"]) == ("app", "app", "secrets.read")
    assert claims["exp"] - claims["iat"] == 90


def test_a_token_is_bound_exactly_as_asked(issuer: DevIssuer) -> None:
    def cnf(confirmation: Confirmation) -> object:
        return _read(issuer.mint("app", audience="crud.secrets", confirmation=confirmation), issuer).get("cnf")

    assert cnf(Confirmation()) is None
    assert cnf(Confirmation(jkt="thumb")) == {"jkt": "thumb"}
    assert cnf(Confirmation(x5t_s256="cert")) == {"x5t#S256": "cert"}
    assert cnf(Confirmation(jkt="thumb", x5t_s256="cert")) == {"jkt": "thumb", "x5t#S256": "cert"}


def test_no_two_tokens_share_a_jti(issuer: DevIssuer) -> None:
    assert len({_read(issuer.mint("app", audience="crud.secrets"), issuer)["jti"] for _ in range(50)}) == 50


def test_the_key_outlives_the_process_and_is_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    first = DevIssuer.from_file(URL, path)
    assert DevIssuer.from_file(URL, path).kid == first.kid
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_key_set_holds_no_private_part(issuer: DevIssuer) -> None:
    (key,) = issuer.jwks()["keys"]
    assert "d" not in key
    assert (key["kty"], key["crv"], key["use"], key["alg"]) == ("EC", "P-256", "sig", "ES256")


@pytest.mark.parametrize(
    "key", [rsa.generate_private_key(65_537, 2048), ec.generate_private_key(ec.SECP384R1())], ids=["rsa", "p384"]
)
def test_a_key_of_another_kind_is_refused(tmp_path: Path, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> None:
    path = tmp_path / "key.pem"
    pkcs8 = serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, serialization.NoEncryption()))
    with pytest.raises(ValueError, match="no P-256 key"):
        load_or_make_key(path)


def test_a_file_that_is_no_key_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text("precious notes")
    with pytest.raises(ValueError, match="no unencrypted PEM private key"):
        load_or_make_key(path)
    assert path.read_text() == "precious notes"


async def test_the_http_side_serves_keys_and_metadata_and_mints_nothing(issuer: DevIssuer) -> None:
    async with TestClient(TestServer(application(issuer))) as client:
        keys = await (await client.get("/jwks.json")).json()
        assert keys == issuer.jwks()
        for name in ("openid-configuration", "oauth-authorization-server"):
            metadata = await (await client.get(f"/.well-known/{name}")).json()
            assert metadata["issuer"] == URL
            assert metadata["jwks_uri"] == f"{URL}/jwks.json"
            assert "token_endpoint" not in metadata
        assert (await client.post("/token", data={"grant_type": "client_credentials"})).status == 404
        assert (await client.post("/jwks.json")).status == 405


def test_the_issuer_names_a_loopback_address() -> None:
    host = issuer_url(1).removeprefix("http://").partition(":")[0]
    assert socket.inet_aton(host)[0] == 127
