"""Nothing that is shown can drive a terminal; into a pipe goes what was stored, to the byte."""

from __future__ import annotations

import io
import json
import os
import sys
from typing import Any

import orjson
import pytest

from sidecar.terminal import printing

ATTACKS = (
    "\x1b]0;title\x07\x1b[2J\x1b[31m",
    "\x9b31m",
    "safe\rHIDDEN",
    "\u202egnirts",
    "a\u2028b\u2029c",
    "\x00\x07\x08\x7f",
    "\ufeffzero\u200bwidth",
    "\U000e0041tag",
)


class _Terminal(io.TextIOWrapper):
    """Standard output that says whether it is a person's."""

    def __init__(self, into: io.BytesIO, *, on_terminal: bool) -> None:
        super().__init__(into, encoding="utf-8")
        self.on_terminal = on_terminal

    def isatty(self) -> bool:
        return self.on_terminal


def shown(monkeypatch: pytest.MonkeyPatch, value: Any, *, on_terminal: bool) -> str:
    into = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", _Terminal(into, on_terminal=on_terminal))
    printing.show_value(value)
    return into.getvalue().decode()


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_terminal_shows_characters_and_obeys_none(monkeypatch: pytest.MonkeyPatch, attack: str) -> None:
    """As a value, as a key, inside a list, in a line of a listing, in an error."""
    for value in (attack, {attack: attack}, {"k": [attack]}, [attack]):
        text = shown(monkeypatch, value, on_terminal=True)
        assert all(char.isprintable() or char == "\n" for char in text), value
    listed = printing.visible(attack)
    assert listed.isprintable()
    assert "\n" not in listed


@pytest.mark.parametrize("value", [*ATTACKS, "plain", "two\nlines\n", "", "é😀"])
def test_a_pipe_gets_the_text_itself(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    assert shown(monkeypatch, value, on_terminal=False) == value


@pytest.mark.parametrize("value", [{"a": ATTACKS[0]}, [1, None, True], {"k": {"deep": "\u202e"}}, 5, None])
def test_all_else_goes_into_a_pipe_as_json(monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    text = shown(monkeypatch, value, on_terminal=False)
    assert json.loads(text) == value
    assert all(char.isprintable() or char == "\n" for char in text)


def test_numbers_stay_as_they_were_written(monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"a": orjson.Fragment("1.10"), "b": orjson.Fragment("123456789012345678901234567890")}
    assert shown(monkeypatch, value, on_terminal=False) == '{"a":1.10,"b":123456789012345678901234567890}\n'


def test_a_person_sees_lines_and_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, "one\n\ttwo\n", on_terminal=True) == "one\n\ttwo\n\n"
    table = shown(monkeypatch, {"user": "app", "longer": "a\nb", "n": 5}, on_terminal=True)
    assert table == 'user    app\nlonger  "a\\nb"\nn       5\n'


def test_an_error_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    printing.show_error("x" * 1_000_000 + "\x1b[31m")
    said = capsys.readouterr().err
    assert len(said) < 1100
    assert "\x1b" not in said


def test_a_reader_that_leaves_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as out:
        monkeypatch.setattr(sys, "stdout", out)
        printing.show_value("x")
