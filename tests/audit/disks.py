"""Disks that misbehave: a small tmpfs where mounting is allowed, else a limit on the size of this process's files."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class SmallDisk:
    """A folder whose disk can be filled and freed at will."""

    def __init__(self, path: Path, *, mounted: bool) -> None:
        self.path = path
        self.mounted = mounted
        self._filler = path / "filler"
        self._limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self) -> None:
        """From now on no byte more fits."""
        if not self.mounted:
            largest = max((file.stat().st_size for file in self.path.rglob("*") if file.is_file()), default=0)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, self._limits[1]))
            return
        with self._filler.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    def fill_but(self, room: int) -> None:
        """Leaves less than a record's room in the last page of the segments, so that a write is cut in the middle."""
        self.fill()
        if not self.mounted:
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft + room, hard))

    def free(self) -> None:
        """There is room again."""
        if self.mounted:
            self._filler.unlink(missing_ok=True)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, self._limits)


@contextmanager
def small_disk(path: Path, options: str = "size=1m") -> Iterator[SmallDisk]:
    """A disk of 1 MiB at `path`."""
    path.mkdir()
    mounted = _mount(path, options)
    disk = SmallDisk(path, mounted=mounted)
    try:
        yield disk
    finally:
        disk.free()
        if mounted:
            subprocess.run(["umount", str(path)], check=True)


@contextmanager
def read_only(path: Path) -> Iterator[Path]:
    """A folder in which nothing can be written, root or not: a read-only mount, else the kernel's own sysfs."""
    path.mkdir()
    if not _mount(path, "ro"):
        yield Path("/sys/kernel")
        return
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def _mount(path: Path, options: str) -> bool:
    if os.geteuid() != 0:
        return False
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(path)], check=False, capture_output=True)
    return done.returncode == 0
