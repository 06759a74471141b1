"""What is wrong with a set of policies, and where."""

from __future__ import annotations

from collections.abc import Sequence


class PolicyError(Exception):
    """The set cannot be put in force. `problems` are all that were found, each with file and line where it has them."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)
