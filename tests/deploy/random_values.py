"""Random values of the chart, made from its schema: one of the cases, with some of its keys changed to whatever the
schema allows there."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator
from typing import Any, Final

from hypothesis import strategies as st

from tests.deploy.values import BUILT, CHART, GATEWAYS, INJECTORS, values

SCHEMA: Final[dict[str, Any]] = json.loads((CHART / "values.schema.json").read_text())
BASES: Final = [*BUILT.values(), *GATEWAYS.values(), *INJECTORS.values()]
_MOST_CHANGES: Final = 8
_LONGEST_LIST: Final = 3
_LONGEST_TEXT: Final = 40

# What decides which of the chart's three shapes is rendered is the base's matter; Helm's own is nobody's.
_NOT_CHANGED: Final = ("global", "example.enabled", "gateway.enabled", "injector.enabled", "ops.environment")
Strategy = st.SearchStrategy[Any]


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """A schema behind its references."""
    while "$ref" in node:
        node = SCHEMA["$defs"][node["$ref"].rpartition("/")[2]]
    return node


def leaves(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key that holds a value, with its schema; a free mapping or a list is one value."""
    for name, found in schema["properties"].items():
        node, here = resolved(found), f"{path}.{name}" if path else name
        if here in _NOT_CHANGED or here.startswith("ops.extraConfig"):
            continue
        if "properties" in node:
            yield from leaves(node, here)
        else:
            yield here, node


LEAVES: Final = dict(leaves(SCHEMA))


def anything(schema: dict[str, Any]) -> Strategy:
    """Whatever a schema allows; what one forbids besides (`not`) is filtered out."""
    node = resolved(schema)
    if "const" in node:
        return st.just(node["const"])
    if "enum" in node:
        return st.sampled_from(node["enum"])
    choices = node.get("anyOf") or ([] if "properties" in node else node.get("oneOf", []))
    if choices:
        return st.one_of([anything(one) for one in choices])
    return _OF_TYPE[node["type"]](node)


def _text(node: dict[str, Any]) -> Strategy:
    longest = min(node.get("maxLength", _LONGEST_TEXT), _LONGEST_TEXT)
    return _pattern(node["pattern"]).filter(lambda text: len(text) <= longest)


@functools.cache
def _pattern(pattern: str) -> Strategy:
    return st.from_regex(pattern, fullmatch=True, alphabet=st.characters(codec="ascii"))


def _integer(node: dict[str, Any]) -> Strategy:
    return st.integers(node["minimum"], node.get("maximum", 1_000_000))


def _number(node: dict[str, Any]) -> Strategy:
    return st.integers(node["minimum"], node["maximum"]) | st.sampled_from([node["minimum"] + 0.5])


def _list(node: dict[str, Any]) -> Strategy:
    least = node.get("minItems", 0)
    unique = (lambda one: json.dumps(one, sort_keys=True)) if node.get("uniqueItems") else None
    return st.lists(anything(node["items"]), min_size=least, max_size=max(least, _LONGEST_LIST), unique_by=unique)


def _mapping(node: dict[str, Any]) -> Strategy:
    if node.get("additionalProperties"):
        names = _pattern(node["propertyNames"]["pattern"]).filter(lambda name: len(name) <= _LONGEST_TEXT)
        least = node.get("minProperties", 0)
        return st.dictionaries(names, anything(node["additionalProperties"]), min_size=least, max_size=2)
    required = set(node.get("required", ()))
    if "oneOf" in node:
        return st.one_of([_object(node, required | set(one["required"])) for one in node["oneOf"]])
    if node.get("maxProperties") == 1:
        return st.one_of([_object(node, {name}) for name in node["properties"]])
    return _object(node, required)


def _object(node: dict[str, Any], names: set[str]) -> Strategy:
    return st.fixed_dictionaries({name: anything(node["properties"][name]) for name in sorted(names)})


_OF_TYPE: Final = {
    "string": _text,
    "boolean": lambda _node: st.booleans(),
    "integer": _integer,
    "number": _number,
    "array": _list,
    "object": _mapping,
}


@st.composite
def random_values(draw: st.DrawFn) -> dict[str, Any]:
    """Values as an operator may write them: valid by the schema, though they may not go together."""
    base = draw(st.sampled_from(BASES))
    chosen = draw(st.lists(st.sampled_from(sorted(LEAVES)), max_size=_MOST_CHANGES, unique=True))
    return copy.deepcopy(values(base | {name: draw(anything(LEAVES[name])) for name in chosen}))
