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


def read_private(path: Path, max_bytes: int, *, follow_link: bool = False) -> bytes:
    """The content of a regular file that belongs to this process's user and that nobody else can read or write.

    A symbolic link is followed only where that is said: it may lie where others decide what it points to.

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
        check_private(path, os.fstat(handle))
    except NotPrivateError:
        os.close(handle)
        raise
    with os.fdopen(handle, "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise NotPrivateError(f"{path} is larger than {max_bytes} bytes", "make it smaller")
    return content


def check_private(path: Path, seen: os.stat_result) -> None:
    """Raises `NotPrivateError` where others can read or write the file, or it is another user's."""
    if not stat.S_ISREG(seen.st_mode):
        raise NotPrivateError(f"{path} is not a regular file", "name a file")
    if seen.st_uid != os.geteuid():
        raise NotPrivateError(f"{path} belongs to another user", "chown it to the user who runs this")
    if seen.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise NotPrivateError(f"{path} is open to others (mode {stat.S_IMODE(seen.st_mode):04o})", f"chmod 600 {path}")
