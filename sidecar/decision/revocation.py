"""What is taken back: which grants end before their time. Pure.

A revocation only takes away: whoever it fits is asked for anew. It is therefore read strictly where it could miss what
it means, since one that fits nothing looks as if it had worked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sidecar.decision.grants import Claim

MAX_TEXT_CHARS: Final = 4096

_MEMBERS: Final = frozenset({"all", "subject", "issuer", "uri_prefix"})
_PREFIX: Final = re.compile(
    r"(?:(?:openbao|hashicorp)\+[a-z][a-z0-9_-]*|yaml)://(?:[A-Za-z0-9._~!$&'()*+,;=:@/#?-]|%[0-9A-F]{2})*"
)
_PCHAR: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@")


class RevocationError(ValueError):
    """It cannot be told what is to be taken back. The text says what is wrong and quotes nothing."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """Everything that is given must fit; with nothing given it fits all grants."""

    subject: str | None = None
    issuer: str | None = None
    uri_prefix: str | None = None

    @property
    def is_all(self) -> bool:
        """Whether it fits every grant."""
        return self == EVERYTHING

    def fits(self, claim: Claim) -> bool:
        """Whether a grant with this claim ends. The prefix is one of the canonical URI's text."""
        issuer, subject, _, uri = claim
        return (
            (self.subject is None or self.subject == subject)
            and (self.issuer is None or self.issuer == issuer)
            and (self.uri_prefix is None or str(uri).startswith(self.uri_prefix))
        )


EVERYTHING: Final = Revocation()


def parse(members: Mapping[str, object]) -> Revocation:
    """Reads `{"all": true}`, or at least one of `subject`, `issuer` and `uri_prefix`.

    Raises:
        RevocationError: for anything else.
    """
    if not members.keys() <= _MEMBERS:
        raise RevocationError("an unknown member; there are all, subject, issuer and uri_prefix")
    if "all" in members:
        if members["all"] is not True or len(members) > 1:
            raise RevocationError("`all` is true and stands alone")
        return EVERYTHING
    if not members:
        raise RevocationError("nothing is named; give all, subject, issuer or uri_prefix")
    prefix = _text(members, "uri_prefix")
    if prefix is not None:
        _check_prefix(prefix)
    return Revocation(_text(members, "subject"), _text(members, "issuer"), prefix)


def _text(members: Mapping[str, object], name: str) -> str | None:
    if name not in members:
        return None
    value = members[name]
    if type(value) is not str or not 1 <= len(value) <= MAX_TEXT_CHARS or not value.isprintable():
        raise RevocationError(f"`{name}` is not a printable text of 1 to {MAX_TEXT_CHARS} characters")
    return value


def _check_prefix(prefix: str) -> None:
    """Refuses what no canonical URI begins with: another spelling would take nothing away and seem to."""
    if not _PREFIX.fullmatch(prefix):
        raise RevocationError(
            "`uri_prefix` is not how a canonical URI begins: provider+engine://mount/path, encoded in upper-case hex"
        )
    for encoded in re.findall(r"%..", prefix):
        if chr(int(encoded[1:], 16)) in _PCHAR:
            raise RevocationError("`uri_prefix` encodes a letter that a canonical URI does not encode")
