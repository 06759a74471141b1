"""Nothing stays: whatever ends the supervisor, its children end with it. Real processes, small ones."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.dev import leash
from sidecar.dev.ports import free_port
from sidecar.dev.processes import Child, ChildFailed, Supervisor, child_environment
from tests.dev.running import is_alive
from tests.support.waiting import wait_until

SERVER = """
import http.server, os, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path != "/never" else 503); self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *args): pass
if "stubborn" in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("I am", os.getpid(), "and these are my words", flush=True)
if "dies" in sys.argv: sys.exit(7)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def _command(port: int, *manner: str) -> list[str]:
    return [sys.executable, "-c", SERVER, str(port), *manner]


async def _start(supervisor: Supervisor, *manner: str, name: str = "thing", path: str = "/") -> Child:
    port = free_port()
    return await supervisor.start(name, _command(port, *manner), ready_url=f"http://127.0.0.1:{port}{path}")


async def test_leaving_the_context_stops_every_child(tmp_path: Path) -> None:
    async with Supervisor(tmp_path, tmp_path) as supervisor:
        children = [await _start(supervisor, name=f"thing {number}") for number in range(3)]
        assert all(is_alive(child.pid) for child in children)
    assert not any(is_alive(child.pid) for child in children)


async def test_an_exception_inside_stops_every_child(tmp_path: Path) -> None:
    started: list[Child] = []

    async def work() -> None:
        async with Supervisor(tmp_path, tmp_path) as supervisor:
            started.append(await _start(supervisor))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()
    assert not is_alive(started[0].pid)


async def test_a_child_that_ends_while_starting_is_said_with_its_last_words(tmp_path: Path) -> None:
    async with Supervisor(tmp_path, tmp_path) as supervisor:
        with pytest.raises(ChildFailed, match="thing ended with exit status 7 while starting") as failed:
            await _start(supervisor, "dies")
    assert "and these are my words" in failed.value.tail


async def test_a_child_that_is_never_ready_is_given_up_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.dev.processes.READY_SECONDS", 1.0)
    async with Supervisor(tmp_path, tmp_path) as supervisor:
        with pytest.raises(ChildFailed, match=r"was not ready after 1 s .*503") as failed:
            await _start(supervisor, path="/never")
        pid = int(failed.value.tail.split()[2])
        assert not is_alive(pid)


async def test_the_first_child_to_end_later_is_named(tmp_path: Path) -> None:
    async with Supervisor(tmp_path, tmp_path) as supervisor:
        await _start(supervisor, name="steady")
        fragile = await _start(supervisor, name="fragile")
        os.kill(fragile.pid, signal.SIGKILL)
        failed = await asyncio.wait_for(supervisor.first_end(), 10)
    assert str(failed) == "fragile ended with SIGKILL"
    assert f"I am {fragile.pid}" in failed.tail


async def test_the_end_of_an_earlier_child_is_seen_while_a_later_one_starts(tmp_path: Path) -> None:
    async with Supervisor(tmp_path, tmp_path) as supervisor:
        first = await _start(supervisor, name="first")
        starting = asyncio.ensure_future(_start(supervisor, name="second", path="/never"))
        await asyncio.sleep(0)
        os.kill(first.pid, signal.SIGKILL)
        with pytest.raises(ChildFailed, match="first ended with SIGKILL"):
            await asyncio.wait_for(starting, 10)


async def test_a_child_deaf_to_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.dev.processes.STOP_SECONDS", 0.3)
    async with Supervisor(tmp_path, tmp_path) as supervisor:
        child = await _start(supervisor, "stubborn")
    assert not is_alive(child.pid)
    assert child.process.returncode == -signal.SIGKILL


async def test_kill_cuts_a_slow_stop_short(tmp_path: Path) -> None:
    async with Supervisor(tmp_path, tmp_path) as supervisor:
        child = await _start(supervisor, "stubborn")
        stopping = asyncio.ensure_future(supervisor.stop())
        await asyncio.sleep(0)
        supervisor.kill()
        await asyncio.wait_for(stopping, 10)
        assert not is_alive(child.pid)


def test_a_supervisor_that_is_killed_takes_its_children_with_it(tmp_path: Path) -> None:
    """SIGKILL leaves no chance to tidy up: the kernel does it (PR_SET_PDEATHSIG)."""
    script = f"""
import asyncio, sys
from pathlib import Path
from sidecar.dev.ports import free_port
from sidecar.dev.processes import Supervisor
async def main():
    async with Supervisor(Path({str(tmp_path)!r}), Path({str(tmp_path)!r})) as supervisor:
        for name in ("one", "two"):
            port = free_port()
            command = [sys.executable, "-c", {SERVER!r}, str(port), "stubborn"]
            child = await supervisor.start(name, command, ready_url=f"http://127.0.0.1:{{port}}/")
            print(child.pid, flush=True)
        print("up", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        pids = [int(line) for line in iter(supervisor.stdout.readline, "up\n")]
        assert len(pids) == 2
        assert all(map(is_alive, pids))
        supervisor.kill()
    wait_until(lambda: not any(map(is_alive, pids)), "the children ended")


def test_a_child_whose_parent_is_gone_before_it_begins_does_not_begin(tmp_path: Path) -> None:
    marker = tmp_path / "began"
    nobody = subprocess.Popen([sys.executable, "-c", ""])
    nobody.wait()
    command = [sys.executable, "-I", "-S", leash.__file__, str(nobody.pid), "/usr/bin/env", "touch", str(marker)]
    ended = subprocess.run(command, capture_output=True, check=False, text=True)
    assert ended.returncode == 1
    assert "the parent ended" in ended.stderr
    assert not marker.exists()


def test_a_childs_environment_holds_nothing_that_overrides_its_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VAULT_TOKEN", "BAO_ADDR", "SIDECAR__LISTEN__ADDRESS", "TENANT_ID", "ENVIRONMENT", "https_proxy"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    environment = child_environment({"BAO_DEV_ROOT_TOKEN_ID": "given"})
    kept: Callable[[str], bool] = environment.__contains__
    assert not any(
        map(kept, ("VAULT_TOKEN", "BAO_ADDR", "SIDECAR__LISTEN__ADDRESS", "TENANT_ID", "ENVIRONMENT", "https_proxy"))
    )
    assert environment["BAO_DEV_ROOT_TOKEN_ID"] == "given"
    assert environment["LC_ALL"] == "C.UTF-8"


async def test_a_log_is_the_owners_alone(tmp_path: Path) -> None:
    async with Supervisor(tmp_path, tmp_path) as supervisor:
        await _start(supervisor)
    assert (tmp_path / "thing.log").stat().st_mode & 0o777 == 0o600
