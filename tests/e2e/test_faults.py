"""What the whole product does when something it needs is away, full, wrong or replaced: nothing is let through."""

from __future__ import annotations

import asyncio
import base64
import random
import signal
import socket
import time
from pathlib import Path

import pytest
import requests

from sidecar.audit.journal import Journal
from sidecar.audit.record import Event, Record
from sidecar.audit.segments import segment_paths
from sidecar.clock import SystemClock
from sidecar.dev.ports import LOOPBACK
from tests.real.openbao import OpenBao
from tests.real.sidecar import POLICIES, SidecarProcess
from tests.support.tokens import Issuer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.real

PATH = "/v1/secret/data/app/db"
UNBOUND = {"identity": {"binding": "preferred"}, "anti_replay": {"unbound_token": "off"}}


def answered(process: SidecarProcess, path: str = PATH, subject: str = "endless") -> tuple[int, str]:
    answer = process.get(path, process.issuer.token(sub=subject))
    return answer.status_code, answer.json().get("code", "")


def ready(process: SidecarProcess) -> bool:
    return requests.get(f"http://{LOOPBACK}:{process.ops_port}/readyz", timeout=5).status_code == 200


def test_openbao_paused_gone_and_back_without_a_restart(tmp_path: Path, issuer: Issuer) -> None:
    overrides = UNBOUND | {"upstream": {"timeout_seconds": 1}}
    with OpenBao(tmp_path / "openbao", persistent=False) as openbao:
        openbao.put("app/db", {"a": "1"})
        with SidecarProcess(tmp_path / "sidecar", openbao, issuer, overrides) as process:
            assert answered(process) == (200, "")
            openbao.pause()
            assert answered(process) == (504, "UPSTREAM_TIMEOUT")
            token = issuer.token(sub="endless")
            written = requests.post(
                f"{process.url}/v1/secret/data/app/x", json={"data": {"a": "1"}}, headers={"X-Vault-Token": token}
            )
            assert (written.status_code, written.json()["code"]) == (504, "UPSTREAM_TIMEOUT")
            openbao.resume()
            wait_until(lambda: answered(process) == (200, ""))
            intent, outcome = [r for r in process.records() if r.get("operation") == "kv2.write"]
            assert (intent["phase"], intent["event"]) == ("intent", "SECRET_PERMIT")
            assert (outcome["phase"], outcome["event"], outcome["upstream"]["status"]) == (
                "outcome",
                "SECRET_ERROR",
                None,
            )
            openbao.stop()
            assert answered(process)[0] == 503
            openbao.start()  # a dev server comes back empty, with the same root token
            openbao.put("app/db", {"a": "1"})
            wait_until(lambda: answered(process) == (200, ""))
            assert process.verify() == 0


async def nearly_filled(spool: Path, limit_bytes: int, free_bytes: int) -> None:
    """Fills a spool by the journal itself, with records that hardly compress, until so little is left with every
    closed segment compressed. Reads alone compress too well to fill even the smallest spool in a test's time."""
    journal = await Journal.open(spool, "write", 2 * limit_bytes, SystemClock(), segment_bytes=limit_bytes // 8)
    try:
        deadline = time.monotonic() + 60
        while (left := limit_bytes - free_bytes - journal.status().spool_bytes) > 0:
            assert time.monotonic() < deadline, f"{left} bytes are still to be filled"
            if any(not packed for packed in closed_segments(spool)):
                await asyncio.sleep(0.01)
                continue
            noise = base64.b64encode(random.randbytes(min(left, limit_bytes // 16) * 3 // 4)).decode()
            await journal.append(Record(Event.SECRET_DENY, {"effect": "deny", "correlation_id": noise}))
    finally:
        await journal.close()


def closed_segments(spool: Path) -> list[bool]:
    """Of each segment but the last, whether it is compressed."""
    return [path.suffix == ".zst" for _, path in segment_paths(spool)[:-1]]


def test_a_full_spool_refuses_and_says_so(
    tmp_path: Path, openbao: OpenBao, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full means `max_spool_mib` on disk, with closed segments compressed: warned of from 80 %, refused at 100 %."""
    monkeypatch.setattr("sidecar.audit.packing._SETTLE_SECONDS", 0.0)
    asyncio.run(nearly_filled(tmp_path / "audit", 2 * 2**20, 96 * 1024))
    with SidecarProcess(tmp_path, openbao, issuer, UNBOUND | {"audit": {"max_spool_mib": 2}}) as process:
        assert "% full" in process.ready_text()
        mark = openbao.mark()
        session = requests.Session()
        token = issuer.token(sub="endless")
        for _ in range(500):
            answer = session.get(process.url + PATH, headers={"X-Vault-Token": token})
            if answer.status_code != 200:
                break
        assert (answer.status_code, answer.json().get("code")) == (503, "AUDIT_UNAVAILABLE")
        assert not ready(process)
        on_disk = sum(path.stat().st_size for _, path in segment_paths(process.spool))
        assert 2 * 2**20 - 4096 < on_disk <= 2 * 2**20
        released = len([r for r in process.records() if r["event"] == "SECRET_PERMIT"])
        executed = len([r for r in openbao.requests(since=mark) if r["path"] == "secret/data/app/db"])
        # The last one was executed and not recorded, so it was not released either.
        assert released == executed - 1
        written = session.post(
            f"{process.url}/v1/secret/data/full/x", json={"data": {"a": "1"}}, headers={"X-Vault-Token": token}
        )
        assert written.status_code == 503
        assert not [r for r in openbao.requests(since=mark) if r["path"] == "secret/data/full/x"]


def test_policies_are_taken_on_sighup_and_a_bad_set_leaves_the_old_in_force(
    tmp_path: Path, openbao: OpenBao, issuer: Issuer
) -> None:
    with SidecarProcess(tmp_path, openbao, issuer, UNBOUND) as process:
        assert process.process is not None
        assert answered(process) == (200, "")
        policies = process.policies / "policies.cedar"
        policies.write_text("permit (principal, action")
        process.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "the old stays in force" in process.log.read_text())
        assert answered(process) == (200, "")
        policies.write_text(POLICIES.replace('Workload::"endless"', 'Workload::"nobody"'))
        process.process.send_signal(signal.SIGHUP)
        wait_until(lambda: answered(process) == (403, "POLICY_DENIED"))


def test_a_configuration_that_cannot_work_is_refused_at_start(tmp_path: Path, openbao: OpenBao, issuer: Issuer) -> None:
    process = SidecarProcess(tmp_path, openbao, issuer)
    (process.policies / "policies.cedar").write_text("permit (principal, action")
    process.start(wait=False)
    try:
        assert process.process is not None
        assert process.process.wait(30) == 1
        assert "policies.cedar" in process.log.read_text()
        assert "Traceback" not in process.log.read_text()
    finally:
        process.kill()


def test_a_login_that_openbao_does_not_take_is_not_ready_and_refuses(
    tmp_path: Path, openbao: OpenBao, issuer: Issuer
) -> None:
    overrides = UNBOUND | {"upstream": {"auth": {"method": "token", "token": "not-a-token-of-this-server"}}}
    process = SidecarProcess(tmp_path, openbao, issuer, overrides)
    process.start(wait=False)
    try:

        def listening() -> bool:
            try:
                return not ready(process)
            except requests.ConnectionError:
                return False

        wait_until(listening)
        assert answered(process) == (503, "UPSTREAM_UNAVAILABLE")
        assert "not-a-token-of-this-server" not in process.log.read_text()
    finally:
        process.kill()


def test_random_bytes_get_a_4xx_or_silence_and_never_a_5xx(tmp_path: Path, openbao: OpenBao, issuer: Issuer) -> None:
    """Seeded mutations of good requests, on the real listener: no 5xx, no traceback, nothing at OpenBao that is not
    recorded."""
    chance = random.Random(20_261_124)
    with SidecarProcess(tmp_path, openbao, issuer, UNBOUND) as process:
        token = issuer.token(sub="endless")
        good = (
            f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\nX-Vault-Token: {token}\r\nContent-Length: 0\r\n\r\n"
            f"LIST /v1/secret/metadata/app HTTP/1.1\r\nHost: localhost\r\nX-Vault-Token: {token}\r\n\r\n"
        ).encode()
        seen: dict[bytes, int] = {}
        for _ in range(1500):
            raw = bytearray(good)
            for _ in range(chance.randint(1, 6)):
                at = chance.randrange(len(raw))
                match chance.randrange(4):
                    case 0:
                        raw[at] = chance.randrange(256)
                    case 1:
                        del raw[at : at + chance.randint(1, 8)]
                    case 2:
                        raw[at:at] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 6)))
                    case _:
                        raw[at:at] = chance.choice(
                            [b"\r\n", b"\n", b"%2f", b"..", b"//", b"\x00", b": ", b" ", b"?", b"#"]
                        )
            with socket.create_connection((LOOPBACK, process.port), 5) as sock:
                sock.sendall(bytes(raw))
                sock.shutdown(socket.SHUT_WR)
                sock.settimeout(10)
                got = b""
                while chunk := sock.recv(65536):
                    got += chunk
            if got:
                status = got.split(b" ", 2)[1]
                seen[status] = seen.get(status, 0) + 1
                assert not status.startswith(b"5"), (bytes(raw), got[:300])
        assert seen.get(b"400", 0) > 300, seen
        log = process.log.read_text()
        assert "internal fault" not in log
        assert "exception" not in log
        assert process.verify() == 0
