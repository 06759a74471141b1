"""Forwarding to the real OpenBao: what it audits is what was authorised, once each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import unquote

import orjson
import pytest
import pytest_asyncio

from sidecar.config import Upstream
from sidecar.surface.operation import UpstreamRequest
from sidecar.upstream.client import UpstreamClient
from sidecar.upstream.login import BrokerLogin
from sidecar.upstream.release import Release
from tests.real.openbao import SEEDS, OpenBao
from tests.upstream.raw_server import permit
from tests.upstream.test_target import TARGETS

pytestmark = pytest.mark.real


@pytest_asyncio.fixture
async def client(openbao: OpenBao) -> AsyncIterator[UpstreamClient]:
    openbao.policy("writer", 'path "*" { capabilities = ["create", "read", "update", "patch", "delete", "list"] }')
    token = openbao.token("writer", period="1h")
    upstream = Upstream.model_validate({"address": openbao.address, "auth": {"method": "token", "token": token}})
    login = BrokerLogin(upstream)
    await login.start()
    made = UpstreamClient(upstream, login)
    yield made
    await made.close()
    await login.stop()


async def test_openbao_audits_the_path_that_was_authorised(openbao: OpenBao, client: UpstreamClient) -> None:
    mark = openbao.mark()
    for target in TARGETS:
        await (await client.forward(permit(target))).read(10_000)
    audited = [request["path"] for request in openbao.requests(since=mark)]
    assert audited == [unquote(target.removeprefix("/v1/")) for target in TARGETS]


async def test_a_secret_is_written_read_listed_and_deleted(openbao: OpenBao, client: UpstreamClient) -> None:
    path = "/v1/secret/data/upstream/life"
    body = orjson.dumps({"data": {"password": "canary"}})
    mark = openbao.mark()
    written = await client.forward(permit(path, "POST", body=body))
    assert orjson.loads(await written.read(10_000))["data"]["version"] == 1
    merge = "application/merge-patch+json"
    patched = await client.forward(permit(path, "PATCH", body=b'{"data":{"user":"app"}}', content_type=merge))
    assert orjson.loads(await patched.read(10_000))["data"]["version"] == 2
    read = await client.forward(permit(path, query="version=2"))
    assert orjson.loads(await read.read(10_000))["data"]["data"] == {"password": "canary", "user": "app"}
    assert read.headers == {"Content-Type": "application/json"}
    assert len(read.request_id) == 36
    for asked in (
        permit("/v1/secret/metadata/upstream/", "LIST"),
        permit("/v1/secret/metadata/upstream", query="list=true"),
    ):
        listed = await client.forward(asked)
        assert orjson.loads(await listed.read(10_000))["data"]["keys"] == ["life"]
    deleted = await client.forward(permit(path, "DELETE"))
    assert (deleted.status, await deleted.read(10)) == (204, b"")
    operations = [request["operation"] for request in openbao.requests(since=mark)]
    assert operations == ["create", "patch", "read", "list", "list", "delete"]


async def test_a_large_secret_streams_through_the_release(openbao: OpenBao, client: UpstreamClient) -> None:
    values = {f"key-{number}": "x" * 2000 for number in range(400)}  # OpenBao takes 1000 strings and 1 MiB
    openbao.put("upstream/large", values)
    received = await client.forward(permit("/v1/secret/data/upstream/large"))
    login = client._login
    assert isinstance(login, BrokerLogin)
    body = b"".join([piece async for piece in Release(login).stream(received)])
    assert orjson.loads(body)["data"]["data"] == values


async def test_many_callers_at_once_are_each_executed_once(openbao: OpenBao, client: UpstreamClient) -> None:
    mark = openbao.mark()

    async def read(path: str) -> dict[str, str]:
        received = await client.forward(permit(f"/v1/secret/data/{path}"))
        values: dict[str, str] = orjson.loads(await received.read(10_000))["data"]["data"]
        return values

    asked = [list(SEEDS)[number % len(SEEDS)] for number in range(300)]
    assert await asyncio.gather(*(read(path) for path in asked)) == [SEEDS[path] for path in asked]
    assert len(openbao.requests(since=mark)) == 300


async def test_public_paths_are_answered_without_a_token(openbao: OpenBao, client: UpstreamClient) -> None:
    received = await client.public(UpstreamRequest("GET", "/v1/sys/health"))
    assert orjson.loads(await received.read(10_000))["sealed"] is False
