"""The sidecar as the rendered pod starts it: its own arguments, variables and volumes, in front of the real OpenBao.

OpenBao's policy and the sidecar's are those of the how-to.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import hvac
import pytest
import yaml

from sidecar.audit.commands import verify
from sidecar.client import DPoPKey
from sidecar.client.requests import DPoPAuth
from sidecar.dev import leash
from sidecar.dev.ports import LOOPBACK, free_port
from sidecar.dev.processes import child_environment
from tests.deploy.how_to import code_block
from tests.deploy.pod import config_file, environment, sidecar_container
from tests.deploy.values import CHART, values
from tests.real.helm import BUILD_TIMEOUT, Helm
from tests.real.openbao import SEEDS, OpenBao
from tests.support.jwks_server import JwksServer
from tests.support.tokens import Issuer

pytestmark = [pytest.mark.real, pytest.mark.timeout(BUILD_TIMEOUT)]


async def probed(url: str, deadline: float) -> int:
    """The status of a probe once it is 200, or the last one there was."""
    status = 0
    async with aiohttp.ClientSession(trust_env=False) as http, asyncio.timeout(deadline):
        while status != 200:
            try:
                async with http.get(url) as answer:
                    status = answer.status
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)
    return status


def read_secret(url: str, token: str, key: DPoPKey) -> Any:
    """What an application does: hvac, told an address."""
    client = hvac.Client(url=url, token=token)
    client.session.auth = DPoPAuth(key)
    return client.secrets.kv.v2.read_secret_version("app/db", raise_on_deleted_version=True)["data"]["data"]


async def test_the_rendered_pod_becomes_ready_serves_its_application_and_drains(
    helm: Helm, openbao: OpenBao, tmp_path: Path
) -> None:
    openbao.policy("chart", code_block("hcl"))
    role_id, secret_id = openbao.approle("chart", "chart", token_period="1h")
    issuer = Issuer()
    policies = yaml.safe_load(code_block("yaml"))["policies"]
    async with JwksServer(issuer.jwks()) as jwks:
        changes = {
            "ops.environment": "test",
            "ops.upstream.address": openbao.address,
            "ops.identity.issuers": [{"issuer": issuer.url, "jwksUri": jwks.url}],
            "policies": policies,
        }
        manifests = await asyncio.to_thread(helm.template, CHART, values(changes))
        secrets = {"role-id": role_id, "secret-id": secret_id}
        config = config_file(manifests, tmp_path, secrets)
        container = sidecar_container(manifests)
        arguments = [str(config) if text.startswith("/") else text for text in container["args"]]
        # A pod has its addresses for itself; this machine does not.
        port, operations = free_port(), free_port()
        ours = {
            "SIDECAR__LISTEN__ADDRESS": f"{LOOPBACK}:{port}",
            "SIDECAR__OPS__ADDRESS": f"{LOOPBACK}:{operations}",
        }
        log = tmp_path / "sidecar.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", str(leash.__file__), str(os.getpid())),
                    *(sys.executable, "-I", "-u", "-m", "sidecar", *arguments),
                ],
                env=child_environment(environment(manifests, secrets) | ours),
                stdout=output,
                stderr=output,
            )
        try:
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                path = container[probe]["httpGet"]["path"]
                assert await probed(f"http://{LOOPBACK}:{operations}{path}", deadline=20) == 200
            key = DPoPKey.generate()
            token = issuer.bound_token(key.thumbprint, sub="app")
            secret = await asyncio.to_thread(read_secret, f"http://{LOOPBACK}:{port}", token, key)
            assert secret == SEEDS["app/db"]
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 30) == 0
        except BaseException:
            process.kill()
            process.wait()
            sys.stderr.write(log.read_text())
            raise
    spool = tmp_path / "var" / "lib" / "sidecar" / "audit"
    assert spool.stat().st_mode & 0o777 == 0o700  # not the volume itself, which is open to every user of the pod
    assert verify([spool], sys.stdout) == 0
