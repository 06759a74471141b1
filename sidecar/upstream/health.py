"""Whether OpenBao can serve, as it says itself: looked at again and again, so that readiness tells what is now and not
what was when the sidecar logged in."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, Protocol

from sidecar.errors import Refused
from sidecar.surface.operation import UpstreamRequest
from sidecar.upstream.answer import UpstreamAnswer

FRESH_SECONDS: Final = 5.0
"""Between two looks; a quarter of it while something is wrong."""
LOOK_SECONDS: Final = 3.0
_BODY_BYTES: Final = 64 * 1024
# A standby hands requests on to the active node, so that it serves as well.
_HEALTH: Final = UpstreamRequest("GET", "/v1/sys/health", query="standbyok=true&perfstandbyok=true")
_SAYS: Final[Mapping[int, str]] = {
    472: "OpenBao is a disaster recovery secondary",
    501: "OpenBao is not initialised",
    503: "OpenBao is sealed",
}


class Public(Protocol):
    """Asks OpenBao what it answers to anyone."""

    async def public(self, request: UpstreamRequest) -> UpstreamAnswer:
        """One of `sys/health`, `sys/seal-status`, `sys/leader`. Raises `UpstreamFailure`."""


class UpstreamHealth:
    """`problem` is empty where OpenBao serves. One task on the event loop: `run` it until it is cancelled."""

    def __init__(self, client: Public) -> None:
        self._client = client
        self.problem = "OpenBao was not looked at yet"

    async def run(self) -> None:
        """Looks, and looks again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(FRESH_SECONDS / 4 if self.problem else FRESH_SECONDS)

    async def look(self) -> None:
        """One look."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                answer = await self._client.public(_HEALTH)
                try:
                    await answer.read(_BODY_BYTES)
                finally:
                    answer.close()
        except TimeoutError:
            self.problem = "OpenBao does not answer"
        except Refused as refused:
            self.problem = refused.message
        else:
            known = _SAYS.get(answer.status, f"OpenBao answers {answer.status} when asked for its health")
            self.problem = "" if answer.status == 200 else known
