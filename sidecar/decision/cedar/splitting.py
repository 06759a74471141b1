"""Splits Cedar text into its policies, to know the line of each: the parser tells of none. Pure.

Cedar's lexical grammar needs little for that: comments run from `//` to the end of the line, texts stand in double
quotes with backslash escapes, and a `;` outside both ends a policy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_TOKEN: Final = re.compile(r'//[^\n\r]*|"(?:[^"\\]|\\.)*"|;|[^\s"/;]+|\s+|["/]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Piece:
    """The text of one policy. `line` is where it starts, `ended` whether a `;` ends it."""

    line: int
    text: str
    ended: bool


def split(text: str) -> Iterator[Piece]:
    """The policies of a file, comments before them left out. What is no policy at all comes as one that does not
    parse: nothing of the text is passed over but comments and white space."""
    line, start, start_line = 1, None, 1
    for match in _TOKEN.finditer(text):
        token = match.group()
        if start is None and not token.isspace() and not token.startswith("//"):
            start, start_line = match.start(), line
        if token == ";" and start is not None:
            yield Piece(start_line, text[start : match.end()], True)
            start = None
        line += token.count("\n")
    if start is not None:
        yield Piece(start_line, text[start:], False)
