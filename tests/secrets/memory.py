"""A provider in memory, as anybody would write one, and a desk that permits everything.

Real OpenBao is asked in tests/e2e; here races and crashes are put exactly where they hurt: `pause` runs between any two
steps of a provider.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sidecar.caller.identity import Caller
from sidecar.errors import Refused
from sidecar.secrets.changes import Changes
from sidecar.secrets.desk import Action, Held, T, Want
from sidecar.secrets.provenance import Provenance
from sidecar.secrets.providers.port import (
    Conflict,
    Current,
    Found,
    Metadata,
    Provider,
    Reply,
    Values,
    Version,
    Work,
    not_found,
)
from sidecar.surface.mounts import Mount, MountTable
from sidecar.surface.operation import Operation, UpstreamRequest
from sidecar.surface.secret_uri import SecretUri, parse
from sidecar.surface.secrets.operations import Act, operation
from tests.decision.making import caller, clock

TABLE: Final = MountTable((Mount("secret", "kv2"),), ["secret"])


async def no_pause(_step: str) -> None:
    await asyncio.sleep(0)


@dataclass
class Memory(Provider):
    """Versions of maps in a dictionary. It declares what it can do, and does it; all else is 501 by the base class."""

    can = frozenset({Act.READ, Act.WRITE, Act.ROTATE, Act.DELETE, Act.METADATA, Act.SET_OWNER})
    kept: dict[str, list[Values | None]] = field(default_factory=dict)
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    pause: Callable[[str], Awaitable[None]] = no_pause

    def _of(self, uri: SecretUri) -> list[Values | None]:
        return self.kept.get("/".join(uri.path), [])

    def now(self, path: str) -> Values | None:
        """What is there."""
        versions = self.kept.get(path, [])
        return versions[-1] if versions else None

    async def read(self, work: Work, uri: SecretUri) -> Found:
        current = await self.current(work, uri)
        if current.values is None:
            raise not_found()
        return Found(current.values, current.cas)

    async def current(self, work: Work, uri: SecretUri) -> Current:
        await self.pause("read")
        versions = self._of(uri)
        return Current(versions[-1] if versions else None, len(versions))

    async def write(self, work: Work, uri: SecretUri, values: Values, cas: int | None) -> int | None:
        await self.pause("write")
        versions = self.kept.setdefault("/".join(uri.path), [])
        if cas is not None and cas != len(versions):
            raise Conflict
        versions.append(values)
        return len(versions)

    async def delete(self, work: Work, uri: SecretUri) -> None:
        await self.pause("delete")
        self._of(uri)[(uri.version or 0) - 1] = None

    async def metadata(self, work: Work, uri: SecretUri) -> Metadata:
        versions = tuple(Version(number, "", "", False) for number, _ in enumerate(self._of(uri), 1))
        return Metadata(len(versions), versions, self.labels.get("/".join(uri.path), {}))

    async def label(self, work: Work, uri: SecretUri, labels: Mapping[str, str]) -> None:
        await self.pause("label")
        self.labels.setdefault("/".join(uri.path), {}).update(labels)


class _Work:
    """A permit's work that reaches nothing."""

    def __init__(self, operation: Operation) -> None:
        self.operation = operation

    async def ask(self, request: UpstreamRequest) -> Reply:
        raise AssertionError(f"nothing is asked for in memory: {request.method} {request.path}")


class _Held:
    def __init__(self, desk: MemoryDesk, want: Want) -> None:
        self._desk = desk
        self._operation = operation(want.act, want.uri, TABLE)

    @property
    def released(self) -> frozenset[str] | None:
        return None

    async def use(self, action: Action[T]) -> T:
        return await action(_Work(self._operation), self._desk.provider)

    async def repeat(self) -> None:
        self._desk.noted.append(f"again {self._operation.name}")

    def give_back(self) -> None:
        pass


class MemoryDesk:
    """A desk in front of a provider; `denied` are the acts that it refuses, `except_for` some URIs, `noted` what it
    recorded."""

    def __init__(
        self,
        provider: Provider,
        who: Caller | None = None,
        denied: dict[Act, Refused] | None = None,
        except_for: Collection[str] = (),
    ) -> None:
        self.provider = provider
        self.caller = who or caller()
        self.mounts = TABLE
        self.denied = denied or {}
        self.except_for = except_for
        self.wanted: list[Act] = []
        self.noted: list[str] = []

    def uri(self, text: str) -> SecretUri:
        return parse(text, TABLE)

    async def obtain(self, wants: Sequence[Want]) -> list[Held | Refused]:
        self.wanted += [want.act for want in wants]
        return [self._denial(want) or _Held(self, want) for want in wants]

    def _denial(self, want: Want) -> Refused | None:
        return None if str(want.uri) in self.except_for else self.denied.get(want.act)

    async def browse(self, folder: SecretUri, action: Action[T]) -> T:
        return await _Held(self, Want(Act.LIST, folder)).use(action)

    async def note_unstamped(self, uri: SecretUri) -> None:
        self.noted.append(f"unstamped {uri}")

    async def note_refused(self, refused: Refused) -> Refused:
        self.noted.append(f"refused {refused.code}")
        return refused

    async def visible(self, uris: Sequence[SecretUri]) -> list[bool]:
        return [True] * len(uris)


def changes() -> Changes:
    """One sidecar's way to change secrets."""
    return Changes(Provenance(clock()))
