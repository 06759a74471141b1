"""Reads file and environment into one validated tree."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from sidecar.config.checks import cross_checks
from sidecar.config.problems import ConfigError, Problem
from sidecar.config.tree import Config

ENVIRONMENT_NAMES: Final[Mapping[str, str]] = {
    "ENVIRONMENT": "environment",
    "VAULT_URL": "upstream.address",
    "VAULT_TOKEN": "upstream.auth.token",
    "YAML_VAULT_PATH": "yaml_provider.path",
    "TENANT_ID": "tenant.id",
    "TENANT_ALLOWED_MOUNTS": "tenant.allowed_mounts",
    "TENANT_SALT": "tenant.salt",
    "SECRETS_API_REQUIRE_AUTH": "identity.required",
    "SECRETS_AUDIENCE": "identity.audience",
    "SECRETS_ENFORCE_SCOPES": "scopes.enforce",
    "ENABLE_AUTHORIZATION": "authorization.enabled",
    "GRANT_TTL_DEFAULT": "grants.default_ttl_seconds",
    "GRANT_MAX_USES_DEFAULT": "grants.default_max_uses",
    "NEGATIVE_CACHE_TTL_S": "grants.negative_ttl_seconds",
    "ANTI_REPLAY_TTL_S": "anti_replay.window_seconds",
    "KAFKA_BOOTSTRAP_SERVERS": "audit.kafka.bootstrap_servers",
    "KAFKA_TOPIC_PREFIX": "audit.kafka.topic_prefix",
}
"""The documented short names; each stands for one key. `SIDECAR__SECTION__KEY` reaches every key and wins."""

MAX_DEPTH: Final = 100

Model = TypeVar("Model", bound=BaseModel)

ENVIRONMENT_PREFIX: Final = "SIDECAR__"

_of_service: Final = re.compile(
    "SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?"
).fullmatch
"""What a Service's variables are named behind its own name."""

_PLAIN_TAGS: Final = frozenset(
    f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "map", "seq")
)


class StrictLoader(yaml.SafeLoader):
    """YAML 1.1 without its traps: a repeated key is an error, not a silent override, and a tag is none of ours."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag not in _PLAIN_TAGS:
            raise yaml.constructor.ConstructorError(None, None, "a tag", node.start_mark)
        return super().construct_object(node, deep)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, "a key must be text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def load(path: Path | None, environ: Mapping[str, str] = os.environ) -> Config:
    """Reads the file and the environment into one validated tree.

    Raises:
        ConfigError: with every problem found, never only the first.
    """
    problems: list[Problem] = []
    tree = read_tree(path, problems) if path is not None else {}
    _apply_environment(tree, environ, problems)
    config = validated(Config, tree, problems)
    if config is not None:
        broken = {problem.key for problem in problems}
        problems += [
            found
            for found in cross_checks(config)
            if not any(found.key == key or found.key.startswith(f"{key}.") for key in broken)
        ]
    if problems or config is None:
        raise ConfigError(problems)
    return config


_NOT_YAML: Final = (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError)
"""What PyYAML raises for what it cannot read. Their texts may quote the line, and the line may hold a secret: only the
place is told."""

_YAML_REMEDY: Final = "correct it there: each key once, each a text; no tags, anchors or aliases"


def _parse(text: str) -> Any:
    """One YAML document of plain values. Raises one of `_NOT_YAML`."""
    check_events(text)
    tree = yaml.load(text, StrictLoader)  # noqa: S506 - a subclass of SafeLoader
    check_text(tree)
    return tree


def check_events(text: str) -> None:
    """Raises ValueError for an alias, and for what is nested deeper than anything of ours: PyYAML takes a time that
    grows by the square of the depth."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("an alias; write it out")
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")


def check_text(node: object) -> None:
    """Raises ValueError for text that is not Unicode: lone surrogates, from `\\ud800` or a broken environment."""
    if isinstance(node, str):
        node.encode()
    elif isinstance(node, dict):
        for key, value in node.items():
            check_text(key)
            check_text(value)
    elif isinstance(node, list):
        for item in node:
            check_text(item)


def _place(error: BaseException) -> str:
    mark = getattr(error, "problem_mark", None)
    return f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def read_tree(path: Path, problems: list[Problem]) -> dict[str, Any]:
    """The mapping in a YAML file, without its nulls; what is wrong with it is noted, and gives an empty one."""
    try:
        tree = _parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(Problem("", f"cannot read {path}: {error.strerror}", "give a readable file to --config"))
        return {}
    except _NOT_YAML as error:
        where = _place(error)
        problems.append(Problem("", f"{path} is not plain UTF-8 YAML{where}", _YAML_REMEDY))
        return {}
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        problems.append(Problem("", f"{path} holds no mapping", "write `section: {key: value}`"))
        return {}
    pruned = _without_nulls(tree)
    return pruned if isinstance(pruned, dict) else {}


def _without_nulls(node: object) -> object:
    if isinstance(node, dict):
        return {key: _without_nulls(value) for key, value in node.items() if value is not None}
    if isinstance(node, list):
        return [_without_nulls(item) for item in node]
    return node


def _apply_environment(tree: dict[str, Any], environ: Mapping[str, str], problems: list[Problem]) -> None:
    named = {key: environ[name] for name, key in ENVIRONMENT_NAMES.items() if environ.get(name)}
    prefixed = {
        name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", "."): value
        for name, value in environ.items()
        if name.startswith(ENVIRONMENT_PREFIX) and not _is_service_link(name, environ)
    }
    for key, text in (named | prefixed).items():
        value: object = text
        if not _is_unicode(text):
            problems.append(Problem(key, "its environment variable is not UTF-8", "correct it"))
            continue
        if text[:1] in "[{" and text:
            try:
                value = _parse(text)
            except _NOT_YAML:
                problems.append(Problem(key, "its environment variable is not plain YAML or JSON", "correct it"))
                continue
        *sections, last = key.split(".")
        node = tree
        for section in sections:
            child = node.setdefault(section, {})
            if not isinstance(child, dict):
                problems.append(Problem(key, f"{section} is not a section", "correct the file or the variable"))
                break
            node = child
        else:
            node[last] = value


def _is_service_link(name: str, environ: Mapping[str, str]) -> bool:
    """Whether Kubernetes put it there for a Service of the namespace, as into every container: whoever may make one
    called `sidecar--x` would keep each sidecar from starting. No key of ours is named so."""
    return any(
        f"{name[: at.start()]}_SERVICE_HOST" in environ
        for at in re.finditer("_", name)
        if _of_service(name[at.end() :])
    )


def _is_unicode(text: str) -> bool:
    try:
        check_text(text)
    except ValueError:
        return False
    return True


def validated(
    model: type[Model], tree: dict[str, Any], problems: list[Problem], page: str = "configuration.md"
) -> Model | None:
    """Validates; what is wrong is noted and taken out, so that the rest is looked at in the same run. What is missing
    only because it was taken out is no problem of its own."""
    taken: set[tuple[int | str, ...]] = set()
    for _ in range(100):
        try:
            return model.model_validate(tree)
        except ValidationError as error:
            before = len(taken)
            for item in error.errors(include_url=False, include_input=False, include_context=False):
                place = item["loc"]
                if item["type"] != "missing" or not any(one[: len(place)] == place for one in taken):
                    problems.append(_problem_of(item["type"], place, item["msg"], page))
                taken.add(place)
                _take_out(tree, place)
            if len(taken) == before:
                return None
    return None


def _problem_of(kind: str, location: tuple[int | str, ...], message: str, page: str) -> Problem:
    key = ".".join(map(str, location))
    if kind == "extra_forbidden":
        return Problem(key, "unknown key", "remove it, or correct its spelling; `sidecar check --help` names the page")
    if kind == "missing":
        return Problem(key, "is missing", "give it")
    return Problem(key, message[:1].lower() + message[1:], f"see docs/reference/{page}")


def _take_out(tree: dict[str, Any], location: tuple[int | str, ...]) -> None:
    """Removes the value at a location; where that is missing, the smallest thing around it that exists."""
    holder: Any = None
    last: Any = None
    node: Any = tree
    for part in location:
        try:
            child = node[part]
        except (KeyError, IndexError, TypeError):
            break
        holder, last, node = node, part, child
    if holder is not None:
        del holder[last]


def effective(config: Config) -> dict[str, Any]:
    """The tree as it is in force, with secrets masked, for `sidecar check`."""
    tree: dict[str, Any] = _shown(config.model_dump(mode="json", by_alias=True))
    extra = tree["authorization"]["authzen"]["extra_context"]
    tree["authorization"]["authzen"]["extra_context"] = dict.fromkeys(extra, "**********")
    return tree


_CREDENTIALS_IN_URL: Final = re.compile(r"(?<=://)[^/@\s]*@|\?.*$")


def _shown(node: Any) -> Any:
    """URLs without user, password and query: any of these may be a credential."""
    if isinstance(node, dict):
        return {key: _shown(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_shown(item) for item in node]
    if isinstance(node, str) and "://" in node:
        return _CREDENTIALS_IN_URL.sub(lambda match: "***@" if match[0].endswith("@") else "?***", node)
    return node
