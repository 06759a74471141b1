"""Who may act on which lease: the way of a request asks here before a lease is made or touched, and after.

A holder is an issuer's subject in a tenant, whatever key it proves: an application that restarted with a new key still
holds its leases. What was never made, has ended or is another's is refused alike.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final, TypeVar

import structlog

from sidecar.caller.identity import Caller
from sidecar.clock import Clock
from sidecar.errors import Code, Refused
from sidecar.leases import answer as answers
from sidecar.leases.ledger import Held, Ledger
from sidecar.leases.names import Holder
from sidecar.surface.leases import not_held
from sidecar.surface.mounts import MountTable
from sidecar.surface.operation import Issue, Operation, Purpose
from sidecar.surface.secret_uri import SecretUri, parse
from sidecar.upstream.failure import untrustworthy

_RETRY_AFTER: Final = {"Retry-After": "60"}
_log = structlog.get_logger("leases")

Result = TypeVar("Result")


class LeaseBook:
    """The ledger behind one thread. Use within one event loop."""

    def __init__(self, ledger: Ledger, tenant_id: str, mounts: Callable[[], MountTable], clock: Clock) -> None:
        self._ledger = ledger
        self._tenant_id = tenant_id
        self._mounts = mounts
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="leases")
        self._entries = 0

    async def open(self) -> None:
        """Opens the ledger. Raises `OSError`."""
        try:
            await self._on_thread(lambda: self._ledger.open(self._clock.wall()))
        except sqlite3.Error as error:
            raise OSError(f"the ledger of leases cannot be opened: {error}") from None
        self._entries = await self._on_thread(lambda: len(self._ledger))

    async def close(self) -> None:
        """Closes it."""
        await self._on_thread(self._ledger.close)
        self._thread.shutdown()

    async def use(self, salts: Sequence[bytes]) -> None:
        """Other salts of the tenant from now on, the current one first."""
        await self._on_thread(lambda: self._ledger.use(salts))

    @property
    def warning(self) -> str:
        """What an operator should know; empty where all is well."""
        return self._ledger.damaged

    def __len__(self) -> int:
        """How many leases and certificates are held, as last seen."""
        return self._entries

    async def claim(self, operation: Operation, caller: Caller) -> Operation:
        """The operation on what its caller holds, its URI what issued that. Raises `Refused`: OPERATION_FORBIDDEN,
        AUDIT_UNAVAILABLE."""
        holder, now = self._holder(caller), self._clock.wall()
        held = await self._durably(lambda: self._ledger.find(operation.holds, holder, now))
        if held is None:
            raise not_held()
        uri = self._issuer_of(held)
        if operation.uri.path and operation.uri != uri:  # a certificate's request does not say what issued it
            raise not_held()
        return replace(operation, uri=uri)

    async def make_room(self, caller: Caller) -> None:
        """Before something is issued. Raises `Refused`: OVERLOADED where the ledger holds all that it may."""
        holder, now = self._holder(caller), self._clock.wall()
        if not await self._durably(lambda: self._ledger.has_room(holder, now)):
            raise Refused(
                Code.OVERLOADED,
                "no further lease or certificate can be kept (limits.max_leases); revoke some, or wait until some end",
                headers=_RETRY_AFTER,
            )

    async def in_use(self) -> dict[str, float]:
        """The accessors of tokens that leases live under, and when the last of each ends. Raises `Refused`."""
        return await self._durably(lambda: self._ledger.tokens(self._clock.wall()))

    async def note(self, operation: Operation, caller: Caller, raw: bytes, token: str = "") -> str:
        """After OpenBao has done it, before its answer is released: what was issued has its holder, durably. `token` is
        the accessor of the token that it was done under. Returns
        the name of what was issued or acted on, empty for nothing. Raises `Refused`: UPSTREAM_ERROR,
        AUDIT_UNAVAILABLE."""
        holder, now = self._holder(caller), self._clock.wall()
        if operation.holds:
            await self._acted(operation, holder, raw, now)
            return operation.holds
        try:
            issued = answers.issued(operation, answers.read(raw), now)
        except ValueError as error:
            raise untrustworthy(str(error)) from None
        for name, seconds in issued:
            lease = name.startswith(Issue.LEASE)
            entry = Held(str(operation.uri), token if lease else "", now + seconds)
            await self._durably(lambda name=name, entry=entry: self._ledger.add(name, holder, entry))  # type: ignore[misc]
        self._entries += len(issued)
        return issued[0].held if issued else ""

    async def _acted(self, operation: Operation, holder: Holder, raw: bytes, now: float) -> None:
        ends = None
        if operation.purpose is Purpose.RENEW:
            try:
                ends = now + answers.duration(answers.read(raw))
            except ValueError as error:
                raise untrustworthy(str(error)) from None
        await self._durably(lambda: self._keep(operation.holds, holder, now, ends))

    def _keep(self, name: str, holder: Holder, now: float, ends: float | None) -> None:
        """A lease that was renewed until `ends`, or revoked, on the ledger's thread: in one step, as several of a
        lease's requests may end at once."""
        held = self._ledger.find(name, holder, now)
        if held is None:  # ended meanwhile
            return
        # What was revoked stays the holder's, who may ask twice; no token need live for it. Of two renewals the answers
        # may come in another order than OpenBao made them: the later end counts, or the token would be let go too soon.
        held = replace(held, token="") if ends is None else replace(held, expires=max(held.expires, ends))
        self._ledger.add(name, holder, held)

    async def token_of(self, operation: Operation, caller: Caller) -> str:
        """The accessor of the token that a lease was made under; empty where it is not known. Raises `Refused`."""
        holder, now = self._holder(caller), self._clock.wall()
        held = await self._durably(lambda: self._ledger.find(operation.holds, holder, now))
        return held.token if held is not None else ""

    def _holder(self, caller: Caller) -> Holder:
        return (self._tenant_id, caller.issuer, caller.subject)

    def _issuer_of(self, held: Held) -> SecretUri:
        """What issued it, as the mounts stand now: a mount that has gone, or has another engine, issued nothing."""
        try:
            return parse(held.uri, self._mounts())
        except Refused:
            raise not_held() from None

    async def _durably(self, work: Callable[[], Result]) -> Result:
        try:
            return await self._on_thread(work)
        except (sqlite3.Error, OSError) as error:
            _log.error("the ledger of leases cannot be used", reason=str(error))
            raise Refused(
                Code.AUDIT_UNAVAILABLE, "the ledger of leases cannot be used now", headers={"Retry-After": "1"}
            ) from None

    async def _on_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
