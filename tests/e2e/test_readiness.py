"""`/readyz` tells of each dependency what is now: what stops the sidecar from serving, and what it can do without.

The replay store's part is in test_replicas.py, the full spool's and the keys' in tests/kube.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests

from sidecar.dev.ports import LOOPBACK, free_port
from tests.e2e.test_faults import UNBOUND
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.real


def told(process: SidecarProcess) -> tuple[int, dict[str, Any]]:
    """Status and checks."""
    answer = requests.get(f"http://{LOOPBACK}:{process.ops_port}/readyz", timeout=5)
    return answer.status_code, answer.json()["checks"]


def test_openbao_sealed_and_away_is_not_ready_and_back_is(tmp_path: Path, issuer: Issuer) -> None:
    with OpenBao(tmp_path / "openbao", persistent=True) as openbao:  # its root token has no `renewable`
        openbao.root().sys.enable_secrets_engine("kv", path="secret", options={"version": "2"})
        with SidecarProcess(tmp_path / "sidecar", openbao, issuer, UNBOUND) as process:
            openbao.seal()
            wait_until(lambda: told(process)[0] == 503)
            assert told(process)[1]["upstream"] == {"ready": False, "message": "OpenBao is sealed"}
            openbao.unseal()
            wait_until(lambda: told(process)[0] == 200)
            openbao.stop()
            wait_until(lambda: told(process)[0] == 503)
            status = told(process)[1]["upstream"]
            assert status["message"].startswith("OpenBao cannot be reached")
            assert str(openbao.port) not in status["message"]
            openbao.start()
            openbao.unseal()
            wait_until(lambda: told(process)[0] == 200)


def test_what_it_can_do_without_is_a_warning(tmp_path: Path, openbao: OpenBao, issuer: Issuer) -> None:
    """Kafka away: records wait in the spool. The PDP away: live grants go on. Each is said, and traffic comes."""
    overrides = UNBOUND | {
        "authorization": {"pdp": "authzen", "authzen": {"url": f"http://{LOOPBACK}:{free_port()}"}},
        "audit": {"kafka": {"bootstrap_servers": f"{LOOPBACK}:{free_port()}", "security_protocol": "PLAINTEXT"}},
    }
    with SidecarProcess(tmp_path, openbao, issuer, overrides) as process:
        for _ in range(10):
            answer = process.get("/v1/secret/data/app/db", issuer.token(sub="endless"))
            assert (answer.status_code, answer.json()["code"]) == (503, "PDP_UNAVAILABLE")
        wait_until(lambda: "warning" in told(process)[1]["audit"])
        status, checks = told(process)
        assert status == 200
        assert checks["audit"]["ready"]
        assert checks["audit"]["warning"].startswith("no broker can be reached")
        assert checks["pdp"] == {"ready": True, "warning": "the PDP does not answer"}
