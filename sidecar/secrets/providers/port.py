# ruff: noqa: ARG002 - the methods of a base class that only refuses
"""What a provider of secrets is. Adding one is a class with these methods: docs/how-to/add-a-provider.md.

A provider carries out what was permitted: each method takes the `Work` of one permit, and reaches OpenBao by it only.
What it cannot do it does not declare in `can`; the caller gets 501 UNSUPPORTED_OPERATION before any method is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sidecar.errors import Code, Refused
from sidecar.surface.json_body import write as as_json
from sidecar.surface.operation import Operation, UpstreamRequest
from sidecar.surface.secret_uri import SecretUri
from sidecar.surface.secrets.operations import Act

Values = dict[str, Any]
"""A secret's keys and values. Numbers that Python would not write back as they stood are `orjson.Fragment`."""


@dataclass(frozen=True, slots=True)
class Found:
    """A secret as it was read. `version` is None where the store has no versions."""

    values: Values
    version: int | None


@dataclass(frozen=True, slots=True)
class Current:
    """What a change starts from. `cas` is what a write must find to be that change and no other: 0 where there is
    nothing, None where the store cannot check. `values` is None where nothing is there that could be read."""

    values: Values | None
    cas: int | None


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a secret. Times are RFC 3339, empty for none."""

    version: int
    created_at: str
    deleted_at: str
    destroyed: bool


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is known of a secret beside its values."""

    current_version: int
    versions: tuple[Version, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """OpenBao's answer, below 300, as JSON; empty where it had no body."""

    body: Mapping[str, Any]

    @property
    def data(self) -> Mapping[str, Any]:
        """Its `data`."""
        found = self.body.get("data")
        return found if isinstance(found, dict) else {}


class Missing(Exception):  # noqa: N818 - an answer, not a fault
    """OpenBao answered 404. `data` is what it told all the same, of a version that was deleted."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        super().__init__("not found")
        self.data = data


class Conflict(Exception):  # noqa: N818 - an answer, not a fault
    """A write did not find the version that it was made for."""


class NotServed(Refused):
    """OpenBao does not let the sidecar send this: it has no such method, or its policy for the sidecar has not."""


class Work(Protocol):
    """The carrying out of one permit."""

    @property
    def operation(self) -> Operation:
        """What was permitted."""

    async def ask(self, request: UpstreamRequest) -> Reply:
        """Sends one of the requests that the permitted operation covers.

        Raises:
            Missing, Conflict: see there.
            Refused: UPSTREAM_ERROR and its kin, MALFORMED_REQUEST for what OpenBao does not take.
        """


class Provider:
    """A store of secrets: a base class whose every method says that the store cannot do this.

    A provider overrides what it declares in `can`. Every method may raise what `Work.ask` raises, and `Refused`:
    NOT_FOUND. One that is no engine of OpenBao's has a URI `scheme` of its own, and asks its `Work` for nothing.
    """

    scheme: str = ""
    """`scheme://mount/path#key`; empty for OpenBao's engines."""
    can: frozenset[Act] = frozenset()
    """What it can do."""
    keeps_empty: bool = True
    """Whether it takes a secret without keys; where not, the secret goes with its last key."""
    names_at_once: int = 0
    """So many names of a folder at most are given at once, so that fewer are the last; 0 where all are."""
    read_only: bool = False
    """Whether every change is refused, PROVIDER_READ_ONLY, before anybody is asked."""
    problem: str = ""
    """Why it cannot be used now, for the operator; empty where it can."""

    async def start(self) -> None:
        """Before the first request. Raises `OSError`, `ValueError` where it cannot be used as it is configured."""

    async def watch(self) -> None:
        """Runs beside the requests, and keeps `problem` true, until cancelled."""

    async def read(self, work: Work, uri: SecretUri) -> Found:
        """The secret, in the version that the URI names."""
        raise unsupported()

    async def current(self, work: Work, uri: SecretUri) -> Current:
        """What a change of it starts from."""
        raise unsupported()

    async def write(self, work: Work, uri: SecretUri, values: Values, cas: int | None) -> int | None:
        """Writes the whole map; returns its version. Raises `Conflict` where `cas` is given and not found."""
        raise unsupported()

    async def delete(self, work: Work, uri: SecretUri) -> None:
        """Deletes the version that the URI names, where the store has versions, else what is there."""
        raise unsupported()

    async def delete_all(self, work: Work, uri: SecretUri) -> None:
        """Deletes all versions and the metadata, for good."""
        raise unsupported()

    async def undelete(self, work: Work, uri: SecretUri, versions: list[int]) -> None:
        """Undeletes versions."""
        raise unsupported()

    async def destroy(self, work: Work, uri: SecretUri, versions: list[int]) -> None:
        """Destroys versions, for good."""
        raise unsupported()

    async def keys(self, work: Work, uri: SecretUri) -> list[str]:
        """The names of the secret's keys."""
        raise unsupported()

    async def metadata(self, work: Work, uri: SecretUri) -> Metadata:
        """What is known of it beside its values."""
        raise unsupported()

    async def label(self, work: Work, uri: SecretUri, labels: Mapping[str, str]) -> None:
        """Sets these labels and leaves all others as they are."""
        raise unsupported()

    async def rotate(self, work: Work, uri: SecretUri) -> None:
        """Has the store itself make a new value, without telling it."""
        raise unsupported()

    async def names(self, work: Work, folder: SecretUri, after: str) -> list[str]:
        """The names in a folder, sorted; a folder's ends with a slash. Empty where there is none. Those up to `after`
        may be left out: they are not looked at."""
        raise unsupported()


def same(one: object, other: object) -> bool:
    """Whether two values are written alike, numbers to the digit."""
    return as_json({"": one}) == as_json({"": other})


def not_found() -> Refused:
    """There is nothing by this name, or nothing any more."""
    return Refused(Code.NOT_FOUND, "there is no such secret, or it was deleted")


def unsupported() -> Refused:
    """The store cannot do this at all."""
    return Refused(Code.UNSUPPORTED_OPERATION, "the secret's provider cannot do this")
