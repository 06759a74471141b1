"""The embedded PDP: a question put before a set of Cedar policies.

Whatever is not a clean permit is a deny: Cedar passes over a policy that fails to evaluate, and so it might pass over
a `forbid`; here such an error denies.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import orjson
import structlog
from cedarpy import AuthzResult, Decision, Entities, is_authorized
from prometheus_client import Counter

from sidecar.config.tree import Cedar
from sidecar.decision import obligations
from sidecar.decision.cedar import source
from sidecar.decision.cedar.entities import ACTION, SECRET, WORKLOAD, NotCedarError, cedar_value
from sidecar.decision.cedar.policy_set import Chunk, LoadedSet, Policy, load
from sidecar.decision.cedar.problem import PolicyError
from sidecar.decision.permit import Denied, Obligations, Question, Verdict
from sidecar.errors import Code
from sidecar.ops import metrics

WATCH_SECONDS: Final = 2.0

_NAMED: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
"""What Cedar quotes in an error: ids of entities, which are secrets' URIs and callers' subjects, and values."""

_TAKEN: Final = metrics.POLICY_LOADS.labels("taken")
_REFUSED: Final = metrics.POLICY_LOADS.labels("refused")
_log = structlog.get_logger(__name__)


class CedarPdp:
    """Decides by a folder of policies. `on_change` is called as soon as another set is in force."""

    def __init__(
        self, config: Cedar, on_change: Callable[[], object] | None = None, *, is_candidate: bool = False
    ) -> None:
        """Loads the set. A candidate's readings are not counted as those of the set in force.

        Raises:
            PolicyError: with every problem found, each with file and line.
        """
        self._config = config
        self.on_change = on_change
        self._is_candidate = is_candidate
        self._set = load(source.read(config))
        self._refused: source.Fingerprint | None = None
        self.problem = ""
        """Why the folder's newest state is not in force; empty where it is."""
        self._reloading = asyncio.Lock()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed and probably not meant, each with file and line."""
        return tuple(self._set.warnings)

    @property
    def policy_version(self) -> str:
        """The digest of the set in force."""
        return self._set.version

    @property
    def reads_metadata(self) -> bool:
        """Whether a policy in force looks at what a secret's metadata says of it."""
        return self._set.reads_metadata

    def __len__(self) -> int:
        return self._set.size

    async def evaluate(self, question: Question) -> Verdict:
        """Decides. Other work of the event loop runs in between where the set is large."""
        loaded = self._set
        decision_id = secrets.token_hex(16)
        try:
            request, entities = _request(question, loaded)
        except (NotCedarError, ValueError, TypeError) as error:
            return _deny(loaded, decision_id, f"the request cannot be put before policies: {error}")
        permits: list[Policy] = []
        forbids: list[Policy] = []
        for index, chunk in enumerate(loaded.chunks):
            if index:
                await asyncio.sleep(0)
            result = is_authorized(request, chunk.parsed, entities)
            problem = _problem(result, chunk)
            if problem:
                _log.warning("a policy failed to evaluate", problem=problem)
                return _deny(loaded, decision_id, problem)
            determining = [chunk.policies[name] for name in result.diagnostics.reasons]
            if result.allowed:
                permits += determining
            elif determining:
                forbids += determining
                break
        if forbids or not permits:
            return _deny(loaded, decision_id, "forbidden" if forbids else "no policy permits", forbids)
        verdict = _verdict(loaded, decision_id, permits, permit=True)
        try:
            strictest = obligations.strictest(policy.obligations for policy in permits)
        except obligations.ObligationError as error:
            raise Denied(
                Code.OBLIGATION_UNMET, "The permit's obligations cannot be met.", verdict=verdict, detail=str(error)
            ) from error
        return dataclasses.replace(verdict, obligations=strictest)

    async def evaluate_many(self, questions: Sequence[Question]) -> list[Verdict | Denied]:
        """Decides one after the other, with the event loop's other work in between; all by the set in force at each."""
        answers: list[Verdict | Denied] = []
        for question in questions:
            try:
                answers.append(await self.evaluate(question))
            except Denied as denied:
                answers.append(denied)
            await asyncio.sleep(0)
        return answers

    async def reload(self) -> bool:
        """Reads the folder again and puts the set in force at once, if it is another; whether it is.

        Raises:
            PolicyError: the set in force stays.
        """
        async with self._reloading:
            try:
                loaded = await asyncio.to_thread(_load, self._config)
            except PolicyError as error:
                self._count(_REFUSED)
                self.problem = f"policies refused, the set in force stays: {error}"[:1000]
                raise
            self._count(_TAKEN)
            self.problem = ""
            changed = loaded.version != self._set.version
            self._set = loaded
            if changed and self.on_change is not None:
                self.on_change()
        if changed:
            which = "the candidate's policies" if self._is_candidate else "policies in force"
            _log.info(which, policy_version=loaded.version, policies=loaded.size)
        return changed

    def _count(self, counter: Counter) -> None:
        if not self._is_candidate:
            counter.inc()

    async def watch(self, interval_seconds: float = WATCH_SECONDS) -> None:
        """Takes changes of the folder as they come, until cancelled.

        A change counts once two looks in a row saw the same: whoever writes has finished. A set that is refused is
        said once, and looked at again when it changes.
        """
        last: source.Fingerprint | None = None
        while True:
            await asyncio.sleep(interval_seconds)
            try:
                seen = await asyncio.to_thread(source.fingerprint, self._config)
            except (OSError, PolicyError) as error:
                # In the middle of an exchange, or gone: the set in force stays.
                if last is None:
                    self.problem = f"policies cannot be read, the set in force stays: {error}"
                last = None
                continue
            settled, last = seen == last, seen
            if not settled or seen == self._refused:
                continue
            if seen == self._set.fingerprint:
                self.problem, self._refused = "", None  # what was refused was taken back
                continue
            try:
                await self.reload()
            except PolicyError as error:
                self._refused = seen
                _log.error("policies refused, the set in force stays", problems=list(error.problems))
            except Exception:  # noqa: BLE001 - a watch that dies unseen would leave old policies in force for ever
                self._refused = seen
                self.problem = "internal fault while reading policies, the set in force stays"
                _log.exception(self.problem)


def _load(config: Cedar) -> LoadedSet:
    return load(source.read(config))


def _request(question: Question, loaded: LoadedSet) -> tuple[dict[str, Any], Entities]:
    context = cedar_value({**question.context, "operation": question.action["properties"]["operation"]})
    request = {
        "principal": {"type": WORKLOAD, "id": question.subject["id"]},
        "action": {"type": ACTION, "id": question.action["name"]},
        "resource": {"type": SECRET, "id": question.resource["id"]},
        "context": orjson.dumps(context).decode(),
    }
    return request, Entities.from_json_str(loaded.entities.for_request(question, loaded.always))


def _problem(result: AuthzResult, chunk: Chunk) -> str:
    """Why a result is not to be believed; empty where it is."""
    errors = result.diagnostics.errors
    if errors:
        text = str(errors[0])
        for name, policy in chunk.policies.items():
            text = text.replace(f"`{name}`", f"`{policy.name}` ({policy.place})")
        return _NAMED.sub('"…"', text)[:1000]
    if result.decision not in (Decision.Allow, Decision.Deny):
        return "no decision"
    if result.allowed and not result.diagnostics.reasons:
        return "a permit by no policy"
    return ""


def _deny(loaded: LoadedSet, decision_id: str, reason: str, policies: Iterable[Policy] = ()) -> Verdict:
    return _verdict(loaded, decision_id, policies, permit=False, reason=reason)


def _verdict(
    loaded: LoadedSet, decision_id: str, policies: Iterable[Policy], *, permit: bool, reason: str = ""
) -> Verdict:
    determining = tuple(policies)
    read = tuple(dict.fromkeys(name for policy in determining for name in policy.attributes))
    names = tuple(policy.name for policy in determining)
    return Verdict(permit, Obligations(), decision_id, loaded.version, names, reason, read)
