"""Usage grants: what was decided once may be done so often, for so long, by exactly who asked.

Exact because everything here runs without a pause inside one event loop: between the check of a grant's uses and
taking them nothing else runs, so there are no locks. Nothing is shared between processes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Final, cast

from sidecar.caller.identity import Binding, Caller
from sidecar.clock import Clock
from sidecar.decision.permit import Verdict
from sidecar.decision.timed_table import TimedTable
from sidecar.ops import metrics
from sidecar.shared_replays.store import Claimed
from sidecar.surface.operation import Operation, Purpose
from sidecar.surface.secret_uri import SecretUri

GrantKey = tuple[object, ...]
Owner = tuple[str, str]
"""Issuer and subject: whose grants may be dropped together, and who shares one portion of the table."""

Claim = tuple[str, str, Purpose, SecretUri]
"""What only one binding at a time may hold grants for: issuer, subject, purpose, URI."""

_HITS: Final = metrics.GRANTS.labels("hit")
_MISSES: Final = metrics.GRANTS.labels("miss")
_EXPIRED: Final = metrics.GRANTS.labels("expired")
_EXHAUSTED: Final = metrics.GRANTS.labels("exhausted")


def grant_key(operation: Operation, caller: Caller, tenant_id: str) -> GrantKey:
    """Everything that the PDP sees, but what differs in each request (correlation id, `jti`) and fetched attributes.

    Two requests with equal keys would get the same decision; nothing else may share a grant.
    """
    return (
        caller.subject,
        operation.uri,
        operation.name,
        operation.purpose,
        caller.issuer,
        caller.client_id,
        caller.attributes,
        caller.binding.kind,
        caller.binding.thumbprint,
        caller.scopes,
        caller.audience,
        caller.acr,
        caller.amr,
        caller.auth_time,
        caller.workflow_run_id,
        caller.node_id,
        caller.system_id,
        # As text: in Python true equals 1, and in a policy it does not.
        json.dumps(caller.act, sort_keys=True) if caller.act else "",
        tenant_id,
    )


def claim_of(key: GrantKey) -> Claim:
    """The claim of whoever has this key."""
    subject, uri, _, purpose, issuer, *_ = key
    return cast("Claim", (issuer, subject, purpose, uri))


class Grant:
    """A live decision with its uses. `left` are free, `reserved` are taken and neither spent nor given back yet.

    `expires` is elapsed time, the one that counts; `expires_at` the same in seconds since the epoch, for the record;
    `opened` is elapsed time, `opened_at` the wall time of then, to be compared with a token's `iat`; `issued_at` is the
    `iat` of the token that opened it, `opening` that token's mark among the replicas.
    """

    __slots__ = (
        "_table",
        "binding",
        "claim",
        "expires",
        "expires_at",
        "issued_at",
        "key",
        "left",
        "max_uses",
        "opened",
        "opened_at",
        "opening",
        "operation",
        "reserved",
        "verdict",
    )

    def __init__(
        self,
        table: GrantTable,
        key: GrantKey,
        operation: Operation,
        caller: Caller,
        verdict: Verdict,
        *,
        max_uses: int,
        expires: float,
        expires_at: float,
        opened: float,
        opened_at: float,
    ) -> None:
        self._table = table
        self.key = key
        self.operation = operation.name
        self.claim: Claim = (caller.issuer, caller.subject, operation.purpose, operation.uri)
        self.binding = caller.binding
        self.verdict = verdict
        self.max_uses = max_uses
        self.left = max_uses
        self.reserved = 0
        self.expires = expires
        self.expires_at = expires_at
        self.opened = opened
        self.opened_at = opened_at
        self.opening: Claimed | None = None
        self.issued_at = caller.issued_at

    def is_before(self, issued_at: float | None, clock: Clock) -> bool:
        """Whether a token with this `iat` was issued after the grant opened.

        By the issuer's clock, which may be ahead of ours, it must also be younger than the token that opened it.
        """
        if issued_at is None or issued_at <= self.opened_by(clock):
            return False
        return self.issued_at is None or issued_at > self.issued_at

    def opened_by(self, clock: Clock) -> float:
        """When it was opened, by the wall clock as it was then and as it is now, whichever is later: one that was set
        back, then or since, would make an older token look newer."""
        return max(self.opened_at, clock.wall() - clock.elapsed() + self.opened)

    def take(self, uses: int) -> UseReservation | None:
        """Reserves uses, all of them or none."""
        if not 1 <= uses <= self.left:
            return None
        self.left -= uses
        self.reserved += uses
        return UseReservation(self, uses)

    def shown(self, now: float) -> dict[str, object]:
        """For whoever looks at the live grants. `uri` is for making a `resource_ref` of it, not for showing."""
        issuer, subject, purpose, uri = self.claim
        return {
            "issuer": issuer,
            "subject": subject,
            "operation": self.operation,
            "purpose": purpose,
            "uri": uri,
            "binding": self.binding,
            "max_uses": self.max_uses,
            "uses_left": self.left,
            "uses_reserved": self.reserved,
            "expires_in_seconds": round(self.expires - now, 3),
            "decision_id": self.verdict.decision_id,
            "policy_version": self.verdict.policy_version,
            "policies": self.verdict.policies,
        }

    def settle(self, uses: int, spent: bool) -> None:
        """A reservation ended."""
        self.reserved -= uses
        if not spent:
            self.left += uses
        elif self.left == 0 and self.reserved == 0:
            self._table.forget_spent(self)


class UseReservation:
    """Uses taken out of a grant. The first of `commit` and `refund` counts."""

    __slots__ = ("_grant", "_uses")

    def __init__(self, grant: Grant, uses: int) -> None:
        self._grant = grant
        self._uses = uses

    def commit(self) -> None:
        """The uses are spent."""
        uses, self._uses = self._uses, 0
        if uses:
            self._grant.settle(uses, spent=True)

    def refund(self) -> None:
        """The uses go back. Where the grant was dropped or has expired meanwhile, they are worth nothing there."""
        uses, self._uses = self._uses, 0
        if uses:
            self._grant.settle(uses, spent=False)


class GrantTable:
    """The live grants, bounded. A grant ends by its time, by its last use or by `drop`, never to make room."""

    def __init__(self, max_entries: int, clock: Clock) -> None:
        self._clock = clock
        self._claims: dict[Claim, set[Grant]] = {}
        self._live: TimedTable[GrantKey, Grant, Owner] = TimedTable(max_entries, self._unclaim)
        # Keys whose grant was used up before its time, so that the metric tells them from those never seen.
        self._spent: TimedTable[GrantKey, bool, Owner] = TimedTable(max_entries)

    def __len__(self) -> int:
        return len(self._live)

    def look_up(self, key: GrantKey, uses: int) -> tuple[Grant, UseReservation] | None:
        """The live grant of a key with uses reserved; None where the PDP must be asked. Counts in the metrics."""
        grant = self._live.peek(key)
        now = self._clock.elapsed()
        if grant is None:
            (_EXHAUSTED if self._spent.get(key, now) else _MISSES).inc()
            return None
        if grant.expires <= now:
            self._live.discard(key)
            _EXPIRED.inc()
            return None
        reservation = grant.take(uses)
        if reservation is None:
            _EXHAUSTED.inc()
            return None
        _HITS.inc()
        return grant, reservation

    def find(self, key: GrantKey) -> Grant | None:
        """The live grant of a key, used up or not."""
        return self._live.get(key, self._clock.elapsed())

    def state(self, key: GrantKey) -> str:
        """`live`, `spent`, `expired` or `none`, for the record of a refusal."""
        now = self._clock.elapsed()
        grant = self._live.peek(key)
        if grant is not None:
            return "live" if grant.expires > now else "expired"
        return "spent" if self._spent.get(key, now) else "none"

    def add(self, grant: Grant) -> bool:
        """Stores a grant in place of its key's former one. False where there is no room: it is then good for those
        who hold it, and for nobody after."""
        now = self._clock.elapsed()
        if not self._live.put(grant.key, grant, grant.expires, grant.claim[:2], now):
            return False
        self._claims.setdefault(grant.claim, set()).add(grant)
        self._spent.discard(grant.key)
        return True

    def under_other_bindings(self, claim: Claim, binding: Binding) -> tuple[Grant, ...]:
        """Live grants of the same issuer, subject, purpose and URI under another binding. Of two that each name the
        subject neither is another's."""
        held = self._claims.get(claim)
        if not held:
            return ()
        now = self._clock.elapsed()
        return tuple(
            grant
            for grant in held
            if grant.binding != binding
            and grant.expires > now
            and not (grant.binding.names_subject and binding.names_subject)
        )

    def drop(self, grant: Grant) -> None:
        """Ends a grant. Uses already reserved go through."""
        if self._live.peek(grant.key) is grant:
            self._live.discard(grant.key)

    def drop_owner(self, owner: Owner) -> None:
        """Ends the grants of one issuer's subject."""
        for key in self._live.owned_by(owner):
            self._live.discard(key)

    def drop_where(self, fits: Callable[[Claim], bool]) -> int:
        """Ends the grants whose claim fits; how many. Looks at each, so it takes as long as the table is large."""
        ended = [grant for claim, held in self._claims.items() if fits(claim) for grant in held]
        for grant in ended:
            self.drop(grant)
        return len(ended)

    def forget_spent(self, grant: Grant) -> None:
        """Takes a used-up grant out, so that it holds no place."""
        if self._live.peek(grant.key) is grant:
            self._live.discard(grant.key)
            self._spent.put(grant.key, True, grant.expires, grant.claim[:2], self._clock.elapsed())

    def clear(self) -> None:
        """Ends all grants."""
        self._live.clear()
        self._spent.clear()
        self._claims.clear()

    def owners(self) -> tuple[Owner, ...]:
        """Whoever holds a grant."""
        return self._live.owners()

    def grants(self) -> Iterator[Grant]:
        """All grants, those included that have expired and not gone yet."""
        return self._live.values()

    def _unclaim(self, grant: Grant) -> None:
        held = self._claims.get(grant.claim)
        if held is not None:
            held.discard(grant)
            if not held:
                del self._claims[grant.claim]
