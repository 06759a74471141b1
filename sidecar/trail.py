"""What is known of one request so far, and the audit record made from it.

The only mutable thing on the way of a request: each stage's result is noted here as it is reached, so that a refusal
anywhere is recorded with all that was known by then. It holds no value, path or token that could reach a record.
"""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

from sidecar.audit.record import Effect, Event, Phase, Record, ResourceRefs
from sidecar.caller.identity import Caller
from sidecar.decision.permit import Permit, Verdict
from sidecar.door.head import Head
from sidecar.ops import tracing
from sidecar.ops.tracing import Span, Untraced
from sidecar.surface.mounts import MountTable
from sidecar.surface.operation import Named, Operation, Purpose


class Stage(StrEnum):
    """Where on its way a request was refused; the stages of `sidecar/enforcement.py`."""

    DOOR = "door"
    SURFACE = "surface"
    CALLER = "caller"
    GUARD = "guard"
    DECISION = "decision"
    AUDIT = "audit"
    UPSTREAM = "upstream"
    RELEASE = "release"


_NO_MOUNTS: Final = MountTable.empty()
_CORRELATION_ID: Final = re.compile(r"(?!(?:hv[sbr]|[sbr])\.[A-Za-z0-9_-]{20})[A-Za-z0-9][A-Za-z0-9._-]{7,63}")
"""No OpenBao token is taken for one, though it fits: the id stands in records, logs and spans."""


@dataclass(slots=True)
class Trail:
    """Notes on one request. `started` is `time.perf_counter()` seconds, `stage` where it is now, `in_force` the version
    of the policies in force when it came, `grant_state` how the caller stood with what was refused.
    `mounts` is the table that it was named by, `came_at` when it came, in elapsed seconds. `span` is the request's,
    `pep` that of the way to the decision, where it did not begin with the request."""

    started: float = field(default_factory=time.perf_counter)
    correlation_id: str = field(default_factory=lambda: secrets.token_hex(16))
    span: Span | Untraced = field(default_factory=lambda: Untraced(None))
    pep: Span | Untraced | None = None
    stage: Stage = Stage.DOOR
    in_force: str = ""
    named: Named | None = None
    operation: Operation | None = None
    local: str = ""
    caller: Caller | None = None
    permit: Permit | None = None
    denial: Verdict | None = None
    grant_state: str = ""
    forwarded: bool = False
    is_closed: bool = False
    is_notified: bool = False
    upstream_status: int | None = None
    upstream_seconds: float | None = None
    upstream_request_id: str = ""
    kv_version: int | None = None
    kv_version_before: int | None = None
    lease_ref: str = ""
    came_at: float = 0.0
    mounts: MountTable = _NO_MOUNTS

    def __enter__(self) -> Trail:
        return self

    def __exit__(self, *error: Any) -> None:
        """Ends the request's span, with what is known by then."""
        operation, permit = self.operation or self.named, self.permit
        self.span.note(
            correlation_id=self.correlation_id,
            operation=operation.name if operation else self.local or None,
            purpose=operation.purpose if operation else None,
            grant_hit=permit.grant.hit if permit else None,
        )
        self.span.__exit__(*error)

    def decided(self) -> None:
        """The way to the decision is at its end, whichever it was: what came before it is a span of its own."""
        pep = self.pep
        if pep is None:
            pep = tracing.span("sidecar.pep", self.span.at)
            pep.starts_with(self.span)
        with pep:
            pass

    def read_correlation(self, head: Head) -> None:
        """Takes the caller's correlation id and trace context where they are well formed, else keeps our own.

        W3C Trace Context, section 3.2: a malformed `traceparent` is ignored and a new trace begins.
        """
        given = head.headers.get("x-correlation-id", "")
        if _CORRELATION_ID.fullmatch(given):
            self.correlation_id = given
        position = head.headers.get("traceparent")
        parent = None if position is None else tracing.parse(position)
        self.span = tracing.begin("sidecar.request", parent, anew=position is not None)

    def branch(self) -> Trail:
        """Notes on one of several operations that the request is made of. The request's span stays this one's, the
        way to the decision is each one's own."""
        return Trail(
            correlation_id=self.correlation_id,
            span=Untraced(self.span.at),
            pep=tracing.span("sidecar.pep", self.span.at),
            stage=Stage.SURFACE,
            local=self.local,
            in_force=self.in_force,
            came_at=self.came_at,
            mounts=self.mounts,
            caller=self.caller,
        )

    @property
    def purpose(self) -> Purpose | None:
        """The purpose, as far as it is known: the body may still make it another."""
        asked = self.operation or self.named
        return asked.purpose if asked else None

    def record(
        self, refs: ResourceRefs, tenant_id: str, event: Event, effect: Effect, phase: Phase, code: str = ""
    ) -> Record:
        """The audit record of what is known now, with the contract's field names."""
        operation, caller, permit = self.operation or self.named, self.caller, self.permit
        at = self.span.at
        fields: dict[str, Any] = {
            "phase": phase,
            "effect": effect,
            "code": code or None,
            "purpose": operation.purpose if operation else None,
            "operation": operation.name if operation else self.local or None,
            "subject": None,
            "tenant_id": tenant_id,
            "resource_ref": None,
            "parent_ref": None,
            "ref_key_id": refs.key_id,
            "resource_arn": None,
            "decision_id": None,
            "policy_version": self.in_force or None,
            "grant": None,
            "binding": None,
            "token_jti": None,
            "proof_jti": None,
            "correlation_id": self.correlation_id,
            "trace_id": at.trace_id if at else None,
            "span_id": at.span_id if at else None,
            "workflow_run_id": None,
            "node_id": None,
            "system_id": None,
            "upstream": None,
            "kv_version": self.kv_version,
            "kv_version_before": self.kv_version_before,
            "lease_ref": self.lease_ref or None,
            "stage": None if effect is Effect.PERMIT or phase is Phase.INTENT else self.stage,
            "policies": None,
            "attributes_used": None,
            "grant_state": self.grant_state or None,
        }
        if operation is not None and operation.uri is not None:
            ref = refs.of(operation.uri)
            fields["resource_ref"] = ref.resource_ref
            fields["parent_ref"] = ref.parent_ref
            fields["resource_arn"] = ref.resource_arn
        if caller is not None:
            fields["subject"] = {
                "sub": caller.subject,
                "iss": caller.issuer,
                "client_id": caller.client_id or None,
                "act": caller.act or None,
            }
            fields["binding"] = {"kind": caller.binding.kind, "thumbprint": caller.binding.thumbprint or None}
            fields["token_jti"] = caller.token_jti or None
            fields["proof_jti"] = caller.proof_jti or None
            fields["workflow_run_id"] = caller.workflow_run_id or None
            fields["node_id"] = caller.node_id or None
            fields["system_id"] = caller.system_id or None
        verdict = permit.verdict if permit is not None else self.denial
        if verdict is not None:
            fields["decision_id"] = verdict.decision_id or None
            fields["policy_version"] = verdict.policy_version or None
            fields["policies"] = verdict.policies or None
            fields["attributes_used"] = verdict.attributes or None
            if verdict.obligations.notifications and not self.is_notified:
                # With the first record that tells of the decision, an intent where there is one: nothing is forwarded
                # or released before it is durable, and from there it goes to its topic.
                self.is_notified = True
                fields["notifications"] = verdict.obligations.notifications
        if permit is not None:
            fields["grant"] = {
                "hit": permit.grant.hit,
                "uses_left": permit.grant.uses_left,
                "expires_at": rfc3339(permit.grant.expires_at),
            }
        if self.forwarded:
            fields["upstream"] = {
                "status": self.upstream_status,
                "duration_ms": None if self.upstream_seconds is None else round(self.upstream_seconds * 1000, 3),
                "request_id": self.upstream_request_id or None,
            }
        return Record(event, fields)


@lru_cache(1024)  # every record of a grant tells when it ends
def rfc3339(seconds: float) -> str:
    """Seconds since the epoch as RFC 3339, UTC, microseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
