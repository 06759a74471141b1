"""Listings and search: many secrets, each decided by itself, in pages that are bounded.

What is looked for is looked for among what the caller may know of: were only what fits decided, the time that takes
would tell whether hidden names fit, and so the names themselves, letter by letter.

One page looks into so many folders, has so many secrets decided, and begins no further step after so many seconds; what
is left comes with the next page, which goes on where this one ended without looking at anything twice.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from sidecar.errors import Code, Refused
from sidecar.secrets.cursors import Cursors, Position
from sidecar.secrets.desk import Desk, Reply
from sidecar.secrets.providers.port import Provider, Work
from sidecar.surface.secret_uri import SecretUri
from sidecar.surface.secrets.endpoints import Call, Endpoint
from sidecar.surface.secrets.operations import Act, supports

MAX_FOLDERS: Final = 200
"""Folders that one page looks into; one of many names counts once for each piece of them."""
MAX_CANDIDATES: Final = 2000
"""Secrets that one page has decided."""
MAX_SECONDS: Final = 5.0
"""After so long a page begins nothing more; the request under way has its own time limit."""
MAX_URI_CHARS: Final = 1024
"""A secret whose URI is longer is not listed: a cursor that stands there would not fit into a request."""
_BATCH: Final = 200
"""Secrets decided in one question to the PDP."""


class _Spent(Exception):  # noqa: N818 - not an error
    """This page may cost no more."""


class _Budget:
    """What one page may cost yet."""

    def __init__(self) -> None:
        self._ends = time.monotonic() + MAX_SECONDS
        self._folders = MAX_FOLDERS
        self.candidates = MAX_CANDIDATES

    @property
    def is_spent(self) -> bool:
        return self._folders == 0 or self.candidates == 0 or time.monotonic() >= self._ends

    def take_folder(self) -> None:
        if self.is_spent:
            raise _Spent
        self._folders -= 1


@dataclass(slots=True)
class _Frame:
    """A folder on the way to where the walk is: `last` is the name that was come to, `names` are those to come, None
    until it was looked into; `beyond` is the last of these names where more come after it."""

    folder: SecretUri
    last: str | None = None
    names: Iterator[str] | None = None
    beyond: str | None = None


class _Walk:
    """The secrets below some folders, in one order, from a position on."""

    def __init__(self, desk: Desk, roots: list[SecretUri], position: Position | None, budget: _Budget) -> None:
        self._desk = desk
        self._budget = budget
        self._roots = deque(roots)
        self._stack: list[_Frame] = []
        if position is not None:
            self._resume(position)

    def _resume(self, position: Position) -> None:
        """The folders on the way are looked into once the walk comes back to them."""
        while self._roots and str(self._roots[0]) != position.root:
            self._roots.popleft()
        if not self._roots:
            raise Refused(Code.MALFORMED_REQUEST, "what the cursor is about is not there any more; begin anew")
        folder = self._roots.popleft()
        for name in position.names:
            self._stack.append(_Frame(folder, name))
            folder = _below(folder, name)
        if position.enters or not position.names:
            self._stack.append(_Frame(folder))

    @property
    def position(self) -> Position:
        """Where the walk goes on from here."""
        if not self._stack:
            return Position(str(self._roots[0]))
        names = tuple(frame.last for frame in self._stack if frame.last is not None)
        return Position(str(self._stack[0].folder), names, self._stack[-1].last is None and bool(names))

    async def next(self) -> SecretUri | None:
        """The next secret; None at the end. Raises `_Spent` before a folder that may not be looked into any more."""
        while self._stack or self._roots:
            if not self._stack:
                self._stack.append(_Frame(self._roots.popleft()))
            frame = self._stack[-1]
            if frame.names is None:
                self._budget.take_folder()
                await self._look_into(frame)
                continue
            name = next(frame.names, None)
            if name is None:
                if frame.beyond is None:
                    self._stack.pop()
                else:
                    frame.last, frame.names = frame.beyond, None
                continue
            frame.last = name
            below = _below(frame.folder, name)
            if not below.folder:
                return below
            self._stack.append(_Frame(below))
        return None

    async def _look_into(self, frame: _Frame) -> None:
        folder, last = frame.folder, frame.last or ""

        async def names(work: Work, provider: Provider) -> tuple[list[str], bool]:
            found = await provider.names(work, folder, last)
            return sorted(name for name in found if name > last), 0 < provider.names_at_once <= len(found)

        found, more = await self._desk.browse(folder, names)
        frame.beyond = _beyond(found[-1]) if more and found else None
        frame.names = iter([name for name in found if nameable(folder, name)])


class Listings:
    """`GET /api/secrets/metadata` and `/search`."""

    def __init__(self, cursors: Cursors) -> None:
        self._cursors = cursors

    async def answer(self, call: Call, desk: Desk) -> Reply:
        """One page. Raises `Refused`."""
        query = call.query
        prefix, text = query.get("prefix", ""), query.get("q", "").casefold()
        roots, begins = _roots(desk, prefix)
        question = (str(call.endpoint), prefix, text)
        cursor = query.get("cursor")
        position = self._cursors.open(cursor, desk.caller, question) if cursor else None

        def matches(uri: SecretUri) -> bool:
            named = call.endpoint is Endpoint.LIST or text in "/".join(uri.path).casefold()
            return named and str(uri).startswith(begins)

        whole = call.endpoint is Endpoint.LIST and len(roots) == 1 and str(roots[0]) == begins
        batch = min(_BATCH, call.limit + 1) if whole else _BATCH
        items, following = await _page(desk, roots, matches, call.limit, batch, position)
        sealed = None if following is None else self._cursors.seal(following, desk.caller, question)
        return Reply(200, {"items": items, "next": sealed})


async def _page(
    desk: Desk,
    roots: list[SecretUri],
    matches: Callable[[SecretUri], bool],
    limit: int,
    most: int,
    position: Position | None,
) -> tuple[list[dict[str, Any]], Position | None]:
    """One page, in the order of the walk, and where the next one begins, behind all that was decided. `most` are
    decided at once."""
    budget = _Budget()
    walk = _Walk(desk, roots, position, budget)
    items: list[dict[str, Any]] = []
    batch: list[tuple[SecretUri, Position]] = []
    decided: Position | None = position

    async def decide() -> bool:
        """Adds what may be known of; False where the page is full."""
        nonlocal decided
        known = await desk.visible([uri for uri, _ in batch]) if batch else []
        for (uri, at), shown in zip(batch, known, strict=True):
            if len(items) == limit:
                return False
            decided = at
            if shown and matches(uri):
                items.append({"uri": str(uri)})
        batch.clear()
        return True

    while True:
        try:
            uri = await walk.next()
            if uri is not None:
                batch.append((uri, walk.position))
                budget.candidates -= 1
            if len(batch) == most and not await decide():
                return items, decided
            if uri is not None and not budget.is_spent:
                continue
        except _Spent:
            uri = None
            cut: Position | None = walk.position
        else:
            cut = walk.position if uri is not None else None
        return items, cut if await decide() else decided


def _below(folder: SecretUri, name: str) -> SecretUri:
    return replace(folder, path=(*folder.path, name.removesuffix("/")), folder=name.endswith("/"))


def _beyond(name: str) -> str:
    """Where to go on behind a name. One that is too long for a cursor is not listed, nor is any that begins like it."""
    return name if len(name) <= MAX_URI_CHARS else name[:MAX_URI_CHARS] + chr(sys.maxunicode)


def nameable(folder: SecretUri, name: str) -> bool:
    """Whether a name that OpenBao lists can be asked for here: what the sidecar would refuse, it does not show."""
    bare = name.removesuffix("/")
    plain = bare not in ("", ".", "..", "*") and bare.isprintable() and "/" not in bare
    return plain and len(str(_below(folder, name))) <= MAX_URI_CHARS


def _roots(desk: Desk, prefix: str) -> tuple[list[SecretUri], str]:
    """The folders in which everything with the prefix is: one, or each mount that can be listed where none is given;
    and how their URIs then begin."""
    mounts = desk.mounts
    if not prefix:
        every = [
            SecretUri(mounts.provider, place.mount.engine, place.full, (), folder=True) for place in mounts.allowed()
        ]
        every += [SecretUri(scheme, "", name, (), folder=True) for scheme in mounts.stores for name in mounts.own]
        return sorted((root for root in every if supports(root, Act.LIST, mounts)), key=str), ""
    folder = prefix if prefix.endswith("/") else prefix[: prefix.rfind("/") + 1]
    if folder.endswith("://"):
        raise Refused(Code.INVALID_URI, "a prefix names a mount at least: openbao+kv2://secret/")
    uri = desk.uri(folder)
    if not supports(uri, Act.LIST, mounts):
        raise Refused(Code.UNSUPPORTED_OPERATION, "secrets of this kind are not listed")
    return [uri], f"{uri}{prefix.removeprefix(folder)}"
