"""Changing secrets: writes that two may try at once and both win, deletes, rotations.

A key's write reads the map, changes it, and writes it back under `cas`: whoever comes second finds another version and
begins again. Within one sidecar the writers of a path wait for each other, so that only other sidecars are in the way.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import SystemRandom
from typing import Any, Final

from sidecar.errors import Code, Refused
from sidecar.secrets.desk import Desk, Held, Reply, Want, obtain_one
from sidecar.secrets.provenance import Provenance
from sidecar.secrets.providers.port import Conflict, Current, Missing, Provider, Values, Work, not_found, same
from sidecar.surface.operation import UpstreamRequest
from sidecar.surface.secret_uri import SecretUri
from sidecar.surface.secrets.bodies import Generate, Rotate
from sidecar.surface.secrets.operations import Act, password_policy, rotates_itself

ATTEMPTS: Final = 60
"""How often a change is begun anew because another sidecar's came first."""
_LONGEST_PAUSE_SECONDS: Final = 0.25

_random: Final = SystemRandom()


class PathLocks:
    """One lock for each path that is being changed; as many as there are requests in flight."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def of(self, uri: SecretUri) -> AsyncIterator[None]:
        """Alone with this path."""
        name = str(uri.without_version().without_fragment())
        lock, users = self._locks.get(name, (None, 0))
        lock = lock or asyncio.Lock()
        self._locks[name] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[name]
            if users == 1:
                del self._locks[name]
            else:
                self._locks[name] = (lock, users - 1)


@dataclass(frozen=True, slots=True)
class Changed:
    """A change that was made. `before` is the version that it replaced, 0 where there was none."""

    version: int | None
    before: int | None
    created: bool


Change = Callable[[Values | None], Values]
"""From the map as it is, None where there is nothing, to the map as it shall be. Raises `Refused`."""


async def change(work: Work, provider: Provider, uri: SecretUri, made: Change, cas: int | None) -> Changed:
    """Reads, changes, writes under `cas`; again, where another came first. The caller's own `cas` is tried once."""
    for attempt in range(ATTEMPTS):
        current: Current = await provider.current(work, uri)
        if cas is not None and current.cas is not None and current.cas != cas:
            raise conflict()
        values = made(current.values)
        try:
            version = await provider.write(work, uri, values, cas if current.cas is None else current.cas)
        except Conflict:
            if cas is not None:
                raise conflict() from None
            await asyncio.sleep(_random.uniform(0, min(_LONGEST_PAUSE_SECONDS, 0.005 * 2.0 ** min(attempt, 10))))
            continue
        return Changed(version, current.cas, current.values is None)
    raise conflict()


class Changes:
    """The endpoints that change one secret."""

    def __init__(self, provenance: Provenance) -> None:
        self._locks = PathLocks()
        self._provenance = provenance

    async def write(self, desk: Desk, uri: SecretUri, value: Any, cas: int | None) -> Reply:
        """`POST /api/secrets`."""
        check_unversioned(uri)
        made = to_value(uri, value)
        held = await obtain_one(desk, Act.WRITE, uri)
        changed = await held.use(lambda work, provider: self.put(desk, work, provider, uri, made, cas))
        return Reply(201 if changed.created else 200, {"uri": str(uri), "version": changed.version})

    async def put(
        self, desk: Desk, work: Work, provider: Provider, uri: SecretUri, made: Change, cas: int | None
    ) -> Changed:
        """The change itself, under its permit, and the stamp of who made the secret."""
        async with self._locks.of(uri):
            changed = await change(work, provider, uri, made, cas)
        await self._provenance.stamp(desk, work, provider, uri, version=changed.version)
        return changed

    async def rotate(self, desk: Desk, uri: SecretUri, body: Rotate, cas: int | None) -> Reply:
        """`POST /api/secrets/rotate`."""
        want = self.wanted_for_rotation(uri, body)
        held = await obtain_one(desk, want.act, want.uri, want.policy)
        return await self.rotate_held(desk, held, uri, body, cas)

    @staticmethod
    def wanted_for_rotation(uri: SecretUri, body: Rotate) -> Want:
        """What a rotation needs. Raises `Refused`: MALFORMED_REQUEST where its value cannot be this secret's."""
        check_unversioned(uri)
        if rotates_itself(uri):
            if body.has_value or body.generate is not None:
                raise Refused(Code.MALFORMED_REQUEST, "OpenBao makes the new value of this itself; give none")
        elif body.generate is not None:
            if uri.fragment is None:
                raise Refused(Code.MALFORMED_REQUEST, "a generated value is one key's: name it, as in …/path#key")
        elif not body.has_value:
            raise Refused(Code.MALFORMED_REQUEST, "give `value` or `generate`")
        else:
            to_value(uri, body.value)
        return Want(Act.ROTATE, uri, (body.generate.policy if body.generate is not None else None) or "")

    async def rotate_held(self, desk: Desk, held: Held, uri: SecretUri, body: Rotate, cas: int | None) -> Reply:
        """The rotation itself."""

        async def rotate(work: Work, provider: Provider) -> Changed:
            if rotates_itself(uri):
                await provider.rotate(work, uri)
                return Changed(None, None, False)
            value = body.value if body.generate is None else await _generated(work, body.generate)
            return await self.put(desk, work, provider, uri, _existing(uri, to_value(uri, value)), cas)

        changed = await held.use(rotate)
        return Reply(200, {"uri": str(uri), "version": changed.version, "previous_version": changed.before})

    async def delete(self, desk: Desk, uri: SecretUri, *, destroy: bool) -> Reply:
        """`DELETE /api/secrets`."""
        check_unversioned(uri)
        if destroy and uri.fragment is not None:
            raise Refused(Code.MALFORMED_REQUEST, "one key cannot be destroyed: destroy versions, or the whole path")
        held = await obtain_one(desk, Act.DELETE_ALL if destroy else Act.DELETE, uri)
        if destroy:
            await held.use(lambda work, provider: provider.delete_all(work, uri))
        else:
            await held.use(lambda work, provider: self.take_away(work, provider, uri))
        return Reply(200, {"uri": str(uri), "deleted": True, "destroyed": destroy})

    async def take_away(self, work: Work, provider: Provider, uri: SecretUri, only: Values | None = None) -> None:
        """Deletes the latest version, or writes one without the key; where `only` is given, only while the secret, or
        the key, still reads so. Raises `Refused`: NOT_FOUND, VERSION_CONFLICT."""
        async with self._locks.of(uri):
            if uri.fragment is None:
                current = await provider.current(work, uri)
                if current.values is None:
                    raise not_found()
                if only is not None and not same(current.values, only):
                    raise conflict()
                # That version and no other: what another sidecar writes in between stays.
                await provider.delete(work, replace(uri, version=current.cas))
            else:
                made = without_key(uri.fragment, only)
                if not provider.keeps_empty and not made((await provider.current(work, uri)).values):
                    await provider.delete(work, uri.without_fragment())  # it was the last key
                    return
                await change(work, provider, uri, made, None)

    async def undelete(self, desk: Desk, uri: SecretUri, versions: list[int]) -> Reply:
        """`POST /api/secrets/undelete`."""
        check_whole(uri)
        held = await obtain_one(desk, Act.UNDELETE, uri)
        await held.use(lambda work, provider: provider.undelete(work, uri, versions))
        return Reply(200, {"uri": str(uri), "versions": versions})

    async def destroy(self, desk: Desk, uri: SecretUri, versions: list[int]) -> Reply:
        """`POST /api/secrets/destroy-versions`."""
        check_whole(uri)
        held = await obtain_one(desk, Act.DESTROY, uri)
        await held.use(lambda work, provider: provider.destroy(work, uri, versions))
        return Reply(200, {"uri": str(uri), "versions": versions})

    async def set_owner(self, desk: Desk, uri: SecretUri, owner: str) -> Reply:
        """`POST /api/secrets/metadata/owner`."""
        check_whole(uri)
        held = await obtain_one(desk, Act.SET_OWNER, uri)
        await held.use(lambda work, provider: provider.label(work, uri, {"owner": owner}))
        return Reply(200, {"uri": str(uri), "owner": owner})


# -- what a change is ----------------------------------------------------------------------------------------------
def to_value(uri: SecretUri, value: Any) -> Change:
    """The whole map where the URI names a path, one key of it where it names that. Raises `Refused`:
    MALFORMED_REQUEST."""
    key = uri.fragment
    if key is None:
        if not isinstance(value, dict):
            raise Refused(
                Code.MALFORMED_REQUEST, "the value of a path is its map of keys; name a key to write one: …/path#key"
            )
        return lambda _current: value
    return lambda current: {**(current or {}), key: value}


def without_key(key: str, only: Values | None = None) -> Change:
    """The map without one key; where `only` is given, only while the key's value is the one there. Raises `Refused`:
    NOT_FOUND where it has no such key, VERSION_CONFLICT."""

    def made(current: Values | None) -> Values:
        if current is None or key not in current:
            raise not_found()
        if only is not None and not same(current[key], only[key]):
            raise conflict()
        return {name: value for name, value in current.items() if name != key}

    return made


def _existing(uri: SecretUri, made: Change) -> Change:
    """Only where there is something to be replaced."""

    def replaced(current: Values | None) -> Values:
        if current is None or (uri.fragment is not None and uri.fragment not in current):
            raise not_found()
        return made(current)

    return replaced


async def _generated(work: Work, wanted: Generate | None) -> str:
    if wanted is None:
        raise ValueError("nothing to generate")
    if wanted.length is not None:
        return "".join(secrets.choice(wanted.alphabet) for _ in range(wanted.length))
    request = UpstreamRequest("GET", password_policy(wanted.policy or ""), "", work.operation.upstream.namespace)
    try:
        password = (await work.ask(request)).data.get("password")
    except Missing:
        raise Refused(Code.NOT_FOUND, "OpenBao has no such password policy") from None
    if not isinstance(password, str) or not password:
        raise Refused(Code.UPSTREAM_ERROR, "OpenBao's password policy gave no password")
    return password


# -- what a URI may be here ----------------------------------------------------------------------------------------
def check_unversioned(uri: SecretUri) -> None:
    """Raises `Refused`: INVALID_URI for a version, which is made and not named by a change."""
    if uri.version is not None:
        raise Refused(Code.INVALID_URI, "a change makes a new version; name none")


def check_whole(uri: SecretUri) -> None:
    """Raises `Refused`: INVALID_URI for a key or a version: versions and metadata are the whole path's."""
    if uri.fragment is not None or uri.version is not None:
        raise Refused(Code.INVALID_URI, "versions and metadata are the whole path's; name no key and no version")


def conflict() -> Refused:
    """Somebody else's write came first."""
    return Refused(Code.VERSION_CONFLICT, "the secret has another version by now; read it and try again")
