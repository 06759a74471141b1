"""Several questions that go to the PDP in one request, though each has its own decision to serve."""

from __future__ import annotations

import asyncio

from sidecar.decision.pdp import PdpAccess, again
from sidecar.decision.permit import Denied, Question, Verdict
from sidecar.errors import Refused


class Together:
    """Waits until all that were announced have asked, asks once, and gives each its answer. Use within one event loop.

    Serves each of them once: a decision that must be asked anew asks by itself.
    """

    def __init__(self, access: PdpAccess) -> None:
        self._access = access
        self._expected = 0
        self._asked: list[tuple[Question, asyncio.Future[tuple[Verdict, float]]]] = []

    def announce(self) -> None:
        """One more will ask."""
        self._expected += 1

    async def leave(self) -> None:
        """One that was announced will not ask after all."""
        self._expected -= 1
        await self._ask_if_complete()

    async def ask(self, question: Question) -> tuple[Verdict, float]:
        """The verdict, and when it came. Raises `Refused`, as `PdpAccess.ask`."""
        answer: asyncio.Future[tuple[Verdict, float]] = asyncio.get_running_loop().create_future()
        self._asked.append((question, answer))
        await self.leave()
        return await answer

    async def _ask_if_complete(self) -> None:
        if self._expected or not self._asked:
            return
        asked, self._asked = self._asked, []
        waiting = [(question, answer) for question, answer in asked if not answer.done()]
        try:
            verdicts, answered = await self._access.ask_many([question for question, _ in waiting])
        except Refused as refused:
            for _, answer in waiting:
                if not answer.done():
                    answer.set_exception(again(refused))
        except BaseException:
            for _, answer in waiting:
                answer.cancel()
            raise
        else:
            for (_, answer), verdict in zip(waiting, verdicts, strict=True):
                if answer.done():
                    continue
                if isinstance(verdict, Denied):
                    answer.set_exception(verdict)
                else:
                    answer.set_result((verdict, answered))
