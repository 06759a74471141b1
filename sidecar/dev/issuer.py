"""A development issuer: one ES256 key, its JWKS over HTTP on loopback, and access tokens for the asking.

For development only. Whoever can read the key file can be anybody, so tokens are minted from the file
(`sidecar dev token`) and never over the network: there is no token endpoint. The HTTP side serves public metadata and
listens on 127.0.0.1 alone.

`python -m sidecar.dev.issuer KEY_FILE PORT` serves it; the issuer's identifier is `http://127.0.0.1:PORT`.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwcrypto.jwk import JWK

from sidecar.dev.certificates import private_pem
from sidecar.dev.files import write_private
from sidecar.dev.ports import LOOPBACK

SCOPES: Final = (
    "secrets.read secrets.read_metadata secrets.write secrets.rotate secrets.delete secrets.destroy secrets.set_owner"
)
"""Every scope there is: policies narrow it, as does `--scope`."""

MAX_TTL_SECONDS: Final = 86_400


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What a token is bound to: `cnf.jkt` (RFC 9449, section 6.1), `cnf.x5t#S256` (RFC 8705, section 3.1), both or
    neither."""

    jkt: str = ""
    x5t_s256: str = ""

    def claim(self) -> dict[str, str]:
        """The `cnf` claim; empty for a token anybody may use."""
        return {name: value for name, value in (("jkt", self.jkt), ("x5t#S256", self.x5t_s256)) if value}


class DevIssuer:
    """Signs access tokens in the JWT profile (RFC 9068)."""

    def __init__(self, issuer: str, key: ec.EllipticCurvePrivateKey) -> None:
        self.issuer = issuer
        self._key = key
        self._jwk = JWK.from_pyca(key.public_key())
        self.kid: str = self._jwk.thumbprint()

    @classmethod
    def from_file(cls, issuer: str, key_file: Path) -> DevIssuer:
        """The issuer whose key is in the file, made there where it is missing."""
        return cls(issuer, load_or_make_key(key_file))

    def jwks(self) -> dict[str, Any]:
        """The public key set (RFC 7517, section 5)."""
        return {"keys": [self._jwk.export_public(as_dict=True) | {"kid": self.kid, "use": "sig", "alg": "ES256"}]}

    def metadata(self) -> dict[str, Any]:
        """Authorization server metadata (RFC 8414), which OpenID Connect Discovery reads too. There is no
        `token_endpoint` since there is none."""
        return {
            "issuer": self.issuer,
            "jwks_uri": f"{self.issuer}/jwks.json",
            "scopes_supported": SCOPES.split(),
            "response_types_supported": [],
            "grant_types_supported": [],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "dpop_signing_alg_values_supported": ["ES256"],
            "tls_client_certificate_bound_access_tokens": True,
        }

    def mint(
        self,
        subject: str,
        *,
        audience: str,
        ttl_seconds: int = 300,
        client_id: str = "",
        scope: str = SCOPES,
        confirmation: Confirmation = Confirmation(),
        claims: Mapping[str, Any] | None = None,
    ) -> str:
        """An access token (RFC 9068, section 2.2). `client_id` is the subject's name where not given; `claims` are
        added, and win."""
        now = int(time.time())
        payload: dict[str, Any] = {
            "iss": self.issuer,
            "sub": subject,
            "aud": audience,
            "client_id": client_id or subject,
            "iat": now,
            "exp": now + ttl_seconds,
            "jti": str(uuid.uuid4()),
        }
        if scope:
            payload["scope"] = scope
        if bound_to := confirmation.claim():
            payload["cnf"] = bound_to
        payload |= claims or {}
        return jwt.encode(payload, self._key, algorithm="ES256", headers={"typ": "at+jwt", "kid": self.kid})


def load_or_make_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The P-256 key in a PEM file, made there where it is missing.

    Raises:
        ValueError: the file holds something else.
    """
    try:
        pem = path.read_bytes()
    except FileNotFoundError:
        key = ec.generate_private_key(ec.SECP256R1())
        write_private(path, private_pem(key))
        return key
    try:
        loaded = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} holds no unencrypted PEM private key") from error
    if not isinstance(loaded, ec.EllipticCurvePrivateKey) or not isinstance(loaded.curve, ec.SECP256R1):
        raise ValueError(f"{path} holds no P-256 key")
    return loaded


def application(issuer: DevIssuer) -> web.Application:
    """The HTTP side: public keys and metadata."""

    async def metadata(_request: web.Request) -> web.Response:
        return web.json_response(issuer.metadata())

    async def jwks(_request: web.Request) -> web.Response:
        return web.json_response(issuer.jwks())

    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", metadata)
    app.router.add_get("/.well-known/oauth-authorization-server", metadata)
    app.router.add_get("/jwks.json", jwks)
    return app


def issuer_url(port: int) -> str:
    """The identifier of the issuer that listens on a port."""
    return f"http://{LOOPBACK}:{port}"


def main() -> None:
    """Serves until SIGTERM."""
    key_file, port = Path(sys.argv[1]), int(sys.argv[2])
    app = application(DevIssuer.from_file(issuer_url(port), key_file))
    web.run_app(app, host=LOOPBACK, port=port, print=None)


if __name__ == "__main__":
    main()
