"""docs/how-to/use-a-yaml-file.md, done: its configuration served, its secrets read and written from a terminal, without
OpenBao, issuer or policies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from typer.testing import CliRunner

from sidecar.cli import app
from sidecar.dev import leash
from sidecar.dev.ports import LOOPBACK, free_port
from sidecar.dev.processes import child_environment
from tests.secrets.yaml_file.making import private
from tests.secrets.yaml_file.test_how_to import CONFIGURATION, FILE

pytestmark = pytest.mark.real

READY_SECONDS = 60.0


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Serves the page's configuration, as it stands but for the ports."""
    private(tmp_path / "secrets.yaml", FILE)
    (tmp_path / "sidecar.yaml").write_text(CONFIGURATION)
    port, operations = free_port(), free_port()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", str(leash.__file__), str(os.getpid())),
                *(sys.executable, "-m", "sidecar", "serve", "--config", "sidecar.yaml"),
            ],
            cwd=tmp_path,
            env={
                **child_environment(),
                "SIDECAR__LISTEN__ADDRESS": f"{LOOPBACK}:{port}",
                "SIDECAR__OPS__ADDRESS": f"{LOOPBACK}:{operations}",
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                if requests.get(f"http://{LOOPBACK}:{operations}/readyz", timeout=2).status_code == 200:
                    break
            except requests.RequestException:
                pass
            said = (tmp_path / "log").read_text()
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.02)
        yield f"http://{LOOPBACK}:{port}"
    finally:
        process.terminate()
        assert process.wait(40) == 0


def test_the_page_works_as_written(address: str, tmp_path: Path) -> None:
    def secret(*words: str, given: str = "") -> str:
        done = CliRunner().invoke(app, ["secret", "--address", address, *words], input=given, env={"PATH": ""})
        assert done.exit_code == 0, done.output
        return done.stdout

    assert secret("get", "yaml://secret/app/db#password") == "first"
    secret("put", "yaml://secret/app/db#password", given="second\n")
    assert json.loads(secret("get", "yaml://secret/app/db")) == {"user": "app", "password": "second"}
    assert secret("ls", "yaml://secret/") == "yaml://secret/app/db\n"
    assert (tmp_path / "secrets.yaml").read_text() == FILE.replace("password: first ", 'password: "second" ')
    shown = requests.get(f"{address}/api/secrets", params={"uri": "yaml://secret/app/db#password"}, timeout=30)
    assert shown.json() == {"value": "second"}
