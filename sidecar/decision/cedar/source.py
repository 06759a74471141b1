"""Reads a folder of policies as one consistent whole, while somebody may be writing it.

A Kubernetes ConfigMap is replaced in one step: its files are links to `..data/NAME`, and `..data` is a link that is
swapped. Other folders have no such step, so that they are read until nothing changed between two looks.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sidecar.config.tree import Cedar
from sidecar.decision.cedar.depth import check_depth
from sidecar.decision.cedar.problem import PolicyError

MAX_BYTES: Final = 32 * 2**20
MAX_FILES: Final = 10_000
ATTEMPTS: Final = 5
PAUSE_SECONDS: Final = 0.05

Fingerprint = tuple[object, ...]
"""What changes when a file is changed or exchanged."""


@dataclass(frozen=True, slots=True)
class Source:
    """The texts of one set. `policies` are file names and texts in the order of their names."""

    policies: tuple[tuple[str, str], ...]
    schema: str | None
    entities: str | None
    fingerprint: Fingerprint
    warnings: tuple[str, ...] = ()


def read(config: Cedar) -> Source:
    """Reads the folder, the schema and the entities.

    Raises:
        PolicyError: where something cannot be read, or will not hold still.
    """
    if config.policies is None:
        raise PolicyError(["authorization.cedar.policies is not configured"])
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        try:
            before = fingerprint(config)
            names = _policy_names(config.policies)
            source = Source(
                tuple((name, _read_text(config.policies / name)) for name in names),
                None if config.schema_ is None else _read_text(config.schema_),
                None if config.entities is None else _read_text(config.entities),
                before,
                tuple(_ignored(config.policies)),
            )
            if fingerprint(config) == before:
                return source
        except FileNotFoundError as error:
            if attempt == ATTEMPTS - 1:
                raise PolicyError([f"{error.filename}: is missing"]) from error
        except OSError as error:
            raise PolicyError([f"{error.filename}: {error.strerror}"]) from error
    raise PolicyError([f"{config.policies}: changes while it is read"])


def fingerprint(config: Cedar) -> Fingerprint:
    """Cheap to take: no file is opened. Raises OSError."""
    folder = config.policies
    if folder is None:
        return ()
    paths = [folder / name for name in _policy_names(folder)]
    paths += [path for path in (config.schema_, config.entities) if path is not None]
    return (_link(folder), *(_state(path) for path in paths))


def _policy_names(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir() if path.suffix == ".cedar" and not path.name.startswith("."))
    if len(names) > MAX_FILES:
        raise PolicyError([f"{folder}: more than {MAX_FILES} policy files"])
    return names


def _ignored(folder: Path) -> Iterable[str]:
    """Policies that somebody may think are in force."""
    for path in sorted(folder.iterdir()):
        if not path.name.startswith(".") and path.is_dir() and any(path.glob("**/*.cedar")):
            yield f"{path.name}/: policies in sub-folders are not read"


def _link(folder: Path) -> str:
    try:
        return str((folder / "..data").readlink())
    except OSError:
        return ""


def _state(path: Path) -> tuple[object, ...]:
    state = path.stat()
    return (str(path), state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def _read_text(path: Path) -> str:
    # Without O_NONBLOCK a FIFO in the folder would hold up the start for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise PolicyError([f"{path.name}: is not a regular file"])
        if state.st_size > MAX_BYTES:
            raise PolicyError([f"{path.name}: is larger than {MAX_BYTES} bytes"])
        raw = file.read(MAX_BYTES + 1)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise PolicyError([f"{path.name}:{line}: is not UTF-8"]) from error
    check_depth(path.name, text)
    return text
