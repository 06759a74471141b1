"""Callers of a whole sidecar: `sidecar.client` in each library, keys that change, scopes, and certificates."""

from __future__ import annotations

import asyncio
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import hvac
import pytest
import requests

from sidecar.client import DPoPKey
from sidecar.client.aiohttp import DPoPMiddleware
from sidecar.client.httpx import DPoPAuth as HttpxAuth
from sidecar.client.requests import DPoPAuth
from tests.real.openbao import SEEDS, OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.certificates import Authority, Certificate
from tests.support.tls_place import crl, pem, put
from tests.support.tokens import Issuer

pytestmark = pytest.mark.real

PATH = "/v1/secret/data/app/api"
VALUE = SEEDS["app/api"]


# -- sidecar.client --------------------------------------------------------------------------------------------------
def by_requests(url: str, key: DPoPKey, token: str, closing: ExitStack) -> Callable[[], Any]:
    session = closing.enter_context(requests.Session())
    session.auth = DPoPAuth(key, token)
    return lambda: session.get(f"{url}{PATH}", timeout=30).json()


def by_hvac(url: str, key: DPoPKey, token: str, closing: ExitStack) -> Callable[[], Any]:
    client = hvac.Client(url=url, token=token, session=closing.enter_context(requests.Session()))
    client.session.auth = DPoPAuth(key)
    return lambda: client.secrets.kv.v2.read_secret_version("app/api", raise_on_deleted_version=True)


def by_httpx(url: str, key: DPoPKey, token: str, closing: ExitStack) -> Callable[[], Any]:
    client = closing.enter_context(httpx.Client(auth=HttpxAuth(key, token), timeout=30))
    return lambda: client.get(f"{url}{PATH}").json()


def by_aiohttp(url: str, key: DPoPKey, token: str, closing: ExitStack) -> Callable[[], Any]:
    middleware = DPoPMiddleware(key, token)

    async def read() -> Any:
        async with aiohttp.ClientSession(middlewares=[middleware]) as session, session.get(f"{url}{PATH}") as answer:
            return await answer.json()

    return lambda: asyncio.run(read())


CLIENTS = (by_requests, by_hvac, by_httpx, by_aiohttp)


def test_each_client_reads_on_across_restarts_of_the_sidecar_and_of_itself(
    tmp_path: Path, openbao: OpenBao, issuer: Issuer
) -> None:
    """A sidecar that restarted has other nonces: one challenge for each client, which it answers itself. A client that
    restarted has its key from its file. With `separate`, keys of one subject are served beside each other."""
    overrides = {"grants": {"on_binding_change": "separate"}}
    with SidecarProcess(tmp_path, openbao, issuer, overrides) as process, ExitStack() as closing:

        def start_clients() -> list[Callable[[], Any]]:
            keys = [DPoPKey.load_or_generate(tmp_path / f"{number}.pem") for number in range(len(CLIENTS))]
            return [
                by(process.url, key, issuer.bound_token(key.thumbprint, sub="bulk"), closing)
                for by, key in zip(CLIENTS, keys, strict=True)
            ]

        def challenges() -> int:
            return sum(record.get("code") == "PROOF_NONCE_REQUIRED" for record in process.records())

        clients = start_clients()
        for times in (1, 2):
            for read in clients * 2:
                assert read()["data"]["data"] == VALUE
            assert challenges() == times * len(CLIENTS)
            if times == 1:
                process.kill()
                process.start()
        for read in start_clients():
            assert read()["data"]["data"] == VALUE
            assert process.records()[-1]["grant"]["hit"], "the key in the file is the key of the grant"


# -- keys that change, and what a token is not for -------------------------------------------------------------------
@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer) -> Iterator[SidecarProcess]:
    overrides = {"scopes": {"enforce": True}}
    with SidecarProcess(tmp_path_factory.mktemp("strict"), openbao, issuer, overrides) as process:
        yield process


def read(process: SidecarProcess, key: DPoPKey, **claims: Any) -> requests.Response:
    """One read, as `bulk`."""
    claims = {"sub": "bulk", "scope": "secrets.read"} | claims
    auth = DPoPAuth(key, process.issuer.bound_token(key.thumbprint, **claims))
    return requests.get(f"{process.url}{PATH}", auth=auth, timeout=30)


def test_an_application_that_restarts_is_served_at_once_and_a_thief_is_not(strict: SidecarProcess) -> None:
    owner, thief, restarted = DPoPKey.generate(), DPoPKey.generate(), DPoPKey.generate()
    before = int(time.time())
    assert read(strict, owner).status_code == 200
    opened = time.time()
    for _ in range(3):
        refused = read(strict, thief, iat=before)
        assert (refused.status_code, refused.json()["code"]) == (403, "BINDING_CHANGED")
    record = strict.records()[-1]
    assert (record["event"], record["code"]) == ("SECRET_DENY", "BINDING_CHANGED")
    assert record["binding"]["thumbprint"] == thief.thumbprint
    assert read(strict, owner).status_code == 200
    grant = strict.records()[-1]["grant"]
    assert grant["hit"]
    assert grant["uses_left"] == 98, "the thief spent none"

    while time.time() < int(opened) + 1:
        time.sleep(0.01)
    assert read(strict, restarted).status_code == 200
    assert read(strict, owner, iat=before).json()["code"] == "BINDING_CHANGED"
    assert read(strict, restarted).status_code == 200
    assert strict.records()[-1]["grant"]["hit"]


def test_a_missing_scope_is_asked_for_as_rfc_6750_says(strict: SidecarProcess) -> None:
    refused = read(strict, DPoPKey.generate(), scope="secrets.write")
    assert (refused.status_code, refused.json()["code"]) == (403, "SCOPE_MISSING")
    challenge = refused.headers["WWW-Authenticate"]
    assert challenge.startswith('DPoP error="insufficient_scope"')
    assert 'scope="secrets.read"' in challenge


# -- certificates ----------------------------------------------------------------------------------------------------
async def test_mtls_04_authorities_and_revocations_change_by_signal_and_by_file_under_load(
    tmp_path: Path, openbao: OpenBao, issuer: Issuer
) -> None:
    """From the announcement on nobody comes in by the authority that went, on old connections and new; a file that
    changed is taken up without a signal. All the while nobody of the authority that stays is dropped."""
    staying, going = Authority("Staying"), Authority("Going")
    server_cert, server_key = staying.issue_server().write(tmp_path, "server")
    ca_file, crl_file = tmp_path / "ca.pem", tmp_path / "crl.pem"

    def trust(*authorities: Authority) -> None:
        put(ca_file, b"".join(pem(authority) for authority in authorities))

    def revoke(*certificates: Certificate) -> None:
        put(crl_file, crl(staying) + crl(going, *certificates))

    trust(staying, going)
    revoke()
    tls = {
        "cert_file": str(server_cert),
        "key_file": str(server_key),
        "client_ca_file": str(ca_file),
        "client_crl_file": str(crl_file),
        "client_cert": "required",
    }
    overrides = {"listen": {"tls": tls}, "grants": {"on_binding_change": "separate"}}
    with SidecarProcess(tmp_path / "p", openbao, issuer, overrides) as process:

        def session(certificate: Certificate, *, kept: bool = True) -> aiohttp.ClientSession:
            connector = aiohttp.TCPConnector(
                ssl=certificate.client_context(tmp_path, staying), limit=1, force_close=not kept
            )
            token = issuer.certificate_token(certificate.thumbprint, sub="endless")
            return aiohttp.ClientSession(connector=connector, headers={"X-Vault-Token": token})

        async def status(session: aiohttp.ClientSession) -> int:
            async with session.get(f"{process.url}{PATH}") as answer:
                await answer.read()
                return answer.status

        async def is_let_in(certificate: Certificate) -> bool:
            async with session(certificate, kept=False) as new:
                with suppress(aiohttp.ClientError, ssl.SSLError):
                    return await status(new) == 200
                return False

        async def load(certificate: Certificate, *, kept: bool) -> int:
            served = 0
            async with session(certificate, kept=kept) as mine:
                while not done.is_set():
                    assert await status(mine) == 200
                    served += 1
            return served

        done, leaver, revoked = asyncio.Event(), going.issue(), going.issue()
        async with asyncio.timeout(120), asyncio.TaskGroup() as clients:
            tasks = [clients.create_task(load(staying.issue(), kept=kept)) for kept in (True, True, False)]
            async with session(leaver) as old, session(revoked) as other:
                assert (await status(old), await status(other)) == (200, 200)

                trust(staying)
                assert process.process is not None
                process.process.send_signal(signal.SIGHUP)
                while '"reloaded"' not in process.log.read_text():
                    await asyncio.sleep(0.02)
                assert (await status(old), await status(other)) == (401, 401)
                assert not await is_let_in(leaver)

                trust(staying, going)
                while not await is_let_in(leaver):
                    await asyncio.sleep(0.02)
                assert (await status(old), await status(other)) == (200, 200)
                revoke(revoked)
                while await status(other) != 401:
                    await asyncio.sleep(0.02)
                assert not await is_let_in(revoked)
                assert await status(old) == 200
                assert await is_let_in(leaver)
            done.set()
        assert min(task.result() for task in tasks) >= 3
