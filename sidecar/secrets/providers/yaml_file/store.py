"""The file on disk: read anew at each look, replaced whole at each change, by one process at a time.

A change is made under a lock beside the file (`.<name>.lock`, flock(2)), written to a file in the same folder, flushed,
and moved over the old one; then the folder is flushed. Whatever is cut in between leaves the old file or the new one.
People's editors take no lock: a file that was saved meanwhile is not overwritten, the change begins anew.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Final

from sidecar.config import MAX_YAML_BYTES
from sidecar.config.private_file import NotPrivateError, check_private, read_private
from sidecar.secrets.providers.yaml_file.document import Branch, decode, read

LOCK_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.01
_DRAFT_BYTES: Final = 8
_ANY_DRAFT: Final = "[0-9a-f]" * _DRAFT_BYTES * 2  # nothing else: a neighbour called `<name>.x` has drafts too


class Busy(Exception):  # noqa: N818 - an answer, not a fault
    """Another process held the lock for too long."""


class SavedMeanwhile(Exception):  # noqa: N818 - an answer, not a fault
    """Somebody saved the file while it was being changed; nothing was written."""


class Store:
    """One file. Its methods block; call them in a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock_file = path.with_name(f".{path.name}.lock")
        self._known: tuple[bytes, Branch] | None = None

    def look(self) -> Branch:
        """What the file holds now; parsed again only where it is another. Raises `NotPrivateError`, `DocumentError`."""
        return self._read()[1]

    def change(self, made: Callable[[Branch, str], tuple[str, Branch]]) -> None:
        """Replaces the file by what `made` makes of it, under the lock; not at all where that is the same text.

        Raises `NotPrivateError`, `DocumentError`, `Busy`, `SavedMeanwhile`, `OSError`, and what `made` raises.
        """
        with self._locked():
            before = _signature(self._path)
            raw, root = self._read()
            text = decode(raw)
            after, reads_as = made(root, text)
            if after != text:
                raw = after.encode()
                self._replace(raw, before)
                self._known = (raw, reads_as)

    def _read(self) -> tuple[bytes, Branch]:
        raw = read_private(self._path, MAX_YAML_BYTES)
        known = self._known
        if known is None or known[0] != raw:
            known = self._known = (raw, read(decode(raw)))
        return known

    @contextmanager
    def _locked(self) -> Iterator[None]:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        handle = os.open(self._lock_file, flags, 0o600)
        try:
            check_private(self._lock_file, os.fstat(handle))
            deadline = time.monotonic() + LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise Busy from None
                    time.sleep(_POLL_SECONDS)
            yield
        finally:
            os.close(handle)  # lets go of the lock

    def _replace(self, content: bytes, before: object) -> None:
        for left in self._path.parent.glob(f".{escape(self._path.name)}.{_ANY_DRAFT}.new"):
            left.unlink(missing_ok=True)  # of a writer that was killed under this lock
        beside = self._path.with_name(f".{self._path.name}.{secrets.token_hex(_DRAFT_BYTES)}.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            with os.fdopen(os.open(beside, flags, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), stat.S_IRUSR | stat.S_IWUSR)  # whatever the umask is
                os.fsync(file.fileno())
            if _signature(self._path) != before:
                raise SavedMeanwhile
            beside.replace(self._path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _signature(path: Path) -> object:
    """Another one wherever the file is another."""
    try:
        seen = path.lstat()
    except OSError as error:
        raise NotPrivateError(f"{path} cannot be opened ({error.strerror})", "create it, or correct the path") from None
    return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns
