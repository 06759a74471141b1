"""Applications of every kind at once: bound and short-lived, forbidden and forged, on kept and on fresh connections."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from sidecar.client.aiohttp import DPoPMiddleware
from sidecar.client.key import DPoPKey
from tests.support.tokens import Issuer

POLICY: Final = """
@id("whoever comes by reads its own folder, for a moment")
@ttl_seconds("1")
@max_uses("1000000")
permit (principal, action, resource in Folder::"secret/soak");
"""
READ: Final = "/v1/secret/data/soak/db"
TOKEN_SECONDS: Final = 15
PAUSE_SECONDS: Final = 0.004


@dataclass(slots=True)
class Asked:
    """What was asked, and what was not answered as it must be."""

    answers: Counter[str] = field(default_factory=Counter)
    permitted: set[str] = field(default_factory=set)
    """Correlation ids of what was let through: each must be in the audit."""
    wrong: list[str] = field(default_factory=list)


class Callers:
    """So many of them at once, until the context ends; whoever is in the middle of a request finishes it."""

    def __init__(self, url: str, issuer: Issuer, chance: random.Random, count: int = 8) -> None:
        self.asked = Asked()
        self._url, self._issuer, self._chance, self._count = url, issuer, chance, count
        self._numbers = itertools.count()
        self._ends = False
        self._began = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Callers:
        self._tasks = [asyncio.create_task(self._live()) for _ in range(self._count)]
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._ends = True
        await asyncio.gather(*self._tasks)

    async def _live(self) -> None:
        lives: list[Callable[[], Awaitable[None]]] = [
            self._bound,
            self._bound,
            self._forbidden,
            self._forged,
            self._fresh_connections,
            self._writer,
        ]
        while not self._ends:
            await self._chance.choice(lives)()

    def _application(self, *, force_close: bool = False) -> tuple[aiohttp.ClientSession, str]:
        """A new application: a subject, a key and a token of its own."""
        key = DPoPKey.generate()
        subject = f"soak-{next(self._numbers)}"
        token = self._issuer.bound_token(key.thumbprint, sub=subject, exp=int(time.time()) + TOKEN_SECONDS)
        connector = aiohttp.TCPConnector(force_close=force_close)
        return aiohttp.ClientSession(self._url, middlewares=[DPoPMiddleware(key)], connector=connector), token

    async def _bound(self) -> None:
        session, token = self._application()
        async with session:
            for _ in range(20):
                await self._ask(session, "GET", READ, token, 200)

    async def _fresh_connections(self) -> None:
        session, token = self._application(force_close=True)
        async with session:
            for _ in range(5):
                await self._ask(session, "GET", READ, token, 200)

    async def _writer(self) -> None:
        session, token = self._application()
        async with session:
            for _ in range(5):
                path = f"/v1/secret/data/soak/{self._chance.randrange(50)}"
                await self._ask(session, "POST", path, token, 200)

    async def _forbidden(self) -> None:
        session, token = self._application()
        async with session:
            for _ in range(5):
                await self._ask(session, "GET", f"/v1/secret/data/other/{self._chance.randrange(1000)}", token, 403)

    async def _forged(self) -> None:
        session, token = self._application()
        header, payload, signature = token.split(".")
        async with session:
            for _ in range(5):
                await self._ask(session, "GET", READ, f"{header}.{payload}.{signature[::-1]}", 401)

    async def _ask(self, session: aiohttp.ClientSession, method: str, path: str, token: str, expected: int) -> None:
        body = {"data": {"value": "written"}} if method == "POST" else None
        try:
            async with session.request(method, path, headers={"X-Vault-Token": token}, json=body) as answer:
                content = await answer.read()
                code = "" if answer.status == 200 else f" {json.loads(content).get('code')}"
                status, name = answer.status, f"{method} {answer.status}{code}"
                if status == 200:
                    self.asked.permitted.add(answer.headers["X-Correlation-ID"])
        except (aiohttp.ClientError, TimeoutError) as error:
            status, name = 0, type(error).__name__
        self.asked.answers[name] += 1
        if status != expected:
            after = time.monotonic() - self._began
            self.asked.wrong.append(f"after {after:.0f} s {method} {path}: {name} instead of {expected}")
        await asyncio.sleep(PAUSE_SECONDS * self._chance.uniform(0.1, 1.9))
