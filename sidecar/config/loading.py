"""Reads file and environment into one validated tree."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

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

ENVIRONMENT_PREFIX: Final = "SIDECAR__"


class _StrictLoader(yaml.SafeLoader):
    """YAML 1.1 without its traps: a repeated key is an error, not a silent override."""

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
    tree = _read_file(path, problems) if path is not None else {}
    _apply_environment(tree, environ, problems)
    config = _validate(tree, problems)
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


def _read_file(path: Path, problems: list[Problem]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.load(text, _StrictLoader)  # noqa: S506 - a subclass of SafeLoader
    except OSError as error:
        problems.append(Problem("", f"cannot read {path}: {error.strerror}", "give a readable file to --config"))
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        # The parser's own text may quote the line, and the line may hold a secret: only the place is told.
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = getattr(error, "problem", None) or "not readable as UTF-8 YAML"
        problems.append(Problem("", f"{path} is not valid YAML{where}: {what}", "correct the syntax there"))
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
        if name.startswith(ENVIRONMENT_PREFIX)
    }
    for key, text in (named | prefixed).items():
        value: object = text
        if text[:1] in "[{" and text:
            try:
                value = yaml.load(text, _StrictLoader)  # noqa: S506 - a subclass of SafeLoader
            except yaml.YAMLError:
                problems.append(Problem(key, "its environment variable is not valid YAML or JSON", "correct it"))
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


def _validate(tree: dict[str, Any], problems: list[Problem]) -> Config | None:
    """Validates; what is wrong is noted and taken out, so that the rest is looked at in the same run."""
    for _ in range(100):
        try:
            return Config.model_validate(tree)
        except ValidationError as error:
            for item in error.errors(include_url=False, include_input=False, include_context=False):
                problems.append(_problem_of(item["type"], item["loc"], item["msg"]))
                _take_out(tree, item["loc"])
    return None


def _problem_of(kind: str, location: tuple[int | str, ...], message: str) -> Problem:
    key = ".".join(map(str, location))
    if kind == "extra_forbidden":
        return Problem(key, "unknown key", "remove it, or correct its spelling; `sidecar check --help` names the page")
    if kind == "missing":
        return Problem(key, "is missing", "give it")
    return Problem(key, message[:1].lower() + message[1:], "see docs/reference/configuration.md")


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
    return config.model_dump(mode="json", by_alias=True)
