"""Kills a process that writes to a spool, in the middle of it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path


def killed_writer(
    spool: Path,
    run: int,
    chance: random.Random,
    *,
    segment_bytes: int = 256 * 1024,
    retention_bytes: int = 0,
    at_least: int = 1,
    at_most: int = 60_000,
) -> list[str]:
    """Lets a writer work, kills it in the middle of it, and returns the names it was told are durable."""
    command = [
        sys.executable,
        "-m",
        "tests.audit.writer",
        str(spool),
        str(run),
        str(segment_bytes),
        str(retention_bytes),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        told = bytearray()
        enough = chance.randint(at_least, at_most)
        while len(told) < enough:
            chunk = os.read(writer.stdout.fileno(), 65_536)
            assert chunk, writer.stderr.read().decode()
            told += chunk
        writer.send_signal(signal.SIGKILL)
        told += writer.stdout.read()
    assert writer.returncode == -signal.SIGKILL
    return told.decode().splitlines()
