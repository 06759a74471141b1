"""Runs a file of cases and tells what came of them: a table for people, JSON and JUnit for a CI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from xml.etree import ElementTree

from sidecar.config import Config
from sidecar.decision.permit import Pdp
from sidecar.policy.cases import Asked
from sidecar.policy.trial import Outcome, ask


@dataclass(frozen=True, slots=True)
class Result:
    """One case and its outcome. `complaints` is empty where it is as it should be."""

    asked: Asked
    outcome: Outcome
    complaints: tuple[str, ...]

    @property
    def name(self) -> str:
        """The case's own name, or its question."""
        case = self.asked.case
        return case.name or f"{self.asked.caller.subject} {case.purpose} {self.asked.operation.uri}"

    def json(self) -> dict[str, Any]:
        """For a machine."""
        verdict = self.outcome.verdict
        return {
            "place": self.asked.place,
            "name": self.name,
            "passed": not self.complaints,
            "expected": self.asked.case.expect,
            "effect": self.outcome.effect,
            "code": self.outcome.code or None,
            "obligations": self.outcome.obligations,
            "policies": list(verdict.policies) if verdict else [],
            "attributes_used": list(verdict.attributes) if verdict else [],
            "policy_version": verdict.policy_version if verdict else "",
            "complaints": list(self.complaints),
        }


_NAMES: Final = {"step_up": "step_up_acr_values", "step_up_max_age": "step_up_max_age_seconds"}


def _in_order(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value


async def run_cases(config: Config, pdp: Pdp, cases: Sequence[Asked]) -> list[Result]:
    """Asks each case, one after another."""
    results = []
    for asked in cases:
        outcome = await ask(config, pdp, asked.operation, asked.caller, asked.case.attributes)
        results.append(Result(asked, outcome, tuple(_complaints(asked, outcome))))
    return results


def _complaints(asked: Asked, outcome: Outcome) -> list[str]:
    case, verdict = asked.case, outcome.verdict
    found = []
    if outcome.effect != case.expect:
        why = f" {outcome.code}" if outcome.code else ""
        because = f": {outcome.detail}" if outcome.detail else ""
        found.append(f"expected {case.expect}, got {outcome.effect}{why}{because}")
    elif case.code is not None and outcome.code != case.code:
        found.append(f"expected {case.code}, got {outcome.code}")
    got = outcome.obligations
    for name in sorted(case.obligations.model_fields_set):
        wanted = getattr(case.obligations, name)
        given = got.get(_NAMES.get(name, name))
        if _in_order(wanted) != _in_order(given):
            found.append(f"expected {name} {wanted}, got {given}")
    if case.policies is not None:
        determining = list(verdict.policies) if verdict is not None else []
        if sorted(case.policies) != sorted(determining):
            found.append(f"expected policies {', '.join(case.policies)}, got {', '.join(determining) or 'none'}")
    return found


def table(results: Sequence[Result]) -> str:
    """One line for each case, what is wrong with it below, and a sum."""
    lines = []
    width = max(len(result.name) for result in results)
    for result in results:
        verdict = result.outcome.verdict
        policies = f"  [{', '.join(verdict.policies)}]" if verdict and verdict.policies else ""
        how = f"{result.outcome.effect} {result.outcome.code}".strip()
        lines.append(f"{'ok  ' if not result.complaints else 'FAIL'}  {result.name:<{width}}  {how}{policies}")
        lines += [f"      {result.asked.place}: {complaint}" for complaint in result.complaints]
    failed = sum(bool(result.complaints) for result in results)
    lines.append(f"{len(results)} cases, {failed} failed" if failed else f"{len(results)} cases, all as expected")
    return "\n".join(lines)


def junit(results: Sequence[Result]) -> bytes:
    """The form that CI systems read."""
    failed = sum(bool(result.complaints) for result in results)
    suite = ElementTree.Element("testsuite", name="policy", tests=str(len(results)), failures=str(failed))
    for result in results:
        case = ElementTree.SubElement(suite, "testcase", classname=result.asked.place, name=_xml(result.name))
        if result.complaints:
            failure = ElementTree.SubElement(case, "failure", message=_xml(result.complaints[0]))
            failure.text = _xml("\n".join(result.complaints))
    text: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return text


def _xml(text: str) -> str:
    """XML 1.0 has no place for control characters."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text)
