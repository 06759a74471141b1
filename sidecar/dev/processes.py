"""Child processes that are started one after the other, watched together, and stopped whatever happens.

Each child runs in a session of its own, so that a terminal's Ctrl-C reaches only the supervisor, which then stops
them in the reverse order of their start; and on a leash (`leash.py`), so that none stays when the supervisor is
killed. Linux only, as the sidecar is.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

import aiohttp

from sidecar.config import ENVIRONMENT_NAMES, ENVIRONMENT_PREFIX
from sidecar.ops.logs import mask

READY_SECONDS: Final = 30.0
STOP_SECONDS: Final = 30.0
"""Longer than a sidecar drains."""
_POLL_SECONDS: Final = 0.03
_TAIL_LINES: Final = 15
_TAIL_BYTES: Final = 16_384
_LEASH: Final = Path(__file__).with_name("leash.py")


@dataclass(frozen=True, slots=True)
class Child:
    """A running child. `took_seconds` is from its start to its first ready answer."""

    name: str
    process: asyncio.subprocess.Process
    log: Path
    took_seconds: float = 0.0

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid


class ChildFailed(Exception):  # noqa: N818 - reads as what happened
    """A child ended, or did not become ready. `tail` holds the last lines of its log, masked."""

    def __init__(self, name: str, what: str, log: Path) -> None:
        super().__init__(f"{name} {what}")
        self.log = log
        self.tail = _tail(log)

    @property
    def port_taken(self) -> bool:
        """Whether its last words were that somebody else listens on its port."""
        return "address already in use" in self.tail.lower()


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            text = stream.read().decode("utf-8", "replace")
    except OSError as error:
        return f"(no log: {error.strerror})"
    return mask("\n".join(text.splitlines()[-_TAIL_LINES:])) or "(its log is empty)"


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what would change a child behind its configuration file's back: the
    sidecar's own names, those of Vault and OpenBao clients, and proxies (all traffic here is loopback)."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ENVIRONMENT_NAMES
        and not name.startswith((ENVIRONMENT_PREFIX, "VAULT_", "BAO_"))
        and not name.lower().endswith("_proxy")
    } | dict(extra or {})


class Supervisor:
    """Holds the children. Leaving its context stops them all."""

    def __init__(self, folder: Path, log_folder: Path) -> None:
        self._folder = folder
        self._log_folder = log_folder
        self._children: list[Child] = []

    async def __aenter__(self) -> Supervisor:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(
        self, name: str, command: Sequence[str], *, ready_url: str, environment: Mapping[str, str] | None = None
    ) -> Child:
        """Starts a child and waits until `ready_url` answers 200.

        Raises:
            ChildFailed: it ended before, or was not ready in time; it runs no more.
        """
        log = self._log_folder / f"{name.replace(' ', '-')}.log"
        started = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(_LEASH), str(os.getpid())),
            *command,
            cwd=self._folder,
            env=child_environment(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=(output := _open_log(log)),
            stderr=output,
            start_new_session=True,
        )
        os.close(output)
        child = Child(name, process, log)
        self._children.append(child)
        try:
            await self._ready(child, ready_url)
        except BaseException:
            await self._end(child)
            self._children.remove(child)
            raise
        self._children[self._children.index(child)] = child = Child(name, process, log, time.monotonic() - started)
        return child

    async def _ready(self, child: Child, url: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        last = "nothing answered"
        timeout = aiohttp.ClientTimeout(total=2)
        async with aiohttp.ClientSession(trust_env=False, timeout=timeout) as session:
            while time.monotonic() < deadline:
                for each in self._children:  # what came before must live on, or this one would wait in vain
                    if each.process.returncode is not None:
                        when = " while starting" if each is child else ""
                        raise ChildFailed(each.name, f"ended with {_status(each)}{when}", each.log)
                try:
                    async with session.get(url, allow_redirects=False) as answer:
                        if answer.status == 200:
                            return
                        last = f"{answer.status} {(await answer.text())[:500]}"
                except (aiohttp.ClientError, TimeoutError):
                    pass  # not listening yet
                await asyncio.sleep(_POLL_SECONDS)
        raise ChildFailed(child.name, f"was not ready after {READY_SECONDS:.0f} s ({url}: {last})", child.log)

    async def first_end(self) -> ChildFailed:
        """Waits until any child ends; says which."""
        waits = {asyncio.ensure_future(child.process.wait()): child for child in self._children}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        child = waits[done.pop()]
        return ChildFailed(child.name, f"ended with {_status(child)}", child.log)

    async def stop(self) -> None:
        """Stops all children, the last started first: SIGTERM, and SIGKILL for what does not end in time."""
        while self._children:
            await self._end(self._children[-1])
            self._children.pop()

    def kill(self) -> None:
        """Ends all children at once, for a person who will not wait; a `stop` under way then returns soon."""
        for child in self._children:
            with suppress(ProcessLookupError):
                child.process.kill()

    @staticmethod
    async def _end(child: Child) -> None:
        with suppress(ProcessLookupError):
            child.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(asyncio.shield(child.process.wait()), STOP_SECONDS)
        except TimeoutError:
            with suppress(ProcessLookupError):
                child.process.kill()
            await child.process.wait()


def _open_log(log: Path) -> int:
    return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _status(child: Child) -> str:
    code = child.process.returncode
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit status {code}"
