"""The application's DPoP key, and the proofs made with it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import time
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

_COORDINATE_BYTES = 32
_ES256 = ec.ECDSA(hashes.SHA256())


class DPoPKey:
    """An ES256 key (RFC 7518, section 3.4). In memory, or in a file that only its owner may read."""

    def __init__(self, private_key: ec.EllipticCurvePrivateKey) -> None:
        """Wraps a P-256 key. Raises ValueError for a key on another curve."""
        if not isinstance(private_key.curve, ec.SECP256R1):
            raise ValueError("a DPoP key must be on the curve P-256")
        self._private_key = private_key
        numbers = private_key.public_key().public_numbers()
        self.jwk = {
            "crv": "P-256",
            "kty": "EC",
            "x": _b64(numbers.x.to_bytes(_COORDINATE_BYTES, "big")),
            "y": _b64(numbers.y.to_bytes(_COORDINATE_BYTES, "big")),
        }
        """The public key as a JWK (RFC 7517)."""
        self.thumbprint = _b64(hashlib.sha256(_json(self.jwk)).digest())
        """RFC 7638: what the authorization server puts into the token's `cnf.jkt` (its parameter `dpop_jkt`)."""
        self._header = _b64(_json({"alg": "ES256", "jwk": self.jwk, "typ": "dpop+jwt"}))

    @classmethod
    def generate(cls) -> DPoPKey:
        """A new key, in memory."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def load(cls, path: str | Path) -> DPoPKey:
        """The key of a PEM file. Raises OSError, or ValueError where the file holds no P-256 key."""
        private_key = load_pem_private_key(Path(path).read_bytes(), password=None)
        if not isinstance(private_key, ec.EllipticCurvePrivateKey):
            raise ValueError("a DPoP key must be on the curve P-256")
        return cls(private_key)

    def save(self, path: str | Path) -> None:
        """Writes the key as PEM (PKCS #8) that only its owner may read, whole or not at all.

        A file already there is replaced, a symbolic link too; it is not written through.
        """
        path = Path(path)
        pem = self._private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise

    @classmethod
    def load_or_generate(cls, path: str | Path) -> DPoPKey:
        """The key of the file; where there is none, a new one that is saved there."""
        try:
            return cls.load(path)
        except FileNotFoundError:
            key = cls.generate()
            key.save(path)
            return key

    def proof(self, method: str, url: str, token: str | None = None, nonce: str | None = None) -> str:
        """A proof for one request (RFC 9449, section 4.2): the value of its `DPoP` header. Never use one twice.

        `url` is the request's as it is sent; its query and fragment are left out. `token` is the access token that
        goes with it, None at the authorization server's token endpoint; `nonce` the server's last `DPoP-Nonce`.
        """
        claims: dict[str, str | int] = {
            "jti": secrets.token_urlsafe(16),
            "htm": method,
            "htu": url.partition("#")[0].partition("?")[0],
            "iat": int(time.time()),
        }
        if token is not None:
            claims["ath"] = _b64(hashlib.sha256(token.encode("ascii")).digest())
        if nonce is not None:
            claims["nonce"] = nonce
        signing_input = f"{self._header}.{_b64(_json(claims))}"
        r, s = decode_dss_signature(self._private_key.sign(signing_input.encode(), _ES256))
        signature = r.to_bytes(_COORDINATE_BYTES, "big") + s.to_bytes(_COORDINATE_BYTES, "big")
        return f"{signing_input}.{_b64(signature)}"

    def __repr__(self) -> str:
        return f"DPoPKey(thumbprint={self.thumbprint!r})"


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _json(value: object) -> bytes:
    """Sorted and without spaces: for the thumbprint that is RFC 7638's form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
