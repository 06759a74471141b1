"""What is said of OpenBao's own word about itself, for every such word and for none."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.surface.operation import UpstreamRequest
from sidecar.upstream import health
from sidecar.upstream.failure import unavailable
from sidecar.upstream.health import UpstreamHealth


class Answer:
    """As much of an answer as is looked at."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.closed = False

    async def read(self, limit: int) -> bytes:
        return b"{}"

    def close(self) -> None:
        self.closed = True


class Client:
    """Gives one answer, or raises, or never answers."""

    def __init__(self, given: Answer | Exception | None) -> None:
        self.given = given

    async def public(self, request: UpstreamRequest) -> Any:
        assert (request.method, request.path) == ("GET", "/v1/sys/health")
        if self.given is None:
            await asyncio.Event().wait()
        if isinstance(self.given, Exception):
            raise self.given
        return self.given


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (Answer(200), ""),
        (Answer(472), "OpenBao is a disaster recovery secondary"),
        (Answer(501), "OpenBao is not initialised"),
        (Answer(503), "OpenBao is sealed"),
        (Answer(418), "OpenBao answers 418 when asked for its health"),
        (unavailable("OpenBao cannot be reached", "where it is"), "OpenBao cannot be reached"),
        (None, "OpenBao does not answer"),
    ],
)
async def test_what_it_says(given: Answer | Exception | None, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if given is None:
        monkeypatch.setattr(health, "LOOK_SECONDS", 0.01)
    watched = UpstreamHealth(Client(given))
    assert watched.problem  # nothing is good before it was looked at
    await watched.look()
    assert watched.problem == said
    assert not isinstance(given, Answer) or given.closed
