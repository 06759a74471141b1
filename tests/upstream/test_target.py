"""What stands on the wire is, byte for byte, what was authorised."""

from __future__ import annotations

import pytest

from sidecar.config import Upstream
from sidecar.surface.operation import UpstreamRequest
from sidecar.upstream.target import base_url, url_of
from tests.upstream.raw_server import RawServer, client_of, permit, plain

TARGETS = [
    "/v1/secret/data/app/db",
    "/v1/secret/data/a%20b",
    "/v1/secret/data/a%2520b",
    "/v1/secret/data/a%25",
    "/v1/secret/data/caf%C3%A9",
    "/v1/secret/data/e%CC%81",
    "/v1/secret/data/%F0%9F%94%91/k",
    "/v1/secret/data/a;b=c;d",
    "/v1/secret/data/a+b",
    "/v1/secret/data/a%23b%3Fc",
    "/v1/secret/data/a%5Cb%22c%3C%3E",
    "/v1/secret/data/!$&'()*+,;=:@-._~",
    "/v1/secret/data/...",
    "/v1/secret/data/a..b",
    "/v1/secret/data/..;",
    "/v1/secret/data/a:b@c",
    "/v1/team/kv/metadata/folder/",
    "/v1/secret/data/%7Etilde",
    "/v1/secret/data/%41",
]


async def test_the_path_on_the_wire_is_the_path_that_was_built() -> None:
    async with RawServer(plain) as server:
        client = client_of(server)
        for target in TARGETS:
            await (await client.forward(permit(target))).read(1000)
        await client.close()
    assert [exchange.target.decode() for exchange in server.exchanges] == TARGETS


async def test_the_query_on_the_wire_is_the_query_that_was_built() -> None:
    queries = ["version=2", "list=true", "a=%2B&b=+", "a=%25&b=%C3%A9", "x=/:@"]
    async with RawServer(plain) as server:
        client = client_of(server)
        for query in queries:
            await (await client.forward(permit("/v1/secret/data/a", query=query))).read(1000)
        await client.close()
    assert [exchange.target.decode() for exchange in server.exchanges] == [f"/v1/secret/data/a?{q}" for q in queries]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/v1",
        "v1/secret",
        "//v1/secret",
        "/v2/secret",
        "/V1/secret",
        "http://other/v1/secret",
        "/v1/a b",
        "/v1/a?b",
        "/v1/a#b",
        "/v1/a\r\nX-Vault-Wrap-TTL: 60",
        "/v1/a\n",
        "/v1/caf\u00e9",
        "/v1/a%",
        "/v1/a%2",
        "/v1/a%2f",
        "/v1/a%zz",
        "/v1/a\\b",
        '/v1/a"b',
        "/v1/a\x00",
    ],
)
def test_a_path_that_a_library_might_rewrite_is_not_sent(path: str) -> None:
    with pytest.raises(ValueError, match="another way"):
        url_of("http://127.0.0.1:1", UpstreamRequest("GET", path))


@pytest.mark.parametrize("query", ["a b", "a#b", "a\r\n", "a=\u00e9", "a=%", "a=%2f"])
def test_a_query_that_a_library_might_rewrite_is_not_sent(query: str) -> None:
    with pytest.raises(ValueError, match="another way"):
        url_of("http://127.0.0.1:1", UpstreamRequest("GET", "/v1/a", query))


def test_an_address_is_an_origin_and_nothing_more() -> None:
    assert base_url(Upstream(address="https://openbao:8200")) == "https://openbao:8200"
    assert base_url(Upstream(address="https://openbao:8200/")) == "https://openbao:8200"
    for address in (None, "", "openbao:8200", "ftp://openbao", "https://u:p@openbao", "https://o/vault", "https://o?x"):
        with pytest.raises(ValueError):
            base_url(Upstream(address=address))
