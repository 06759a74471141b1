"""The audit record: what is written down of one request, before the journal gives it its place in the chain."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from cachetools import LRUCache

from sidecar.surface.operation import Purpose
from sidecar.surface.secret_uri import SecretUri


class Event(StrEnum):
    """What a record is about."""

    SECRET_PERMIT = "SECRET_PERMIT"
    SECRET_DENY = "SECRET_DENY"
    SECRET_ERROR = "SECRET_ERROR"
    SECRET_ROTATED = "SECRET_ROTATED"
    GRANTS_REVOKED = "GRANTS_REVOKED"
    POLICY_DIFFERENCE = "POLICY_DIFFERENCE"
    AUDIT_START = "AUDIT_START"
    AUDIT_STOP = "AUDIT_STOP"
    AUDIT_TRUNCATED = "AUDIT_TRUNCATED"
    AUDIT_CHECKPOINT = "AUDIT_CHECKPOINT"

    __hash__ = str.__hash__  # Enum's own is a Python function, and each record's event is looked up twice


class Phase(StrEnum):
    """`intent` before a mutation is forwarded, `outcome` after it; a read has one `outcome`."""

    INTENT = "intent"
    OUTCOME = "outcome"


class Effect(StrEnum):
    """What became of the request."""

    PERMIT = "permit"
    DENY = "deny"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Record:
    """One record. `fields` are the contract's names with JSON values; the journal adds `event_id`, `ts`, `instance`,
    `seq` and `prev`. Never in it: a secret's value, a path, a key name, a token, a proof."""

    event: Event
    fields: Mapping[str, Any] = field(default_factory=dict)


_CHANGING: Final = frozenset(
    {
        Purpose.WRITE,
        Purpose.OWNER_UPDATE,
        Purpose.ROTATE,
        Purpose.DELETE,
        Purpose.UNDELETE,
        Purpose.DESTROY_VERSIONS,
        Purpose.RENEW,
        Purpose.REVOKE,
    }
)
_DONE: Final = frozenset({Event.SECRET_PERMIT, Event.SECRET_ERROR, Event.SECRET_ROTATED})
_CREATING: Final = frozenset({"database.creds", "pki.issue", "pki.sign"})
_AGAIN: Final = "secrets."
"""How the operation of a record begins that tells of an endpoint's answer given again, not of what it once did."""


def tells_of_mutation(event: str, phase: str | None, purpose: str | None, operation: str | None) -> bool:
    """Whether a record is about something that was changed or created upstream, or may have been.

    A refused mutation changed nothing. An intent is only written for mutations.
    """
    changing = phase == Phase.INTENT or purpose in _CHANGING or operation in _CREATING
    return changing and event in _DONE and not (operation or "").startswith(_AGAIN)


@dataclass(frozen=True, slots=True)
class ResourceRef:
    """How the audit names a secret without telling it: HMAC-SHA256 under the tenant's salt, base64url, no padding."""

    resource_ref: str
    parent_ref: str
    ref_key_id: str
    resource_arn: str


class ResourceRefs:
    """Makes references under one tenant's salt. Those made under earlier salts are found by `all_of`."""

    def __init__(self, tenant_id: str, *salts: bytes) -> None:
        """`salts`: the current one first."""
        self._tenant_id = tenant_id
        self._remembered: LRUCache[SecretUri, ResourceRef] = LRUCache(4096)
        self.use(salts)

    def use(self, salts: Sequence[bytes]) -> None:
        """From now on references are made under the first of these. Raises ValueError where one is too short."""
        if not salts or any(len(salt) < 16 for salt in salts):
            raise ValueError("the tenant's salt is shorter than 16 bytes")
        self._salts = tuple(salts)
        self._remembered.clear()
        self.key_id = _key_id(salts[0])

    def of_lease(self, held: str) -> str:
        """`lease_ref`: how the audit names a lease or a certificate. No URI begins like that, so that no reference of
        a lease is one of a secret."""
        return _mac(self._salts[0], f"openbao-sidecar lease_ref {held}")

    def of_text(self, text: str) -> str:
        """The reference of a text: that of a canonical URI where it is one, without `?version`."""
        return _mac(self._salts[0], text)

    def of(self, uri: SecretUri) -> ResourceRef:
        """The reference of a secret: of its URI without `?version`, and of that without `#fragment`."""
        remembered = self._remembered.get(uri)
        if remembered is None:
            remembered = self._remembered[uri] = self._under(self._salts[0], self.key_id, uri)
        return remembered

    def all_of(self, uri: SecretUri) -> list[ResourceRef]:
        """The references of a secret under every salt, the current one first."""
        return [self._under(salt, _key_id(salt), uri) for salt in self._salts]

    def _under(self, salt: bytes, key_id: str, uri: SecretUri) -> ResourceRef:
        whole = uri.without_version()
        ref = _mac(salt, str(whole))
        parent = ref if whole.fragment is None else _mac(salt, str(whole.without_fragment()))
        return ResourceRef(ref, parent, key_id, f"auth:v1:resource:secret:{self._tenant_id}:{ref}")


def _mac(salt: bytes, text: str) -> str:
    return base64.urlsafe_b64encode(hmac.digest(salt, text.encode(), "sha256")).rstrip(b"=").decode()


def _key_id(salt: bytes) -> str:
    """Tells which salt made a reference, without telling the salt."""
    return hmac.new(salt, b"openbao-sidecar ref_key_id", hashlib.sha256).hexdigest()[:16]


def live_grants(snapshot: Iterable[Mapping[str, Any]], refs: ResourceRefs) -> list[dict[str, Any]]:
    """The decider's live grants as an operator may see them: each secret by its reference, never by its path."""
    shown = []
    for grant in snapshot:
        ref = refs.of(grant["uri"])
        others = {name: value for name, value in grant.items() if name not in ("uri", "binding")}
        others |= {"binding": grant["binding"].kind, "resource_ref": ref.resource_ref, "parent_ref": ref.parent_ref}
        shown.append(others)
    return shown
