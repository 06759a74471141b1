"""Where the development world keeps its things: one folder, 0700, its files 0600, used by one world at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DEFAULT_FOLDER: Final = Path(".dev")


class FolderError(Exception):
    """The folder cannot be used; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths inside a world's folder, absolute."""

    root: Path

    @classmethod
    def of(cls, folder: Path) -> Layout:
        """The layout of a folder, given in any way."""
        return cls(Path(os.path.abspath(folder)))  # noqa: PTH100 - Path.resolve would follow a symlink before the check

    @property
    def lock(self) -> Path:
        """Locked for as long as a world runs here."""
        return self.root / "lock"

    @property
    def state(self) -> Path:
        """What runs where (`state.py`)."""
        return self.root / "world.json"

    @property
    def root_token(self) -> Path:
        """OpenBao's root token."""
        return self.root / "openbao" / "root-token"

    @property
    def secret_id(self) -> Path:
        """The sidecars' AppRole secret id."""
        return self.root / "openbao" / "approle-secret-id"

    @property
    def issuer_key(self) -> Path:
        """The development issuer's signing key."""
        return self.root / "issuer" / "key.pem"

    @property
    def tenant_salt(self) -> Path:
        """Key of `resource_ref`; kept, so that the audit of an earlier run can still be searched."""
        return self.root / "tenant-salt"

    @property
    def keys(self) -> Path:
        """DPoP keys, one per subject."""
        return self.root / "keys"

    @property
    def tls(self) -> Path:
        """Certificates and their keys."""
        return self.root / "tls"

    @property
    def policies(self) -> Path:
        """Cedar policies."""
        return self.root / "policies"

    @property
    def logs(self) -> Path:
        """One log per child."""
        return self.root / "log"

    def config(self, name: str) -> Path:
        """A sidecar's configuration file."""
        return self.root / f"{name}.yaml"

    def spool(self, name: str) -> Path:
        """A sidecar's audit spool."""
        return self.root / name

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Makes the folder where it is missing, and holds it. The kernel lets go of it however this process ends.

        Raises:
            FolderError: another world runs here, or the folder is not one to write into.
        """
        self._check()
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FolderError(
                    f"a development world already runs in {self.root}; stop it first (Ctrl-C where it runs), "
                    "or start another beside it with --dir"
                ) from None
            self.root.chmod(0o700)
            inner = (self.root_token.parent, self.issuer_key.parent, self.keys, self.tls, self.policies, self.logs)
            for folder in inner:
                folder.mkdir(mode=0o700, exist_ok=True)
            yield
        finally:
            os.close(handle)

    def _check(self) -> None:
        """It is about to be closed to everybody else and written into: not just any folder will do."""
        if self.root.is_symlink() or (self.root.exists() and not self.root.is_dir()):
            raise FolderError(f"{self.root} is not a folder; give another with --dir")
        if not self.root.exists():
            return
        if self.root.stat().st_uid != os.getuid():
            raise FolderError(f"{self.root} belongs to another user; give another folder with --dir")
        if not self.lock.exists() and any(self.root.iterdir()):
            raise FolderError(
                f"{self.root} holds other things than a development world; give an empty folder with --dir"
            )

    def is_running(self) -> bool:
        """Whether a world runs here now."""
        try:
            handle = os.open(self.lock, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False


def write_private(path: Path, content: str | bytes) -> None:
    """Writes a file that only its owner can read, replacing whatever is there in one step."""
    data = content.encode() if isinstance(content, str) else content
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as stream:
        os.fchmod(stream.fileno(), 0o600)
        stream.write(data)
    beside.replace(path)
