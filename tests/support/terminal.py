"""`sidecar secret` as a person or a script runs it, and a process on a terminal of its own."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from typer.testing import CliRunner

from sidecar.cli import app
from sidecar.client import DPoPKey
from sidecar.terminal.exits import Exit
from tests.real.sidecar import SidecarProcess

ON_A_TERMINAL: Final = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""`python -c` this, with a command behind it: makes standard input its controlling terminal. Not by `preexec_fn`: a
test process with threads may hang in it."""


INTERRUPTIBLE: Final = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""`python -c` this, with a command behind it: an interrupt reaches it, also where the tests run in the background."""


def on_a_terminal(command: list[str], environment: Mapping[str, str], typed: tuple[str, ...] = ()) -> tuple[int, str]:
    """Runs a command on a terminal of its own; each text is typed when it is asked for. Its status, and the screen."""
    controlling, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL, *command],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=dict(environment),
        start_new_session=True,
    )
    os.close(terminal)
    screen, waiting = b"", list(typed)
    try:
        while chunk := os.read(controlling, 4096):
            screen += chunk
            if waiting and screen.rstrip().endswith((b"Value:", b"Again:", b"[y/N]:")):
                os.write(controlling, waiting.pop(0).encode() + b"\n")
                screen += b"<asked>"
    except OSError:
        pass  # EIO: the last one who had it open is gone
    finally:
        os.close(controlling)
    return process.wait(60), screen.decode()


class Person:
    """Who types the commands: with a token, the key that it is bound to, and an environment of nothing else."""

    def __init__(self, process: SidecarProcess, folder: Path, subject: str = "person") -> None:
        self.process = process
        self.key = folder / f"{subject}.pem"
        key = DPoPKey.load_or_generate(self.key)
        self.environment = {
            "SIDECAR_ADDR": process.url,
            "SIDECAR_TOKEN": process.issuer.bound_token(key.thumbprint, sub=subject),
            "SIDECAR_DPOP_KEY": str(self.key),
            "PATH": os.environ["PATH"],
        }

    def run(self, *words: str, given: str = "", status: Exit = Exit.OK) -> str:
        """Runs a command in this process, with pipes; what it printed."""
        done = CliRunner().invoke(app, ["secret", *words], input=given, env=self.environment)
        assert done.exit_code == status, (words, done.output, done.exception)
        return done.stdout if status is Exit.OK else done.stderr

    def json(self, *words: str, given: str = "") -> Any:
        return json.loads(self.run(*words, "--json", given=given))

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "sidecar", "secret", *words]
