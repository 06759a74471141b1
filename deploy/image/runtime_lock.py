"""Prints what the sidecar itself needs out of requirements.lock, with its hashes; `runtime_lock.py NAME…`: what these
need instead.

One lock serves all targets, so it also names what only the tests need. From the project's own dependencies (or the
names given) this follows the `# via` notes that the lock's maker left, which say who asked for each package.
Run in the folder of pyproject.toml and requirements.lock; only the standard library is needed.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Entry(NamedTuple):
    """One locked package: its lines as they stand, and who asked for it."""

    name: str
    text: str
    asked_by: frozenset[str]


def normal(name: str) -> str:
    """A package's name in one spelling."""
    return re.sub(r"[-_.]+", "-", name).lower()


def entries(lock: str) -> Iterator[Entry]:
    """The lock's packages. Raises ValueError where an entry has no hash."""
    for block in re.split(r"\n(?=[A-Za-z0-9])", lock):
        found = NAME.match(block)
        if found is None:
            continue
        if "==" not in block or "--hash=sha256:" not in block:
            raise ValueError(f"{found[0]} is not locked with its hash")
        notes = re.findall(r"^    #(?: via)? +([A-Za-z0-9][^ \n]*)", block, re.MULTILINE)
        yield Entry(normal(found[0]), block.strip(), frozenset(map(normal, notes)))


def needed(lock: str, roots: Iterable[str]) -> list[Entry]:
    """What the roots need, themselves included. Raises ValueError where a root is not locked."""
    locked = {entry.name: entry for entry in entries(lock)}
    wanted = {normal(root) for root in roots}
    if missing := wanted - locked.keys():
        raise ValueError(f"not locked: {', '.join(sorted(missing))}")
    while more := {name for name, entry in locked.items() if entry.asked_by & wanted} - wanted:
        wanted |= more
    return [entry for name, entry in locked.items() if name in wanted]


def main() -> None:
    """Prints the lines to install."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    roots = sys.argv[1:] or [match[0] for text in project["dependencies"] if (match := NAME.match(text))]
    lock = Path("requirements.lock").read_text(encoding="utf-8")
    sys.stdout.writelines(f"{entry.text}\n" for entry in needed(lock, roots))


if __name__ == "__main__":
    main()
