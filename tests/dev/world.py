"""`sidecar dev up` as a person starts it: a process of its own, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sidecar.dev.files import Layout
from sidecar.dev.state import WorldState
from tests.dev.running import is_alive, living_in
from tests.support.waiting import wait_until

SIDECAR = str(Path(sys.executable).with_name("sidecar"))
UP = "Ctrl-C stops everything."


@dataclass
class Running:
    """A world that is up (or was)."""

    process: subprocess.Popen[bytes]
    layout: Layout
    output: Path

    @property
    def said(self) -> str:
        """All that it printed."""
        return self.output.read_text()

    @property
    def state(self) -> WorldState:
        """What it says runs where."""
        return WorldState.read(self.layout)

    @property
    def pids(self) -> set[int]:
        """Its own, and all of its children's."""
        state = self.state
        return {state.pid} | {each.pid for each in (state.openbao, state.issuer, state.sidecar, state.sidecar_mtls)}

    def wait_until_up(self) -> None:
        """Waits for the last line of the summary."""
        wait_until(lambda: UP in self.said or self.process.poll() is not None, "the world is up", 90)
        assert self.process.poll() is None, self.said

    def wait_until_gone(self, pids: set[int]) -> int:
        """Waits for its end and that of every process it had; returns its exit status."""
        status = self.process.wait(60)
        wait_until(lambda: not any(map(is_alive, pids)) and not living_in(self.layout.root), "nothing of it runs")
        return status


@contextmanager
def starting(folder: Path, *options: str, command: Sequence[str] = ()) -> Iterator[Running]:
    """Starts `sidecar dev up` (or another command that does) from the folder's parent; at the end nothing is left."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    output = folder.parent / f"{folder.name}.out"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [*(command or (SIDECAR, "dev", "up", "--dir", folder.name, "--port", "0")), *options],
            cwd=folder.parent,
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ | {"PYTHONWARNINGS": "error"},
        )
    running = Running(process, Layout.of(folder), output)
    try:
        yield running
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@contextmanager
def up(folder: Path, *options: str) -> Iterator[Running]:
    """The same, once it is up."""
    with starting(folder, *options) as running:
        running.wait_until_up()
        yield running
