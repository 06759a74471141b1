"""A change touches the secret's own text and nothing else, or it is refused."""

from __future__ import annotations

import difflib
from typing import Any

import orjson
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sidecar.secrets.providers.yaml_file.document import Branch, Leaf, at, read
from sidecar.secrets.providers.yaml_file.editing import EditError
from sidecar.secrets.providers.yaml_file.editing import edited as edit

DB = ("secret", "app", "db")
TEXT = """\
# of the team
secret:   # the mount
  app: # an application
    db:
      # who
      user: app   # ours
      pem: |+ # a key
        one

        two

      list: # several
      - a
      - b # the last
      empty:   # not yet
      # behind the keys
    flow: {a: 1, "b": [1,2],}
    none: {}
  'other':
    "x": 'y'
# the end
"""


def edited(text: str, path: tuple[str, ...], values: dict[str, Any] | None) -> str:
    made, _ = edit(text, read(text), path, values)
    return made


def now(text: str, path: tuple[str, ...] = DB) -> dict[str, Any]:
    found = at(read(text), path)
    return {} if found is None else found.values()


def changed(values: dict[str, Any] | None, path: tuple[str, ...] = DB, text: str = TEXT) -> list[str]:
    """The lines that a change takes out and adds."""
    made = edited(text, path, values)
    found = at(read(made), path)
    if values is None:
        assert found is None or not found.is_secret
    else:
        assert found is not None
        assert orjson.dumps(found.values(), option=orjson.OPT_SORT_KEYS) == orjson.dumps(
            values, option=orjson.OPT_SORT_KEYS
        )
    lines = difflib.unified_diff(text.splitlines(), made.splitlines(), n=0, lineterm="")
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


def test_a_value_is_replaced_where_it_stands() -> None:
    """Comments behind it stay, whatever it was written as."""
    old = now(TEXT)
    assert changed(old) == []
    assert changed({**old, "user": "new"}) == ["-      user: app   # ours", '+      user: "new"   # ours']
    assert changed({**old, "empty": 5}) == ["-      empty:   # not yet", "+      empty: 5   # not yet"]
    assert changed({**old, "pem": "x"})[-1] == '+      pem: "x" # a key'
    assert changed({**old, "list": ["q", {"a": 1}]}) == [
        "-      list: # several",
        "-      - a",
        "-      - b # the last",
        '+      list: ["q", {"a": 1}] # several',
    ]


def test_keys_are_added_behind_the_last_and_taken_out_with_their_line() -> None:
    old = now(TEXT)
    assert changed({**old, "yes": True, "plain": "t", "a b": None}) == [
        '+      "yes": true',
        '+      plain: "t"',
        '+      "a b": null',
    ]
    assert changed({name: value for name, value in old.items() if name != "user"}) == ["-      user: app   # ours"]


def test_secrets_are_made_emptied_and_deleted() -> None:
    assert changed({"k": "v"}, ("secret", "new", "deep")) == ["+  new:", "+    deep:", '+      k: "v"']
    assert changed({"k": "v"}, ("mount", "m")) == ["+mount:", "+  m:", '+    k: "v"']
    assert changed({"k": "v"}, ("secret", "app", "none")) == ["-    none: {}", "+    none:", '+      k: "v"']
    assert changed({}, ("secret", "other")) == ["-  'other':", "-    \"x\": 'y'", "+  'other': {}"]
    assert changed(None, ("secret", "other")) == ["-  'other':", "-    \"x\": 'y'"]
    assert changed({"a": 2}, ("secret", "app", "flow")) == [
        '-    flow: {a: 1, "b": [1,2],}',
        '+    flow: {"a": 2}',
    ]
    only = "secret:\n  app:\n    k: 1\n# end\n"
    assert edited(only, ("secret", "app"), None) == "# end\n"
    assert edited("", ("secret", "app"), {"k": 1}) == "secret:\n  app:\n    k: 1\n"
    assert edited("a: {}", ("secret", "app"), {"k": 1}) == "a: {}\nsecret:\n  app:\n    k: 1\n"


def test_what_lies_below_a_secret_stays() -> None:
    text = "secret:\n  app:\n    k: 1 # c\n    below:\n      x: 2\n    l: 3\n"
    assert edited(text, ("secret", "app"), None) == "secret:\n  app:\n    below:\n      x: 2\n"
    assert edited(text, ("secret", "app", "below"), None) == "secret:\n  app:\n    k: 1 # c\n    l: 3\n"
    with pytest.raises(EditError, match="below"):
        edited("secret:\n  app:\n    below:\n      x: 2\n", ("secret", "app"), {})


@pytest.mark.parametrize(
    ("path", "values"),
    [
        (("secret", "app", "db", "user"), {"k": 1}),
        (("secret", "app"), {"db": 1}),
        (DB, {"user": {"a": 1}}),
        (DB, {"": 1}),
        (DB, {"a\x00": 1}),
        (DB, {"a\n  injected: 1\nb": 1}),
        (DB, {"a" * 2000: 1}),
        (("secret", ".."), {"a": 1}),
        (("secret", "a/b"), {"a": 1}),
        (("secret", "*"), {"a": 1}),
        (("secret", *("d" * 40)), {"a": 1}),
        (DB, {"big": "x" * 300_000}),
        (DB, {"deep": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}),
    ],
)
def test_what_a_file_cannot_hold_is_refused(path: tuple[str, ...], values: dict[str, Any]) -> None:
    with pytest.raises(EditError) as refused:
        edited(TEXT, path, values)
    assert not any(name and name in str(refused.value) for name in values if len(name) > 3)


@pytest.mark.parametrize(
    "value",
    [
        "a: b",
        "# no comment",
        "x\n  injected: 1\n",
        '"',
        "'",
        "\\",
        "\x00\x07\x1b[31m\x7f\x85\u2028\ufeff",
        "{}",
        "*a",
        "&a x",
        "!!python/x",
        "%",
        "---",
        "é\u0301 😀 \U000e0001",
        " lead and trail ",
        "yes",
        "0123",
        "",
    ],
)
def test_no_text_is_anything_but_text(value: str) -> None:
    """Nor to another reader of YAML."""
    made = edited(
        TEXT,
        DB,
        {**now(TEXT), "user": value, value or "empty name": value}
        if value.isprintable() and value
        else {"user": value},
    )
    assert now(made)["user"] == value
    assert yaml.safe_load(made)["secret"]["app"]["db"]["user"] == value


def test_numbers_keep_their_digits() -> None:
    fragment = orjson.Fragment("1.10")
    made = edited(TEXT, DB, {"n1": fragment, "n2": orjson.Fragment("12345678901234567890")})
    assert "n1: 1.10\n" in made
    assert "n2: 12345678901234567890\n" in made


NAMES = st.sampled_from(["a", "b", "c d", "é", "yes", "#", "x:y", "0"])
TEXTS = st.text(max_size=4)
LEAVES = st.none() | st.booleans() | st.integers(-5, 5) | TEXTS | st.lists(TEXTS, max_size=3)
TREES = st.dictionaries(
    NAMES,
    st.dictionaries(
        NAMES,
        st.recursive(
            st.dictionaries(NAMES, LEAVES, max_size=3),
            lambda below: st.dictionaries(NAMES, LEAVES | below, max_size=3),
            max_leaves=8,
        ),
        max_size=3,
    ),
    max_size=3,
)


def _all(branch: Branch) -> dict[tuple[str, ...], bytes]:
    """Every value by its path; an empty map as such."""
    found: dict[tuple[str, ...], bytes] = {} if branch.members else {(): b"{}"}
    for name, each in branch.members.items():
        if isinstance(each.node, Leaf):
            found[(name,)] = orjson.dumps(each.node.value)
        else:
            found |= {(name, *path): value for path, value in _all(each.node).items()}
    return found


@given(
    TREES,
    st.sampled_from([None, True, False]),
    st.integers(2, 4),
    st.lists(NAMES, min_size=2, max_size=4),
    st.none() | st.dictionaries(NAMES, LEAVES, max_size=3),
    st.randoms(use_true_random=False),
)
def test_any_change_of_any_file(
    tree: dict[str, Any], flow: bool | None, indent: int, path: list[str], values: dict[str, Any] | None, random: Any
) -> None:
    """However it is written: the secret is what it shall be, all else is what it was, comments stay."""
    try:
        dumped = yaml.safe_dump(tree, default_flow_style=flow, indent=indent, allow_unicode=True, width=1000)
    except ValueError:
        return  # a lone surrogate
    plain = flow is False and not any(quote in dumped for quote in "'\"")
    lines = [
        f"{line}  # c{number}" if plain and line.endswith(("a", ":")) else line
        for number, line in enumerate(dumped.splitlines())
    ]
    text = "\n".join(lines) + "\n" * random.randint(0, 2)
    try:
        before = read(text)
    except ValueError:
        return  # PyYAML's writing is not always ours to read
    try:
        made = edited(text, tuple(path), values)
    except EditError:
        return
    after = read(made)
    depth = len(path)

    def others(all_: dict[tuple[str, ...], bytes]) -> dict[tuple[str, ...], bytes]:
        own = tuple(path)
        return {each: value for each, value in all_.items() if not (each[:depth] == own and len(each) <= depth + 1)}

    left, kept = others(_all(before)), others(_all(after))
    gone = left.items() - kept.items()
    assert all(value == b"{}" for _, value in gone), gone  # an empty map that the new secret's path goes through
    assert all(value == b"{}" for _, value in kept.items() - left.items())
    found = at(after, tuple(path))
    if values is None:
        assert found is None or not found.is_secret
    else:
        assert {name: orjson.dumps(each) for name, each in values.items()} == {
            name: orjson.dumps(each) for name, each in (found.values() if found else {}).items()
        }
