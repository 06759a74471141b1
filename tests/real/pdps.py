"""Real PDPs that nobody here wrote: Cerbos from npm, OPA and OpenFGA built by Go. Started as their how-tos say.

Each is kept outside the tree by its version; what a how-to's blocks say is done in a folder, on ports of its own.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import requests
import yaml

from sidecar.dev import leash
from sidecar.dev.ports import LOOPBACK, free_port
from sidecar.dev.processes import child_environment
from tests.real.go_tools import CannotBuild, GoTool, cache_dir

OPA: Final = GoTool("opa", "1.22.2", "github.com/open-policy-agent/opa", cold_seconds=110)
OPENFGA: Final = GoTool("openfga", "1.22.1", "github.com/openfga/openfga/cmd/openfga", cold_seconds=210)
BUILD_TIMEOUT: Final = 1200
READY_SECONDS: Final = 30.0

_HOW_TO: Final = Path(__file__).parents[2] / "docs" / "how-to"
_CERBOS: Final = Path(__file__).parent / "cerbos"
_BLOCK: Final = re.compile(r"^```(\w+)\n(?:# (\S+\.\w+)\n)?(.*?)^```$", re.MULTILINE | re.DOTALL)
_PORT: Final = re.compile(r"127\.0\.0\.1:(\d+)")


def cerbos_folder() -> Path:
    """Where Cerbos is kept, by its lock file's digest."""
    lock = (_CERBOS / "package-lock.json").read_bytes()
    return cache_dir() / f"cerbos-{hashlib.sha256(lock).hexdigest()[:16]}"


def cerbos() -> Path:
    """Cerbos' program, by the lock file's digests."""
    folder = cerbos_folder()
    binary = folder / "node_modules" / "@cerbos" / "cerbos-linux-x64" / "cerbos-linux-x64"
    if not binary.exists():
        if shutil.which("npm") is None:
            raise CannotBuild("npm is needed for Cerbos: apt-get install npm (`make doctor`)")
        unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
        shutil.copytree(_CERBOS, unfinished, dirs_exist_ok=True)
        command = [
            "npm",
            "install",
            "--omit-lockfile-registry-resolved",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
        ]
        subprocess.run(command, cwd=unfinished, check=True, stdin=subprocess.DEVNULL, timeout=300)
        with suppress(OSError):  # another process was faster
            unfinished.rename(folder)
        shutil.rmtree(unfinished, ignore_errors=True)
    return binary


class HowTo:
    """A how-to's blocks, with ports of this run instead of the page's."""

    def __init__(self, page: str) -> None:
        self._ports: dict[str, int] = {}
        self.files: dict[str, str] = {}
        self.texts: dict[str, list[str]] = {}
        for language, name, text in _BLOCK.findall((_HOW_TO / page).read_text()):
            here = _PORT.sub(lambda match: f"{LOOPBACK}:{self._port(match[1])}", text)
            if name:
                self.files[name] = here
            else:
                self.texts.setdefault(language, []).append(here)

    def _port(self, written: str) -> int:
        return self._ports.setdefault(written, free_port())

    @property
    def address(self) -> str:
        """Where the PDP answers: the first port that the page names."""
        return f"http://{LOOPBACK}:{next(iter(self._ports.values()))}"

    def sidecar(self, **replaced: str) -> dict[str, Any]:
        """`authorization` as the page has it."""
        text = self.files["sidecar.yaml"]
        for name, value in replaced.items():
            text = text.replace(f"${name}", value)
        section: dict[str, Any] = yaml.safe_load(text)["authorization"]
        return section


class RunningPdp:
    """A PDP's process, started by its how-to's command. It goes on the same port after `kill` and `start`."""

    def __init__(self, how_to: HowTo, folder: Path, binary: Path, name: str, health: str) -> None:
        self.how_to = how_to
        self.folder = folder
        self._health = how_to.address + health
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / name).symlink_to(binary)
        for file, text in how_to.files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(text)

    def start(self) -> None:
        environment = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "CERBOS_NO_TELEMETRY": "1",
        }
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", str(leash.__file__), str(os.getpid())),
                    *("/bin/bash", "-c", f"exec {self.how_to.texts['bash'][0]}"),
                ],
                cwd=self.folder,
                env=child_environment() | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_SECONDS
        while True:
            with suppress(requests.RequestException):
                if requests.get(self._health, timeout=2).status_code == 200:
                    return
            waits = time.monotonic() < deadline and self._process.poll() is None
            assert waits, (self.folder / "log").read_text()
            time.sleep(0.02)

    def send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


@contextmanager
def running(page: str, folder: Path, binary: Path, health: str) -> Iterator[RunningPdp]:
    """The PDP of a how-to, until the end of the block."""
    pdp = RunningPdp(HowTo(page), folder, binary, page.removeprefix("use-").removesuffix(".md"), health)
    try:
        pdp.start()
        yield pdp
    finally:
        pdp.kill()
