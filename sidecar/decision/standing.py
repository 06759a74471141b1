"""How callers stand: their live grants, the tokens that have opened one, and what they were denied a moment ago.

All of it is bounded, and none of it asks anyone: what is not known here the PDP must say (`sidecar.decision.decide`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from sidecar.caller.identity import BindingKind, Caller
from sidecar.clock import Clock
from sidecar.config import Config
from sidecar.decision.flight import Flight, Mark, Waiter
from sidecar.decision.grants import Claim, Grant, GrantKey, GrantTable, Owner, UseReservation, claim_of, grant_key
from sidecar.decision.openings import used_up
from sidecar.decision.pdp import again, no_answer, retry_after
from sidecar.decision.permit import Denied, Verdict
from sidecar.decision.terms import Terms, obligation_unmet
from sidecar.decision.timed_table import TimedTable
from sidecar.errors import Code, Refused
from sidecar.ops import metrics
from sidecar.shared_replays.store import SharedReplays
from sidecar.surface.operation import Operation

_NEGATIVE: Final = frozenset({Code.POLICY_DENIED, Code.OBLIGATION_UNMET})
"""Denials that are remembered: what policy says. Never an outage, never a step-up, which the caller can mend."""


class Standing:
    """What one process knows of its callers. Use within one event loop; nothing here waits."""

    def __init__(self, config: Config, clock: Clock, terms: Terms, shared: SharedReplays | None) -> None:
        self._clock = clock
        self._terms = terms
        self._limits = config.grants
        self._replay = config.anti_replay
        self._shared = shared
        self._tenant_id = config.tenant.id or ""
        self._random = random.SystemRandom()
        entries = config.grants.max_entries
        self.grants = GrantTable(entries, clock)
        self._marks: TimedTable[Mark, Grant, Owner] = TimedTable(entries)
        self._denials: TimedTable[GrantKey, Refused, Owner] = TimedTable(entries)

    # -- before the PDP --------------------------------------------------------------------------------------------
    def take(self, key: GrantKey, uses: int) -> tuple[Grant, UseReservation] | None:
        """So many uses of the live grant, where there is one that has them."""
        return self.grants.look_up(key, uses)

    def opens_once(self, caller: Caller) -> bool:
        """Whether the caller's token may open one grant only of each purpose and URI. Without a token (the anonymous
        caller of a development world, a certificate that is the caller) there is nothing to replay. `single_use` is
        the caller stage's matter."""
        if not caller.issuer or (caller.token is None and caller.binding.names_subject):
            return False
        unbound = caller.binding.kind is BindingKind.NONE
        if (self._replay.unbound_token if unbound else self._replay.bound_token) != "per_grant":
            return False
        if not caller.token_jti:
            raise Refused(Code.TOKEN_INVALID, "The access token needs a jti here.")
        return True

    def refuse_known(self, waiter: Waiter) -> None:
        """What is known without asking. Raises `Refused`: see `Decider.permit`."""
        if waiter.operation.uses < 1:
            raise Refused(Code.MALFORMED_REQUEST, "The request holds nothing to do.")
        live = self.grants.find(waiter.key)
        if live is not None and live.max_uses < waiter.operation.uses:
            raise too_many_uses(waiter.operation, live)
        self._check_binding(waiter)
        self.check_replay(waiter)
        denial = self._denials.get(waiter.key, self._clock.elapsed())
        if denial is not None:
            metrics.NEGATIVE_HITS.inc()
            refusal = again(denial)
            if isinstance(refusal, Denied):
                refusal.remembered = True
            raise refusal

    def check_replay(self, waiter: Waiter) -> None:
        """Raises `Refused`: TOKEN_REPLAYED where the token has opened this before."""
        if waiter.per_grant and self._marks.get(waiter.mark, self._clock.elapsed()) is not None:
            raise used_up()

    def _check_binding(self, waiter: Waiter) -> None:
        """A live grant under another binding belongs to somebody who showed another key: whoever comes with this one
        may be its thief. A token issued after that grant opened says that the application began anew."""
        if self._limits.on_binding_change != "deny":
            return
        others = self.grants.under_other_bindings(waiter.claim, waiter.caller.binding)
        if not all(grant.is_before(waiter.caller.issued_at, self._clock) for grant in others):
            raise Refused(
                Code.BINDING_CHANGED,
                "This is in use under another key; a token that is issued from now on is taken.",
            )
        for grant in others:
            self.grants.drop(grant)

    # -- after it --------------------------------------------------------------------------------------------------
    def open(self, waiter: Waiter, verdict: Verdict, answered: float) -> Grant:
        """Opens the grant of a permit, by the token of the first caller whose token may.

        Its life counts from the PDP's answer (`answered`, elapsed time), and ends with the token's. What was checked
        before the PDP was asked is checked again: others may have opened a grant meanwhile.
        """
        caller, obligations = waiter.caller, verdict.obligations
        now, wall = self._clock.elapsed(), self._clock.wall()
        expires = self._terms.expires(obligations, caller, answered=answered, now=now, wall=wall)
        if wall >= caller.expires_at:
            raise Refused(Code.TOKEN_EXPIRED, "The access token has expired.")
        if expires <= now:
            raise no_answer("the decision expired before it could be used")
        self._check_binding(waiter)
        self.check_replay(waiter)
        grant = Grant(
            self.grants,
            waiter.key,
            waiter.operation,
            caller,
            verdict,
            max_uses=self._terms.max_uses(obligations),
            expires=expires,
            expires_at=wall + expires - now,
            opened=now,
            opened_at=wall,
        )
        if waiter.per_grant and not self._marks.put(
            waiter.mark, grant, now + self._replay.window_seconds, waiter.claim[:2], now
        ):
            # Without the mark the token could open grants for ever.
            raise Refused(Code.OVERLOADED, "Too many tokens are remembered; try again later.", headers=retry_after(5))
        self.grants.add(grant)  # where the table is full, those who wait now are served from it, and nobody after
        return grant

    def remember(self, flight: Flight, refused: Refused) -> None:
        """A denial, for a while. The jitter keeps callers who were denied together from coming back together."""
        ttl = self._limits.negative_ttl_seconds
        if refused.code not in _NEGATIVE or not ttl or not flight.waiters or flight.blind:
            return  # a denial for want of attributes is an outage's, not policy's
        remembered = _said_once(refused) if isinstance(refused, Denied) else refused
        now = self._clock.elapsed()
        expires = now + ttl * self._random.uniform(0.5, 1.0)
        self._denials.put(flight.waiters[0].key, remembered, expires, flight.owner, now)

    # -- taken back ------------------------------------------------------------------------------------------------
    def drop_owner(self, owner: Owner) -> None:
        """Ends the grants of one issuer's subject and forgets its denials."""
        self.grants.drop_owner(owner)
        for key in self._denials.owned_by(owner):
            self._denials.discard(key)

    def end_sessions(self, subjects: set[str]) -> None:
        """Ends the grants of these subjects, under every issuer."""
        for owner in self.grants.owners():
            if owner[1] in subjects:
                self.grants.drop_owner(owner)

    def drop_all(self) -> int:
        """Ends every grant and forgets every denial. How many grants ended."""
        self._release_marks(lambda _claim: True)
        ended = len(self.grants)
        self.grants.clear()
        self._denials.clear()
        return ended

    def revoke(self, fits: Callable[[Claim], bool]) -> int:
        """Ends grants that fit and forgets such denials. How many grants ended."""
        self._release_marks(fits)
        ended = self.grants.drop_where(fits)
        for key in self._denials:
            if fits(claim_of(key)):
                self._denials.discard(key)
        return ended

    def _release_marks(self, fits: Callable[[Claim], bool]) -> None:
        """A token whose grant is taken back, with uses left, may open it again: it was not the token that ended it."""
        for mark, grant in self._marks.items():
            if grant.left and fits(grant.claim) and self.grants.find(grant.key) is grant:
                self._marks.discard(mark)
                if self._shared is not None and grant.opening is not None:
                    self._shared.release(grant.opening)

    # -- looked at -------------------------------------------------------------------------------------------------
    def cache_sizes(self) -> Mapping[str, int]:
        """Entries of each bounded table, by the name of its metric's label."""
        return {"grants": len(self.grants), "token_marks": len(self._marks), "denials": len(self._denials)}

    def grant_state(self, operation: Operation, caller: Caller) -> str:
        """How a caller that was refused stands: `live` (with too few uses left), `spent`, `expired`, `other_binding`,
        or `none`: it has no grant for this."""
        key = grant_key(operation, caller, self._tenant_id)
        claim = (caller.issuer, caller.subject, operation.purpose, operation.uri)
        if self.grants.under_other_bindings(claim, caller.binding):
            return "other_binding"
        mark = self._marks.peek((caller.issuer, caller.token_jti, operation.purpose, operation.uri))
        if mark is not None and self.grants.find(key) is None:
            return "spent" if mark.left == 0 else "expired"
        return self.grants.state(key)

    def snapshot(self, limit: int = 1000) -> list[Mapping[str, Any]]:
        """The live grants, at most `limit`. `uri` is for making a `resource_ref` of it, not for showing."""
        now = self._clock.elapsed()
        shown: list[Mapping[str, Any]] = []
        for grant in self.grants.grants():
            if grant.expires <= now:
                continue
            if len(shown) == limit:
                break
            shown.append(grant.shown(now))
        return shown


def too_many_uses(operation: Operation, grant: Grant) -> Denied:
    """A request for more uses at once than its grant ever had."""
    detail = f"{operation.uses} uses at once, where a grant has {grant.max_uses}"
    return _said_once(obligation_unmet(grant.verdict, detail))


def _said_once(refused: Denied) -> Denied:
    """A denial as it is repeated: its notifications were for the answer itself. Who asks again and again would have
    them published again and again."""
    if not refused.verdict.obligations.notifications:
        return refused
    obligations = replace(refused.verdict.obligations, notifications=())
    verdict = replace(refused.verdict, obligations=obligations)
    return Denied(refused.code, refused.message, verdict=verdict, wanted=refused.wanted, detail=refused.detail)
