"""From nothing to ready, and what it takes at rest: the sidecar's start in front of a real OpenBao."""

from __future__ import annotations

import http.client
import signal
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from bench.process import cpu_seconds, rss_mib
from sidecar.dev.ports import LOOPBACK

STARTS: Final = 5
REST_SECONDS: Final = 2.0
_POLL_SECONDS: Final = 0.005
_GIVE_UP_SECONDS: Final = 30.0


def start_bench(config: Path, operations_port: int) -> dict[str, float]:
    """Medians: seconds until `/readyz` says so, CPU seconds until then, resident MiB after a rest.

    Raises:
        RuntimeError: it did not become ready.
    """
    found = [_start(config, operations_port) for _ in range(STARTS)]
    names = ("ready_seconds", "ready_cpu_seconds", "rest_rss_mib")
    return dict(zip(names, map(statistics.median, zip(*found, strict=True)), strict=True))


def _start(config: Path, port: int) -> tuple[float, float, float]:
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "sidecar", "serve", "--config", str(config)])
    try:
        while not _is_ready(port):
            if process.poll() is not None or time.monotonic() - began > _GIVE_UP_SECONDS:
                raise RuntimeError("the sidecar did not become ready")
            time.sleep(_POLL_SECONDS)
        ready, used = time.monotonic() - began, cpu_seconds(process.pid)
        time.sleep(REST_SECONDS)
        return ready, used, rss_mib(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=1)
    with suppress(OSError):
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    return False
