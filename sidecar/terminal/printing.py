"""What is shown: to a pipe the bytes themselves, to a person's terminal nothing that could drive it.

A secret may hold any text, and a server may say any: escape sequences, direction marks, line ends that make one line
look like two.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

_LONGEST_MESSAGE: Final = 1000


def visible(text: str, *, lines: bool = False) -> str:
    """The text with whatever a terminal does not show as a character written out (`\\x1b`); with `lines`, line ends and
    tabs stay."""
    kept = "\n\t" if lines else ""
    return "".join(char if char.isprintable() or char in kept else _written_out(char) for char in text)


def as_json(value: Any, *, pretty: bool = False) -> str:
    """JSON, numbers as they were written. What is not printable can only stand in its texts, and is escaped there."""
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 if pretty else None).decode()
    return "".join(char if char.isprintable() or char == "\n" else _json_escaped(char) for char in text)


def show_json(value: Any) -> None:
    """For `--json`."""
    _out(as_json(value, pretty=True) + "\n")


def show_value(value: Any) -> None:
    """A secret's value. A text goes into a pipe as it is, without a line end: it may be a key file."""
    on_terminal = sys.stdout.isatty()
    if isinstance(value, str):
        _out(visible(value, lines=True) + "\n" if on_terminal else value)
    elif isinstance(value, dict) and on_terminal:
        show_table(value)
    else:
        _out(as_json(value, pretty=on_terminal) + "\n")


def show_table(values: Mapping[str, Any]) -> None:
    """One line for each name; a text in one line as it is, all else as JSON."""
    width = max((len(visible(name)) for name in values), default=0)
    for name, value in values.items():
        shown = value if isinstance(value, str) and value.isprintable() and value else as_json(value)
        _out(f"{visible(name):<{width}}  {visible(shown)}\n")


def show_lines(lines: Iterable[str]) -> bool:
    """One item a line, whatever is in it. False where nobody reads any more."""
    return _out("".join(f"{visible(line)}\n" for line in lines))


def show_error(message: str) -> None:
    """One line to standard error, of bounded length."""
    shown = visible(message, lines=True)
    cut = shown if len(shown) <= _LONGEST_MESSAGE else f"{shown[:_LONGEST_MESSAGE]} …"
    print(f"sidecar secret: {cut}", file=sys.stderr)  # noqa: T201 - this is the command's voice


def _out(text: str) -> bool:
    try:
        sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # the reader has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), sys.stdout.fileno())
        return False
    return True


def _written_out(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escaped(char: str) -> str:
    """RFC 8259, section 7: beyond the basic plane as a surrogate pair."""
    raw = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{raw[at : at + 2].hex()}" for at in range(0, len(raw), 2))
