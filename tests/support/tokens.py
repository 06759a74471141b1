"""An authorization server in miniature: keys, JWKS, access tokens, and every forgery of them."""

from __future__ import annotations

import base64
import hashlib
import json
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

AUDIENCE: Final = "crud.secrets"
ISSUER: Final = "https://idp.example"

_CURVES: Final[Mapping[str, ec.EllipticCurve]] = {
    "ES256": ec.SECP256R1(),
    "ES384": ec.SECP384R1(),
    "ES512": ec.SECP521R1(),
}


def b64(data: bytes | str) -> str:
    """Base64url without padding (RFC 7515, section 2)."""
    raw = data.encode() if isinstance(data, str) else data
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def new_private_key(algorithm: str = "ES256") -> Any:
    """A private key fit for a JWS algorithm."""
    if algorithm in _CURVES:
        return ec.generate_private_key(_CURVES[algorithm])
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def sign(algorithm: str, key: PrivateKeyTypes, data: bytes) -> bytes:
    """A raw JWS signature."""
    return jwt.PyJWS().get_algorithm_by_name(algorithm).sign(data, key)


def public_jwk(algorithm: str, key: Any) -> dict[str, Any]:
    """The public JWK of a private key, with its required members only."""
    jwk: dict[str, Any] = jwt.PyJWS().get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {name: jwk[name] for name in ("kty", "crv", "x", "y", "n", "e") if name in jwk}


def thumbprint(jwk: Mapping[str, Any]) -> str:
    """RFC 7638, written apart from the code under test."""
    required = {name: jwk[name] for name in ("crv", "e", "kty", "n", "x", "y") if name in jwk}
    return b64(hashlib.sha256(json.dumps(required, sort_keys=True, separators=(",", ":")).encode()).digest())


def compact(
    header: Mapping[str, Any] | bytes,
    payload: Mapping[str, Any] | bytes,
    signer: Callable[[bytes], bytes],
) -> str:
    """A compact JWS of exactly this header and payload; bytes stand as they are, so that JSON can be forged."""
    head, body = (
        part if isinstance(part, bytes) else json.dumps(part, separators=(",", ":")).encode()
        for part in (header, payload)
    )
    signing_input = f"{b64(head)}.{b64(body)}"
    return f"{signing_input}.{b64(signer(signing_input.encode()))}"


class Issuer:
    """An authorization server. `token()` gives what `sidecar` takes; arguments bend it.

    `now` is the clock of its claims.
    """

    def __init__(
        self,
        url: str = ISSUER,
        *,
        algorithm: str = "ES256",
        kid: str = "key-1",
        now: Callable[[], float] = time.time,
    ) -> None:
        self.url = url
        self.algorithm = algorithm
        self.kid = kid
        self.now = now
        self.key = new_private_key(algorithm)

    @property
    def jwk(self) -> dict[str, Any]:
        """The public key as the JWKS shows it."""
        return public_jwk(self.algorithm, self.key) | {"kid": self.kid, "alg": self.algorithm, "use": "sig"}

    @property
    def public_pem(self) -> str:
        """The public key as PEM, for those who do not read JWKS."""
        encoded = self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return str(encoded.decode())

    def jwks(self, *more: Mapping[str, Any]) -> dict[str, Any]:
        """The key set, with further keys behind its own."""
        return {"keys": [self.jwk, *more]}

    def write_jwks(self, path: Path, *more: Mapping[str, Any]) -> Path:
        """Puts the key set into a file, as a Kubernetes volume does: written aside, then renamed into place."""
        aside = path.with_suffix(".aside")
        aside.write_text(json.dumps(self.jwks(*more)))
        aside.rename(path)
        return path

    def rotate(self, kid: str) -> None:
        """A new signing key; the old one is forgotten."""
        self.kid = kid
        self.key = new_private_key(self.algorithm)

    def claims(self, **claims: Any) -> dict[str, Any]:
        """The claims of a good token (RFC 9068), overridden; None removes one."""
        now = int(self.now())
        good: dict[str, Any] = {
            "iss": self.url,
            "sub": "app",
            "aud": AUDIENCE,
            "client_id": "app-client",
            "iat": now,
            "exp": now + 300,
            "jti": uuid.uuid4().hex,
        }
        return {name: value for name, value in (good | claims).items() if value is not None}

    def header(self, **header: Any) -> dict[str, Any]:
        """The header of a good token, overridden; None removes a member."""
        good: dict[str, Any] = {"typ": "at+jwt", "alg": self.algorithm, "kid": self.kid}
        return {name: value for name, value in (good | header).items() if value is not None}

    def sign(self, data: bytes) -> bytes:
        """A raw signature with the issuer's key."""
        return sign(self.algorithm, self.key, data)

    def token(self, header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """An access token; `header` overrides header members, everything else claims. None removes."""
        return self.compact(self.header(**(header or {})), self.claims(**claims))

    def bound_token(self, jkt: str, **claims: Any) -> str:
        """An access token bound to a DPoP key by its RFC 7638 thumbprint."""
        return self.token(cnf={"jkt": jkt}, **claims)

    def certificate_token(self, x5t: str, **claims: Any) -> str:
        """An access token bound to a client certificate by its SHA-256 thumbprint (RFC 8705)."""
        return self.token(cnf={"x5t#S256": x5t}, **claims)

    def service_account_token(
        self, namespace: str = "shop", name: str = "app", header: Mapping[str, Any] | None = None, **claims: Any
    ) -> str:
        """A projected token, as kube-apiserver 1.34 writes them: no `typ`, no `client_id`, a list as `aud`."""
        now = int(self.now())
        good: dict[str, Any] = {
            "aud": [AUDIENCE],
            "exp": now + 3600,
            "iat": now,
            "iss": self.url,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": {
                "namespace": namespace,
                "node": {"name": "node-1", "uid": "8b1f0e5e-4f0b-4c79-9d1c-0d6b7f3c1a11"},
                "pod": {"name": f"{name}-5d9f", "uid": "2f4d9a77-7a51-4b4e-a2ad-3a6f7d1e9c22"},
                "serviceaccount": {"name": name, "uid": "c0a8e3f1-93b7-4a52-8d0e-6f5b2d4c7e33"},
                "warnafter": now + 3607,
            },
            "nbf": now,
            "sub": f"system:serviceaccount:{namespace}:{name}",
        }
        claims = {name: value for name, value in (good | claims).items() if value is not None}
        return self.compact({"alg": self.algorithm, "kid": self.kid} | dict(header or {}), claims)

    def svid(self, subject: str, header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """A JWT-SVID as SPIRE writes them: no `iss`, no `jti`."""
        now = int(self.now())
        good: dict[str, Any] = {"aud": [AUDIENCE], "exp": now + 300, "iat": now, "sub": subject}
        claims = {name: value for name, value in (good | claims).items() if value is not None}
        return self.compact({"alg": self.algorithm, "kid": self.kid, "typ": "JWT"} | dict(header or {}), claims)

    def compact(self, header: Mapping[str, Any] | bytes, payload: Mapping[str, Any] | bytes) -> str:
        """A token of exactly these bytes, signed with the issuer's key."""
        return compact(header, payload, self.sign)

    def configured(self, jwks_file: Path, **more: Any) -> dict[str, Any]:
        """The entry of `identity.issuers` that takes this issuer's tokens; writes its key set there."""
        return {"issuer": self.url, "jwks_file": str(self.write_jwks(jwks_file)), "algorithms": [self.algorithm]} | more
