"""Programs the tests need that Go builds, from its module proxy's or our own source: built once per machine, kept
outside the tree, by version.

A build takes minutes, so it says that it goes on; it happens in a folder of its own and is moved into place in one
step, so that an interrupted build never leaves half a program behind.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sidecar.dev import leash

_LAST_LINES: Final = 30
_LINES_PER_DOT: Final = 20


@dataclass(frozen=True, slots=True)
class GoTool:
    """A program: its package, the version of its module, and how long it takes to build on two cores from nothing.

    `source` is a module's folder in this tree; without it the package is the proxy's. `module` is the text of a go.mod
    for a package of the proxy's whose own one holds `replace` lines: `go install` refuses those.
    """

    name: str
    version: str
    package: str
    cold_seconds: int
    source: Path | None = None
    module: str = ""
    ldflags: str = ""

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return cache_dir() / f"{self.name}-{self.version}"

    @property
    def binary(self) -> Path:
        """The program, once it is built."""
        return self.folder / self.name

    def command(self, go: str) -> list[str]:
        """What builds it, so that the program ends up in GOBIN; with a `module`, in the folder that holds it."""
        if self.module:
            flags = ["-v", "-mod=mod", "-buildvcs=false", "-trimpath", "-ldflags", self.ldflags]
            return [go, "build", *flags, "-o", self.name, self.package]
        if self.source is None:
            return [go, "install", "-v", "-trimpath", f"{self.package}@v{self.version}"]
        return [go, "install", "-v", "-trimpath", "-mod=readonly", "-buildvcs=false", self.package]


def own_program(source: Path, cold_seconds: int) -> GoTool:
    """A program of ours: a module named as its program, whose version is what its files say."""
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(source.iterdir()) if path.is_file()))
    name = (source / "go.mod").read_text(encoding="utf-8").split()[1]
    return GoTool(name, digest.hexdigest()[:16], ".", cold_seconds, source)


class CannotBuild(Exception):  # noqa: N818 - reads as what happened
    """Go is missing, or the build failed; the message says which and what to do."""


def cache_dir() -> Path:
    """The user's cache of this project."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "openbao-sidecar"


def _say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def cached_go_tool(tool: GoTool, say: Callable[[str], None] = _say) -> Path:
    """The program's path; builds it where this machine does not have it yet. Raises `CannotBuild`."""
    if tool.binary.exists():
        return tool.binary
    tool.folder.mkdir(parents=True, exist_ok=True)
    with (tool.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes may find it missing at once
        if not tool.binary.exists():
            _build(tool, say)
    return tool.binary


def _build(tool: GoTool, say: Callable[[str], None]) -> None:
    go = shutil.which("go")
    if go is None:
        raise CannotBuild(
            f"Go is needed once, to build {tool.name} {tool.version}: install it from https://go.dev/dl/, or "
            "apt-get install golang-go where that is 1.21 or later (`make doctor`)"
        )
    unfinished = tool.folder / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    # Proxy, caches and toolchain are the machine's own; what decides the result is set here.
    environment = os.environ | {"GOBIN": str(unfinished), "CGO_ENABLED": "0", "GOFLAGS": "-p=2", "GOWORK": "off"}
    if tool.module:
        (unfinished / "go.mod").write_text(tool.module, encoding="utf-8")
    say(f"\n==> building {tool.name} {tool.version}: about {tool.cold_seconds} s, once per machine ")
    with subprocess.Popen(
        [sys.executable, "-I", "-S", str(leash.__file__), str(os.getpid()), *tool.command(go)],
        cwd=tool.source or unfinished,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as building:
        assert building.stdout is not None
        last: deque[str] = deque(maxlen=_LAST_LINES)
        try:
            for number, line in enumerate(building.stdout):
                last.append(line)
                if number % _LINES_PER_DOT == 0:
                    say(".")
        except BaseException:
            building.kill()
            raise
    built = unfinished / tool.name
    if building.returncode != 0 or not built.is_file():
        raise CannotBuild(f"go could not build {tool.name} {tool.version}:\n{''.join(last)}")
    built.rename(tool.binary)
    shutil.rmtree(unfinished, ignore_errors=True)
    say(" done\n")
