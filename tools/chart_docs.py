"""The chart's README, of its values: values.yaml says name, default and meaning, values.schema.json the type."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "deploy" / "k8s" / "chart"

_KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z][A-Za-z0-9]*):(?P<rest>.*)$")


class Value(NamedTuple):
    """One key of values.yaml."""

    path: tuple[str, ...]
    default: Any
    meaning: str


def values() -> list[Value]:
    """Every key that holds a value, in the order of the file; a list or an empty mapping is one value."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    meanings = dict(_meanings(text))
    return [Value(path, default, meanings.get(path, "")) for path, default in _leaves(yaml.safe_load(text), ())]


def _leaves(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(node, dict) and node and all(key.isidentifier() for key in node):  # else a mapping of labels
        for key, value in node.items():
            yield from _leaves(value, (*path, key))
    else:
        yield path, node


def _meanings(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """The comment above a key (as deep as the key) and behind it."""
    path: list[str] = []
    above: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# "):
            above.append(stripped[2:])
            continue
        found = _KEY.match(line)
        if found is not None:
            depth = len(found["indent"]) // 2
            path[depth:] = [found["key"]]
            behind = found["rest"].partition(" # ")[2]
            yield tuple(path), " ".join([*above, behind]).strip()
        above = []


def _schema_of(path: tuple[str, ...], schema: dict[str, Any]) -> dict[str, Any]:
    node = schema
    for key in path:
        node = _resolved(node, schema)["properties"][key]
    return _resolved(node, schema)


def _resolved(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    return node


def _type(node: dict[str, Any]) -> str:
    if "enum" in node:
        return " \\| ".join(f"`{each}`" if each != "" else '`""`' for each in node["enum"])
    if "anyOf" in node:
        return "text"
    if "oneOf" in node:
        return "quantity"
    names = {"string": "text", "object": "mapping", "array": "list"}
    return names.get(node["type"], str(node["type"]))


def page() -> str:
    """The page as Markdown."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    lines = [
        "# openbao-sidecar",
        "",
        "A policy enforcement point beside each application, in front of OpenBao: as a sidecar, as a gateway, or put",
        "into pods by an injector. [How to run it in Kubernetes](../../../docs/how-to/run-in-kubernetes.md) shows it.",
        "",
        "Its values, written from `values.yaml` and its schema by `make docs`. Unknown keys are refused. What stands",
        "under `ops` becomes the sidecar's [configuration](../../../docs/reference/configuration.md).",
    ]
    section = None
    for value in values():
        if value.path[0] != section:
            section = value.path[0]
            lines += ["", f"## `{section}`", "", "| key | type | default | meaning |", "|---|---|---|---|"]
        kind = _type(_schema_of(value.path, schema))
        default = json.dumps(value.default, ensure_ascii=False).replace("|", "\\|")
        meaning = value.meaning.replace("|", "\\|")
        lines.append(f"| `{'.'.join(value.path)}` | {kind} | `{default}` | {meaning} |")
    return "\n".join(lines) + "\n"
