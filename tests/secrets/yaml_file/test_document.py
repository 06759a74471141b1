"""The one reading of a YAML file: what has two readings, or none, is refused with its line and without its content."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
import yaml
from ruamel.yaml import YAML

from sidecar.secrets.providers.yaml_file.document import MAX_DEPTH, DocumentError, at, decode, read
from sidecar.surface.secret_uri import SecretUri, parse

CANARY = "canary-in-the-file"


def secret(keys: str) -> str:
    """A document with one secret, its keys indented as given."""
    return "secret:\n  app:\n    db:\n" + "".join(f"      {line}\n" for line in keys.splitlines())


def values(keys: str) -> dict[str, Any]:
    found = at(read(secret(keys)), ("secret", "app", "db"))
    assert found is not None
    return found.values()


BOMB = "secret:\n  app:\n    a: &a [x, x]\n" + "".join(
    f"    {chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(20)
)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (BOMB, 3),
        (secret("a: &x 1\nb: *x"), 4),
        (secret("base: &base {a: 1}"), 4),
        (secret("<<: {a: 1}"), 4),
        (secret("a: 1\na: 2"), 5),
        (secret('a: 1\n"a": 2'), 5),
        (secret('a: 1\n"\\x61": 2'), 5),
        (secret("l: [{a: 1, a: 2}]"), 4),
        (secret("a: !!python/object/apply:os.system ['true']"), 4),
        (secret("a: !!str 1"), 4),
        (secret("a: !custom 1"), 4),
        (secret("l: [!!binary aGk=]"), 4),
        ("!!map {a: 1}\n", 1),
        (secret("yes: x"), 4),
        (secret("1: x"), 4),
        (secret("1e3: x"), 4),
        (secret("0x1F: x"), 4),
        (secret("null: x"), 4),
        (secret("~: x"), 4),
        (secret(": x"), 4),
        (secret("true: x"), 4),
        (secret("2024-01-01: x"), 4),
        (secret("=: x"), 4),
        (secret("[a]: x"), 4),
        (secret("? a\n: x"), 4),
        (secret("a: yes"), 4),
        (secret("a: Off"), 4),
        (secret("a: 0123"), 4),
        (secret("a: 0o17"), 4),
        (secret("a: 0x1F"), 4),
        (secret("a: 1_000"), 4),
        (secret("a: 12:30"), 4),
        (secret("a: .inf"), 4),
        (secret("a: +5"), 4),
        (secret("a: .5"), 4),
        (secret("a: [0x1F]"), 4),
        (secret('"a\\0b": 1'), 4),
        (secret('"": 1'), 4),
        (secret('"a\\u202eb": 1'), 4),
        (secret('a: "\\ud800"'), 4),
        ('"..":\n  a:\n    b: 1\n', 1),
        ('secret:\n  "a/b":\n    c: 1\n', 2),
        ('secret:\n  "*":\n    c: 1\n', 2),
        ("secret:\n  a: 1\n", 2),
        ("top: 1\n", 1),
        ("- a\n", 1),
        ("text\n", 1),
        ("a: {}\n---\nb: {}\n", 2),
        ("a: {}\n...\n", 2),
        ("%YAML 1.1\n---\na: {}\n", 2),
        ("\ufeffsecret: {}\n", 1),
        (f"secret: {'{a: ' * 40}1{'}' * 40}\n", 1),
        (secret(f"l: {'[' * 40}{']' * 40}"), 4),
        (secret(f"l: {'[' * 20000}"), 4),
        (secret("a: 'open"), 5),
        (secret(f"l: [{'1,' * 60_000}]"), 4),
        (secret("a:\tb\n\tc: d"), 0),
        ("secret:\n  app:\n    k: \x00\n", 0),
        ("secret:\n  app:\n    k: \x1b[31m\n", 0),
        (secret('a: "\\UFFFFFFFF"'), 0),
    ],
)
def test_what_has_no_one_reading_is_refused(text: str, line: int) -> None:
    with pytest.raises(DocumentError) as refused:
        read(text.replace(" x\n", f" {CANARY}\n"))
    assert refused.value.line == line or line == 0
    assert CANARY not in str(refused.value)


def test_what_is_no_utf8_is_refused() -> None:
    with pytest.raises(DocumentError):
        decode(b"secret:\n  app:\n    k: \xff\n")


def test_values_are_those_of_json() -> None:
    """Texts as they stand, numbers to the digit, dates and addresses as text."""
    found = values(
        "a: text\nb: 'quoted: # no comment'\nc: 42\nd: -0.10\ne: 12345678901234567890123\nf: true\ng:\nh: ~\n"
        'i: [1, {x: "y"}, []]\nj: 2024-01-01\nk: 10.0.0.1\nl: "yes"\nm: |\n  one\n  two\nnn: 1e3\no: "\\0"\np: {}'
    )
    assert json.loads(orjson.dumps(found)) == {
        "a": "text",
        "b": "quoted: # no comment",
        "c": 42,
        "d": -0.1,
        "e": 12345678901234567890123,
        "f": True,
        "g": None,
        "h": None,
        "i": [1, {"x": "y"}, []],
        "j": "2024-01-01",
        "k": "10.0.0.1",
        "l": "yes",
        "m": "one\ntwo\n",
        "nn": 1000.0,
        "o": "\x00",
    }
    assert orjson.dumps(found["d"]) == b"-0.10"
    assert orjson.dumps(found["nn"]) == b"1e3"


@pytest.mark.parametrize(
    "plain",
    [
        *(
            "y",
            "Y",
            "yes",
            "NO",
            "on",
            "OFF",
            "0",
            "-0",
            "007",
            "0o7",
            "0b1",
            "0xff",
            "1_0",
            "1.",
            "1.5",
            ".5",
            "-.5e3",
        ),
        *(
            "1e3",
            "1E+3",
            "+1",
            "1:30",
            "1:30:45.5",
            ".inf",
            "-.INF",
            ".nan",
            "~",
            "null",
            "True",
            "FALSE",
            "2024-01-01",
        ),
        *(
            "1.2.3",
            "10.0.0.1",
            "a",
            "1a",
            "0x",
            "0o8",
            "e3",
            "-",
            "2024-01-01T00:00:00Z",
            "1__0",
            "_1",
            "1:60",
            "2024-01-01",
            "-.5e3",
        ),
    ],
)
def test_no_reader_of_yaml_reads_a_value_otherwise(plain: str) -> None:
    """What YAML 1.1 (PyYAML) or 1.2 (ruamel) takes for something else than we do is refused."""
    try:
        found: Any = values(f"k: {plain}")["k"]
    except DocumentError:
        return
    ours = orjson.loads(orjson.dumps(found))
    read_by = (yaml.safe_load(f"k: {plain}")["k"], YAML(typ="safe", pure=True).load(f"k: {plain}")["k"])
    numbers = [each for each in read_by if isinstance(each, bool | int | float)]
    assert all(each == ours for each in numbers), (plain, ours, read_by)
    assert any(each == ours for each in read_by) or plain.startswith("2024"), (plain, ours, read_by)


def test_each_value_has_one_uri_and_no_two_share_one() -> None:
    """A map is no value of the one above it. Names that look alike stay two."""
    text = (
        "secret:\n  app:\n    password: outer\n    db:\n      password: inner\n      'a/b': 1\n      'a%2Fb': 2\n"
        '      "\\u00e9": composed\n      "e\\u0301": decomposed\n'
    )
    root = read(text)
    outer, inner = at(root, ("secret", "app")), at(root, ("secret", "app", "db"))
    assert outer is not None
    assert inner is not None
    assert outer.values() == {"password": "outer"}
    assert list(outer.branches()) == ["db"]
    uris = {str(SecretUri("yaml", "", "secret", ("app", "db"), key)): key for key in inner.values()}
    assert len(uris) == 5
    assert {parse(uri).fragment: uri for uri in uris} == {key: uri for uri, key in uris.items()}


def test_a_folder_is_no_secret_and_an_empty_map_is_one() -> None:
    root = read("secret:\n  folder:\n    empty: {}\n")
    folder, empty = at(root, ("secret", "folder")), at(root, ("secret", "folder", "empty"))
    assert (folder is not None and folder.is_secret, empty is not None and empty.is_secret) == (False, True)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "{}\n", "\n\n"])
def test_an_empty_file_holds_nothing(text: str) -> None:
    assert read(text).members == {}


def test_depth_is_counted_as_it_is_read() -> None:
    """Up to the bound it is read."""
    deep = "".join(f"{'  ' * n}m{n}:\n" for n in range(MAX_DEPTH - 2)) + "  " * (MAX_DEPTH - 2) + "k: 1\n"
    assert read(deep).members
