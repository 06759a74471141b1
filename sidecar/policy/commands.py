"""`sidecar policy …`, as plain functions that return what to print and the exit code."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from sidecar.config import Config
from sidecar.decision.cedar import PolicyError
from sidecar.errors import Code, Refused
from sidecar.mount_source import naming_for_commands
from sidecar.policy import diff as diffing
from sidecar.policy import report
from sidecar.policy.cases import CasesError, read_cases
from sidecar.policy.trial import ask, caller_of, open_pdp, operation_of
from sidecar.surface.secret_uri import parse


class UsageError(Exception):
    """The command cannot be carried out as it was given."""


def one_question(
    config: Config, *, subject: str, purpose: str, uri: str, operation: str, issuer: str
) -> dict[str, Any]:
    """What the sidecar would answer to one request.

    Raises:
        UsageError: for policies that cannot be loaded, or a purpose that is none.
        Refused: INVALID_URI and its like, PDP_UNAVAILABLE.
    """
    return asyncio.run(_one_question(config, subject, purpose, uri, operation, issuer))


async def _one_question(
    config: Config, subject: str, purpose: str, uri: str, operation: str, issuer: str
) -> dict[str, Any]:
    secret = parse(uri, (await naming_for_commands(config))(uri))
    try:
        what = operation_of(secret, purpose, operation)
    except ValueError as error:
        raise UsageError(f"--purpose: {error}") from error
    known: dict[str, Any] = {"issuer": issuer} if issuer else {}
    caller = caller_of(config, subject, **known)
    authorization = config.authorization
    try:
        async with open_pdp(authorization.pdp, authorization.cedar, authorization.authzen) as pdp:
            outcome = await ask(config, pdp, what, caller)
    except PolicyError as error:
        raise UsageError(f"authorization.cedar.policies: {error}") from error
    if outcome.effect == "error":
        raise Refused(Code(outcome.code), outcome.detail)
    verdict = outcome.verdict
    reason = outcome.detail or (verdict.reason if verdict else "")
    return {
        "decision": verdict.permit if verdict else False,
        "effect": outcome.effect,
        "uri": str(secret),
        "operation": what.name,
        "obligations": outcome.obligations,
        "policies": list(verdict.policies) if verdict else [],
        "attributes_used": list(verdict.attributes) if verdict else [],
        "policy_version": verdict.policy_version if verdict else "",
    } | {name: value for name, value in (("code", outcome.code), ("reason", reason)) if value}


def run_cases_file(
    config: Config, path: Path, out: TextIO, *, as_json: bool = False, junit_file: Path | None = None
) -> int:
    """Asks each case of a file; exit 0 where each is as expected, else 1.

    Raises:
        UsageError: for a file that is wrong, with each problem and its line.
    """
    try:
        results = asyncio.run(_results(config, path))
        if junit_file is not None:
            junit_file.write_bytes(report.junit(results))
    except CasesError as error:
        raise UsageError("\n".join(error.problems)) from error
    except PolicyError as error:
        raise UsageError(f"authorization.cedar.policies: {error}") from error
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}") from error
    shown = [result.json() for result in results]
    out.write((json.dumps(shown, indent=2, ensure_ascii=False) if as_json else report.table(results)) + "\n")
    return 1 if any(result.complaints for result in results) else 0


async def _results(config: Config, path: Path) -> list[report.Result]:
    authorization = config.authorization
    cases = read_cases(path, config, await naming_for_commands(config))
    async with open_pdp(authorization.pdp, authorization.cedar, authorization.authzen) as pdp:
        return await report.run_cases(config, pdp, cases)


def diff(
    config: Config, paths: Sequence[Path], out: TextIO, *, candidate: Path | None = None, as_json: bool = False
) -> int:
    """Replays recordings against the configured candidate, or a folder of policies. Exit 0 where nothing differs.

    Raises:
        UsageError: where there is no candidate, or no recording.
    """
    try:
        result = asyncio.run(_replayed(config, paths, candidate))
    except PolicyError as error:
        raise UsageError(f"the candidate's policies: {error}") from error
    except diffing.RecordingError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}") from error
    out.write((json.dumps(result.json(), indent=2, ensure_ascii=False) if as_json else diffing.table(result)) + "\n")
    return 1 if result.found or result.unanswered else 0


async def _replayed(config: Config, paths: Sequence[Path], folder: Path | None) -> diffing.Replay:
    named = config.authorization.candidate
    kind, cedar = named.pdp, named.cedar
    if folder is not None:
        kind, cedar = "cedar", config.authorization.cedar.model_copy(update={"policies": folder})
    if kind is None:
        raise UsageError("there is no candidate: configure authorization.candidate, or give --candidate FOLDER")
    async with open_pdp(kind, cedar, named.authzen) as pdp:
        return await diffing.replay(config, pdp, paths)
