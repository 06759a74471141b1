"""The tokens that open grants, among replicas: a mark in the shared store for each, claimed before the grant opens."""

from __future__ import annotations

from collections.abc import Callable

from sidecar.decision.flight import Flight, Mark, Waiter
from sidecar.errors import Code, Refused
from sidecar.ops import metrics
from sidecar.shared_replays.store import OPENING, SharedReplays

_TOKEN_REPLAYS = metrics.REPLAYS.labels("token")


def used_up() -> Refused:
    """What a token is told that opened its grant before."""
    _TOKEN_REPLAYS.inc()
    return Refused(Code.TOKEN_REPLAYED, "The access token was used up for this.")


async def claim_opening(
    shared: SharedReplays, flight: Flight, window_seconds: float, may_open: Callable[[Waiter], bool]
) -> None:
    """Sees to it that the first who waits may open the grant of a permit, among all replicas; whose token may not is
    told so. `may_open` says whether there will be a grant: else the token keeps what it may open.

    Raises:
        Refused: UPSTREAM_UNAVAILABLE where the store does not say.
    """
    while (waiter := flight.next_waiter()) is not None and waiter.per_grant and waiter.mark not in flight.openings:
        try:
            if not may_open(waiter):
                return
            claimed = await shared.claim(OPENING, _text(waiter.mark), window_seconds + 1)
            if claimed is None:
                raise used_up()
            flight.openings[waiter.mark] = claimed
        except Refused as refusal:
            if refusal.is_fault:
                raise
            if not waiter.answer.done():
                waiter.answer.set_exception(refusal)


def is_unclaimed(flight: Flight, waiter: Waiter) -> bool:
    """Whether the one whose mark was claimed went away meanwhile: this one must be asked about anew."""
    return waiter.per_grant and waiter.mark not in flight.openings


def give_back(shared: SharedReplays, flight: Flight) -> None:
    """The marks for which no grant was opened after all."""
    while flight.openings:
        shared.release(flight.openings.popitem()[1])


def _text(mark: Mark) -> str:
    """One text a mark: issuer and jti are printable, purpose and URI are canonical."""
    return "\0".join(map(str, mark))
