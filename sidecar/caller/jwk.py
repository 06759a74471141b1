"""A public JWK (RFC 7517), read strictly: one key has one spelling, and so one RFC 7638 thumbprint.

Pure: no I/O, no clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from sidecar.caller import jose

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey


class KeyKind(StrEnum):
    """What a key is: its curve, or RSA."""

    P256 = "P-256"
    P384 = "P-384"
    P521 = "P-521"
    ED25519 = "Ed25519"
    RSA = "RSA"


KIND_OF_ALGORITHM: Final[Mapping[str, KeyKind]] = {
    "ES256": KeyKind.P256,
    "ES384": KeyKind.P384,
    "ES512": KeyKind.P521,
    "EdDSA": KeyKind.ED25519,
    "RS256": KeyKind.RSA,
    "RS384": KeyKind.RSA,
    "RS512": KeyKind.RSA,
    "PS256": KeyKind.RSA,
    "PS384": KeyKind.RSA,
    "PS512": KeyKind.RSA,
}
"""The one kind of key that each JWS algorithm is used with (RFC 7518, section 3.1; RFC 8037, section 3.1)."""

_CURVES: Final[Mapping[str, tuple[ec.EllipticCurve, int]]] = {
    "P-256": (ec.SECP256R1(), 32),
    "P-384": (ec.SECP384R1(), 48),
    "P-521": (ec.SECP521R1(), 66),
}

_REQUIRED: Final[Mapping[object, frozenset[str]]] = {
    "EC": frozenset({"kty", "crv", "x", "y"}),
    "OKP": frozenset({"kty", "crv", "x"}),
    "RSA": frozenset({"kty", "n", "e"}),
}
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"})

MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192
"""A longer modulus makes each check dearer, and the sender of a proof chooses its key."""


@dataclass(frozen=True, slots=True)
class PublicJwk:
    """A public key. `thumbprint` is RFC 7638's, SHA-256, base64url."""

    kind: KeyKind
    key: PublicKey
    thumbprint: str


def parse(jwk: Mapping[str, Any]) -> PublicJwk:
    """The public key of a JWK; what it says beyond the key itself is for the caller to judge.

    Raises:
        jose.Malformed: symmetric, private, of an unknown kind or curve, off its curve, too weak, or not in its one
            spelling.
    """
    if not _PRIVATE.isdisjoint(jwk):
        raise jose.Malformed("the key holds private or symmetric members")
    kty = jwk.get("kty")
    required = _REQUIRED.get(kty) if type(kty) is str else None
    if required is None:
        raise jose.Malformed("the key is of an unknown kind")
    values: dict[str, str] = {}
    for name in required:
        value = jwk.get(name)
        if type(value) is not str:
            raise jose.Malformed("the key lacks a member")
        values[name] = value
    try:
        kind, key = _READERS[values["kty"]](values)
    except jose.Malformed:
        raise
    except (ValueError, TypeError, OverflowError, UnsupportedAlgorithm):
        raise jose.Malformed("the key is not a valid public key") from None
    # All values are now canonical base64url or names from a table: they need no JSON escapes.
    canonical = ",".join(f'"{name}":"{values[name]}"' for name in sorted(values))
    return PublicJwk(kind, key, jose.encode(hashlib.sha256(f"{{{canonical}}}".encode()).digest()).decode())


def _octets(text: str, length: int | None = None) -> bytes:
    try:
        raw = jose.decode(text.encode("ascii"))
    except UnicodeEncodeError:
        raise jose.Malformed("the key is not base64url") from None
    if length is not None and len(raw) != length:
        raise jose.Malformed("the key has the wrong length")
    return raw


def _elliptic(values: Mapping[str, str]) -> tuple[KeyKind, PublicKey]:
    curve = _CURVES.get(values["crv"])
    if curve is None:
        raise jose.Malformed("the key's curve is unknown")
    # RFC 7518, section 6.2.1.2: the full length of the coordinate, leading zeros included.
    x = int.from_bytes(_octets(values["x"], curve[1]), "big")
    y = int.from_bytes(_octets(values["y"], curve[1]), "big")
    return KeyKind(values["crv"]), ec.EllipticCurvePublicNumbers(x, y, curve[0]).public_key()


def _edwards(values: Mapping[str, str]) -> tuple[KeyKind, PublicKey]:
    if values["crv"] != KeyKind.ED25519:
        raise jose.Malformed("the key's curve is unknown")
    return KeyKind.ED25519, ed25519.Ed25519PublicKey.from_public_bytes(_octets(values["x"], 32))


def _rsa(values: Mapping[str, str]) -> tuple[KeyKind, PublicKey]:
    n, e = _octets(values["n"]), _octets(values["e"])
    # RFC 7518, section 2: Base64urlUInt has no leading zero octet.
    if not (n and e and n[0] and e[0]):
        raise jose.Malformed("the key is not in its one spelling")
    modulus, exponent = int.from_bytes(n, "big"), int.from_bytes(e, "big")
    if not MIN_RSA_BITS <= modulus.bit_length() <= MAX_RSA_BITS:
        raise jose.Malformed("the key's modulus is too short or too long")
    # FIPS 186-5, appendix A.1.1: odd and above 2^16. A huge one only makes the check dear.
    if not (65_537 <= exponent < 2**32 and exponent % 2):
        raise jose.Malformed("the key's exponent is not acceptable")
    return KeyKind.RSA, rsa.RSAPublicNumbers(exponent, modulus).public_key()


_READERS: Final = {"EC": _elliptic, "OKP": _edwards, "RSA": _rsa}


def restrictions_allow(jwk: Mapping[str, Any], algorithm: str, use: str = "sig") -> bool:
    """Whether a JWK's own `use`, `key_ops` and `alg` (RFC 7517, sections 4.2 to 4.4) allow verifying with it. A key
    that does not say is for signatures."""
    if jwk.get("use", "sig") != use or jwk.get("alg", algorithm) != algorithm:
        return False
    operations = jwk.get("key_ops")
    return operations is None or (type(operations) is list and "verify" in operations)
