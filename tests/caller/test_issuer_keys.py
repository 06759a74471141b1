"""Where keys come from, and what becomes of them when that fails."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sidecar.caller import issuer_keys, jose
from sidecar.caller.issuer_keys import IssuerKeys, KeyNotFound, read_jwks
from sidecar.config import Issuer as IssuerConfig
from tests.support.certificates import Authority
from tests.support.clock import FakeClock
from tests.support.jwks_server import JwksServer
from tests.support.tokens import Issuer, new_private_key, public_jwk

ALGORITHMS = ("ES256", "RS256")


def jwk(**members: Any) -> dict[str, Any]:
    return public_jwk("ES256", new_private_key()) | members


def test_keys_that_cannot_verify_are_passed_over() -> None:
    good = jwk(kid="good")
    keys = [
        jwk(kid="enc", use="enc"),
        jwk(kid="other", alg="ES384"),
        jwk(kid="ops", key_ops=["encrypt"]),
        jwk(kid="private", d="AQAB"),
        jwk(kid=7),
        jwk(kid=""),
        jwk(kid="k" * 300),
        {"kty": "oct", "k": "AQAB", "kid": "symmetric"},
        {"kty": "unheard-of"},
        {},
        None,
        "key",
        public_jwk("ES384", new_private_key("ES384")),
        public_jwk("EdDSA", new_private_key("EdDSA")),
        good,
    ]
    found = read_jwks(json.dumps({"keys": keys}).encode(), ALGORITHMS)
    assert [key.kid for key in found] == ["good"]
    assert found[0].algorithms == {"ES256"}


def test_a_key_without_alg_serves_every_algorithm_of_its_kind() -> None:
    rsa = public_jwk("RS256", new_private_key("RS256"))
    document = json.dumps({"keys": [rsa]}).encode()
    assert read_jwks(document, ["RS256", "PS256", "ES256"])[0].algorithms == {"RS256", "PS256"}


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys":{}}',
        b'{"keys":[],"keys":[]}',
        json.dumps({"keys": [{}] * 101}).encode(),
        b'{"keys":[],"x":"' + b"x" * 300_000 + b'"}',
    ],
)
def test_what_is_no_key_set(document: bytes) -> None:
    with pytest.raises(jose.Malformed):
        read_jwks(document, ALGORITHMS)


@asynccontextmanager
async def keys_of(config: dict[str, Any], *, start: bool = True) -> AsyncIterator[tuple[IssuerKeys, FakeClock]]:
    clock = FakeClock()
    async with aiohttp.ClientSession() as session:
        keys = IssuerKeys([IssuerConfig.model_validate({"algorithms": ["ES256"]} | config)], session, clock)
        if start:
            await keys.start()
        yield keys, clock
        await keys.close()


async def test_a_key_is_found_under_its_issuer_kid_and_algorithm_only(tmp_path: Path) -> None:
    issuer = Issuer()
    async with keys_of(issuer.configured(tmp_path / "jwks.json")) as (keys, _):
        key = await keys.find(issuer.url, "key-1", "ES256")
        assert keys.holds(issuer.url, key)
        assert await keys.find(issuer.url, None, "ES256") == key
        for wrong in (
            ("https://other", "key-1", "ES256"),
            (issuer.url, "key-2", "ES256"),
            (issuer.url, "key-1", "RS256"),
        ):
            with pytest.raises(KeyNotFound):
                await keys.find(*wrong)


async def test_a_kid_that_stands_twice_names_no_key(tmp_path: Path) -> None:
    issuer = Issuer()
    config = issuer.configured(tmp_path / "jwks.json")
    issuer.write_jwks(tmp_path / "jwks.json", jwk(kid="key-1"))
    async with keys_of(config) as (keys, _):
        for kid in ("key-1", None):
            with pytest.raises(KeyNotFound, match="2 keys"):
                await keys.find(issuer.url, kid, "ES256")


async def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    issuer = Issuer()
    path = tmp_path / "jwks.json"
    async with keys_of(issuer.configured(path)) as (keys, clock):
        old = await keys.find(issuer.url, "key-1", "ES256")
        issuer.rotate("key-2")
        issuer.write_jwks(path)
        # An unknown kid looks at once; a known key is looked after once a second.
        assert keys.holds(issuer.url, old)
        new = await keys.find(issuer.url, "key-2", "ES256")
        assert not keys.holds(issuer.url, old)
        issuer.write_jwks(path, jwk(kid="key-3"))
        clock.advance(1)
        assert keys.holds(issuer.url, new)
        assert (await keys.find(issuer.url, "key-3", "ES256")).kid == "key-3"


async def test_a_file_behind_a_symbolic_link_that_moves(tmp_path: Path) -> None:
    """As Kubernetes renews a mounted volume: the file's name stays, what it points at changes."""
    issuer = Issuer()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        issuer.kid = name
        issuer.write_jwks(tmp_path / name / "jwks.json")
    (tmp_path / "data").symlink_to("one")
    config = {"issuer": issuer.url, "jwks_file": str(tmp_path / "data" / "jwks.json")}
    async with keys_of(config) as (keys, clock):
        await keys.find(issuer.url, "one", "ES256")
        (tmp_path / "aside").symlink_to("two")
        (tmp_path / "aside").rename(tmp_path / "data")
        clock.advance(1)
        await keys.find(issuer.url, "two", "ES256")


@pytest.mark.parametrize("fault", ["gone", "garbage", "too large"])
async def test_a_file_that_fails_leaves_the_old_keys_for_an_hour(tmp_path: Path, fault: str) -> None:
    issuer = Issuer()
    path = tmp_path / "jwks.json"
    async with keys_of(issuer.configured(path)) as (keys, clock):
        key = await keys.find(issuer.url, "key-1", "ES256")
        if fault == "gone":
            path.unlink()
        else:
            path.write_text("{" if fault == "garbage" else " " * 300_000)
        clock.advance(2)
        assert keys.holds(issuer.url, key)
        assert keys.usable
        assert keys.problems.keys() == {issuer.url}
        for _ in range(3600):
            clock.advance(1)
            keys.holds(issuer.url, key)
        assert not keys.holds(issuer.url, key)
        assert not keys.usable
        issuer.write_jwks(path)
        clock.advance(1)
        assert keys.holds(issuer.url, key)
        assert not keys.problems


async def test_a_file_that_stays_as_it_is_does_not_grow_stale(tmp_path: Path) -> None:
    issuer = Issuer()
    async with keys_of(issuer.configured(tmp_path / "jwks.json")) as (keys, clock):
        key = await keys.find(issuer.url, "key-1", "ES256")
        clock.advance(7 * 86_400)
        assert keys.holds(issuer.url, key)


async def test_an_empty_key_set_revokes_everything(tmp_path: Path) -> None:
    issuer = Issuer()
    path = tmp_path / "jwks.json"
    async with keys_of(issuer.configured(path)) as (keys, clock):
        key = await keys.find(issuer.url, "key-1", "ES256")
        path.write_text('{"keys":[]}')
        clock.advance(1)
        assert not keys.holds(issuer.url, key)
        assert not keys.usable
        assert "no usable key" in keys.problems[issuer.url]


async def test_keys_that_cannot_be_read_at_the_start_are_read_later(tmp_path: Path) -> None:
    issuer = Issuer()
    path = tmp_path / "jwks.json"
    async with keys_of({"issuer": issuer.url, "jwks_file": str(path)}) as (keys, clock):
        assert not keys.usable
        assert "cannot be read" in keys.problems[issuer.url]
        with pytest.raises(KeyNotFound, match="not available"):
            await keys.find(issuer.url, "key-1", "ES256")
        issuer.write_jwks(path)
        clock.advance(1)
        await keys.find(issuer.url, "key-1", "ES256")
        assert keys.usable


async def test_where_no_issuer_is_configured_nothing_is_missing() -> None:
    async with aiohttp.ClientSession() as session:
        assert IssuerKeys([], session, FakeClock()).usable


async def test_callers_wait_for_one_fetch_together() -> None:
    issuer = Issuer()
    async with (
        JwksServer(issuer.jwks()) as server,
        keys_of({"issuer": issuer.url, "jwks_uri": server.url}) as (
            keys,
            clock,
        ),
    ):
        issuer.rotate("key-2")
        server.document = issuer.jwks()
        clock.advance(issuer_keys.FLOOR_SECONDS)
        impatient = asyncio.create_task(keys.find(issuer.url, "key-2", "ES256"))
        others = [asyncio.create_task(keys.find(issuer.url, "key-2", "ES256")) for _ in range(10)]
        await asyncio.sleep(0)
        impatient.cancel()
        assert {key.kid for key in await asyncio.gather(*others)} == {"key-2"}
        assert server.fetches == 2


async def test_keys_are_fetched_again_without_being_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issuer_keys, "REFRESH_SECONDS", 0.01)
    monkeypatch.setattr(issuer_keys, "FLOOR_SECONDS", 0.0)
    issuer = Issuer()
    async with (
        JwksServer(issuer.jwks()) as server,
        keys_of({"issuer": issuer.url, "jwks_uri": server.url}) as (keys, _),
    ):
        old = await keys.find(issuer.url, "key-1", "ES256")
        issuer.rotate("key-2")
        server.document = issuer.jwks()
        async with asyncio.timeout(10):
            while keys.holds(issuer.url, old):
                await asyncio.sleep(0.01)


async def test_an_endpoint_that_is_away_at_the_start_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issuer_keys, "FLOOR_SECONDS", 0.01)
    issuer = Issuer()
    async with JwksServer(issuer.jwks()) as server:
        server.serve("error")
        async with keys_of({"issuer": issuer.url, "jwks_uri": server.url}) as (keys, clock):
            assert not keys.usable
            assert keys.problems[issuer.url] == "the issuer answered 500"
            server.serve("well")
            async with asyncio.timeout(10):
                while not keys.usable:
                    clock.advance(1)
                    await asyncio.sleep(0.01)


async def test_the_endpoint_must_prove_itself_by_tls(tmp_path: Path) -> None:
    authority, stranger = Authority(), Authority("Another CA")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue_server().write(tmp_path, "server"))
    issuer = Issuer()
    async with JwksServer(issuer.jwks(), tls=context) as server:
        config = {"issuer": issuer.url, "jwks_uri": server.url}
        async with keys_of(config | {"ca_file": str(authority.write(tmp_path, "ca"))}) as (keys, _):
            await keys.find(issuer.url, "key-1", "ES256")
        for ca_file in (str(stranger.write(tmp_path, "stranger")), None, str(tmp_path / "missing.pem")):
            async with keys_of(config | {"ca_file": ca_file}) as (keys, _):
                assert not keys.usable
        wrong_name = server.url.replace("127.0.0.1", "127.0.0.2")
        async with keys_of(config | {"jwks_uri": wrong_name, "ca_file": str(tmp_path / "ca.pem")}) as (keys, _):
            assert not keys.usable


async def test_a_fetch_that_is_under_way_ends_with_the_process() -> None:
    issuer = Issuer()
    async with JwksServer(issuer.jwks()) as server:
        server.serve("slow")
        async with keys_of({"issuer": issuer.url, "jwks_uri": server.url}, start=False) as (keys, _):
            waiting = asyncio.create_task(keys.find(issuer.url, "key-1", "ES256"))
            async with asyncio.timeout(10):
                while not server.fetches:
                    await asyncio.sleep(0.01)
            await keys.close()
            with pytest.raises(asyncio.CancelledError):
                await waiting
