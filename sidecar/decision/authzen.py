"""The remote PDP: OpenID AuthZEN Authorization API 1.0 over HTTPS.

One question, one decision; or many questions in one `evaluations`. No answer of any kind becomes a permit but a 200
with the JSON of one; no failure of any kind leaves here but as `Refused`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import aiohttp
import orjson
import structlog

from sidecar.clock import Clock, SystemClock
from sidecar.config.tree import Authzen
from sidecar.decision.authzen_answer import AnswerError, JsonPointer, SharedContextError, read_answer, read_answers
from sidecar.decision.authzen_metadata import configured, discovered, is_discoverable, metadata_url
from sidecar.decision.authzen_wire import StatusError, TooLargeError, Wire
from sidecar.decision.json_strict import read_json
from sidecar.decision.pdp import PdpOutage, no_answer
from sidecar.decision.permit import Denied, Question, Verdict
from sidecar.errors import Refused

MAX_ANSWER_BYTES: Final = 256 * 1024
MAX_BATCH_BYTES: Final = 1024 * 1024
MAX_METADATA_BYTES: Final = 64 * 1024

BATCH: Final = 128
"""Questions in one `evaluations`; more are asked in several."""

SINGLE_AT_ONCE: Final = 16
"""Questions under way at once where a PDP takes no batches, over all batches together."""

FRESH_SECONDS: Final = 300.0
"""How long the PDP's metadata is taken for true, and how long a PDP without batches is not offered one."""
RETRY_SECONDS: Final = 5.0

_NO_BATCHES: Final = frozenset({404, 405, 415})
_SEMANTIC: Final = {"evaluations_semantic": "execute_all"}
"""Each question is answered, whatever the others' decisions (section 7.1.2.1)."""

_SEPARATES: Final = re.compile(r"[%:#@\s]")

_log = structlog.get_logger(__name__)


class AuthzenPdp:
    """Asks a PDP at a URL, over the connections of a session."""

    def __init__(self, config: Authzen, session: aiohttp.ClientSession, clock: Clock | None = None) -> None:
        """Reads certificates and the pointer to obligations. The session keeps no cookies, heeds no proxy variables,
        and takes nothing for an answer that came before the question: another's would decide for this one.

        Raises:
            ValueError: where the configuration cannot be used.
            OSError: where a certificate cannot be read (`ssl.SSLError` is one).
        """
        self._config = config
        self._clock = clock or SystemClock()
        self._pointer = JsonPointer(config.obligations)
        self._endpoints = configured(config)
        self._limit = config.timeout_ms / 1000
        self._wire = Wire(config, session, self._clock)
        self._one_by_one_until = float("-inf")
        self._singles = asyncio.Semaphore(SINGLE_AT_ONCE)

    async def reload(self) -> None:
        """Reads certificates and the PDP's metadata anew. Raises like the constructor; what was in use then stays."""
        await self._wire.reload()
        self._one_by_one_until = float("-inf")
        await self.discover()

    # -- where to ask ------------------------------------------------------------------------------------------------
    async def discover(self) -> bool:
        """Reads the PDP's metadata; whether that told something. A PDP without any, or with one that may not be used,
        is asked at the configured paths; one that does not answer now, where it was asked before. Never raises."""
        if not is_discoverable(self._config):
            return True
        try:
            async with asyncio.timeout(self._limit):
                raw = await self._wire.get(metadata_url(self._config.url or ""), MAX_METADATA_BYTES)
        except (PdpOutage, aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            _log.info("the PDP's metadata cannot be read now", reason=str(error) or type(error).__name__)
            return False
        except AnswerError as error:
            self._endpoints = configured(self._config)
            _log.debug("the PDP has no metadata", reason=str(error))
            return True
        try:
            metadata = read_json(raw)
            if type(metadata) is not dict:
                raise ValueError("it is no object")
            endpoints = discovered(self._config, metadata)
        except ValueError as error:
            self._endpoints = configured(self._config)
            _log.warning("the PDP's metadata is not used", reason=str(error))
            return True
        if endpoints != self._endpoints:
            _log.info("the PDP's endpoints", evaluation=endpoints.evaluation, evaluations=endpoints.evaluations)
        self._endpoints = endpoints
        return True

    async def keep_fresh(self) -> None:
        """Reads the metadata again and again, until cancelled; questions do not wait for it."""
        told = False
        while True:
            await asyncio.sleep(FRESH_SECONDS if told else RETRY_SECONDS)
            told = await self.discover()

    # -- asking ------------------------------------------------------------------------------------------------------
    async def evaluate(self, question: Question) -> Verdict:
        """Asks once.

        Raises:
            Refused: PDP_UNAVAILABLE, as `PdpOutage` where the PDP would answer nobody; `Denied` with OBLIGATION_UNMET.
        """
        with _as_refused():
            raw = await self._post(self._endpoints.evaluation, self._body(question), question, MAX_ANSWER_BYTES)
            return read_answer(raw, self._pointer)

    async def evaluate_many(self, questions: Sequence[Question]) -> list[Verdict | Denied]:
        """Asks all at once, in `evaluations` of at most `BATCH`; one by one where the PDP takes no batches.

        Raises:
            Refused: PDP_UNAVAILABLE for all, where no trustworthy answer came for one.
        """
        answers: list[Verdict | Denied] = []
        for start in range(0, len(questions), BATCH):
            answers += await self._batch(questions[start : start + BATCH])
        return answers

    async def _batch(self, questions: Sequence[Question]) -> list[Verdict | Denied]:
        url = self._endpoints.evaluations
        if len(questions) == 1 or url is None or self._clock.elapsed() < self._one_by_one_until:
            return await self._one_by_one(questions)
        with _as_refused():
            try:
                raw = await self._post(url, self._batch_body(questions), questions[0], MAX_BATCH_BYTES)
                return read_answers(raw, self._pointer, len(questions))
            except StatusError as error:
                if error.status not in _NO_BATCHES:
                    raise
                reason = str(error)
            except (TooLargeError, SharedContextError) as error:
                reason = str(error)
        _log.info("the PDP is asked one by one", reason=reason)
        self._one_by_one_until = self._clock.elapsed() + FRESH_SECONDS
        return await self._one_by_one(questions)

    async def _one_by_one(self, questions: Sequence[Question]) -> list[Verdict | Denied]:
        async def ask(question: Question) -> Verdict | Denied:
            async with self._singles:
                try:
                    return await self.evaluate(question)
                except Denied as denied:
                    return denied

        tasks = [asyncio.ensure_future(ask(question)) for question in questions]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()  # the first failure is everybody's: no more are asked

    async def _post(self, url: str, body: Mapping[str, Any], about: Question, limit: int) -> bytes:
        async with asyncio.timeout(self._limit):
            headers = {}
            if about.context.get("correlation_id"):
                headers["X-Request-ID"] = str(about.context["correlation_id"])
            if about.trace is not None:
                headers["traceparent"] = str(about.trace)
            return await self._wire.post(url, orjson.dumps(body), headers, limit)

    def _body(self, question: Question) -> dict[str, Any]:
        written = _encoded if self._config.ids == "encoded" else dict
        return {
            "subject": written(question.subject),
            "action": question.action,
            "resource": written(question.resource),
            "context": {**self._config.extra_context, **question.context},
        }

    def _batch_body(self, questions: Sequence[Question]) -> dict[str, Any]:
        """What all have in common stands once, as the default of all (section 7.1.1). A default is replaced as a whole:
        members of two objects are never mixed."""
        bodies = [self._body(question) for question in questions]
        common = {name: value for name, value in bodies[0].items() if all(body[name] == value for body in bodies[1:])}
        items = [{name: value for name, value in body.items() if name not in common} for body in bodies]
        return {**common, "options": _SEMANTIC, "evaluations": items}


def _encoded(entity: Mapping[str, Any]) -> dict[str, Any]:
    """The entity with an id of which no character separates anything. Two ids are never written alike: `%` is one."""
    plain = _SEPARATES.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), entity["id"])
    return {**entity, "id": plain}


@contextlib.contextmanager
def _as_refused() -> Iterator[None]:
    """Whatever goes wrong in an exchange, as `Refused`."""
    try:
        yield
    except Refused:
        raise
    except AnswerError as error:
        raise no_answer(str(error)) from error
    except TimeoutError as error:
        raise PdpOutage("no answer in time") from error
    except (aiohttp.ClientError, OSError) as error:
        raise PdpOutage(f"no connection: {type(error).__name__}") from error
    except (ValueError, TypeError) as error:
        raise no_answer(f"the question cannot be written as JSON: {type(error).__name__}") from error
