"""What a verdict comes to for one caller: a refusal, or the terms of a grant."""

from __future__ import annotations

import dataclasses

from sidecar.caller.identity import Caller
from sidecar.config import Config
from sidecar.decision.obligations import unmeetable
from sidecar.decision.permit import Denied, Obligations, Verdict
from sidecar.errors import Code, Refused
from sidecar.surface.operation import Operation


class Terms:
    """Applies verdicts under one configuration. Times named `wall` are seconds since the epoch, others elapsed time."""

    def __init__(self, config: Config, *, publishes_notifications: bool) -> None:
        self._grants = config.grants
        self._skew = config.identity.clock_skew_seconds
        self._publishes_notifications = publishes_notifications

    def refusal(self, verdict: Verdict, operation: Operation, caller: Caller, wall: float) -> Refused | None:
        """What the verdict refuses, for everyone with the same key.

        A step-up comes first, beside a deny too: what the caller can mend is said before what he cannot.
        """
        obligations = verdict.obligations
        if not self._stepped_up(obligations, caller, wall):
            return Denied(
                Code.STEP_UP_REQUIRED,
                "A stronger authentication is needed.",
                verdict=verdict,
                wanted=_asked_for(obligations),
                detail=verdict.reason,
            )
        if not verdict.permit:
            return Denied(Code.POLICY_DENIED, "Policy does not permit this.", verdict=verdict, detail=verdict.reason)
        unmet = unmeetable(obligations, operation, publishes_notifications=self._publishes_notifications)
        if not unmet and caller.subject in obligations.terminate_sessions:
            unmet = "`session_termination` of the caller that is permitted"
        return obligation_unmet(verdict, unmet) if unmet else None

    def effective(self, obligations: Obligations) -> Obligations:
        """With the defaults and bounds under which they take effect."""
        ttl = min(obligations.ttl_seconds or self._grants.default_ttl_seconds, self._grants.max_ttl_seconds)
        return dataclasses.replace(obligations, ttl_seconds=ttl, max_uses=self.max_uses(obligations))

    def max_uses(self, obligations: Obligations) -> int:
        """The uses of a grant."""
        return obligations.max_uses or self._grants.default_max_uses

    def expires(self, obligations: Obligations, caller: Caller, *, answered: float, now: float, wall: float) -> float:
        """When a grant ends: its ttl counts from the PDP's answer, and neither the token nor the authentication that
        a step-up asked for may be older than they may."""
        ttl = min(obligations.ttl_seconds or self._grants.default_ttl_seconds, self._grants.max_ttl_seconds)
        ends = min(answered + ttl, now + caller.expires_at - wall)
        if obligations.step_up_max_age_seconds is not None and caller.auth_time is not None:
            ends = min(ends, now + caller.auth_time + obligations.step_up_max_age_seconds - wall)
        return ends

    def _stepped_up(self, obligations: Obligations, caller: Caller, wall: float) -> bool:
        """RFC 9470, section 3: by `acr` or `amr`, and by an `auth_time` that is recent and not ahead of our clock."""
        wanted, max_age = obligations.step_up_acr_values, obligations.step_up_max_age_seconds
        if wanted and caller.acr not in wanted and not set(wanted).intersection(caller.amr):
            return False
        if max_age is None:
            return True
        return caller.auth_time is not None and wall - max_age < caller.auth_time <= wall + self._skew


def obligation_unmet(verdict: Verdict, reason: str) -> Denied:
    """A permit whose obligations cannot be met is a deny."""
    return Denied(Code.OBLIGATION_UNMET, "The permit's obligations cannot be met.", verdict=verdict, detail=reason)


def _asked_for(obligations: Obligations) -> dict[str, str]:
    asked: dict[str, str] = {}
    if obligations.step_up_acr_values:
        asked["acr_values"] = " ".join(obligations.step_up_acr_values)
    if obligations.step_up_max_age_seconds is not None:
        asked["max_age"] = str(obligations.step_up_max_age_seconds)
    return asked
