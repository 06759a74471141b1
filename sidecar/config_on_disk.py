"""Whether the configuration's file still gives what is in force: it is read at start alone, and a restart that finds
another, or one that cannot be used, should surprise nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import structlog

from sidecar.config import Config, ConfigError, load
from sidecar.upstream.files import WATCH_SECONDS, signature

_NAMED: Final = 8
"""Keys that are told; of more only how many."""

_log = structlog.get_logger(__name__)


class ConfigOnDisk:
    """`problem` says how the file differs, by the names of keys and never a value; empty where it does not. Variables
    of the environment stand over the file in either reading."""

    def __init__(self, path: Path, in_force: Config) -> None:
        self._path = path
        self._in_force = in_force
        self._seen: object = ...  # not read yet: it may have changed since the process began
        self.problem = ""

    async def watch(self, seconds: float = WATCH_SECONDS) -> None:
        """Looks again and again, until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            await self.look()

    async def look(self, *, repeat: bool = False) -> None:
        """One look; the file is read where it is another. Says what it finds when it is new, or on `repeat`."""
        seen = signature(self._path)
        before = self.problem
        if seen != self._seen:
            self._seen = seen
            self.problem = await asyncio.to_thread(self._compare)
        if self.problem and (repeat or self.problem != before):
            _log.warning("the configuration on disk is not the one in force", reason=self.problem)
        elif before and not self.problem:
            _log.info("the configuration on disk is the one in force again")

    def _compare(self) -> str:
        try:
            found = load(self._path)
        except ConfigError as error:
            keys = [problem.key for problem in error.problems]
            where = _listed(keys) if all(keys) else "the file itself"
            return f"the next start would fail (see {where}); `sidecar check` says why"
        different = _listed(list(_differences(self._in_force.model_dump(), found.model_dump())))
        return f"it counts from the next start (changed: {different})" if different else ""


def _differences(one: Mapping[str, Any], other: Mapping[str, Any], section: str = "") -> Iterator[str]:
    for key in one.keys() | other.keys():
        mine, theirs = one.get(key), other.get(key)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            yield from _differences(mine, theirs, f"{section}{key}.")
        elif mine != theirs:
            yield f"{section}{key}"


def _listed(keys: list[str]) -> str:
    names = sorted(set(keys))
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
