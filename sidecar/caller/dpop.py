"""DPoP proofs: every check of RFC 9449, section 4.3, numbered as there.

On the way of each request only the claims are parsed and one raw signature checked: a key that has proved itself once
is remembered by the proof's header as it was spelt. Pure: no I/O, both clocks are passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NoReturn

from cachetools import LRUCache
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from sidecar.caller import jose, jwk
from sidecar.caller.nonce import NonceSource
from sidecar.caller.origins import normalise
from sidecar.errors import Code, Refused

MAX_PROOF_CHARS: Final = 8192
MAX_JTI_CHARS: Final = 128
MAX_REMEMBERED_KEYS: Final = 1024

NonceMode = Literal["required", "optional", "off"]
_Check = Callable[[bytes, bytes], object]

_HEADER_MEMBERS: Final = frozenset({"typ", "alg", "jwk", "kid"})
_JWK_MEMBERS: Final = frozenset({"kty", "crv", "x", "y", "n", "e", "kid", "use", "alg", "key_ops", "ext"})
"""`key_ops` and `ext` come from WebCrypto's exportKey, the others from RFC 7517; no certificates, no URLs."""


@dataclass(frozen=True, slots=True)
class ProvenKey:
    """The key of a proof's header. `check(signature, data)` raises InvalidSignature."""

    jkt: str
    check: _Check


class ProofVerifier:
    """Verifies proofs for one listener; `listens_on` says which."""

    def __init__(
        self,
        *,
        algorithms: Sequence[str],
        max_age_seconds: float,
        clock_skew_seconds: float,
        nonce_mode: NonceMode,
        nonces: NonceSource,
    ) -> None:
        self._algorithms = frozenset(algorithms)
        self._origins: Collection[str] = frozenset()
        self._max_age = max_age_seconds
        self._skew = clock_skew_seconds
        self._nonce_mode = nonce_mode
        self._nonces = nonces
        self._distrusted_until = float("-inf")
        self._keys: LRUCache[bytes, ProvenKey] = LRUCache(MAX_REMEMBERED_KEYS)

    def listens_on(self, urls: Collection[str]) -> None:
        """The normalised origins that a proof's `htu` may be for."""
        self._origins = urls

    @property
    def remembered_keys(self) -> int:
        """How many keys are remembered."""
        return len(self._keys)

    def clock_was_set_back(self, wall_before: float, elapsed: float) -> None:
        """The wall clock was set back from `wall_before`: proofs forgotten as too old might look young again.

        Those with a nonce die with it; those without are refused until the clock has passed where it stood.
        """
        self._nonces.renew(elapsed)
        self.distrust(wall_before)

    def distrust(self, until: float) -> None:
        """What was used until then (seconds since the epoch) may be forgotten: proofs without a nonce made before it
        are refused."""
        self._distrusted_until = max(self._distrusted_until, until + self._skew)

    def verify(self, proof: str, *, method: str, path: str, ath: str, jkt: str, wall: float, elapsed: float) -> str:
        """The `jti` of a good proof, which the caller of this function must see used once only.

        `method` and raw `path` are the request's as sent, `ath` the base64url SHA-256 of the access token, `jkt` the
        thumbprint that the access token is bound to. `wall` is seconds since the epoch.

        Raises:
            Refused: PROOF_INVALID, BINDING_MISMATCH or PROOF_NONCE_REQUIRED.
        """
        try:
            # (1) one header field: several would be joined by a comma, which no JWT has. (2) a well-formed JWT.
            header, payload, encoded_signature = jose.split(proof, MAX_PROOF_CHARS)
            # (4) typ, (5) algorithm, (7) no private key.
            known = self._keys.get(header)
            key = known or self._read_header(header)
            # (12b) the token's key. Before the signature: a flood of proofs by other keys costs no signature check.
            if key.jkt != jkt:
                raise Refused(Code.BINDING_MISMATCH, "the proof's key is not the one that the token is bound to")
            claims = jose.json_object(jose.decode(payload))
            signature = jose.decode(encoded_signature)
        except jose.Malformed as error:
            _invalid(f"the DPoP proof cannot be read: {error}")

        # (3) the required claims.
        jti, iat = claims.get("jti"), claims.get("iat")
        if not jose.is_text(jti, MAX_JTI_CHARS):
            _invalid("the DPoP proof has no usable jti")
        if not jose.is_date(iat):
            _invalid("the DPoP proof has no usable iat")
        # (8), (9)
        if claims.get("htm") != method:
            _invalid("the DPoP proof is for another method")
        if not self._is_this(claims.get("htu"), path):
            _invalid("the DPoP proof is for another URL")
        # (12a)
        if claims.get("ath") != ath:
            _invalid("the DPoP proof is for another access token")
        # (11) the clock skew is for a clock ahead of ours only, so that a proof lives no longer than the replay window.
        if not wall - self._max_age <= iat <= wall + self._skew:
            _invalid("the DPoP proof is too old, or from the future")
        self._check_other_dates(claims, wall)
        # (10)
        self._check_nonce(claims, iat, elapsed)
        # (6)
        try:
            key.check(signature, header + b"." + payload)
        except InvalidSignature:
            _invalid("the DPoP proof's signature does not verify")
        if known is None:
            # Remembered only now: what is not verified takes no place.
            self._keys[header] = key
        return jti

    def _read_header(self, segment: bytes) -> ProvenKey:
        header = jose.json_object(jose.decode(segment))
        if not header.keys() <= _HEADER_MEMBERS:
            raise jose.Malformed("its header holds unknown members")
        if header.get("typ") != "dpop+jwt":
            raise jose.Malformed("its typ is not dpop+jwt")
        algorithm = header.get("alg")
        if type(algorithm) is not str or algorithm not in self._algorithms:
            raise jose.Malformed("its algorithm is not accepted")
        members = header.get("jwk")
        if type(members) is not dict:
            raise jose.Malformed("its key is missing")
        public = jwk.parse(members)
        if not members.keys() <= _JWK_MEMBERS or not jwk.restrictions_allow(members, algorithm):
            raise jose.Malformed("its key is not for verifying proofs")
        if jwk.KIND_OF_ALGORITHM.get(algorithm) is not public.kind:
            raise jose.Malformed("its algorithm is not the key's")
        return ProvenKey(public.thumbprint, signature_check(algorithm, public.key))

    def _is_this(self, htu: object, path: str) -> bool:
        """Whether `htu` is this listener and this raw path, query and fragment ignored."""
        if type(htu) is not str:
            return False
        if htu.endswith(path) and htu[: -len(path)] in self._origins:
            return True
        # Not in its normal form: case and default port of the origin may differ, the path never.
        url = htu.partition("#")[0].partition("?")[0]
        scheme, _, rest = url.partition("://")
        authority, slash, below = rest.partition("/")
        return normalise(f"{scheme}://{authority}") in self._origins and f"{slash or '/'}{below}" == path

    def _check_other_dates(self, claims: Mapping[str, object], wall: float) -> None:
        """RFC 7519, sections 4.1.4 and 4.1.5: RFC 9449 asks for neither, but what is said counts."""
        for name in ("exp", "nbf"):
            if name not in claims:
                continue
            date = claims[name]
            if not jose.is_date(date):
                _invalid(f"the DPoP proof has no usable {name}")
            if (date <= wall) if name == "exp" else (date > wall + self._skew):
                _invalid("the DPoP proof is expired, or not yet valid")

    def _check_nonce(self, claims: Mapping[str, object], iat: float, elapsed: float) -> None:
        mode = self._nonce_mode
        if mode == "required" or (mode == "optional" and "nonce" in claims):
            if not self._nonces.accepts(claims.get("nonce"), elapsed):
                raise Refused(Code.PROOF_NONCE_REQUIRED, "the DPoP proof needs the current nonce")
        elif iat <= self._distrusted_until:
            if mode == "optional":
                raise Refused(Code.PROOF_NONCE_REQUIRED, "the DPoP proof needs a nonce: it may be a replay")
            _invalid("the DPoP proof may be a replay: what was used before it was made is not known for certain")


def _invalid(message: str) -> NoReturn:
    raise Refused(Code.PROOF_INVALID, message)


def signature_check(algorithm: str, key: jwk.PublicKey) -> _Check:
    """The raw signature check of a JWS algorithm with a fitting key (RFC 7518, section 3; RFC 8037)."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return _ecdsa(key, {"ES256": hashes.SHA256(), "ES384": hashes.SHA384()}[algorithm])
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key.verify
    return _rsa(
        key,
        {
            "RS256": padding.PKCS1v15(),
            "PS256": padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH),
        }[algorithm],
    )


def _ecdsa(key: ec.EllipticCurvePublicKey, digest: hashes.HashAlgorithm) -> _Check:
    size = (key.curve.key_size + 7) // 8
    algorithm = ec.ECDSA(digest)
    verify = key.verify

    def check(signature: bytes, data: bytes) -> None:
        # RFC 7518, section 3.4: R and S, each of the curve's full length. The library wants ASN.1.
        if len(signature) != 2 * size:
            raise InvalidSignature
        r, s = _der_integer(signature[:size]), _der_integer(signature[size:])
        verify(b"\x30%c%b%b" % (len(r) + len(s), r, s), data, algorithm)

    return check


def _der_integer(value: bytes) -> bytes:
    """A DER INTEGER (X.690, section 8.3) of at most 49 bytes, from a number without sign: no needless leading zero, but
    one where it would look negative. Half the time of the library's way by Python's long integers."""
    value = value.lstrip(b"\0")
    if not value or value[0] & 0x80:
        value = b"\0" + value
    return b"\x02%c%b" % (len(value), value)


def _rsa(key: rsa.RSAPublicKey, scheme: padding.AsymmetricPadding) -> _Check:
    digest = hashes.SHA256()

    def check(signature: bytes, data: bytes) -> None:
        key.verify(signature, data, scheme, digest)

    return check
