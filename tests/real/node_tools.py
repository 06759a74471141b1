"""Packages of Node's that the tests need: installed once per machine from their lock file, kept outside the tree."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.real.go_tools import CannotBuild, cache_dir

_LAST_CHARACTERS: Final = 2000


def cached_node_modules(source: Path) -> Path:
    """The `node_modules` that `source`'s package-lock.json names; installs them where this machine does not have them
    yet. The lock names no registry: npm takes the machine's own. Raises `CannotBuild`."""
    folder = kept_in(source)
    installed = folder / "node_modules"
    if installed.exists():
        return installed
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes may find it missing at once
        if not installed.exists():
            _install(_manifests(source), folder)
    return installed


def kept_in(source: Path) -> Path:
    """Where they are kept, by what `source` says of them."""
    said = b"\0".join(path.read_bytes() for path in _manifests(source))
    return cache_dir() / f"node-{hashlib.sha256(said).hexdigest()[:16]}"


def node() -> str:
    """The interpreter. Raises `CannotBuild`."""
    return _program("node")


def _manifests(source: Path) -> list[Path]:
    return [source / "package.json", source / "package-lock.json"]


def _install(manifests: list[Path], folder: Path) -> None:
    unfinished = folder / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for path in manifests:
        shutil.copy(path, unfinished)
    # No scripts: what is installed is read by node, and nothing of it runs before.
    command = [_program("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(
        command, cwd=unfinished, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise CannotBuild(f"npm could not install node-vault:\n{(done.stdout + done.stderr)[-_LAST_CHARACTERS:]}")
    (unfinished / "node_modules").rename(folder / "node_modules")
    shutil.rmtree(unfinished, ignore_errors=True)


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise CannotBuild(f"{name} is needed for node-vault: apt-get install nodejs npm (`make doctor`)")
    return found
