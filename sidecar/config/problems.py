"""What can be wrong with a configuration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a configuration: where, what, and what to do about it."""

    key: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.key or '(file)'}: {self.message}" + (f" ({self.remedy})" if self.remedy else "")


class ConfigError(Exception):
    """The configuration cannot be used; `problems` names everything that is wrong with it."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems
