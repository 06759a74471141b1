"""Applications that read and write secrets without rest, and keep what they got."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

import aiohttp

PAUSE_SECONDS = 0.03


@dataclass(slots=True)
class Kept:
    """What the applications hold in hand at the end."""

    reads: set[str] = field(default_factory=set)
    """Correlation ids of answers whose head said 200: from then on the secret was on its way."""
    writes: set[str] = field(default_factory=set)
    """Correlation ids of writes that were acknowledged."""
    statuses: Counter[int] = field(default_factory=Counter)
    broken: int = 0
    """Requests that had no answer: the sidecar was killed, or not yet up."""


class Clients:
    """So many readers and writers on one sidecar, until `stop`."""

    def __init__(self, url: str, token: str, chance: random.Random, *, readers: int = 5, writers: int = 2) -> None:
        self.kept = Kept()
        self._url = url
        self._headers = {"X-Vault-Token": token}
        self._chance = chance
        self._counts = (readers, writers)
        self._tasks: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Clients:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15))
        readers, writers = self._counts
        self._tasks = [asyncio.create_task(self._read()) for _ in range(readers)]
        self._tasks += [asyncio.create_task(self._write(number)) for number in range(writers)]
        return self

    async def __aexit__(self, *_exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        assert self._session is not None
        await self._session.close()

    async def _read(self) -> None:
        while True:
            await self._ask("GET", "/v1/secret/data/kept/db", self.kept.reads)

    async def _write(self, number: int) -> None:
        for turn in range(10_000_000):
            await self._ask("POST", f"/v1/secret/data/chaos/{number}/{turn}", self.kept.writes)

    async def _ask(self, method: str, path: str, kept: set[str]) -> None:
        assert self._session is not None
        body = {"data": {"value": "written"}} if method == "POST" else None
        try:
            async with self._session.request(method, self._url + path, headers=self._headers, json=body) as answer:
                self.kept.statuses[answer.status] += 1
                if answer.status == 200:
                    kept.add(answer.headers["X-Correlation-ID"])
                await answer.read()
        except (aiohttp.ClientError, TimeoutError):
            self.kept.broken += 1
        await asyncio.sleep(PAUSE_SECONDS * self._chance.uniform(0.1, 1.9))
