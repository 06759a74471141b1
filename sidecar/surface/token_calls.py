"""What a caller with an OpenBao token of its own asks about it, in passthrough mode: one closed table.

Of `auth/` these go to OpenBao, and nothing else does: not the calls that name another token (`lookup`, `renew`,
`revoke`, accessors), not those that make one out of the caller's (`create`, roles). A login is sent without any token:
what OpenBao takes without one is all that a path of its shape can ever do. Where the sidecar has a client certificate
of its own no login is sent at all, since the `cert` method would log the caller in as the sidecar.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

from sidecar.door.head import Head
from sidecar.errors import Code, Refused
from sidecar.surface.encoding import encode_segment
from sidecar.surface.fields import malformed, read_fields, text
from sidecar.surface.json_body import check_media_type, read_object, write
from sidecar.surface.mounts import MountTable
from sidecar.surface.operation import UpstreamRequest
from sidecar.surface.query import read_values, split_query

REVOKE_SELF: Final = "token.revoke_self"

_WRITES: Final = frozenset({"POST", "PUT"})
_duration: Final = re.compile(r"[0-9]{1,9}[smh]?").fullmatch


def _increment(value: Any) -> Any:
    if (isinstance(value, str) and _duration(value)) or (type(value) is int and 0 <= value < 10**9):
        return value
    raise malformed("`increment` is a number of seconds, or a duration such as 30m")


_LOGIN_FIELDS: Final = dict.fromkeys(("role", "jwt", "role_id", "secret_id", "password"), text)


class TokenCalls(Enum):
    """Which of them are served: none where callers have no tokens of their own."""

    NONE = auto()
    OWN = auto()
    AND_LOGINS = auto()

    @classmethod
    def under(cls, mode: str, *, own_certificate: bool) -> TokenCalls:
        """Those served where `upstream.auth.mode` is `mode`, and the sidecar has a client certificate or has none."""
        if mode != "passthrough":
            return cls.NONE
        return cls.OWN if own_certificate else cls.AND_LOGINS


@dataclass(frozen=True, slots=True)
class TokenCall:
    """A call about the caller's own token, or a login. `with_token` is false for a login."""

    name: str
    method: str
    path: str
    namespace: str
    headers: Mapping[str, str]
    fields: Mapping[str, Any]
    mutation: bool = True
    with_token: bool = True

    def request(self, body: bytes) -> UpstreamRequest:
        """What is sent. Raises `Refused` (MALFORMED_REQUEST) for a body that is not one of its own."""
        if not body:
            return UpstreamRequest(self.method, self.path, namespace=self.namespace)
        if not self.fields:
            raise malformed("this call takes no body")
        check_media_type(self.headers, merge_patch=False, first_byte=body[:1])
        return UpstreamRequest(
            self.method, self.path, namespace=self.namespace, body=write(read_fields(read_object(body), self.fields))
        )


def recognise(
    head: Head, segments: tuple[str, ...], namespace: str, mounts: MountTable, *, logins: bool
) -> TokenCall | None:
    """The call that a path below `auth/` is; None for every other one.

    Raises `Refused`: AMBIGUOUS_QUERY, OPERATION_FORBIDDEN in a namespace where the tenant has no mount.
    """
    if namespace and not mounts.visible(namespace):
        raise Refused(Code.OPERATION_FORBIDDEN, "this namespace is not one of the tenant's")
    namespace = "/".join(filter(None, (mounts.namespace_prefix, namespace)))
    call: TokenCall | None = None
    path = "/v1/" + "/".join(map(encode_segment, segments))
    if segments == ("auth", "token", "lookup-self") and head.method == "GET":
        call = TokenCall("token.lookup_self", "GET", path, namespace, head.headers, {}, mutation=False)
    elif segments == ("auth", "token", "renew-self") and head.method in _WRITES:
        call = TokenCall("token.renew_self", "POST", path, namespace, head.headers, {"increment": _increment})
    elif segments == ("auth", "token", "revoke-self") and head.method in _WRITES:
        call = TokenCall(REVOKE_SELF, "POST", path, namespace, head.headers, {})
    elif logins and head.method in _WRITES and _is_login(segments):
        call = TokenCall("auth.login", "POST", path, namespace, head.headers, _LOGIN_FIELDS, with_token=False)
    if call is not None:
        read_values(split_query(head.query), {})
    return call


def _is_login(segments: tuple[str, ...]) -> bool:
    """`auth/<mount>/login`, or with a user's name behind it. Never below `auth/token`, which logs nobody in."""
    if len(segments) < 3 or segments[1] == "token":
        return False
    return segments[-1] == "login" or (len(segments) > 3 and segments[-2] == "login")
