"""A set of policies as it is in force: parsed, validated, each with its name, place and obligations."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from cedarpy import PolicySet, Schema, policies_to_json_str, validate_policies

from sidecar.decision import obligations
from sidecar.decision.cedar.attributes import attributes, reads_metadata
from sidecar.decision.cedar.entities import EntityBase, Uid
from sidecar.decision.cedar.lint import lint, literals
from sidecar.decision.cedar.problem import PolicyError
from sidecar.decision.cedar.source import Fingerprint, Source
from sidecar.decision.cedar.splitting import split
from sidecar.decision.permit import Obligations

CHUNK: Final = 256
"""Policies evaluated in one go (about 0.2 ms). cedarpy holds the interpreter's lock while it evaluates, so that a
thread would not help: a large set is evaluated in pieces, with the event loop's other work in between."""

PARSED_AT_ONCE: Final = 16
MAX_ERRORS: Final = 50

INFORMATIONAL: Final = frozenset({"id", "doc", "description", "title", "owner", "ticket"})
"""Annotations that oblige to nothing."""

OWN_SCHEMA: Final = Path(__file__).with_name("schema.cedarschema")

_ID: Final = re.compile(r"[\x21-\x7e][\x20-\x7e]{0,127}")
_ABOUT_OWN_TYPES: Final = ("unrecognized entity type", "unable to find an applicable action", "unrecognized action")


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy. `place` is `file:line`, `attributes` the names of what its conditions read."""

    name: str
    place: str
    permits: bool
    obligations: Obligations
    text: str
    attributes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Policies that are evaluated together; cedarpy calls them `policy0`, `policy1`, … in this order."""

    parsed: PolicySet
    policies: Mapping[str, Policy]


@dataclass(frozen=True, slots=True)
class LoadedSet:
    """Everything that decides, exchanged as one."""

    chunks: Sequence[Chunk]
    entities: EntityBase
    always: frozenset[Uid]
    version: str
    fingerprint: Fingerprint
    warnings: Sequence[str]
    size: int
    reads_metadata: bool


def load(source: Source) -> LoadedSet:
    """Parses and validates. Takes 0.2 ms per policy, so that a running sidecar does it in a thread.

    Raises:
        PolicyError: with every problem found, each with file and line.
    """
    if not source.policies:
        raise PolicyError(["there is no *.cedar file in the folder"])
    entities = EntityBase(source.entities)
    reader = _Reader(entities.uids())
    for name, text in source.policies:
        reader.read_file(name, text)
    if reader.errors:
        raise PolicyError(reader.errors[:MAX_ERRORS])
    if not reader.policies:
        raise PolicyError(["there is no policy in the folder"])
    chunks = [_chunk(reader.policies[start : start + CHUNK]) for start in range(0, len(reader.policies), CHUNK)]
    warnings = [*source.warnings, *reader.warnings, *_validate(chunks, source)]
    return LoadedSet(
        chunks,
        entities,
        entities.reachable(reader.named),
        _version(source),
        source.fingerprint,
        tuple(warnings),
        len(reader.policies),
        reader.reads_metadata,
    )


def _version(source: Source) -> str:
    """SHA-256 of the policy files in the order of their names, and of the entities after them: what
    `cat *.cedar entities.json | sha256sum` prints."""
    digest = hashlib.sha256()
    for _, text in source.policies:
        digest.update(text.encode())
    digest.update((source.entities or "").encode())
    return digest.hexdigest()


class _Reader:
    """Collects policies, errors and warnings over all files."""

    def __init__(self, known: frozenset[Uid]) -> None:
        self._known = known
        self._places: dict[str, str] = {}
        self.policies: list[Policy] = []
        self.named: set[Uid] = set()
        self.reads_metadata = False
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def read_file(self, name: str, text: str) -> None:
        if text.startswith("\ufeff"):
            self.errors.append(f"{name}:1: starts with a byte order mark; save it as plain UTF-8")
            return
        for index, piece in enumerate(split(text)):
            if index % PARSED_AT_ONCE == 0:
                time.sleep(0)  # lets the event loop in: the parser holds the interpreter's lock
            place = f"{name}:{piece.line}"
            if not piece.ended:
                self.errors.append(f"{place}: no `;` ends this policy; is the file cut off?")
                continue
            try:
                parsed = json.loads(policies_to_json_str(piece.text))
            except ValueError as error:
                self.errors.append(f"{place}: {error}")
                continue
            self._read_policy(place, piece.text, parsed)

    def _read_policy(self, place: str, text: str, parsed: Mapping[str, Any]) -> None:
        if parsed["templates"]:
            self.errors.append(f"{place}: is a template, which decides nothing here; write it out")
            return
        if len(parsed["staticPolicies"]) != 1:
            self.errors.append(f"{place}: is not one policy")
            return
        (policy,) = parsed["staticPolicies"].values()
        annotations: Mapping[str, str | None] = policy.get("annotations", {})
        permits = policy["effect"] == "permit"
        name = self._name(place, annotations)
        obliging = annotations.keys() - INFORMATIONAL
        unknown = sorted(obliging - obligations.ANNOTATIONS)
        if unknown:
            self.errors.append(f"{place}: @{unknown[0]} is not known; nothing would come of it")
        elif obliging and not permits:
            self.errors.append(f"{place}: @{min(obliging)} on a forbid: only a permit obliges to something")
        for finding in lint(policy, self._known):
            (self.errors if finding.fatal else self.warnings).append(f"{place}: {finding.text}")
        self.named.update(literals(policy))
        self.reads_metadata |= reads_metadata(policy)
        try:
            read = obligations.from_annotations(annotations)
        except obligations.ObligationError as error:
            self.errors.append(f"{place}: {error}")
            return
        self.policies.append(Policy(name, place, permits, read, text, attributes(policy)))

    def _name(self, place: str, annotations: Mapping[str, str | None]) -> str:
        """The policy's `@id`, or its place."""
        if "id" not in annotations:
            return place
        name = annotations["id"] or ""
        if not _ID.fullmatch(name):
            self.errors.append(f"{place}: @id is empty, too long, or not printable ASCII")
        elif name in self._places:
            self.errors.append(f'{place}: @id("{name}") stands at {self._places[name]} too')
        self._places[name] = place
        return name


def _chunk(policies: Sequence[Policy]) -> Chunk:
    parsed = PolicySet.from_str("\n".join(policy.text for policy in policies), release_gil=True)
    if len(parsed) != len(policies):
        # Each parsed as exactly one, so this cannot be; were it so, the names would be those of others.
        raise PolicyError(["the policies do not parse together as they do one by one"])
    return Chunk(parsed, {f"policy{index}": policy for index, policy in enumerate(policies)})


def _validate(chunks: Sequence[Chunk], source: Source) -> list[str]:
    """Against the configured schema, where a mistake is an error. Without one, and without entities of the operator's
    own, against the sidecar's: what that finds is a warning, above all an attribute that may be absent."""
    if source.schema is not None:
        problems = _validation(chunks, _schema(source.schema))
        if problems:
            raise PolicyError(problems[:MAX_ERRORS])
        return []
    if source.entities is not None:
        return []
    problems = _validation(chunks, _own_schema())
    return [problem for problem in problems if not any(known in problem for known in _ABOUT_OWN_TYPES)]


@cache
def _own_schema() -> Schema:
    return _schema(OWN_SCHEMA.read_text(encoding="utf-8"))


def _schema(text: str) -> Schema:
    """In Cedar's own form, or as JSON."""
    try:
        if text.lstrip().startswith("{"):
            return Schema.from_json_str(text, release_gil=True)
        return Schema.from_str(text, release_gil=True)
    except ValueError as error:
        raise PolicyError([f"schema: {error}"]) from error


def _validation(chunks: Sequence[Chunk], schema: Schema) -> list[str]:
    problems: list[str] = []
    for chunk in chunks:
        text = "\n".join(policy.text for policy in chunk.policies.values())
        for error in validate_policies(text, schema, release_gil=True).errors:
            policy = chunk.policies.get(error.policy_id)
            message = error.error.removeprefix(f"for policy `{error.policy_id}`, ")
            problems.append(f"{policy.place}: {message}" if policy is not None else message)
    return problems
