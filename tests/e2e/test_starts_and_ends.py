"""A sidecar's first moments and its last: what it needs may be away when it starts, and what is under way when it is
told to stop is answered and recorded.

Kafka that is away at the start, and sealed or away later: test_readiness.py. Streams of events: test_secrets_events.py.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sidecar.dev.ports import LOOPBACK
from tests.e2e.test_changes_while_running import checks
from tests.e2e.test_faults import PATH, UNBOUND
from tests.real.openbao import SEEDS, OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.scripted_pdp import ScriptedAuthzen
from tests.support.tokens import Issuer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.real


@pytest.fixture
def openbao_of_ours(tmp_path: Path) -> Iterator[OpenBao]:
    """One that may be paused."""
    with OpenBao(tmp_path / "openbao") as server:
        server.put("app/db", SEEDS["app/db"])
        yield server
        server.resume()


# -- its start -------------------------------------------------------------------------------------------------------
def test_what_is_away_at_the_start_is_said_and_waited_for(tmp_path: Path, issuer: Issuer) -> None:
    """OpenBao is away, then sealed, then there; then the PDP comes, which hangs until then. Nothing is restarted."""
    with OpenBao(tmp_path / "openbao", persistent=True) as openbao, ExitStack() as later:
        openbao.root().sys.enable_secrets_engine("kv", path="secret", options={"version": "2"})
        openbao.put("app/db", SEEDS["app/db"])
        openbao.stop()
        pdp = ScriptedAuthzen()
        overrides = UNBOUND | {"mounts": None, "authorization": {"pdp": "authzen", "authzen": {"url": pdp.url}}}
        process = SidecarProcess(tmp_path / "sidecar", openbao, issuer, overrides)
        process.start(wait=False)
        later.callback(process.kill)

        def said(part: str) -> str:
            return str(checks(process).get(part, {}).get("message", ""))

        wait_until(lambda: said("upstream").startswith("OpenBao cannot be reached"))
        assert said("mounts")
        openbao.start()
        wait_until(lambda: said("upstream").startswith("OpenBao is sealed"))
        openbao.unseal()
        process.wait_until_ready()
        answer = process.get(PATH, issuer.token(sub="app"))
        assert (answer.status_code, answer.json()["code"]) == (503, "PDP_UNAVAILABLE")
        later.enter_context(pdp)
        wait_until(lambda: process.get(PATH, issuer.token(sub="app")).status_code == 200)


@pytest.mark.parametrize("moment", ["at once", "while it waits for OpenBao"])
def test_told_to_stop_while_it_starts_it_stops(
    tmp_path: Path, openbao_of_ours: OpenBao, issuer: Issuer, moment: str
) -> None:
    """It does not wait for what it needs; where it has said that it began, it says that it ended."""
    process = SidecarProcess(tmp_path / "sidecar", openbao_of_ours, issuer)
    openbao_of_ours.pause()
    process.start(wait=False)
    try:
        if moment == "at once":
            # Before Python runs any of ours the kernel ends it.
            assert process.terminate() in (0, -signal.SIGTERM)
            assert not process.spool.exists()
            return
        wait_until(lambda: process.spool.exists() and len(process.records()) == 1)
        assert process.terminate() == 0
    finally:
        process.kill()
    assert [record["event"] for record in process.records()] == ["AUDIT_START", "AUDIT_STOP"]
    assert "told to stop before it served" in process.log.read_text()


# -- its end ---------------------------------------------------------------------------------------------------------
def test_what_is_under_way_when_it_is_told_to_stop_is_answered_and_recorded(
    tmp_path: Path, openbao_of_ours: OpenBao, issuer: Issuer
) -> None:
    """A read, a write and a first of two pipelined requests, on connections of their own; an idle one is let go, a new
    one not taken in; and who says it twice changes nothing."""
    process = SidecarProcess(tmp_path / "sidecar", openbao_of_ours, issuer, UNBOUND)
    process.start()
    try:
        head = f"Host: localhost\r\nX-Vault-Token: {issuer.token(sub='endless')}\r\n"
        read = f"GET {PATH} HTTP/1.1\r\n{head}\r\n".encode()
        body = b'{"data": {"a": "1"}}'
        write = f"POST /v1/secret/data/ends HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        idle, reading, pipelining, writing = (connected(process) for _ in range(4))
        idle.sendall(read)
        assert b" 200 OK\r\n" in idle.recv(65536)
        openbao_of_ours.pause()
        reading.sendall(read)
        pipelining.sendall(read * 2)
        writing.sendall(write)
        wait_until(lambda: any(record.get("phase") == "intent" for record in process.records()), seconds=60)
        running = process.process
        assert running is not None
        running.send_signal(signal.SIGTERM)
        assert rest(idle) == b""
        assert "not serving" in checks(process)["listener"]["message"]
        running.send_signal(signal.SIGTERM)
        with pytest.raises(OSError):
            connected(process)
        openbao_of_ours.resume()
        for each in (reading, pipelining, writing):
            answer = rest(each)
            assert answer.count(b"HTTP/1.1 ") == 1, answer
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer
            assert b"\r\nConnection: close\r\n" in answer
        assert running.wait(40) == 0
    finally:
        process.kill()
    records = process.records()
    phases = [(record["operation"], record["phase"]) for record in records if record["event"] == "SECRET_PERMIT"]
    assert sorted(phases) == [*[("kv2.read", "outcome")] * 3, ("kv2.write", "intent"), ("kv2.write", "outcome")]
    assert records[-1]["event"] == "AUDIT_STOP"
    assert process.verify() == 0


def test_a_reload_that_waits_for_openbao_does_not_hold_up_the_end(
    tmp_path: Path, openbao_of_ours: OpenBao, issuer: Issuer
) -> None:
    process = SidecarProcess(tmp_path / "sidecar", openbao_of_ours, issuer, UNBOUND)
    process.start()
    try:
        openbao_of_ours.pause()
        (process.folder / "jwks.json").touch()
        running = process.process
        assert running is not None
        read_before = process.log.read_text().count("issuer_keys_read")
        running.send_signal(signal.SIGHUP)
        # the step before the mounts
        wait_until(lambda: process.log.read_text().count("issuer_keys_read") > read_before)
        assert process.terminate() == 0
    finally:
        process.kill()
    log = process.log.read_text()
    assert "draining" in log
    assert '"event": "reloaded"' not in log
    assert process.records()[-1]["event"] == "AUDIT_STOP"


def connected(process: SidecarProcess) -> socket.socket:
    """A client that waits for its answer as long as a drain may take."""
    return socket.create_connection((LOOPBACK, process.port), 30)


def rest(client: socket.socket) -> bytes:
    """What comes until the other side has closed."""
    got = b""
    with client:
        while chunk := client.recv(65536):
            got += chunk
    return got
