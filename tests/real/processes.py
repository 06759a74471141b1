"""What the real parts have in common as processes: how one is ended, and what it said when a test failed."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import pytest

_LOG_LINES: Final = 40
_STOP_SECONDS: Final = 15.0


@runtime_checkable
class Talkative(Protocol):
    """A part whose log is worth reading after a failure."""

    def log_tail(self) -> str:
        """The last lines of its log."""


def ended(process: subprocess.Popen[Any], how: signal.Signals = signal.SIGTERM, patience: float = _STOP_SECONDS) -> int:
    """Ends a process, by force after `patience` seconds. Returns its exit status."""
    with suppress(ProcessLookupError):
        process.send_signal(how)
    try:
        return process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def tail(log: Path) -> str:
    """The last lines of a log."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join(text.splitlines()[-_LOG_LINES:])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows the logs of the parts that a failed test used."""
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, Talkative):
                    report.sections.append((f"log of {name}", part.log_tail()))
    return report
