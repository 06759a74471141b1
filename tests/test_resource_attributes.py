"""What a secret's metadata says of it: read once, remembered briefly, never wrongly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from sidecar.config.tree import Attributes
from sidecar.errors import Code, Refused
from sidecar.resource_attributes import AT_ONCE, ResourceAttributes, read_metadata
from sidecar.surface.mounts import Mount, MountTable
from sidecar.surface.operation import Operation, Purpose, UpstreamRequest
from sidecar.surface.secret_uri import SecretUri
from tests.support.clock import FakeClock

MOUNTS = MountTable(
    [Mount("secret", "kv2"), Mount("team/kv", "kv2", "child"), Mount("transit", "transit"), Mount("other", "kv2")],
    ["ns1/secret", "ns1/child/team/kv", "ns1/transit"],
    namespace_prefix="ns1",
)
DB = SecretUri("openbao", "kv2", "ns1/secret", ("app", "d b"))


def metadata(**custom: str) -> bytes:
    return json.dumps(
        {"data": {"created_time": "2026-01-01T00:00:00Z", "custom_metadata": custom or None, "versions": {}}}
    ).encode()


class Login:
    """The sidecar's own."""

    def token(self) -> str:
        return "token"


LOGIN = Login()


class Upstream:
    """OpenBao's metadata as a test puts them; `gate` holds answers back."""

    def __init__(self) -> None:
        self.asked: list[UpstreamRequest] = []
        self.answer: Callable[[], tuple[int, bytes]] = lambda: (200, metadata(owner="app", team="blue"))
        self.gate: asyncio.Event | None = None

    async def metadata(self, request: UpstreamRequest, own: object) -> tuple[int, bytes]:
        self.asked.append(request)
        answer = self.answer()
        if self.gate is not None:
            await self.gate.wait()
        return answer


class Desk:
    def __init__(self, **config: Any) -> None:
        self.upstream, self.clock, self.needed = Upstream(), FakeClock(), True
        self.attributes = ResourceAttributes(
            Attributes.model_validate(config),
            self.upstream,  # type: ignore[arg-type] # the one method that is used
            LOGIN,  # type: ignore[arg-type]
            lambda: MOUNTS,
            lambda: self.needed,
            self.clock,
        )


def operation(uri: SecretUri = DB, name: str = "kv2.metadata_write", *, mutation: bool = True) -> Operation:
    return Operation(name, Purpose.WRITE, uri, UpstreamRequest("POST", "/v1/x"), mutation=mutation)


async def test_the_request_is_made_of_the_uri_alone() -> None:
    desk = Desk()
    wanted = {"owner": "app", "team": "blue", "created_at": "2026-01-01T00:00:00Z"}
    assert await desk.attributes.fetch(DB) == wanted
    nested = SecretUri("openbao", "kv2", "ns1/child/team/kv", ("x",), "key", 3)
    await desk.attributes.fetch(nested)
    assert desk.upstream.asked == [
        UpstreamRequest("GET", "/v1/secret/metadata/app/d%20b", namespace="ns1"),
        UpstreamRequest("GET", "/v1/team/kv/metadata/x", namespace="ns1/child"),
    ]


async def test_nothing_is_read_where_nobody_asks_or_there_is_nothing() -> None:
    desk = Desk()
    for uri in (
        SecretUri("openbao", "transit", "ns1/transit", ("key",)),
        SecretUri("openbao", "kv1", "ns1/old", ("x",)),
        SecretUri("openbao", "kv2", "ns1/secret", ("app",), folder=True),
        SecretUri("yaml", "", "secret", ("x",)),
    ):
        assert desk.attributes.of(operation(uri)) is None
    assert desk.attributes.of(operation()) is not None
    desk.needed = False
    assert desk.attributes.of(operation()) is None


async def test_all_keys_and_versions_share_what_is_known_until_it_is_old() -> None:
    desk = Desk(ttl_seconds=5)
    for uri in (
        DB,
        SecretUri("openbao", "kv2", DB.mount, DB.path, "key"),
        SecretUri("openbao", "kv2", DB.mount, DB.path, None, 7),
    ):
        await desk.attributes.fetch(uri)
    assert len(desk.upstream.asked) == 1
    desk.clock.advance(5.1)
    await desk.attributes.fetch(DB)
    assert len(desk.upstream.asked) == 2


async def test_many_at_once_read_once_and_one_who_leaves_takes_nothing_along() -> None:
    desk = Desk()
    desk.upstream.gate = asyncio.Event()
    tasks = [asyncio.create_task(desk.attributes.fetch(DB)) for _ in range(20)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.sleep(0)
    desk.upstream.gate.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [one for one in found if not isinstance(one, dict)] == [found[0]]
    assert len(desk.upstream.asked) == 1


async def test_a_change_is_seen_at_once() -> None:
    desk = Desk()
    await desk.attributes.fetch(DB)
    desk.upstream.answer = lambda: (200, metadata(owner="new"))
    desk.attributes.changed(operation(mutation=False))
    assert (await desk.attributes.fetch(DB))["owner"] == "app"
    desk.attributes.changed(operation())
    assert (await desk.attributes.fetch(DB))["owner"] == "new"


async def test_pdp_06_what_was_read_before_a_change_is_not_remembered_after_it() -> None:
    """A read under way while the owner is changed would else put the old owner back for the time to live."""
    desk = Desk()
    desk.upstream.gate = asyncio.Event()
    reading = asyncio.create_task(desk.attributes.fetch(DB))
    while not desk.upstream.asked:
        await asyncio.sleep(0)
    desk.upstream.answer = lambda: (200, metadata(owner="new"))
    desk.attributes.changed(operation())
    desk.upstream.gate.set()
    assert (await reading)["owner"] == "app"  # its own question was asked before the change
    assert (await desk.attributes.fetch(DB))["owner"] == "new"
    assert len(desk.upstream.asked) == 2


async def test_a_secret_without_metadata_has_no_attributes() -> None:
    desk = Desk()
    desk.upstream.answer = lambda: (404, b'{"errors": []}')
    assert await desk.attributes.fetch(DB) == {}
    assert await desk.attributes.fetch(DB) == {}
    assert len(desk.upstream.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        (403, b"{}"),
        (500, b"{}"),
        (503, b"{}"),
        (200, b""),
        (200, b"[]"),
        (200, b'{"data": null}'),
        (200, b'{"data": {"custom_metadata": {"owner": 1}, "created_time": ""}}'),
        (200, b'{"data": {"custom_metadata": ["owner"], "created_time": ""}}'),
        (200, b'{"data": {"owner": "app"}}'),
    ],
    ids=str,
)
async def test_what_cannot_be_fetched_is_said_and_not_remembered(answer: tuple[int, bytes]) -> None:
    desk = Desk()
    desk.upstream.answer = lambda: answer
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            await desk.attributes.fetch(DB)
        assert refused.value.code is Code.UPSTREAM_UNAVAILABLE
    assert len(desk.upstream.asked) == 2
    desk.upstream.answer = lambda: (200, metadata(owner="app"))
    assert (await desk.attributes.fetch(DB))["owner"] == "app"


@pytest.mark.parametrize("mount", ["ns1/other", "secret", "ns1/gone", "ns1"])
async def test_a_mount_that_is_not_the_tenants_is_not_read(mount: str) -> None:
    desk = Desk()
    with pytest.raises(Refused):
        await desk.attributes.fetch(SecretUri("openbao", "kv2", mount, ("x",)))
    assert desk.upstream.asked == []


async def test_the_cache_and_the_reads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(max_entries=10)
    desk.upstream.gate = asyncio.Event()
    uris = [SecretUri("openbao", "kv2", DB.mount, (f"s{number}",)) for number in range(AT_ONCE + 20)]
    tasks = [asyncio.create_task(desk.attributes.fetch(uri)) for uri in uris]
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(desk.upstream.asked) == AT_ONCE
    desk.upstream.gate.set()
    await asyncio.gather(*tasks)
    assert len(desk.attributes) == 10
    assert not desk.attributes._under_way


async def test_a_read_that_hangs_ends_and_close_ends_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.resource_attributes.FETCH_SECONDS", 0.01)
    desk = Desk()
    desk.upstream.gate = asyncio.Event()
    with pytest.raises(Refused):
        await desk.attributes.fetch(DB)
    monkeypatch.setattr("sidecar.resource_attributes.FETCH_SECONDS", 60)
    waiting = asyncio.create_task(desk.attributes.fetch(DB))
    await asyncio.sleep(0)
    await desk.attributes.close()
    assert isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], asyncio.CancelledError)


def test_custom_metadata_say_when_before_openbao_does() -> None:
    assert read_metadata(metadata(created_at="2020", owner="x")) == {"created_at": "2020", "owner": "x"}


async def test_without_a_login_of_its_own_the_sidecar_reads_nothing() -> None:
    """As in passthrough: callers' tokens are not used for it."""
    desk = Desk()
    desk.attributes._login = None
    with pytest.raises(Refused):
        await desk.attributes.fetch(DB)
    assert desk.upstream.asked == []
