"""Reading a file that holds secrets: nobody else may be able to read it, or have put it there.

What was opened is what is looked at (fstat), so that nothing can be exchanged in between.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from sidecar.config.problems import Problem


class NotPrivateError(ValueError):
    """The file cannot be used as one that holds secrets; the text says why and what to do, never what is in it."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(f"{message}; {remedy}")
        self.message = message
        self.remedy = remedy

    def at(self, key: str) -> Problem:
        """The same as a problem of the configuration."""
        return Problem(key, self.message, self.remedy)


def read_private(path: Path, max_bytes: int, *, follow_link: bool = False, mounted: bool = False) -> bytes:
    """The content of a regular file that belongs to this process's user and that nobody else can read or write.

    A symbolic link is followed only where that is said: it may lie where others decide what it points to. Else the
    folder may not be everybody's, who could put another file in the place: one with the sticky bit is not. Where
    `mounted` is said, a file that root or the kubelet put there may be read by others, not written: its mode is not
    this user's to change.

    Raises:
        NotPrivateError: it is none of that, is not there, or is larger than `max_bytes`.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        handle = os.open(path, flags if follow_link else flags | os.O_NOFOLLOW)
    except OSError as error:
        if not follow_link and path.is_symlink():
            raise NotPrivateError(f"{path} is a symbolic link", "name the file itself") from None
        raise NotPrivateError(f"{path} cannot be opened ({error.strerror})", "create it, or correct the path") from None
    try:
        check_private(path, os.fstat(handle), mounted=mounted)
        if not follow_link:
            _check_folder(path)
    except NotPrivateError:
        os.close(handle)
        raise
    with os.fdopen(handle, "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise NotPrivateError(f"{path} is larger than {max_bytes} bytes", "make it smaller")
    return content


def check_private(path: Path, seen: os.stat_result, *, mounted: bool = False) -> None:
    """Raises `NotPrivateError` where others can read or write the file, or it is another user's."""
    if not stat.S_ISREG(seen.st_mode):
        raise NotPrivateError(f"{path} is not a regular file", "name a file")
    own = seen.st_uid == os.geteuid()
    if not own and not (mounted and seen.st_uid == 0):
        raise NotPrivateError(f"{path} belongs to another user", "chown it to the user who runs this")
    if mounted and (not own or _is_projected(path)):
        if seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise NotPrivateError(f"{path} can be changed by others", "mount it read-only for them")
        return
    if seen.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise NotPrivateError(f"{path} is open to others (mode {stat.S_IMODE(seen.st_mode):04o})", f"chmod 600 {path}")


def _check_folder(path: Path) -> None:
    mode = path.parent.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise NotPrivateError(f"everybody can exchange files beside {path}", f"chmod o-w {path.parent}")


def _is_projected(path: Path) -> bool:
    """Whether the kubelet put the file there: it exchanges a volume's files at once, by the link `..data`."""
    return any(each.is_symlink() and each.readlink().parts[:1] == ("..data",) for each in (path, *path.parents))
