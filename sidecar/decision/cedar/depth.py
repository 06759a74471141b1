"""Bounds how deep a text is nested, before Cedar's parser sees it: that one recurses, and ends the process where its
stack ends. Pure."""

from __future__ import annotations

import re
from typing import Final

from sidecar.decision.cedar.problem import PolicyError

MAX_DEPTH: Final = 100
MAX_CONDITIONALS: Final = 100
"""`if … then … else if …` nests without brackets."""

_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|[([{]|[)\]}]|;|\bif\b', re.DOTALL)


def check_depth(name: str, text: str) -> None:
    """Reads a policy, schema or JSON file's brackets. Raises PolicyError with file and line."""
    depth = conditionals = 0
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token in "([{":
            depth += 1
        elif token in ")]}":
            depth -= 1
        elif token == ";":
            depth = conditionals = 0
        elif token == "if":
            conditionals += 1
        if depth > MAX_DEPTH or conditionals > MAX_CONDITIONALS:
            line = text.count("\n", 0, match.start()) + 1
            raise PolicyError([f"{name}:{line}: is nested deeper than {MAX_DEPTH}"])
