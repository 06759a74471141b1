"""A file of cases: what should be permitted and what denied, in YAML or JSON. Every mistake is told with its line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from sidecar.caller.identity import BindingKind, Caller
from sidecar.config import Config
from sidecar.config.loading import StrictLoader, check_events, check_text
from sidecar.errors import Code, Refused
from sidecar.policy.trial import caller_of, operation_of
from sidecar.surface.mounts import MountTable
from sidecar.surface.operation import Operation, Purpose
from sidecar.surface.secret_uri import parse

MAX_BYTES: Final = 8 * 2**20
MAX_CASES: Final = 10_000


class CasesError(Exception):
    """The file cannot be used. `problems` are all that were found, each with file and line."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _words(value: object) -> object:
    """A token's `scope` is a text with spaces."""
    return value.split() if isinstance(value, str) else value


Words = Annotated[list[str], BeforeValidator(_words)]


class Claims(_Strict):
    """Claims of the access token that decisions look at."""

    sub: str = ""
    iss: str = ""
    client_id: str = ""
    scope: Words = []
    aud: Words = []
    acr: str = ""
    amr: Words = []
    auth_time: int | None = None
    act: dict[str, Any] = {}
    workflow_run_id: str = ""
    node_id: str = ""
    system_id: str = ""


class ExpectedObligations(_Strict):
    """Those that are named are compared; null says that there must be none."""

    ttl_seconds: int | None = None
    max_uses: int | None = None
    release: list[str] | None = None
    step_up: Words | None = None
    step_up_max_age: int | None = None


class Case(_Strict):
    """One question and what should come of it."""

    name: str = ""
    subject: str = ""
    claims: Claims = Claims()
    authenticated_seconds_ago: Annotated[int, Field(ge=0)] | None = None
    """`auth_time`, as a file can say it that is run on another day."""
    binding: Literal["none", "dpop", "mtls", "dpop+mtls", "pod"] = "dpop"
    purpose: Literal[tuple(str(purpose) for purpose in Purpose)]  # type: ignore[valid-type] # one list of purposes
    uri: str
    operation: str = ""
    uses: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    attributes: dict[str, str] = {}
    expect: Literal["permit", "deny"]
    code: Literal[tuple(str(code) for code in Code)] | None = None  # type: ignore[valid-type]
    obligations: ExpectedObligations = ExpectedObligations()
    policies: list[str] | None = None

    @model_validator(mode="after")
    def _one_subject(self) -> Case:
        if bool(self.subject) is bool(self.claims.sub):
            raise ValueError("give either subject or claims.sub")
        if self.claims.auth_time is not None and self.authenticated_seconds_ago is not None:
            raise ValueError("give either authenticated_seconds_ago or claims.auth_time")
        if self.expect == "permit" and self.code is not None:
            raise ValueError("a permit has no code")
        return self


@dataclass(frozen=True, slots=True)
class Asked:
    """A case that can be asked. `place` is `file:line`."""

    place: str
    case: Case
    operation: Operation
    caller: Caller


def read_cases(path: Path, config: Config, mounts: Callable[[str], MountTable]) -> list[Asked]:
    """Reads a list of cases, alone or as `cases:`. `mounts` is the table to read a URI by.

    Raises:
        CasesError: with every problem found.
    """
    asked: list[Asked] = []
    problems: list[str] = []
    for node in _nodes(path):
        place = f"{path.name}:{node.start_mark.line + 1}"
        try:
            case = Case.model_validate(_value(node, path))
            uri = parse(case.uri, mounts(case.uri))
        except ValidationError as error:
            for found in error.errors(include_url=False, include_input=False):
                complaint = _key(found["loc"]) + found["msg"].removeprefix("Value error, ")
                problems.append(f"{path.name}:{_line(node, found['loc'])}: {complaint}")
        except Refused as refused:
            problems.append(f"{path.name}:{_line(node, ('uri',))}: uri: {refused.code}: {refused.message}")
        else:
            operation = operation_of(uri, case.purpose, case.operation, case.uses)
            asked.append(Asked(place, case, operation, _caller(config, case)))
    if problems:
        raise CasesError(problems)
    return asked


def _caller(config: Config, case: Case) -> Caller:
    claims = case.claims
    known: dict[str, Any] = {
        "issuer": claims.iss,
        "audience": tuple(claims.aud),
        "client_id": claims.client_id,
        "scopes": frozenset(claims.scope),
        "acr": claims.acr,
        "amr": tuple(claims.amr),
        "auth_time": claims.auth_time,
        "authenticated_seconds_ago": case.authenticated_seconds_ago,
        "act": claims.act,
        "workflow_run_id": claims.workflow_run_id,
        "node_id": claims.node_id,
        "system_id": claims.system_id,
    }
    given = {name: value for name, value in known.items() if value not in ("", None, (), frozenset(), {})}
    return caller_of(config, case.subject or claims.sub, BindingKind(case.binding), **given)


# -- YAML with its lines ---------------------------------------------------------------------------------------------
def _nodes(path: Path) -> list[yaml.Node]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CasesError([f"{path.name}: is larger than {MAX_BYTES} bytes"])
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            text = text.replace("\t", " ")  # white space in JSON, an error in YAML; in a JSON text it cannot stand
        check_events(text)
        root = yaml.compose(text, StrictLoader)
    except OSError as error:
        raise CasesError([f"{path}: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise CasesError([f"{path.name}: is not UTF-8"]) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise CasesError([f"{path.name}:{line}: {error.problem}"]) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise CasesError([f"{path.name}: is not YAML: {error or type(error).__name__}"]) from error
    if isinstance(root, yaml.MappingNode) and [key.value for key, _ in root.value] == ["cases"]:
        root = root.value[0][1]
    if not isinstance(root, yaml.SequenceNode) or not root.value:
        raise CasesError([f"{path.name}:1: holds no list of cases"])
    if len(root.value) > MAX_CASES:
        raise CasesError([f"{path.name}: more than {MAX_CASES} cases"])
    return list(root.value)


def _value(node: yaml.Node, path: Path) -> Any:
    try:
        value = StrictLoader("").construct_document(node)
        check_text(value)
        return value
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or node.start_mark
        raise CasesError([f"{path.name}:{mark.line + 1}: {error.problem}"]) from error
    except UnicodeEncodeError as error:
        raise CasesError([f"{path.name}:{node.start_mark.line + 1}: is not Unicode text"]) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise CasesError([f"{path.name}:{node.start_mark.line + 1}: {type(error).__name__}"]) from error


def _line(node: yaml.Node, location: Sequence[str | int]) -> int:
    """Where a member stands, or what should hold it."""
    for step in location:
        inner: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            inner = next((value for key, value in node.value if key.value == step), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            inner = node.value[step]
        if inner is None:
            break
        node = inner
    return int(node.start_mark.line) + 1


def _key(location: Sequence[str | int]) -> str:
    return f"{'.'.join(map(str, location))}: " if location else ""
