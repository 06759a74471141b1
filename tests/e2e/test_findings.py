"""What attackers of the assembled product found once, and must not find again."""

from __future__ import annotations

import base64
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from sidecar.dev.certificates import make_certificates
from sidecar.dev.ports import LOOPBACK
from tests.e2e.test_faults import UNBOUND, answered
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.real

TRANSIT = {
    "identity": {"binding": "preferred"},
    "mounts": [{"path": "secret", "engine": "kv2"}, {"path": "transit", "engine": "transit"}],
    "tenant": {"allowed_mounts": ["secret", "transit"]},
}


@pytest.fixture(scope="module")
def transit(tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer) -> Iterator[SidecarProcess]:
    with openbao.mounted({"transit": "transit"}):
        openbao.root().secrets.transit.create_key("k")
        process = SidecarProcess(tmp_path_factory.mktemp("transit"), openbao, issuer, TRANSIT)
        (process.policies / "policies.cedar").write_text(
            '@id("crypt") @max_uses("3") permit (principal == Workload::"crypt", action, resource);'
        )
        with process:
            yield process


def test_a_batch_with_one_bad_item_spends_its_uses(transit: SidecarProcess, openbao: OpenBao) -> None:
    plain = base64.b64encode(b"plaintext").decode()
    good = openbao.root().secrets.transit.encrypt_data("k", plaintext=plain)["data"]["ciphertext"]
    token = transit.issuer.token(sub="crypt")
    batch = {"batch_input": [{"ciphertext": good}, {"ciphertext": good}, {"ciphertext": "vault:v1:AAAA"}]}
    released = 0
    codes = []
    for _ in range(4):
        answer = requests.post(
            f"{transit.url}/v1/transit/decrypt/k", json=batch, headers={"X-Vault-Token": token}, timeout=10
        )
        released += answer.text.count(plain)
        codes.append((answer.status_code, answer.json().get("code", "")))
    assert released == 2
    assert codes == [(400, ""), *[(403, "TOKEN_REPLAYED")] * 3]


def test_the_caller_does_not_choose_the_status_of_a_batch(transit: SidecarProcess) -> None:
    body = {"batch_input": [{"ciphertext": "vault:v1:AAAA"}], "partial_failure_response_code": 404}
    token = transit.issuer.token(sub="crypt")
    answer = requests.post(
        f"{transit.url}/v1/transit/decrypt/k", json=body, headers={"X-Vault-Token": token}, timeout=10
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "MALFORMED_REQUEST")


def test_a_refused_write_is_recorded_with_what_was_asked(transit: SidecarProcess) -> None:
    requests.post(f"{transit.url}/v1/secret/data/app/x", json={"data": {}}, headers={"X-Vault-Token": "no"}, timeout=10)
    record = transit.records()[-1]
    assert (record["code"], record["operation"], record["purpose"]) == ("TOKEN_INVALID", "kv2.write", "write")
    assert record["resource_ref"]


def test_a_stalled_client_of_the_operations_listener_does_not_hold_up_the_end(
    tmp_path: Path, openbao: OpenBao, issuer: Issuer
) -> None:
    process = SidecarProcess(tmp_path, openbao, issuer)
    process.start()
    try:
        stalled = socket.socket()
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect((LOOPBACK, process.ops_port))
        stalled.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 200)
        assert process.terminate() == 0
        stalled.close()
        assert process.records()[-1]["event"] == "AUDIT_STOP"
    finally:
        process.kill()


def test_a_certificate_without_its_key_leaves_the_old_pair_in_force(
    tmp_path: Path, openbao: OpenBao, issuer: Issuer
) -> None:
    certificates, others = make_certificates(_folder(tmp_path / "a")), make_certificates(_folder(tmp_path / "b"))
    tls = {"cert_file": str(certificates.server.cert), "key_file": str(certificates.server.key)}
    with SidecarProcess(tmp_path / "sidecar", openbao, issuer, {"listen": {"tls": tls}}) as process:
        assert process.process is not None

        assert served_by(process, certificates.ca)
        shutil.copy(others.server.cert, certificates.server.cert)
        process.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "the old stays in force" in process.log.read_text())
        assert served_by(process, certificates.ca)
        shutil.copy(others.server.key, certificates.server.key)
        process.process.send_signal(signal.SIGHUP)
        wait_until(lambda: served_by(process, others.ca))


def served_by(process: SidecarProcess, ca: Path) -> bool:
    """Whether a client that trusts this CA is served."""
    try:
        return requests.get(f"{process.url}/v1/sys/health", verify=str(ca), timeout=5).status_code == 200
    except requests.exceptions.SSLError:
        return False


def _folder(path: Path) -> Path:
    path.mkdir(mode=0o700)
    return path


def test_a_mutation_cut_by_the_drain_has_an_outcome(tmp_path: Path, issuer: Issuer) -> None:
    overrides = UNBOUND | {"upstream": {"timeout_seconds": 60}}
    with OpenBao(tmp_path / "openbao") as openbao:
        process = SidecarProcess(tmp_path / "sidecar", openbao, issuer, overrides)
        process.start()
        try:
            assert answered(process, "/v1/secret/data/nothing")[0] == 404
            openbao.pause()

            def write() -> None:
                try:
                    requests.post(
                        f"{process.url}/v1/secret/data/app/x",
                        json={"data": {"a": "1"}},
                        headers={"X-Vault-Token": issuer.token(sub="endless")},
                        timeout=60,
                    )
                except requests.ConnectionError:
                    pass  # cut

            writer = threading.Thread(target=write)
            writer.start()
            wait_until(lambda: any(record.get("phase") == "intent" for record in process.records()))
            assert process.terminate() == 0
            writer.join(10)
        finally:
            process.kill()
            openbao.resume()
    intent, outcome = [record for record in process.records() if record.get("operation") == "kv2.write"]
    assert (intent["phase"], outcome["phase"]) == ("intent", "outcome")
    assert (outcome["event"], outcome["code"]) == ("SECRET_ERROR", "UPSTREAM_TIMEOUT")
    assert process.records()[-1]["event"] == "AUDIT_STOP"


def test_a_token_with_a_line_end_is_refused_and_shown_nowhere(tmp_path: Path, openbao: OpenBao, issuer: Issuer) -> None:
    overrides = {"upstream": {"auth": {"token": "opaque-canary-token\n"}}}
    process = SidecarProcess(tmp_path, openbao, issuer, overrides)
    process.start(wait=False)
    try:
        assert process.process is not None
        assert process.process.wait(30) == 2
    finally:
        process.kill()
    assert "upstream.auth.token" in process.log.read_text()
    assert "opaque-canary-token" not in process.log.read_text()


def test_an_odd_accept_does_not_break_the_metrics(transit: SidecarProcess) -> None:
    answer = requests.get(
        f"http://{LOOPBACK}:{transit.ops_port}/metrics",
        headers={"Accept": "application/openmetrics-text; version=1.x.0"},
        timeout=5,
    )
    assert answer.status_code == 200


@pytest.mark.parametrize("status", ["204", "205", "302", "304"])
def test_health_answers_no_status_that_changes_how_it_is_read(transit: SidecarProcess, status: str) -> None:
    answer = requests.get(f"{transit.url}/v1/sys/health?activecode={status}", timeout=5)
    assert (answer.status_code, answer.json()["code"]) == (400, "AMBIGUOUS_QUERY")


def test_a_hangup_while_it_starts_does_not_end_it(tmp_path: Path, openbao: OpenBao, issuer: Issuer) -> None:
    process = SidecarProcess(tmp_path, openbao, issuer)
    process.start(wait=False)
    try:
        assert process.process is not None
        wait_until(lambda: process.spool.exists())  # the program runs; its listeners do not yet
        process.process.send_signal(signal.SIGHUP)
        process.wait_until_ready()
    finally:
        process.kill()
