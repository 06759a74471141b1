"""Access tokens (RFC 9068, RFC 7519) under the rules of RFC 8725: what is not clearly a good token is refused.

A token that was verified is remembered by its SHA-256 until it expires; its dates, and whether its issuer still names
the key it was verified with, are looked at again on each use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import jwt
from cachetools import LRUCache

from sidecar.caller import jose
from sidecar.caller.issuer_keys import MAX_KID_CHARS, IssuerKey, IssuerKeys, KeyNotFound
from sidecar.caller.issuer_rules import MAX_TEXT_CHARS, Attributes, IssuerRules, Issuers, WrongKind
from sidecar.clock import Clock
from sidecar.config import Identity
from sidecar.errors import Code, Refused

MAX_TOKEN_CHARS: Final = 16 * 1024
MAX_SCOPES: Final = 256
MAX_LIST: Final = 64
MAX_ACT_DEPTH: Final = 4
MAX_REMEMBERED_TOKENS: Final = 4096


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The token's `cnf`: thumbprints of the DPoP key (RFC 9449) and of the client certificate (RFC 8705)."""

    jkt: str | None = None
    x5t_s256: str | None = None
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A verified token. `ath` is the base64url SHA-256 of the token itself (RFC 9449, section 4.2)."""

    ath: str
    key: IssuerKey
    not_before: float
    expires_at: float
    confirmation: Confirmation
    issuer: str
    subject: str
    attributes: Attributes
    audience: tuple[str, ...]
    client_id: str
    act: Mapping[str, Any]
    scopes: frozenset[str]
    acr: str
    amr: tuple[str, ...]
    auth_time: int | None
    jti: str
    issued_at: float | None
    workflow_run_id: str
    node_id: str
    system_id: str


class TokenVerifier:
    """Verifies access tokens of the configured issuers."""

    def __init__(self, identity: Identity, keys: IssuerKeys, clock: Clock) -> None:
        self._audience = identity.audience
        self._skew = identity.clock_skew_seconds
        self._issuers = Issuers(identity)
        self._keys = keys
        self._clock = clock
        self._jws = jwt.PyJWS()
        self._verified: LRUCache[bytes, AccessToken] = LRUCache(MAX_REMEMBERED_TOKENS)

    @property
    def remembered(self) -> int:
        """How many tokens are remembered."""
        return len(self._verified)

    async def verify(self, token: str) -> AccessToken:
        """The token's claims, once everything about it is right.

        Raises:
            Refused: TOKEN_INVALID, TOKEN_EXPIRED or AUDIENCE_MISMATCH.
        """
        digest = hashlib.sha256(token.encode()).digest()
        known = self._verified.get(digest)
        if known is not None:
            if self._keys.holds(known.issuer, known.key):
                self._check_dates(known)
                return known
            del self._verified[digest]
        try:
            verified = await self._verify_new(token, jose.encode(digest).decode())
        except jose.Malformed as error:
            _invalid(f"the access token cannot be read: {error}")
        self._verified[digest] = verified
        return verified

    async def _verify_new(self, token: str, ath: str) -> AccessToken:
        header_segment, payload_segment, signature_segment = jose.split(token, MAX_TOKEN_CHARS)
        header = jose.json_object(jose.decode(header_segment))
        # Not verified yet: read only to find the one key that must have signed it.
        claims = jose.json_object(jose.decode(payload_segment))
        signature = jose.decode(signature_segment)

        rules = self._issuers.find(claims)
        if rules is None:
            _invalid("the access token's issuer is not accepted")
        algorithm, kid = _check_header(header, claims, rules)
        try:
            key = await self._keys.find(rules.issuer, kid, algorithm)
        except KeyNotFound as error:
            _invalid("the access token's key is not known", detail=str(error))
        if not self._jws.get_algorithm_by_name(algorithm).verify(
            header_segment + b"." + payload_segment, key.public, signature
        ):
            _invalid("the access token's signature does not verify")
        return self._read(claims, rules, key, ath)

    def _read(self, claims: Mapping[str, Any], rules: IssuerRules, key: IssuerKey, ath: str) -> AccessToken:
        expires_at, issued_at, auth_time = _date(claims, "exp"), _date(claims, "iat"), _date(claims, "auth_time")
        if expires_at is None:
            _invalid("the access token has no exp")
        try:
            subject, attributes = rules.subject_of(claims)
        except WrongKind as error:
            _invalid(str(error))
        token = AccessToken(
            ath=ath,
            key=key,
            not_before=max(_date(claims, "nbf") or 0, issued_at or 0) - self._skew,
            expires_at=expires_at,
            confirmation=_confirmation(claims),
            issuer=rules.issuer,
            subject=subject,
            attributes=attributes,
            audience=self._check_audience(claims.get("aud")),
            client_id=_text(claims, "client_id") or _text(claims, "azp"),
            act=_act(claims["act"], MAX_ACT_DEPTH) if "act" in claims else {},
            scopes=_scopes(claims),
            acr=_text(claims, "acr"),
            amr=_texts(claims["amr"], "amr") if "amr" in claims else (),
            auth_time=None if auth_time is None else int(auth_time),
            jti=_text(claims, "jti"),
            issued_at=issued_at,
            workflow_run_id=_text(claims, "workflow_run_id"),
            node_id=_text(claims, "node_id"),
            system_id=_text(claims, "system_id"),
        )
        self._check_dates(token)
        return token

    def _check_dates(self, token: AccessToken) -> None:
        """RFC 7519, sections 4.1.4 to 4.1.6. The clock skew is for a token that seems too new: one that has expired
        by our clock has expired, so that no grant outlives it."""
        now = self._clock.wall()
        if now >= token.expires_at:
            raise Refused(Code.TOKEN_EXPIRED, "the access token has expired")
        if now < token.not_before:
            _invalid("the access token is not valid yet")

    def _check_audience(self, aud: object) -> tuple[str, ...]:
        """RFC 7519, section 4.1.3: a text, or a list of them."""
        if aud is None:
            audience: tuple[str, ...] = ()
        elif type(aud) is list:
            audience = _texts(aud, "aud")
        elif jose.is_text(aud, MAX_TEXT_CHARS):
            audience = (aud,)
        else:
            _invalid("the access token has no usable aud")
        if self._audience not in audience:
            raise Refused(Code.AUDIENCE_MISMATCH, "the access token is not for this audience")
        return audience


def _check_header(header: Mapping[str, Any], claims: Mapping[str, Any], rules: IssuerRules) -> tuple[str, str | None]:
    """The algorithm and `kid`. Never read: `jwk`; a token does not bring its own key (RFC 8725, section 3.5)."""
    if not jose.FORBIDDEN_HEADERS.isdisjoint(header) or "jwk" in header:
        _invalid("the access token's header holds a parameter that is not accepted")
    if "cty" in header:
        _invalid("nested tokens are not accepted")
    try:
        rules.check_type(header, claims)
    except WrongKind as error:
        _invalid(str(error))
    algorithm = header.get("alg")
    if type(algorithm) is not str or algorithm not in rules.algorithms:
        _invalid("the access token's algorithm is not accepted")
    kid = header.get("kid")
    if kid is not None and not jose.is_text(kid, MAX_KID_CHARS):
        _invalid("the access token's kid is not usable")
    return algorithm, kid


def _confirmation(claims: Mapping[str, Any]) -> Confirmation:
    """RFC 7800, section 3.1. A member that is not known is kept in mind: the token is bound by something that cannot
    be checked here, so it must not pass for an unbound one."""
    if "cnf" not in claims:
        return Confirmation()
    cnf = claims["cnf"]
    if type(cnf) is not dict or not cnf:
        _invalid("the access token has no usable cnf")
    for name in ("jkt", "x5t#S256"):
        if name in cnf and not _is_thumbprint(cnf[name]):
            _invalid("the access token has no usable cnf")
    return Confirmation(cnf.get("jkt"), cnf.get("x5t#S256"), not cnf.keys() <= {"jkt", "x5t#S256"})


def _is_thumbprint(value: object) -> bool:
    if type(value) is not str or not value.isascii():
        return False
    try:
        return len(jose.decode(value.encode())) == hashlib.sha256().digest_size
    except jose.Malformed:
        return False


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """`scope` (RFC 8693, section 4.2: a text with spaces), or `scp` where an issuer says it so: a list or a text."""
    if "scope" in claims and "scp" in claims:
        _invalid("the access token has both scope and scp")
    scope = claims.get("scope", claims.get("scp", ""))
    if type(scope) is str:
        scope = scope.split(" ") if scope else []
    if type(scope) is not list or len(scope) > MAX_SCOPES:
        _invalid("the access token has no usable scope")
    for one in scope:
        # RFC 6749, section 3.3
        if not jose.is_text(one, MAX_TEXT_CHARS) or not one.isascii() or any(letter in one for letter in ' "\\'):
            _invalid("the access token has no usable scope")
    return frozenset(scope)


def _act(act: object, depth: int) -> Mapping[str, Any]:
    """RFC 8693, section 4.1: an actor, and the actor before, and so on; plain members beside."""
    if type(act) is not dict or not act or len(act) > MAX_LIST or depth == 0:
        _invalid("the access token has no usable act")
    for name, value in act.items():
        if not jose.is_text(name, MAX_TEXT_CHARS):
            _invalid("the access token has no usable act")
        if name == "act":
            _act(value, depth - 1)
        elif type(value) is list:
            _texts(value, "act")
        elif not (jose.is_text(value, MAX_TEXT_CHARS) or type(value) in (int, bool)):
            _invalid("the access token has no usable act")
    return act


def _date(claims: Mapping[str, Any], name: str) -> float | None:
    if name not in claims:
        return None
    value = claims[name]
    if not jose.is_date(value):
        _invalid(f"the access token has no usable {name}")
    return value


def _text(claims: Mapping[str, Any], name: str) -> str:
    if name not in claims:
        return ""
    value = claims[name]
    if not jose.is_text(value, MAX_TEXT_CHARS):
        _invalid(f"the access token has no usable {name}")
    return value


def _texts(values: object, name: str) -> tuple[str, ...]:
    if type(values) is not list or len(values) > MAX_LIST:
        _invalid(f"the access token has no usable {name}")
    for value in values:
        if not jose.is_text(value, MAX_TEXT_CHARS):
            _invalid(f"the access token has no usable {name}")
    return tuple(values)


def _invalid(message: str, detail: str = "") -> NoReturn:
    raise Refused(Code.TOKEN_INVALID, message, detail=detail)
