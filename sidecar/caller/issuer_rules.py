"""What the tokens of each issuer look like, by the kind of issuer, and whom they name.

Three kinds, told apart so that no token is read under two of them (RFC 8725, section 3.12): OAuth access tokens
(RFC 9068), Kubernetes service-account tokens, SPIFFE JWT-SVIDs. Pure: no I/O, no clock.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sidecar.caller import jose, spiffe
from sidecar.config import Identity, Issuer

MAX_TEXT_CHARS: Final = 512

Attributes = tuple[tuple[str, str], ...]
"""What a policy may ask of a subject beyond its name, as pairs of name and value."""

_SERVICE_ACCOUNT: Final = re.compile(
    r"system:serviceaccount:(?P<namespace>[a-z0-9-]{1,63}):(?P<name>[a-z0-9.-]{1,253})"
)
_KUBERNETES: Final = "kubernetes.io"
_NOT_ACCESS_TOKENS: Final = frozenset({"at_hash", "c_hash", "s_hash", "events"})
"""Claims of ID tokens (OpenID Connect Core, section 3.3.2.11) and of logout and security event tokens (RFC 8417):
where the `typ` is the general JWT, they tell the token apart (RFC 8725, section 3.12)."""
_SVID_HEADER: Final = frozenset({"alg", "kid", "typ"})
"""JWT-SVID, section 2: header parameters beside these must not be there."""
_SVID_TYPES: Final = frozenset({"jwt", "jose"})


class WrongKind(ValueError):  # noqa: N818 - it says what the token is
    """The token is not what this issuer's tokens are. The message is fit for a caller: it quotes nothing."""


@dataclass(frozen=True, slots=True)
class IssuerRules:
    """One configured issuer. `kind` is None where OAuth tokens and service-account tokens are both taken.

    `reserved` says whose subjects belong to another issuer: trust domains, and service accounts as a whole.
    """

    issuer: str
    kind: str | None
    algorithms: frozenset[str]
    types: frozenset[str]
    trust_domain: str | None
    reserved_domains: frozenset[str]
    reserves_service_accounts: bool

    def check_type(self, header: Mapping[str, Any], claims: Mapping[str, Any]) -> None:
        """Raises WrongKind where `typ`, or a claim that only other kinds of token have, tells that this is none."""
        typ = header.get("typ")
        if typ is not None and type(typ) is not str:
            raise WrongKind("the access token's typ is not accepted")
        media_type = None if typ is None else typ.lower().removeprefix("application/")  # RFC 7515, section 4.1.9
        if self.kind == "spiffe":
            if not header.keys() <= _SVID_HEADER or not (media_type is None or media_type in _SVID_TYPES):
                raise WrongKind("the token's header is not a JWT-SVID's")
        elif self._is_service_account_token(claims):
            if not (media_type is None or media_type == "jwt"):  # the API server writes none
                raise WrongKind("the token's typ is not a service-account token's")
        elif (media_type or "") not in self.types:
            raise WrongKind("the access token's typ is not accepted")
        elif not _NOT_ACCESS_TOKENS.isdisjoint(claims):
            raise WrongKind("the token is not an access token")

    def subject_of(self, claims: Mapping[str, Any]) -> tuple[str, Attributes]:
        """The subject and its attributes. Raises WrongKind where the claims do not name one of this issuer's."""
        subject = claims.get("sub")
        if self.kind == "spiffe":
            if self.trust_domain is None or spiffe.trust_domain_of(subject) != self.trust_domain:
                raise WrongKind("the token's sub is not a SPIFFE ID of the issuer's trust domain")
            return str(subject), ()
        if not jose.is_text(subject, MAX_TEXT_CHARS):
            raise WrongKind("the access token has no usable sub")
        if self._is_service_account_token(claims):
            return subject, _service_account(subject, claims[_KUBERNETES])
        if spiffe.trust_domain_of(subject) in self.reserved_domains:
            raise WrongKind("the access token's sub belongs to another issuer's trust domain")
        if self.reserves_service_accounts and subject.startswith("system:"):
            raise WrongKind("the access token's sub is one that only a cluster may name")
        return subject, ()

    def _is_service_account_token(self, claims: Mapping[str, Any]) -> bool:
        if self.kind == "kubernetes" and _KUBERNETES not in claims:
            raise WrongKind("the token is not a service-account token")
        return self.kind != "oauth" and _KUBERNETES in claims


class Issuers:
    """The configured issuers, found by an unverified token's claims."""

    def __init__(self, identity: Identity) -> None:
        self._by_issuer = {issuer.issuer: _rules(issuer, identity) for issuer in identity.issuers}
        self._by_domain = {
            rules.trust_domain: rules for rules in self._by_issuer.values() if rules.trust_domain is not None
        }

    def find(self, claims: Mapping[str, Any]) -> IssuerRules | None:
        """The issuer that the token says it is from; a JWT-SVID need not say (JWT-SVID, section 3): its subject's
        trust domain does. Whoever is found here, it is that issuer's keys that must verify the token."""
        issuer = claims.get("iss")
        if issuer is not None and type(issuer) is not str:
            return None
        rules = self._by_issuer.get(issuer) if issuer is not None else None
        if rules is None:
            domain = spiffe.trust_domain_of(claims.get("sub"))
            rules = self._by_domain.get(domain) if domain is not None else None
        return rules


def _rules(issuer: Issuer, identity: Identity) -> IssuerRules:
    domains = {one.svid_domain for one in identity.issuers} | {identity.client_certificates.trust_domain}
    return IssuerRules(
        issuer=issuer.issuer,
        kind="spiffe" if issuer.svid_domain is not None else issuer.kind,
        algorithms=frozenset(issuer.algorithms),
        types=frozenset(name.lower().removeprefix("application/") for name in issuer.token_types),
        trust_domain=issuer.svid_domain,
        reserved_domains=frozenset(domain for domain in domains if domain is not None),
        reserves_service_accounts=any(one.kind == "kubernetes" for one in identity.issuers),
    )


def _service_account(subject: str, about: object) -> Attributes:
    """The claim `kubernetes.io` of a bound service-account token: it must say the same as the subject."""
    match = _SERVICE_ACCOUNT.fullmatch(subject)
    if match is None or type(about) is not dict:
        raise WrongKind("the token's sub is not a service account")
    account = _named(about, "serviceaccount")
    if about.get("namespace") != match["namespace"] or account.get("name") != match["name"]:
        raise WrongKind("the token's sub and its kubernetes.io claim name different service accounts")
    pod, node = _named(about, "pod"), _named(about, "node")
    found = {
        "kubernetes_namespace": match["namespace"],
        "kubernetes_service_account": match["name"],
        "kubernetes_service_account_uid": account.get("uid"),
        "kubernetes_pod": pod.get("name"),
        "kubernetes_pod_uid": pod.get("uid"),
        "kubernetes_node": node.get("name"),
    }
    return tuple((name, value) for name, value in found.items() if value is not None)


def _named(about: Mapping[str, Any], what: str) -> Mapping[str, str]:
    """`{name, uid}` of an object that the token is bound to; empty where it is bound to none."""
    value = about.get(what, {})
    if type(value) is not dict or not all(
        jose.is_text(value.get(name, "-"), MAX_TEXT_CHARS) for name in ("name", "uid")
    ):
        raise WrongKind("the token's kubernetes.io claim is not usable")
    return value
