"""Cerbos, OPA and OpenFGA as their how-tos set them up; and a real PDP cut off and brought back under load."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests
from hvac.exceptions import Forbidden

from sidecar.client.key import DPoPKey
from sidecar.client.requests import DPoPAuth
from sidecar.clock import SystemClock
from sidecar.config.tree import Config
from sidecar.decision import pdp as way
from sidecar.decision.authzen import AuthzenPdp
from sidecar.decision.breaker import FAILURES
from sidecar.decision.decide import Decider
from sidecar.decision.permit import Denied, Obligations, Permit, Question, Verdict
from sidecar.errors import Code, Refused
from sidecar.surface.secret_uri import SecretUri
from tests.decision.making import caller, config, operation, question
from tests.real.go_tools import cached_go_tool
from tests.real.openbao import OpenBao
from tests.real.pdps import BUILD_TIMEOUT, OPA, OPENFGA, RunningPdp, cerbos, running
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer

pytestmark = [pytest.mark.real, pytest.mark.timeout(BUILD_TIMEOUT)]

DB = SecretUri("openbao", "kv2", "secret", ("app", "db"))
KEY = SecretUri("openbao", "kv2", "secret", ("app", "db"), "pass word", 3)
OTHER = SecretUri("openbao", "kv2", "secret", ("other", "db"))
TERMS = Obligations(ttl_seconds=60, max_uses=3)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(trust_env=False, cookie_jar=aiohttp.DummyCookieJar()) as opened:
        yield opened


def client(section: dict[str, Any], session: aiohttp.ClientSession) -> AuthzenPdp:
    tree: Config = config(authorization=section | {"authzen": section["authzen"] | {"timeout_ms": 10_000}})
    return AuthzenPdp(tree.authorization.authzen, session)


def shown(answers: list[Verdict | Denied]) -> list[tuple[bool, Obligations]]:
    return [(one.permit, one.obligations) for one in answers if isinstance(one, Verdict)]


async def ask(pdp: AuthzenPdp, *questions: Question) -> list[tuple[bool, Obligations]]:
    """One by one and all at once: the same."""
    await pdp.discover()
    single = [await pdp.evaluate(one) for one in questions]
    assert shown(await pdp.evaluate_many(questions)) == shown(list(single))
    return shown(list(single))


ASKED = (question(), question(uri=OTHER), question(caller("other")), question(purpose="write", name="kv2.write"))


async def test_cerbos_as_its_how_to_says(
    tmp_path: Path, session: aiohttp.ClientSession, openbao: OpenBao, issuer: Issuer
) -> None:
    binary = await asyncio.to_thread(cerbos)
    with running("use-cerbos.md", tmp_path / "cerbos", binary, "/_cerbos/health") as cerbos_:
        section = cerbos_.how_to.sidecar()
        denied = (False, Obligations())
        found = await ask(client(section, session), *ASKED, question(uri=KEY))
        assert found == [(True, TERMS), denied, denied, denied, (True, TERMS)]
        await asyncio.to_thread(through_a_sidecar, tmp_path / "sidecar", openbao, issuer, section, cerbos_)


def through_a_sidecar(folder: Path, openbao: OpenBao, issuer: Issuer, section: dict[str, Any], pdp: RunningPdp) -> None:
    """Three uses and no more, then the PDP again; another secret never. While the PDP is stopped, a grant is what it
    was, and what needs the PDP is told to come back."""
    openbao.put("app/db", {"a": "1"})
    openbao.put("other/db", {"a": "1"})
    section = section | {"authzen": section["authzen"] | {"timeout_ms": 5000}}
    with SidecarProcess(folder, openbao, issuer, {"authorization": section}) as process:
        key = DPoPKey.generate()
        kv = process.hvac("app", key).secrets.kv.v2
        for _ in range(4):
            assert kv.read_secret_version("app/db", raise_on_deleted_version=True)["data"]["data"] == {"a": "1"}
        with pytest.raises(Forbidden):
            kv.read_secret_version("other/db", raise_on_deleted_version=True)
        hits = [
            one["grant"]["hit"] for one in process.records() if one.get("operation") == "kv2.read" and one.get("grant")
        ]
        assert hits[:4] == [False, True, True, False]
        pdp.send(signal.SIGSTOP)
        try:
            for _ in range(2):  # what the second decision left
                kv.read_secret_version("app/db", raise_on_deleted_version=True)
            token = issuer.bound_token(key.thumbprint, sub="app")
            for path in ("app/db", "other/db"):
                answer = requests.get(
                    f"{process.url}/v1/secret/data/{path}",
                    headers={"X-Vault-Token": token},
                    auth=DPoPAuth(key),
                    timeout=30,
                )
                assert (answer.status_code, answer.json()["code"]) == (503, "PDP_UNAVAILABLE")
                assert int(answer.headers["Retry-After"]) >= 1
        finally:
            pdp.send(signal.SIGCONT)


async def test_opa_as_its_how_to_says(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    binary = await asyncio.to_thread(cached_go_tool, OPA)
    with running("use-opa.md", tmp_path / "opa", binary, "/health") as opa:
        denied = (False, Obligations())
        found = await ask(client(opa.how_to.sidecar(), session), *ASKED, question(uri=KEY))
        assert found == [(True, TERMS), denied, denied, denied, (True, TERMS)]


async def test_openfga_as_its_how_to_says(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    binary = await asyncio.to_thread(cached_go_tool, OPENFGA)
    with running("use-openfga.md", tmp_path / "openfga", binary, "/healthz") as openfga:
        address, (model, tuples) = openfga.how_to.address, openfga.how_to.texts["json"]
        store = requests.post(f"{address}/stores", json={"name": "secrets"}, timeout=10).json()["id"]
        for path, body in (("authorization-models", model), ("write", tuples)):
            requests.post(f"{address}/stores/{store}/{path}", data=body, timeout=10).raise_for_status()
        found = await ask(client(openfga.how_to.sidecar(STORE=store), session), *ASKED, question(uri=KEY))
        assert [permit for permit, _ in found] == [True, False, False, False, False]
        assert all(obligations == Obligations() for _, obligations in found)


# -- cut off and brought back ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("cut", ["stopped", "killed"])
async def test_pdp_05_a_real_pdp_cut_off_and_restored_under_load(
    tmp_path: Path, session: aiohttp.ClientSession, cut: str
) -> None:
    """500 new keys a second while OPA is away, and after. Its own metrics say what reached it: a handful while it is
    away and as it comes back, not the thousands that were asked for."""
    binary = await asyncio.to_thread(cached_go_tool, OPA)
    with running("use-opa.md", tmp_path / "opa", binary, "/health") as opa:
        section = opa.how_to.sidecar()
        tree: Config = config(authorization=section | {"authzen": section["authzen"] | {"timeout_ms": 1000}})
        decider = Decider(tree, AuthzenPdp(tree.authorization.authzen, session), SystemClock())
        number, asked = 0, 0

        async def outcome(jti: str) -> Permit | Refused:
            try:
                return await decider.permit(
                    operation(uri=DB), caller(token_jti=jti, acr=jti), correlation_id="c-1234567"
                )
            except Refused as refused:
                return refused

        async def load(seconds: float) -> list[Permit | Refused]:
            """Opens the taps at 500 a second, whatever the answers."""
            nonlocal number, asked
            tasks = []
            for _ in range(int(seconds * 20)):
                for _ in range(25):
                    number += 1
                    tasks.append(asyncio.create_task(outcome(f"jti-{number}")))
                await asyncio.sleep(0.05)
            asked += len(tasks)
            return await asyncio.gather(*tasks)

        async def reached() -> int:
            text = (await asyncio.to_thread(requests.get, f"{opa.how_to.address}/metrics", timeout=10)).text
            counts = [line for line in text.splitlines() if line.startswith("http_request_duration_seconds_count")]
            return sum(int(float(line.rpartition(" ")[2])) for line in counts if 'handler="v0/data"' in line)

        live = await outcome("live")
        assert isinstance(live, Permit)
        live.reservation.refund()
        before = await reached()
        assert before >= 1
        if cut == "stopped":
            opa.send(signal.SIGSTOP)
        else:
            opa.kill()
        away = await load(3)
        assert all(isinstance(one, Refused) and one.code is Code.PDP_UNAVAILABLE for one in away)
        assert all(int(one.headers["Retry-After"]) >= 1 for one in away if isinstance(one, Refused))
        assert not decider.available
        grant = await outcome("live")
        assert isinstance(grant, Permit)
        assert grant.grant.hit
        if cut == "stopped":
            opa.send(signal.SIGCONT)
        else:
            await asyncio.to_thread(opa.start)
            before = 0  # it began to count anew
        # What was sent before the breaker opened may still be read; probes came after that: no more than one a pause.
        assert await reached() - before <= way.MAX_CONCURRENT + FAILURES + 10
        for _ in range(40):
            if decider.available:
                break
            await load(0.5)
        assert decider.available
        back = await load(1)
        assert all(isinstance(one, Permit) for one in back)
        # Nobody who was refused was kept for later: what reached it is no more than was asked for since it is back.
        assert await reached() - before <= asked - len(away) + way.MAX_CONCURRENT + FAILURES + 10
