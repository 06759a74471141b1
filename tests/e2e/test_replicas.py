"""Two sidecars as processes, as behind one address, with a real Valkey between them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from sidecar.dev.ports import LOOPBACK
from tests.real.openbao import OpenBao
from tests.real.replay_server import ReplayServer
from tests.real.sidecar import SidecarProcess
from tests.support.proofs import ProofKey
from tests.support.tokens import Issuer

pytestmark = pytest.mark.real

PATH = "/v1/secret/data/app/db"
ORIGIN = "http://replicas.example"


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer, shared_server: ReplayServer
) -> Iterator[tuple[SidecarProcess, SidecarProcess]]:
    """Behind one address, which a proof is for."""
    overrides = {
        "listen": {"public_urls": [ORIGIN]},
        "anti_replay": {"store": shared_server.url, "store_timeout_ms": 2000},
        "identity": {"binding": "preferred"},
    }
    folder: Path = tmp_path_factory.mktemp("replicas")
    with (
        SidecarProcess(folder / "one", openbao, issuer, overrides) as one,
        SidecarProcess(folder / "other", openbao, issuer, overrides) as other,
    ):
        yield one, other


def ask(sidecar: SidecarProcess, token: str, proof: str | None = None) -> tuple[int, str, str]:
    """Status, code, and the nonce for the next proof."""
    answer = sidecar.get(PATH, token, **({"DPoP": proof, "Host": "replicas.example"} if proof else {}))
    return answer.status_code, answer.json().get("code", ""), answer.headers.get("DPoP-Nonce", "")


def until_ready(sidecar: SidecarProcess, ready: bool) -> str:
    deadline = time.monotonic() + 20
    while True:
        answer = requests.get(f"http://{LOOPBACK}:{sidecar.ops_port}/readyz", timeout=5)
        if (answer.status_code == 200) is ready:
            return answer.text
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.05)


def test_one_proof_and_one_token_over_two_sidecars(
    pair: tuple[SidecarProcess, SidecarProcess], issuer: Issuer, openbao: OpenBao
) -> None:
    one, other = pair
    key = ProofKey()
    token = issuer.bound_token(key.jkt, sub="app")
    status, code, nonce = ask(one, token, key.proof(token, url=ORIGIN + PATH))
    assert (status, code) == (401, "PROOF_NONCE_REQUIRED")
    proof = key.proof(token, url=ORIGIN + PATH, nonce=nonce)
    mark = openbao.mark()
    assert ask(other, token, proof)[:2] == (200, "")
    assert ask(one, token, proof)[:2] == (401, "PROOF_REPLAYED")
    assert len(openbao.requests(since=mark)) == 1
    unbound = issuer.token(sub="endless", jti=uuid.uuid4().hex)
    assert ask(one, unbound)[0] == 200
    assert ask(other, unbound)[:2] == (403, "TOKEN_REPLAYED")
    assert ask(one, unbound)[0] == 200


def test_a_sidecar_that_was_killed_comes_back_and_knows_what_was_used(
    pair: tuple[SidecarProcess, SidecarProcess], issuer: Issuer
) -> None:
    one, other = pair
    key = ProofKey()
    token = issuer.bound_token(key.jkt, sub="bulk")
    nonce = ask(one, token, key.proof(token, url=ORIGIN + PATH))[2]
    proof = key.proof(token, url=ORIGIN + PATH, nonce=nonce)
    assert ask(one, token, proof)[0] == 200
    one.kill()
    one.start()
    assert ask(one, token, proof)[:2] == (401, "PROOF_REPLAYED")
    assert ask(other, token, proof)[:2] == (401, "PROOF_REPLAYED")


def test_without_the_store_nothing_is_released_and_readiness_says_so(
    pair: tuple[SidecarProcess, SidecarProcess], issuer: Issuer, shared_server: ReplayServer, openbao: OpenBao
) -> None:
    one, _ = pair
    key = ProofKey()
    token = issuer.bound_token(key.jkt, sub="app")
    nonce = ask(one, token, key.proof(token, url=ORIGIN + PATH))[2]
    shared_server.kill()
    mark = openbao.mark()
    proof = key.proof(token, url=ORIGIN + PATH, nonce=nonce)
    answer = one.get(PATH, token, DPoP=proof, Host="replicas.example")
    assert (answer.status_code, answer.json()["code"]) == (503, "UPSTREAM_UNAVAILABLE")
    assert "replay store" in answer.json()["errors"][0]
    assert answer.headers["Retry-After"] == "1"
    assert "replay store" in until_ready(one, False)
    assert openbao.requests(since=mark) == []
    assert "sidecar_replay_store_errors_total 0.0" not in one.metrics()
    shared_server.start()
    until_ready(one, True)
    nonce = ask(one, token, key.proof(token, url=ORIGIN + PATH))[2]
    assert ask(one, token, key.proof(token, url=ORIGIN + PATH, nonce=nonce))[0] == 200
    assert one.records()[-1]["event"] == "SECRET_PERMIT"
    assert one.verify() == 0
