"""What these tests know of processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def living_in(folder: Path) -> set[int]:
    """Every process whose working folder it is: the world starts its children there."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cwd").readlink() == folder.resolve() and is_alive(int(entry.name)):
                    found.add(int(entry.name))
            except OSError:
                continue  # it ended, or is not ours to see
    return found


def until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Waits for a condition; fails with its name where it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)
