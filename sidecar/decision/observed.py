"""What was decided, for whoever looks on: a candidate that is asked the same, a recording. Never an effect."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sidecar.caller.identity import Caller
from sidecar.decision.permit import Obligations, Question, Verdict
from sidecar.surface.operation import Operation


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision of the PDP in force. `code` is what it refuses, empty for a permit; `wall` when it was made, in
    seconds since the epoch; `informed` whether the question holds what the secret's metadata say."""

    question: Question
    operation: Operation
    caller: Caller
    verdict: Verdict
    code: str
    wall: float
    correlation_id: str = ""
    informed: bool = True


@dataclass(frozen=True, slots=True)
class Difference:
    """What a candidate would have decided otherwise. `kind` is `would_permit`, `would_deny` or `other_obligations`,
    `differs` names the obligations that do."""

    decision: Decision
    kind: str
    verdict: Verdict
    code: str
    differs: tuple[str, ...] = ()


def compare(
    decision: Decision, in_force: Obligations, verdict: Verdict, code: str, wanted: Obligations
) -> Difference | None:
    """The difference, if there is one. `in_force` and `wanted` are the obligations as they take effect, with defaults
    and bounds: a candidate that says by name what the default is does not differ."""
    if bool(code) is not bool(decision.code):
        return Difference(decision, "would_deny" if code else "would_permit", verdict, code)
    if code:
        return Difference(decision, "other_obligations", verdict, code, ("code",)) if code != decision.code else None
    differs = tuple(
        field.name
        for field in dataclasses.fields(Obligations)
        if getattr(in_force, field.name) != getattr(wanted, field.name)
    )
    return Difference(decision, "other_obligations", verdict, code, differs) if differs else None


def told(obligations: Obligations) -> Mapping[str, Any]:
    """Obligations for a record. `release` names a secret's keys, and notifications hold what the PDP likes: of those
    only the number is told."""
    return {
        "ttl_seconds": obligations.ttl_seconds,
        "max_uses": obligations.max_uses,
        "release": None if obligations.release is None else len(obligations.release),
        "step_up": list(obligations.step_up_acr_values),
        "step_up_max_age_seconds": obligations.step_up_max_age_seconds,
        "notifications": len(obligations.notifications),
        "session_terminations": len(obligations.terminate_sessions),
    }
