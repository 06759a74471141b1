"""How far a spool's records have been taken by Kafka: a small file in the spool, replaced whole or not at all."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

NAME: Final = "kafka.position"
_DRAFT: Final = "kafka.position.new"
_MAX_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Position:
    """Records up to and with `seq` are acknowledged; `tip` is the hash of that record, `offset` and `partition` its
    place in the topic (-1 where not known), `cluster` the id of the Kafka that said so (empty where not known)."""

    instance: str
    seq: int
    tip: str
    offset: int = -1
    partition: int = -1
    cluster: str = ""


def load(directory: Path) -> Position | None:
    """The position kept in a spool; None where there is none or it cannot be read: everything is then sent again."""
    try:
        descriptor = os.open(directory / NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        kept = orjson.loads(os.read(descriptor, _MAX_BYTES))
        position = Position(
            *(kept[name] for name in ("instance", "seq", "tip")),
            *(kept.get(name, default) for name, default in (("offset", -1), ("partition", -1), ("cluster", ""))),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    finally:
        os.close(descriptor)
    sound = (
        all(type(number) is int for number in (position.seq, position.offset, position.partition))
        and position.seq >= 1
        and isinstance(position.tip, str)
        and len(position.tip) == 64
        and isinstance(position.cluster, str)
    )
    return position if sound else None


def store(directory: Path, position: Position) -> None:
    """Replaces the kept position durably. Raises OSError where the disk refuses; the old one then still stands."""
    replace(directory, NAME, _DRAFT, orjson.dumps(position))


def replace(directory: Path, name: str, draft: str, content: bytes) -> None:
    """Writes a small file so that after a crash either the old or the new content stands there (rename(2))."""
    path = directory / draft
    path.unlink(missing_ok=True)  # left by a crash; or a symlink somebody put there, which is not to be followed
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        if os.write(descriptor, content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    path.rename(directory / name)
    sync_directory(directory)


def sync_directory(directory: Path) -> None:
    """Makes names created, renamed or removed in a folder durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
