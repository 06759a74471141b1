"""What an endpoint of the Secrets API has to work with: permits to ask for, and a way to use each.

Enforcement implements it. An endpoint reaches a secret through a `Held`, which only a decision makes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from sidecar.caller.identity import Caller
from sidecar.errors import Refused
from sidecar.secrets.providers.port import Provider, Work
from sidecar.surface.mounts import MountTable
from sidecar.surface.secret_uri import SecretUri
from sidecar.surface.secrets.operations import Act

T = TypeVar("T")
Action = Callable[[Work, Provider], Awaitable[T]]


@dataclass(frozen=True, slots=True)
class Want:
    """What is wanted of one secret. `policy` names a password policy of OpenBao's that makes the new value."""

    act: Act
    uri: SecretUri
    policy: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """An endpoint's answer, before it is written as JSON."""

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


class Held(Protocol):
    """One permitted operation, not carried out yet. Exactly one of `use`, `repeat` and `give_back` follows; a further
    `give_back` does nothing."""

    @property
    def released(self) -> frozenset[str] | None:
        """The keys that may leave, where the permit says so; None where all may."""

    async def use(self, action: Action[T]) -> T:
        """Carries it out: the intent before, where something changes; the record before this returns. Raises `Refused`,
        recorded."""

    async def repeat(self) -> None:
        """What was carried out under an earlier permit is answered again: recorded, and a use spent, as for any answer.
        Raises `Refused`, recorded."""

    def give_back(self) -> None:
        """Nothing was done; the use goes back."""


class Desk(Protocol):
    """One request's way to secrets."""

    @property
    def caller(self) -> Caller:
        """Who asks."""

    @property
    def mounts(self) -> MountTable:
        """The mounts as they are known now."""

    def uri(self, text: str) -> SecretUri:
        """A secret URI in any spelling that canonicalises. Raises `Refused`."""

    async def obtain(self, wants: Sequence[Want]) -> list[Held | Refused]:
        """A permit for each, decided in one question to the PDP; refusals stand in their place, recorded."""

    async def browse(self, folder: SecretUri, action: Action[T]) -> T:
        """Looks into a folder, whose names are then decided one by one: see `visible`."""

    async def note_unstamped(self, uri: SecretUri) -> None:
        """Records that the maker of a secret could not be stamped on it."""

    async def note_refused(self, refused: Refused) -> Refused:
        """Records a refusal that stands inside an answer, unless it is recorded; what is raised records itself. Returns
        the refusal to be answered: the journal's own, where the record cannot be written."""

    async def visible(self, uris: Sequence[SecretUri]) -> list[bool]:
        """Which of these the caller may know of, in one question to the PDP; no grants are opened."""


async def obtain_all(desk: Desk, wants: Sequence[Want]) -> list[Held]:
    """All of these permits, or none. Raises `Refused`, recorded."""
    held = await desk.obtain(wants)
    permits = [each for each in held if not isinstance(each, Refused)]
    for each in held:
        if isinstance(each, Refused):
            for permit in permits:
                permit.give_back()
            raise each
    return permits


async def repeat_all(permits: Sequence[Held]) -> None:
    """The answer that all of these were needed for is given again. Raises `Refused`, recorded."""
    try:
        for permit in permits:
            await permit.repeat()
    finally:
        for permit in permits:
            permit.give_back()  # counts only where it was not used


async def obtain_one(desk: Desk, act: Act, uri: SecretUri, policy: str = "") -> Held:
    """A permit for one operation. Raises `Refused`, recorded."""
    (held,) = await desk.obtain([Want(act, uri, policy)])
    if isinstance(held, Refused):
        raise held
    return held
