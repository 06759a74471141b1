"""PKI: certificates issued and signed under a role, and what everybody may know of the authority.

The role alone says which issuer signs: `issuer/<ref>/issue/<role>` and a body's `issuer_ref` would be further names for
what `issue/<role>` is, and are not served. The certificate of the authority and its revocation list come in several
encodings, under one name. ACME speaks to OpenBao with keys of its own, past any token, and is not served. Revocation
names a certificate by its serial number, and is for the caller that it was issued to: what is revoked is then what
issued it, which the ledger of issued certificates knows. The field `certificate`, by which OpenBao also revokes what it
never stored, is not taken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from sidecar.surface.fields import malformed, scalar, scalars, text
from sidecar.surface.operation import Issue, Purpose
from sidecar.surface.table import MOUNT, PAGES, Body, Reading, Row, Table, Verb

_serial: Final = re.compile(r"[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){0,63}").fullmatch


def _serial_number(segment: str) -> str | None:
    """A serial number, in hyphens or colons and either case: one certificate."""
    return segment.lower().replace("-", ":") if _serial(segment) else None


def _one_serial(value: Any) -> str:
    serial = _serial_number(text(value))
    if serial is None:
        raise malformed("`serial_number` is not one: hexadecimal pairs between colons or hyphens")
    return serial


def _revoked(fields: Mapping[str, Any]) -> Reading:
    return Reading(certificate=fields["serial_number"])


_SIGN: Final = {
    "common_name": text,
    "alt_names": scalars,
    "ip_sans": scalars,
    "uri_sans": scalars,
    "other_sans": scalars,
    "user_ids": scalars,
    "serial_number": text,
    "ttl": scalar,
    "not_before": text,
    "not_after": text,
    "format": text,
    "exclude_cn_from_sans": scalar,
    "remove_roots_from_chain": scalar,
}
_ISSUE: Final = {**_SIGN, "private_key_format": text, "key_type": text, "key_bits": scalar}

_REVOKE: Final = Body({"serial_number": _one_serial}, required=frozenset({"serial_number"}), decide=_revoked)

_MAKING: Final = (Purpose.EXECUTE, Verb.WRITE)
_KNOWN: Final = (Purpose.READ_METADATA, Verb.READ)
_OPERATORS: Final = "roles, issuers and keys are the operator's, made on OpenBao itself"
_ONE_NAME: Final = "issue and sign go by the role alone, whose issuer_ref says who signs"

TABLE: Final = Table(
    "pki",
    (
        Row("pki.issue", *_MAKING, ("issue/{role}",), body=Body(_ISSUE), issues=Issue.CERTIFICATE),
        Row("pki.sign", *_MAKING, ("sign/{role}",), body=Body({**_SIGN, "csr": text}), issues=Issue.CERTIFICATE),
        Row("pki.revoke", Purpose.REVOKE, Verb.WRITE, ("revoke",), MOUNT, body=_REVOKE),
        Row("pki.read_ca", *_KNOWN, ("ca", "ca/pem", "cert/ca", "cert/ca/raw", "cert/ca/raw/pem"), "ca"),
        Row("pki.read_ca", *_KNOWN, ("ca_chain", "cert/ca_chain"), "ca_chain"),
        Row("pki.read_crl", *_KNOWN, ("crl", "crl/pem", "cert/crl"), "crl"),
        Row("pki.read_crl", *_KNOWN, ("crl/delta", "crl/delta/pem", "cert/delta-crl"), "crl/delta"),
        Row(
            "pki.read_cert",
            *_KNOWN,
            ("cert/{serial}", "cert/{serial}/raw", "cert/{serial}/raw/pem"),
            "cert/{serial}",
            readers={"serial": _serial_number},
        ),
        Row("pki.list", Purpose.READ_METADATA, Verb.LIST, ("certs", "certs/revoked", "issuers", "roles"), query=PAGES),
    ),
    refusals={
        "acme": "ACME is not served: it goes past the token",
        "issuer": _ONE_NAME,
        "root": _OPERATORS,
        "roles": _OPERATORS,
        "config": _OPERATORS,
        "keys": _OPERATORS,
        "intermediate": _OPERATORS,
    },
)
