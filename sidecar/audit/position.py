"""How far a spool's records have been taken by Kafka: a small file in the spool, replaced whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

NAME: Final = "kafka.position"
_DRAFT: Final = "kafka.position.new"
_MAX_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Place:
    """Where a topic's last acknowledged message stands (-1 where none was yet), and the topic's id (empty where not
    known)."""

    partition: int = -1
    offset: int = -1
    topic_id: str = ""


@dataclass(frozen=True, slots=True)
class Position:
    """Records up to and with `seq` are acknowledged; `tip` is the hash of that record, `cluster` the id of the Kafka
    that said so (empty where not known), `topics` how far each topic is."""

    instance: str
    seq: int
    tip: str
    cluster: str = ""
    topics: Mapping[str, Place] = field(default_factory=dict)


def load(directory: Path) -> Position | None:
    """The position kept in a spool; None where there is none or it cannot be read: everything is then sent again."""
    try:
        descriptor = os.open(directory / NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _read(orjson.loads(os.read(descriptor, _MAX_BYTES)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    finally:
        os.close(descriptor)


def _read(kept: Any) -> Position | None:
    """Raises KeyError, TypeError, AttributeError where it is no position."""
    topics = {topic: Place(**place) for topic, place in kept.get("topics", {}).items()}
    position = Position(kept["instance"], kept["seq"], kept["tip"], kept.get("cluster", ""), topics)
    sound = (
        type(position.seq) is int
        and position.seq >= 1
        and isinstance(position.tip, str)
        and len(position.tip) == 64
        and isinstance(position.cluster, str)
        and all(type(number) is int for place in topics.values() for number in (place.partition, place.offset))
        and all(isinstance(place.topic_id, str) for place in topics.values())
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
