"""PKI: certificates issued and signed under a role, and what everybody may know of the authority.

The role alone says which issuer signs: `issuer/<ref>/issue/<role>` and a body's `issuer_ref` would be further names for
what `issue/<role>` is, and are not served. The certificate of the authority and its revocation list come in several
encodings, under one name. ACME speaks to OpenBao with keys of its own, past any token, and is not served. Revocation
names a certificate by its serial number in the body; whose certificate that is cannot be told, so it is not served.
"""

from __future__ import annotations

import re
from typing import Final

from sidecar.surface.fields import scalar, scalars, text
from sidecar.surface.operation import Purpose
from sidecar.surface.table import PAGES, Body, Row, Table, Verb

_serial: Final = re.compile(r"[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){0,63}").fullmatch


def _serial_number(segment: str) -> str | None:
    """A serial number, in hyphens or colons and either case: one certificate."""
    return segment.lower().replace("-", ":") if _serial(segment) else None


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

_KNOWN: Final = (Purpose.READ_METADATA, Verb.READ)
_OPERATORS: Final = "roles, issuers and keys are the operator's, made on OpenBao itself"
_ONE_NAME: Final = "issue and sign go by the role alone, whose issuer_ref says who signs"

TABLE: Final = Table(
    "pki",
    (
        Row("pki.issue", Purpose.EXECUTE, Verb.WRITE, ("issue/{role}",), body=Body(_ISSUE)),
        Row("pki.sign", Purpose.EXECUTE, Verb.WRITE, ("sign/{role}",), body=Body({**_SIGN, "csr": text})),
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
        "revoke": "revocation names a certificate by serial number, and whose it is cannot be told",
        "issuer": _ONE_NAME,
        "root": _OPERATORS,
        "roles": _OPERATORS,
        "config": _OPERATORS,
        "keys": _OPERATORS,
        "intermediate": _OPERATORS,
    },
)
