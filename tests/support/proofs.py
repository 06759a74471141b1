"""DPoP proofs as an honest application makes them, and as an attacker bends them."""

from __future__ import annotations

import base64
import hashlib
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

from tests.support.tokens import compact, new_private_key, public_jwk, sign, thumbprint

URL: Final = "http://127.0.0.1:8200/v1/secret/data/app/db"


def ath(token: str) -> str:
    """RFC 9449, section 4.2, written apart from the code under test."""
    return base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()


def thumbprint_of(der: bytes) -> str:
    """RFC 8705, section 3.1: `x5t#S256`, written apart from the code under test."""
    return base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()


class ProofKey:
    """An application's DPoP key that signs anything it is told to."""

    def __init__(self, algorithm: str = "ES256", now: Callable[[], float] = time.time) -> None:
        self.algorithm = algorithm
        self.now = now
        self.key = new_private_key(algorithm)

    @property
    def jwk(self) -> dict[str, Any]:
        """The public key as it stands in a proof's header."""
        return public_jwk(self.algorithm, self.key)

    @property
    def jkt(self) -> str:
        """Its RFC 7638 thumbprint."""
        return thumbprint(self.jwk)

    def sign(self, data: bytes) -> bytes:
        """A raw signature."""
        return sign(self.algorithm, self.key, data)

    def header(self, **header: Any) -> dict[str, Any]:
        """The header of a good proof, overridden; None removes a member."""
        good: dict[str, Any] = {"typ": "dpop+jwt", "alg": self.algorithm, "jwk": self.jwk}
        return {name: value for name, value in (good | header).items() if value is not None}

    def claims(
        self, token: str, method: str = "GET", url: str = URL, nonce: str | None = None, **claims: Any
    ) -> dict[str, Any]:
        """The claims of a good proof, overridden; None removes one."""
        good: dict[str, Any] = {
            "jti": uuid.uuid4().hex,
            "htm": method,
            "htu": url,
            "iat": int(self.now()),
            "ath": ath(token),
            "nonce": nonce,
        }
        return {name: value for name, value in (good | claims).items() if value is not None}

    def proof(
        self,
        token: str,
        method: str = "GET",
        url: str = URL,
        nonce: str | None = None,
        *,
        header: Mapping[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        """A proof; `header` overrides header members, further arguments claims. None removes."""
        return self.compact(self.header(**(header or {})), self.claims(token, method, url, nonce, **claims))

    def compact(self, header: Mapping[str, Any] | bytes, payload: Mapping[str, Any] | bytes) -> str:
        """A proof of exactly these bytes, signed with this key."""
        return compact(header, payload, self.sign)
