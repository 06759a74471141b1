"""A bounded table whose entries end at a time: it refuses new entries when it is full and never forgets a live one.

cachetools' timed caches make room by evicting, which would let one caller push out another's grant, and drop all that
has expired at once; hence this one. Used within one event loop; the time is passed in (seconds of elapsed time).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from heapq import heappop, heappush
from math import ceil
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
OwnerT = TypeVar("OwnerT", bound=Hashable)

PURGE_STEPS = 16
"""Expired entries dropped on each `put`: more than come in, so that they never pile up, and no long pause."""


class _Entry(NamedTuple, Generic[V, OwnerT]):
    value: V
    expires: float
    owner: OwnerT


class TimedTable(Generic[K, V, OwnerT]):
    """A mapping of at most `max_entries`, of which one owner holds at most three quarters.

    `on_discard` is called with each value that goes, whatever the reason, but not by `clear`.
    """

    def __init__(self, max_entries: int, on_discard: Callable[[V], None] | None = None) -> None:
        self._max_entries = max_entries
        self._share = max_entries - max_entries // 4
        self._on_discard = on_discard
        self._entries: dict[K, _Entry[V, OwnerT]] = {}
        self._owned: dict[OwnerT, set[K]] = {}
        # Keys by the second in which they may go, and those seconds in order.
        self._going: dict[int, set[K]] = {}
        self._seconds: list[int] = []

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K, now: float) -> V | None:
        """The live value."""
        entry = self._entries.get(key)
        return None if entry is None or entry.expires <= now else entry.value

    def peek(self, key: K) -> V | None:
        """The value, expired or not."""
        entry = self._entries.get(key)
        return None if entry is None else entry.value

    def put(self, key: K, value: V, expires: float, owner: OwnerT, now: float) -> bool:
        """Stores a value in place of the key's former one. False, and nothing stored, where there is no room."""
        self.purge(now)
        self.discard(key)
        owned = self._owned.get(owner)
        if len(self._entries) >= self._max_entries or (owned is not None and len(owned) >= self._share):
            return False
        self._entries[key] = _Entry(value, expires, owner)
        if owned is None:
            self._owned[owner] = {key}
        else:
            owned.add(key)
        second = ceil(expires)
        going = self._going.get(second)
        if going is None:
            self._going[second] = {key}
            heappush(self._seconds, second)
        else:
            going.add(key)
        return True

    def discard(self, key: K) -> None:
        """Drops an entry, where there is one."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        owned = self._owned[entry.owner]
        owned.discard(key)
        if not owned:
            del self._owned[entry.owner]
        # An emptied second stays until its time comes: the heap cannot give it up sooner.
        self._going[ceil(entry.expires)].discard(key)
        if self._on_discard is not None:
            self._on_discard(entry.value)

    def purge(self, now: float, steps: int = PURGE_STEPS) -> None:
        """Drops up to `steps` expired entries."""
        while self._seconds and self._seconds[0] <= now:
            going = self._going[self._seconds[0]]
            while going:
                if steps == 0:
                    return
                steps -= 1
                self.discard(next(iter(going)))
            del self._going[heappop(self._seconds)]

    def clear(self) -> None:
        """Drops everything."""
        self._entries.clear()
        self._owned.clear()
        self._going.clear()
        self._seconds.clear()

    def owned_by(self, owner: OwnerT) -> tuple[K, ...]:
        """The keys of one owner."""
        return tuple(self._owned.get(owner, ()))

    def owners(self) -> tuple[OwnerT, ...]:
        """Everyone who owns an entry."""
        return tuple(self._owned)

    def __iter__(self) -> Iterator[K]:
        """All keys, those of expired values that have not gone yet included. The table may change meanwhile."""
        return iter(tuple(self._entries))

    def items(self) -> tuple[tuple[K, V], ...]:
        """All keys and values, expired ones that have not gone yet included."""
        return tuple((key, entry.value) for key, entry in self._entries.items())

    def values(self) -> Iterator[V]:
        """All values, expired ones that have not gone yet included."""
        return (entry.value for entry in self._entries.values())
