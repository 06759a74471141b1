"""Who asks: the values that the caller stage hands on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sidecar.errors import Code, Refused


class BindingKind(StrEnum):
    """How the credential is bound to its sender."""

    NONE = "none"
    DPOP = "dpop"
    MTLS = "mtls"
    DPOP_MTLS = "dpop+mtls"
    POD = "pod"


@dataclass(frozen=True, slots=True)
class Binding:
    """The proven binding. `thumbprint` is the token's `cnf.jkt` (RFC 7638) or `x5t#S256`, both joined by `+`; for the
    pod itself `uid:<number>` of the process at the other end of a Unix socket, else nothing.

    `names_subject` says that what was proven is the subject itself, not a key that a token names: the pod, a
    certificate that is the caller. It is renewed, or held by several processes, without being in other hands.
    """

    kind: BindingKind = BindingKind.NONE
    thumbprint: str = ""
    names_subject: bool = field(default=False, compare=False)


class Credential:
    """A token as presented. Shows itself to nobody: `repr`, `str` and formatting are redacted."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The token itself, for the one place that must send or compare it."""
        return self._value

    def __repr__(self) -> str:
        return "Credential(***)"

    __str__ = __repr__

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a credential is not pickled")


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller.

    Times are seconds since the epoch, from the token's claims. `act` is the delegation chain (RFC 8693) as it stood
    in the token. `attributes` are what else a policy may ask of the subject, as pairs of name and value: a service
    account's namespace and pod, a certificate's SPIFFE ID. `workflow_run_id`, `node_id`, `system_id` come from claims
    only. `upstream_token` is the caller's own OpenBao token, in `passthrough` mode only.
    """

    subject: str
    issuer: str
    client_id: str = ""
    act: Mapping[str, Any] = field(default_factory=dict)
    attributes: tuple[tuple[str, str], ...] = ()
    scopes: frozenset[str] = frozenset()
    audience: tuple[str, ...] = ()
    acr: str = ""
    amr: tuple[str, ...] = ()
    auth_time: int | None = None
    token_jti: str = ""
    issued_at: float | None = None
    expires_at: int = 0
    binding: Binding = Binding()
    proof_jti: str = ""
    workflow_run_id: str = ""
    node_id: str = ""
    system_id: str = ""
    token: Credential | None = None
    upstream_token: Credential | None = None

    def brought_token(self) -> Credential:
        """The OpenBao token of the caller's own. Raises `Refused` (TOKEN_MISSING)."""
        if self.upstream_token is None:
            raise Refused(
                Code.TOKEN_MISSING,
                "this request needs an OpenBao token of the caller's own in X-Vault-Token, and the access token in"
                " Authorization",
            )
        return self.upstream_token


class Unproven(Refused):
    """The token was verified and its sender was not: another key, a replay. `caller` is whom the token is for, without
    any binding, so that the record tells whose token it was."""

    def __init__(self, refused: Refused, headers: Mapping[str, str], caller: Caller) -> None:
        super().__init__(refused.code, refused.message, headers=headers, detail=refused.detail)
        self.caller = caller
