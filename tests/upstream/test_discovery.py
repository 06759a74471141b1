"""The mounts of the real OpenBao, as the sidecar reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sidecar.config import Upstream
from sidecar.errors import Code, Refused
from sidecar.upstream.discovery import FoundMount, discover, discover_named
from sidecar.upstream.login import BrokerLogin
from tests.real.openbao import OpenBao
from tests.upstream.raw_server import Exchange, RawServer, answer

pytestmark = pytest.mark.real

READ_MOUNTS = """
path "sys/mounts"             { capabilities = ["read"] }
path "auth/token/lookup-self" { capabilities = ["read"] }
"""


async def found(
    address: str, token: str, *namespaces: str, own_namespace: str = "", or_usable: bool = False
) -> list[FoundMount]:
    """What that token finds, without the mounts' own ids."""
    auth = {"method": "token", "token": token}
    login = BrokerLogin(Upstream.model_validate({"address": address, "namespace": own_namespace, "auth": auth}))
    await login.start()
    try:
        mounts = await discover(login, namespaces or ("",), or_usable=or_usable)
        return [mount._replace(uuid="") for mount in mounts]
    finally:
        await login.stop()


async def test_every_mount_is_found_with_its_engine(tmp_path: Path) -> None:
    with OpenBao(tmp_path) as server:
        root = server.root()
        root.sys.enable_secrets_engine("kv", path="old", options={"version": "1"})
        root.sys.enable_secrets_engine("kv", path="older")
        root.sys.enable_secrets_engine("kv", path="team/kv", options={"version": "2"})
        root.sys.enable_secrets_engine("transit", path="crypt")
        root.sys.enable_secrets_engine("pki", path="pki")
        server.policy("mounts", READ_MOUNTS)
        assert await found(server.address, server.token("mounts", ttl="1h")) == [
            FoundMount("crypt", "transit", ""),
            FoundMount("cubbyhole", "cubbyhole", ""),
            FoundMount("identity", "identity", ""),
            FoundMount("old", "kv1", ""),
            FoundMount("older", "kv1", ""),
            FoundMount("pki", "pki", ""),
            FoundMount("secret", "kv2", ""),
            FoundMount("sys", "system", ""),
            FoundMount("team/kv", "kv2", ""),
        ]


async def test_the_mounts_of_namespaces_are_found_apart(tmp_path: Path) -> None:
    with OpenBao(tmp_path) as server:
        server.root().write_data("sys/namespaces/tenant", data={})
        server.root("tenant").write_data("sys/namespaces/child", data={})
        server.root("tenant").sys.enable_secrets_engine("kv", path="secret", options={"version": "1"})
        server.root("tenant/child").sys.enable_secrets_engine("transit", path="crypt")
        everything = await found(server.address, server.root_token, "", "tenant/", "tenant/child", "tenant")
        apart = [mount for mount in everything if mount.engine in ("kv1", "kv2", "transit")]
        assert apart == [
            FoundMount("secret", "kv2", ""),
            FoundMount("secret", "kv1", "tenant"),
            FoundMount("crypt", "transit", "tenant/child"),
        ]
        login = BrokerLogin(
            Upstream.model_validate(
                {"address": server.address, "auth": {"method": "token", "token": server.root_token}}
            )
        )
        await login.start()
        try:
            named = await discover_named(login, ["secret", "tenant/child/crypt", "nowhere/at/all"])
        finally:
            await login.stop()
        assert [mount._replace(uuid="") for mount in named] == everything
        below = await found(server.address, server.root_token, "", "child", own_namespace="tenant")
        assert [mount for mount in below if mount.engine in ("kv1", "kv2", "transit")] == [
            FoundMount("secret", "kv1", ""),
            FoundMount("crypt", "transit", "child"),
        ]


async def test_a_token_that_may_not_read_the_mounts_is_told_what_to_allow(openbao: OpenBao) -> None:
    openbao.policy("no-mounts", 'path "auth/token/lookup-self" { capabilities = ["read"] }')
    with pytest.raises(Refused) as refused:
        await found(openbao.address, openbao.token("no-mounts", ttl="1h"))
    assert refused.value.code is Code.UPSTREAM_ERROR
    assert 'path "sys/mounts" { capabilities = ["read"] }' in refused.value.detail
    with pytest.raises(Refused) as refused:
        await found(openbao.address, openbao.root_token, "nowhere")
    assert "nowhere" in refused.value.detail


async def test_a_token_that_may_not_read_the_mounts_may_be_content_with_those_it_can_use(openbao: OpenBao) -> None:
    rules = READ_MOUNTS.replace("sys/mounts", "secret/data/app/*")
    openbao.policy("some-mounts", rules)
    mounts = await found(openbao.address, openbao.token("some-mounts", ttl="1h"), or_usable=True)
    assert FoundMount("secret", "kv2", "") in mounts
    assert "sys" not in {mount.path for mount in mounts}


async def test_without_a_login_nothing_is_found(openbao: OpenBao) -> None:
    with pytest.raises(Refused) as refused:
        await found(openbao.address, "s.NoSuchTokenAtAll")
    assert refused.value.code is Code.UPSTREAM_UNAVAILABLE


TABLES: list[Any] = [
    b"[]",
    b'{"data":[]}',
    b'{"data":{"secret":{"type":"kv"}}}',
    b'{"data":{"/secret/":{"type":"kv"}}}',
    b'{"data":{"a//b/":{"type":"kv"}}}',
    b'{"data":{"a\\nb/":{"type":"kv"}}}',
    b'{"data":{"secret/":{"type":""}}}',
    b'{"data":{"secret/":{"type":2}}}',
    b'{"data":{"secret/":null}}',
    b'{"data":null}',
    b"not JSON",
]


@pytest.mark.parametrize("table", TABLES)
async def test_a_table_that_is_none_is_refused(table: bytes) -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.target == b"/v1/sys/mounts":
            await exchange.send(answer(table))
        else:
            data = b'{"data":{"id":"s.x","ttl":60,"renewable":false,"expire_time":"2030-01-01T00:00:00Z"}}'
            await exchange.send(answer(data))

    async with RawServer(script) as server:
        with pytest.raises(Refused) as refused:
            await found(server.address, "s.TokenForThatServer")
        assert refused.value.code is Code.UPSTREAM_UNAVAILABLE


@pytest.mark.parametrize(("options", "engine"), [("null", "kv1"), ('{"version":"3"}', "kv"), ('{"version":2}', "kv")])
async def test_a_kv_version_that_is_not_known_is_no_kv_that_is_served(options: str, engine: str) -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.target == b"/v1/sys/mounts":
            await exchange.send(answer(b'{"data":{"secret/":{"type":"kv","options":%b}}}' % options.encode()))
        else:
            await exchange.send(answer(b'{"data":{"id":"s.x","ttl":60,"renewable":false,"expire_time":"2030"}}'))

    async with RawServer(script) as server:
        assert await found(server.address, "s.TokenForThatServer") == [FoundMount("secret", engine, "")]
