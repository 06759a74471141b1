"""What is asked: the closed model that authorisation, audit and the upstream request are all made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from sidecar.surface.secret_uri import SecretUri


class Purpose(StrEnum):
    """Why a secret is touched. A grant is for one purpose."""

    READ = "read"
    EXECUTE = "execute"
    WRITE = "write"
    OWNER_UPDATE = "owner_update"
    ROTATE = "rotate"
    DELETE = "delete"
    UNDELETE = "undelete"
    DESTROY_VERSIONS = "destroy_versions"
    READ_METADATA = "read_metadata"
    RENEW = "renew"
    REVOKE = "revoke"


SCOPE: Final[Mapping[Purpose, str]] = {
    Purpose.READ: "secrets.read",
    Purpose.EXECUTE: "secrets.read",
    Purpose.WRITE: "secrets.write",
    Purpose.OWNER_UPDATE: "secrets.set_owner",
    Purpose.ROTATE: "secrets.rotate",
    Purpose.DELETE: "secrets.delete",
    Purpose.UNDELETE: "secrets.delete",
    Purpose.DESTROY_VERSIONS: "secrets.destroy",
    Purpose.READ_METADATA: "secrets.read_metadata",
    Purpose.RENEW: "secrets.read",
    Purpose.REVOKE: "secrets.delete",
}
"""The OAuth scope that each purpose needs where `scopes.enforce` is on."""


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """The request to OpenBao, built from the model, never from the caller's bytes.

    `path` is percent-encoded, starts with `/v1/`; `query` is encoded, without `?`, empty for none; `namespace` is the
    full namespace (`upstream.namespace` included) or empty. `body` is serialised JSON, or None.
    """

    method: str
    path: str
    query: str = ""
    namespace: str = ""
    body: bytes | None = None
    content_type: str = "application/json"


NO_REQUEST: Final = UpstreamRequest("", "")
"""Of an operation that another provider than OpenBao carries out."""


class Issue(StrEnum):
    """What an operation hands out that can be renewed or revoked later, by the one it was handed to."""

    LEASE = "lease"
    CERTIFICATE = "certificate"


def lease_of(lease_id: str) -> str:
    """How a lease is called among what callers hold."""
    return f"{Issue.LEASE}:{lease_id}"


def certificate_of(mount: str, serial: str) -> str:
    """How a certificate is called among what callers hold: `mount` is the full one, `serial` in colons, lower case."""
    return f"{Issue.CERTIFICATE}:{mount}:{serial}"


Target = tuple[str, str]
"""A method and an encoded path of OpenBao's."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One named operation on one secret.

    `mutation` is true for whatever changes or creates something upstream, whatever its method: its intent is
    recorded before it is forwarded. `uses` is what it spends of a grant (a batch of N spends N). `streams` is true
    where the answer may be passed on as it comes (plain KV reads), false where it must be held (leases, `auth`).

    `issues` is what its answer hands out. `holds` names what its caller must hold (`lease_of`, `certificate_of`); `uri`
    is then what issued it, for a certificate only once the ledger has said so.
    `also` are further targets that carrying it out may need, about the same secret. `replaces_labels` says that its
    body would drop who made the secret, were that not read first and sent along.
    """

    name: str
    purpose: Purpose
    uri: SecretUri
    upstream: UpstreamRequest
    mutation: bool = False
    uses: int = 1
    streams: bool = False
    issues: Issue | None = None
    holds: str = ""
    also: frozenset[Target] = frozenset()
    replaces_labels: bool = False

    @property
    def asks_openbao(self) -> bool:
        """Whether OpenBao carries it out."""
        return self.upstream is not NO_REQUEST

    def covers(self, request: UpstreamRequest) -> bool:
        """Whether a request belongs to this operation: whatever its body and query say."""
        main = self.upstream
        target = (request.method, request.path)
        return (
            self.asks_openbao
            and request.namespace == main.namespace
            and (target == (main.method, main.path) or target in self.also)
        )


class LocalAnswerKind(StrEnum):
    """Requests that the sidecar answers itself, for the caller, from the caller's own identity."""

    LOOKUP_SELF = "lookup-self"
    RENEW_SELF = "renew-self"
    REVOKE_SELF = "revoke-self"
    UI_MOUNTS = "ui-mounts"
    SYS_HEALTH = "sys-health"
    SYS_SEAL_STATUS = "sys-seal-status"
    SYS_LEADER = "sys-leader"


UNAUTHENTICATED: Final = frozenset(
    {LocalAnswerKind.SYS_HEALTH, LocalAnswerKind.SYS_SEAL_STATUS, LocalAnswerKind.SYS_LEADER}
)
"""Local answers that need no token: OpenBao itself answers them to anyone."""


@dataclass(frozen=True, slots=True)
class LocalAnswer:
    """A request answered here. `argument` is the decoded path below `ui/mounts/`, `namespace` what the caller's header
    named; `upstream` what is asked of OpenBao (without any token) for the unauthenticated ones."""

    kind: LocalAnswerKind
    argument: str = ""
    upstream: UpstreamRequest | None = None
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class Named:
    """What a request's head already says of it. Its body may still make the purpose another, or be what names the
    secret: `uri` is None then."""

    name: str
    purpose: Purpose
    uri: SecretUri | None


class Route(Protocol):
    """A request named by its head. Where the body decides something, the operation is known only with it."""

    @property
    def named(self) -> Named:
        """For the record of a refusal that comes before the body is read."""

    def operation(self, body: bytes) -> Operation:
        """The operation. Raises `Refused` where the body cannot be read in exactly one way, or nothing reads it."""
