"""`sidecar policy diff`: recorded decisions put before a candidate. What it would decide otherwise, and how often."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sidecar.caller.identity import Binding, BindingKind, Caller
from sidecar.config import Config
from sidecar.decision.candidate import difference
from sidecar.decision.observed import Decision, told
from sidecar.decision.permit import Obligations, Pdp, Question, Verdict
from sidecar.decision.terms import Terms
from sidecar.errors import Refused
from sidecar.policy.trial import operation_of
from sidecar.surface.secret_uri import parse

MAX_LINE: Final = 4 * 2**20
_TIMEOUT_SECONDS: Final = 10.0


class RecordingError(Exception):
    """A line that is no recorded decision. The text says file and line."""


@dataclass(frozen=True, slots=True)
class Found:
    """One difference as it is told; equal ones are counted together."""

    kind: str
    subject: str
    purpose: str
    uri: str
    was: str
    would: str
    policies: tuple[str, ...]
    differs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of all recorded decisions."""

    decisions: int
    found: Counter[Found]
    unanswered: int

    def json(self) -> dict[str, Any]:
        """For a machine."""
        return {
            "decisions": self.decisions,
            "unanswered": self.unanswered,
            "differences": [
                {name: getattr(one, name) for name in Found.__slots__} | {"count": count}
                for one, count in self.found.most_common()
            ],
        }


async def replay(config: Config, pdp: Pdp, paths: Sequence[Path]) -> Replay:
    """Asks a candidate each recorded question.

    Raises:
        RecordingError: for what is no recording.
        OSError: for a file that cannot be read.
    """
    terms = Terms(config, publishes_notifications=bool(config.audit.kafka.bootstrap_servers))
    found: Counter[Found] = Counter()
    decisions = unanswered = 0
    for decision in recorded(paths):
        decisions += 1
        try:
            other = await difference(pdp, terms, decision, _TIMEOUT_SECONDS)
        except (Refused, TimeoutError):
            unanswered += 1
            continue
        if other is not None:
            would = other.code or "permit"
            if other.kind == "other_obligations" and not other.code:
                named = _told(other.verdict.obligations)
                would = f"permit {named}".strip()
            found[
                Found(
                    other.kind,
                    decision.caller.subject,
                    str(decision.operation.purpose),
                    str(decision.question.resource["id"]),
                    decision.code or f"permit {_told(decision.verdict.obligations)}".strip(),
                    would,
                    other.verdict.policies,
                    other.differs,
                )
            ] += 1
    return Replay(decisions, found, unanswered)


def _told(obligations: Obligations) -> str:
    return " ".join(f"{name}={value}" for name, value in told(obligations).items() if value not in (None, [], 0))


def table(result: Replay) -> str:
    """The differences, most frequent first, and a sum."""
    lines = []
    for one, count in result.found.most_common():
        by = f" by {', '.join(one.policies)}" if one.policies else ""
        lines.append(f"{count:>6}  {one.kind:<18}{one.subject}  {one.purpose}  {one.uri}: {one.was} → {one.would}{by}")
    total = sum(result.found.values())
    lines.append(f"{result.decisions} decisions, {total} would differ, {result.unanswered} without an answer")
    # Whatever a caller chose, such as its subject, may drive no terminal.
    return "\n".join("".join(letter if letter.isprintable() else "\ufffd" for letter in line) for line in lines)


def recorded(paths: Sequence[Path]) -> Iterator[Decision]:
    """The decisions of these files in their order. A last line that is cut off is what a crash leaves: passed over."""
    for path in paths:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), b""), 1):
                try:
                    yield _decision(json.loads(line))
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError, Refused) as error:
                    if not line.endswith(b"\n"):
                        return
                    raise RecordingError(f"{path}:{number}: is no recorded decision") from error


def _decision(line: dict[str, Any]) -> Decision:
    if line["recording"] != 1:
        raise ValueError("another form of recording")
    subject, given = line["subject"], line["obligations"]
    properties, context = subject["properties"], line["context"]
    binding = context["cnf_binding"]
    caller = Caller(
        subject["id"],
        properties["issuer"],
        acr=properties.get("acr", ""),
        amr=tuple(properties["amr"]),
        auth_time=properties.get("auth_time"),
        scopes=frozenset(properties["scopes"]),
        binding=Binding(BindingKind(binding["kind"]), binding.get("thumbprint", "")),
    )
    obligations = Obligations(
        given["ttl_seconds"],
        given["max_uses"],
        None if given["release"] is None else frozenset(given["release"]),
        tuple(given["step_up_acr_values"]),
        given["step_up_max_age_seconds"],
        tuple(given["notifications"]),
        tuple(given["terminate_sessions"]),
    )
    action = line["action"]
    operation = operation_of(parse(line["resource"]["id"]), action["name"], action["properties"]["operation"])
    verdict = Verdict(not line["code"], obligations, "", line["policy_version"], tuple(line["policies"]))
    question = Question(subject, action, line["resource"], context)
    return Decision(question, operation, caller, verdict, line["code"], float(line["at"]), line["correlation_id"])
