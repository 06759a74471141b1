"""Copy and move: one secret to another place, decided whole before anything is done.

All permits are obtained first, so that a move is never found half forbidden. Then the target is written, and only when
that is durable is the source deleted: whatever is cut in between leaves the secret in both places, never in neither.
A retry with the same `Idempotency-Key` finishes it: a target that already equals the source is taken as written, where
the caller may read it. To anyone else that would tell whether a guess at its value is right.
"""

from __future__ import annotations

from typing import Any, Final

from sidecar.errors import Code, Refused
from sidecar.secrets.changes import Changed, Changes, PathLocks, check_unversioned, to_value
from sidecar.secrets.desk import Desk, Held, Reply, Want, obtain_all
from sidecar.secrets.providers.port import Found, Provider, Values, Work, same
from sidecar.secrets.views import pick
from sidecar.surface.secret_uri import SecretUri
from sidecar.surface.secrets.bodies import Transfer
from sidecar.surface.secrets.operations import Act

_MISSING: Final = object()


class Transfers:
    """`POST /api/secrets/copy` and `/move`."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._locks = PathLocks()

    async def transfer(self, desk: Desk, body: Transfer, *, move: bool, resumed: bool) -> Reply:
        """Copies, or moves. `resumed` where the request carries an `Idempotency-Key`: it may be a retry."""
        source, target = desk.uri(body.fromUri), desk.uri(body.toUri)
        permits = await self.permits(desk, body, move=move)
        try:
            return await self._transfer(desk, permits, source, target, body.overwrite, resumed=resumed)
        finally:
            for permit in permits:
                permit.give_back()  # counts only where it was not used

    @staticmethod
    async def permits(desk: Desk, body: Transfer, *, move: bool) -> list[Held]:
        """What a transfer needs: to read the source, to write the target, for a move to delete the source. Raises
        `Refused`."""
        source, target = desk.uri(body.fromUri), desk.uri(body.toUri)
        _check(source, target, move=move)
        wants = [Want(Act.READ, source), Want(Act.WRITE, target)]
        if move:
            wants.append(Want(Act.DELETE, source))
        permits = await obtain_all(desk, wants)
        if permits[0].released is not None and source.fragment is None:
            for permit in permits:
                permit.give_back()
            raise Refused(Code.OBLIGATION_UNMET, "the permit releases some keys of the source only; copy those by name")
        return permits

    async def _transfer(
        self, desk: Desk, permits: list[Held], source: SecretUri, target: SecretUri, overwrite: bool, *, resumed: bool
    ) -> Reply:
        reading, writing, *deleting = permits
        async with self._locks.of(min(source, target, key=str)):
            found: Found = await reading.use(lambda work, provider: provider.read(work, source))
            value = pick(source, found.values)

            async def put(work: Work, provider: Provider) -> Changed:
                if resumed and (written := await _written(desk, work, provider, target, value)) is not None:
                    return written
                made = to_value(target, value)

                def into(current: Values | None) -> Values:
                    if not overwrite and current is not None and _at(target, current) is not _MISSING:
                        raise Refused(Code.TARGET_EXISTS, "the target exists; say overwrite to replace it")
                    return made(current)

                return await self._changes.put(desk, work, provider, target, into, None)

            changed = await writing.use(put)
            for permit in deleting:
                # What was copied, and nothing newer: a value written meanwhile stays, and the move is a conflict.
                await permit.use(lambda work, provider: self._changes.take_away(work, provider, source, found.values))
        return Reply(200, {"fromUri": str(source), "toUri": str(target), "version": changed.version})


async def _written(desk: Desk, work: Work, provider: Provider, target: SecretUri, value: Any) -> Changed | None:
    """The target, where it holds the value already and the caller may read it; whether it may is asked whatever it
    holds."""
    current = await provider.current(work, target)
    if current.values is None or _at(target, current.values) is _MISSING:
        return None
    (held,) = await desk.obtain([Want(Act.READ, target)])
    if isinstance(held, Refused):
        return None
    if held.released is not None and target.fragment is None:
        held.give_back()
        return None
    found: Found = await held.use(lambda work, provider: provider.read(work, target))
    return Changed(found.version, found.version, False) if same(_at(target, found.values), value) else None


def _check(source: SecretUri, target: SecretUri, *, move: bool) -> None:
    check_unversioned(target)
    if move:
        check_unversioned(source)
    if (source.fragment is None) != (target.fragment is None):
        raise Refused(Code.INVALID_URI, "a key goes to a key, a whole secret to a whole secret")
    if source.without_version() == target:
        raise Refused(Code.INVALID_URI, "source and target are the same secret")


def _at(uri: SecretUri, values: Values) -> Any:
    return values if uri.fragment is None else values.get(uri.fragment, _MISSING)
