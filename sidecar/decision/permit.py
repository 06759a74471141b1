"""What a decision hands on. Nothing but `sidecar.decision` makes a `Permit`; upstream takes nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sidecar.caller.identity import Caller
from sidecar.errors import Code, Refused
from sidecar.ops.tracing import TraceParent
from sidecar.surface.operation import Operation


@dataclass(frozen=True, slots=True)
class Obligations:
    """What the PDP asked for, parsed. None: not given, the configured default applies.

    `release` is the set of KV keys that may leave (several intersect); `step_up_max_age_seconds` is how long ago the
    caller's own authentication may be; `notifications` are published to Kafka; `terminate_sessions` names subjects
    whose grants are dropped.
    """

    ttl_seconds: int | None = None
    max_uses: int | None = None
    release: frozenset[str] | None = None
    step_up_acr_values: tuple[str, ...] = ()
    step_up_max_age_seconds: int | None = None
    notifications: tuple[Mapping[str, Any], ...] = ()
    terminate_sessions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The PDP's answer. For the record and `sidecar explain`: `policies` are the determining policies' ids,
    `attributes` the names (never the values) of what they looked at, such as `resource.owner`."""

    permit: bool
    obligations: Obligations = Obligations()
    decision_id: str = ""
    policy_version: str = ""
    policies: tuple[str, ...] = ()
    reason: str = ""
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """One question to a PDP, in the shape of OpenID AuthZEN 1.0 (section 5): plain JSON values."""

    subject: Mapping[str, Any]
    action: Mapping[str, Any]
    resource: Mapping[str, Any]
    context: Mapping[str, Any] = field(default_factory=dict)
    trace: TraceParent | None = None
    """Whose part asking it is; no policy sees that."""


class Pdp(Protocol):
    """A policy decision point."""

    async def evaluate(self, question: Question) -> Verdict:
        """Asks.

        Raises:
            Refused: PDP_UNAVAILABLE where no trustworthy answer came, `Denied` with OBLIGATION_UNMET where a permit
                carries obligations that cannot be read in exactly one way.
        """

    async def evaluate_many(self, questions: Sequence[Question]) -> list[Verdict | Denied]:
        """Asks several at once: one answer for each, in their order. What `evaluate` raises as `Denied` stands in its
        place.

        Raises:
            Refused: PDP_UNAVAILABLE where one of them has no trustworthy answer; none then has.
        """


class Denied(Refused):
    """A refusal that a PDP's answer led to. `verdict` is that answer, for the record and `sidecar explain`;
    `remembered` where it comes from the negative cache."""

    def __init__(
        self, code: Code, message: str, *, verdict: Verdict, wanted: Mapping[str, str] | None = None, detail: str = ""
    ) -> None:
        super().__init__(code, message, wanted=wanted, detail=detail)
        self.verdict = verdict
        self.remembered = False


class Reservation(Protocol):
    """Uses taken out of a grant before the call. Exactly one of `commit` and `refund` counts, the first one said."""

    def commit(self) -> None:
        """The uses are spent."""

    def refund(self) -> None:
        """The uses go back to their grant."""


class Unspent:
    """The reservation of a permit without a grant: there is nothing to spend."""

    def commit(self) -> None:
        """Nothing."""

    def refund(self) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class GrantState:
    """A grant as the audit shows it. `expires_at` is seconds since the epoch."""

    hit: bool
    uses_left: int
    expires_at: float


@dataclass(frozen=True, slots=True)
class Permit:
    """An authorised operation: the only thing that upstream will forward."""

    operation: Operation
    caller: Caller
    verdict: Verdict
    grant: GrantState
    reservation: Reservation
