"""What a running sidecar takes up by itself, and what it says of that which it does not: the table of
`docs/how-to/run-in-kubernetes.md`.

Policies are in test_policy_rollout.py and tests/kube, salts in tests/audit/test_salts.py, an issuer's keys in
test_who_is_calling.py, Kafka's credentials in tests/audit/test_kafka_changes.py, the pod's token in
tests/caller/test_pod.py.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from sidecar.dev.certificates import Certificates, make_certificates
from sidecar.dev.ports import LOOPBACK
from tests.decision.pdp_server import PdpServer
from tests.decision.test_authzen import PERMIT, answering, tls_server
from tests.e2e.test_faults import PATH, UNBOUND
from tests.e2e.test_findings import served_by
from tests.real.openbao import SEEDS, OpenBao, TlsListener
from tests.real.sidecar import SidecarProcess
from tests.support.certificates import Authority
from tests.support.tokens import Issuer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.real


def checks(process: SidecarProcess) -> dict[str, Any]:
    """What `/readyz` says of each part; nothing while nobody answers there."""
    try:
        answer = requests.get(f"http://{LOOPBACK}:{process.ops_port}/readyz", timeout=5)
    except requests.ConnectionError:
        return {}
    found: dict[str, Any] = answer.json()["checks"]
    return found


def warning(process: SidecarProcess) -> str:
    """What is said of the configuration."""
    return str(checks(process).get("configuration", {}).get("warning", ""))


def certificates(folder: Path) -> Certificates:
    folder.mkdir(mode=0o700)
    return make_certificates(folder)


async def test_files_are_taken_up_when_they_change(tmp_path: Path, issuer: Issuer) -> None:
    """Every file holds another's content at first, so that nothing works but the listener."""
    ours, others = certificates(tmp_path / "ours"), certificates(tmp_path / "others")
    pdp_ca = Authority()
    upstream_ca, pdp_file, candidate, token = (
        tmp_path / name for name in ("upstream-ca.pem", "pdp-ca.pem", "candidate-ca.pem", "token")
    )
    shutil.copy(others.ca, upstream_ca)
    shutil.copy(others.ca, pdp_file)
    shutil.copy(others.ca, candidate)
    token.write_text("a-token-of-nobody-at-all")
    listener = TlsListener(ours.server.cert, ours.server.key)
    async with PdpServer(answering(PERMIT), tls_server(tmp_path, pdp_ca)) as pdp:
        with OpenBao(tmp_path / "openbao", tls=listener) as openbao:
            openbao.put("app/db", SEEDS["app/db"])
            tls = certificates(tmp_path / "listener")
            overrides = UNBOUND | {
                "listen": {"tls": {"cert_file": str(tls.server.cert), "key_file": str(tls.server.key)}},
                "upstream": {
                    "address": openbao.tls_address,
                    "tls": {"ca_file": str(upstream_ca)},
                    "auth": {"method": "token_file", "token": None, "token_file": str(token)},
                },
                "authorization": {
                    "pdp": "authzen",
                    "authzen": {"url": pdp.url, "ca_file": str(pdp_file)},
                    "candidate": {"pdp": "authzen", "authzen": {"url": pdp.url, "ca_file": str(candidate)}},
                },
            }
            process = SidecarProcess(tmp_path / "sidecar", openbao, issuer, overrides)
            process.start(wait=False)
            try:
                await asyncio.to_thread(_put_right, process, ours, pdp_ca, tls, others)
            finally:
                process.kill()


def compared(process: SidecarProcess, result: str) -> bool:
    begin = f'sidecar_candidate_decisions_total{{result="{result}"}} '
    return any(float(line.removeprefix(begin)) for line in process.metrics().splitlines() if line.startswith(begin))


def _put_right(
    process: SidecarProcess, ours: Certificates, pdp_ca: Authority, tls: Certificates, others: Certificates
) -> None:
    folder = process.folder.parent

    def read(ca: Path) -> int:
        headers = {"X-Vault-Token": process.issuer.token(sub="app")}
        return requests.get(process.url + PATH, headers=headers, verify=str(ca), timeout=10).status_code

    wait_until(lambda: "certificate" in checks(process).get("upstream", {}).get("message", ""))
    shutil.copy(ours.ca, folder / "upstream-ca.pem")
    wait_until(lambda: "the token is not valid" in checks(process)["upstream"].get("message", ""))
    (folder / "token").write_text(process.openbao.root_token)
    wait_until(lambda: checks(process)["upstream"]["ready"])
    assert read(tls.ca) == 503  # the PDP's certificate is not trusted
    pdp_ca.write(folder, "pdp-ca")
    shutil.copy(others.server.cert, tls.server.cert)
    shutil.copy(others.server.key, tls.server.key)
    wait_until(lambda: served_by(process, others.ca))
    wait_until(lambda: read(others.ca) == 200)
    wait_until(lambda: compared(process, "error"))
    pdp_ca.write(folder, "candidate-ca")
    wait_until(lambda: read(others.ca) == 200 and compared(process, "same"))
    assert "reloaded" not in process.log.read_text().split('"event": "')  # it was never told to


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer) -> Iterator[SidecarProcess]:
    with SidecarProcess(tmp_path_factory.mktemp("changing"), openbao, issuer, UNBOUND) as process:
        yield process


def test_a_configuration_that_a_restart_would_change_is_said_and_not_in_force(running: SidecarProcess) -> None:
    assert warning(running) == ""
    before = running.config_file.read_text()
    try:
        change(running, lambda tree: tree["tenant"].update(id="another-tenant-canary", allowed_mounts=["team/kv"]))
        wait_until(lambda: warning(running) != "")
        assert warning(running) == "it counts from the next start (changed: tenant.allowed_mounts, tenant.id)"
        assert 'sidecar_part_warning{part="configuration"} 1.0' in running.metrics()
        assert running.get(PATH, running.issuer.token(sub="endless")).status_code == 200
        log = running.log.read_text()
        assert "the configuration on disk is not the one in force" in log
        assert "another-tenant-canary" not in log
        running.config_file.write_text(f"# a remark\n{before}")
        assert "the configuration on disk is the one in force again" in hangup(running)
        assert warning(running) == ""
    finally:
        running.config_file.write_text(before)


def test_a_hangup_says_so_at_once_and_a_configuration_that_could_not_start_is_named(running: SidecarProcess) -> None:
    before = running.config_file.read_text()
    try:
        change(running, lambda tree: tree["grants"].update(max_entrys=7))
        told = hangup(running)
        assert "the next start would fail (see grants.max_entrys); `sidecar check` says why" in told
        assert warning(running).startswith("the next start would fail")
        assert "the next start would fail" in hangup(running)  # each time that somebody may think that it counts now
        running.config_file.unlink()
        assert "the next start would fail (see the file itself)" in hangup(running)
        assert running.get(PATH, running.issuer.token(sub="endless")).status_code == 200
    finally:
        running.config_file.write_text(before)


def change(process: SidecarProcess, by: Callable[[dict[str, Any]], None]) -> None:
    """Writes another configuration into the file."""
    tree = yaml.safe_load(process.config_file.read_text())
    tree.setdefault("grants", {})
    by(tree)
    process.config_file.write_text(yaml.safe_dump(tree))


def hangup(process: SidecarProcess) -> str:
    """What is logged between SIGHUP and the end of the reload."""
    assert process.process is not None
    before = process.log.stat().st_size

    def told() -> str:
        return process.log.read_bytes()[before:].decode()

    process.process.send_signal(signal.SIGHUP)
    wait_until(lambda: '"event": "reloaded"' in told() or '"event":"reloaded"' in told())
    return told()
