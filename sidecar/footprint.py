"""How little of a node one sidecar takes: what is not loaded, and what is given back once start-up is over."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

_MADV_DONTNEED: Final = 4  # <linux/mman.h>
_MAPPING: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-xp \S+ \S+ [1-9]\d* +/")
"""A line of proc_pid_maps(5): code in a file. Nobody wrote to it since it was mapped, so the file has all of it."""


@contextlib.contextmanager
def without(package: str) -> Iterator[None]:
    """Inside, an optional package counts as not installed: who would load it for what we never use, goes without."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = cast("Any", None)  # "a None value makes import raise ModuleNotFoundError" (import system)
    try:
        yield
    finally:
        del sys.modules[package]


def settle() -> None:
    """Once, when start-up is over. The objects that it built live as long as the process: the collector need not walk
    them. Libraries' code that ran for the first and last time (parsers, validators, initialisers: some 20 MiB) goes
    back to the page cache; what is used again is there after a page fault without a read."""
    gc.collect()
    gc.freeze()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc's
        libc.malloc_trim(0)
    for line in Path("/proc/self/maps").read_text().splitlines():
        if (found := _MAPPING.match(line)) is not None:
            start, end = (int(bound, 16) for bound in found.groups())
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)
