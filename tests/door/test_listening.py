"""Where the door listens, whom it lets in, and how it closes."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import stat
from pathlib import Path

import aiohttp
import pytest

from sidecar.config import Limits, ListenTls
from sidecar.door.admission import SURPLUS
from sidecar.door.answer import Answer
from sidecar.door.server import Door
from sidecar.door.timeouts import Timeouts
from sidecar.door.tls import server_context
from sidecar.errors import Code
from tests.support.certificates import Authority
from tests.support.waiting import until
from tests.support.wire import GET, Seen, Toy, Wire, open_house, request


# -- addresses ---------------------------------------------------------------------------------------------------------
async def test_the_addresses_are_those_it_is_bound_to() -> None:
    async with open_house() as house:
        await house.door.listen("127.0.0.1:0")
        first, second = house.door.addresses
        assert first != second
        for address in (first, second):
            assert address.startswith("127.0.0.1:")
            reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
            assert (await Wire(reader, writer).exchange(GET)).status == 200
            writer.close()


async def test_an_address_that_is_taken_is_an_error() -> None:
    async with open_house() as house:
        with pytest.raises(OSError, match="address already in use"):
            await Door(Toy(), Limits()).listen(house.door.addresses[0])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.sock"


async def test_a_unix_socket_is_for_owner_and_group_and_tells_the_callers_uid(path: Path) -> None:
    async with open_house(address=f"unix://{path}") as house:
        assert house.door.addresses == [f"unix://{path}"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert (await house.ask(GET)).status == 200
        peer = house.toy.seen[0].peer
        assert (peer.transport, peer.uid, peer.certificate) == ("unix", os.getuid(), None)
    assert not path.exists()


async def test_a_dead_socket_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with open_house(address=f"unix://{path}") as house:
        assert (await house.ask(GET)).status == 200


async def test_a_living_socket_is_left_alone(path: Path) -> None:
    async with open_house(address=f"unix://{path}") as house:
        with pytest.raises(OSError, match="another process listens here"):
            await Door(Toy(), Limits()).listen(f"unix://{path}")
        assert (await house.ask(GET)).status == 200


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
async def test_what_is_no_socket_is_left_alone(path: Path, kind: str) -> None:
    match kind:
        case "file":
            path.write_text("precious")
        case "link":
            path.symlink_to(path.parent / "elsewhere")
        case _:
            path.mkdir()
    with pytest.raises(OSError, match="no socket is in the way"):
        await Door(Toy(), Limits()).listen(f"unix://{path}")
    assert path.is_symlink() or path.exists()


async def test_a_relative_path_is_an_error() -> None:
    with pytest.raises(OSError, match="absolute"):
        await Door(Toy(), Limits()).listen("unix://s.sock")


async def test_a_socket_that_another_has_put_in_its_place_is_left_alone(path: Path) -> None:
    async with open_house(address=f"unix://{path}") as house:
        await house.ask(GET)
        path.rename(path.with_suffix(".old"))
        path.write_text("another's")
    assert path.read_text() == "another's"


# -- TLS ---------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def contexts(authority: Authority, folder: Path, client_cert: str) -> tuple[ssl.SSLContext, ssl.SSLContext, bytes]:
    """Of the server, of a client with a certificate, and that certificate."""
    certificate, key = authority.issue_server().write(folder, "server")
    ca = authority.write(folder)
    tls = ListenTls.model_validate(
        {"cert_file": certificate, "key_file": key, "client_ca_file": ca, "client_cert": client_cert}
    )
    server = server_context(tls)
    assert server is not None
    mine = authority.issue()
    return server, mine.client_context(folder, authority), mine.der


@pytest.mark.parametrize("client_cert", ["optional", "required"])
async def test_the_handler_sees_the_client_certificate_of_the_handshake(
    authority: Authority, tmp_path: Path, client_cert: str
) -> None:
    server, client, der = contexts(authority, tmp_path, client_cert)
    async with open_house(tls=server) as house:
        wire = await house.connect(client)
        for _ in range(2):
            assert (await wire.exchange(GET)).status == 200
        assert {(seen.peer.transport, seen.peer.certificate) for seen in house.toy.seen} == {("tls", der)}


async def test_a_client_without_a_certificate_is_none_whatever_its_headers_say(
    authority: Authority, tmp_path: Path
) -> None:
    server, _, _ = contexts(authority, tmp_path, "optional")
    async with open_house(tls=server) as house:
        wire = await house.connect(authority.trusting_context(tmp_path))
        await wire.exchange(request("X-Forwarded-Client-Cert: Hash=abc", "X-SSL-Client-Cert: abc"))
        assert (house.toy.seen[0].peer.transport, house.toy.seen[0].peer.certificate) == ("tls", None)


async def test_everything_works_over_tls_too(authority: Authority, tmp_path: Path) -> None:
    server, client, _ = contexts(authority, tmp_path, "required")

    def answer(seen: Seen) -> Answer:
        return Answer(200, {}, seen.body * 10)

    async with open_house(Toy(answer), tls=server) as house:
        wire = await house.connect(client)
        body = bytes(300_000)
        for _ in range(3):
            reply = await wire.exchange(request("Content-Length: 300000", method="PUT", body=body))
            assert reply.body == body * 10
        await wire.send(GET + GET + b"get / HTTP/1.1\r\n" + bytes(10_000))
        assert [(await wire.reply()).status for _ in range(3)] == [200, 200, 400]
        assert await wire.rest() == b""


async def test_plain_http_on_a_tls_port_is_no_request(authority: Authority, tmp_path: Path) -> None:
    server, _, _ = contexts(authority, tmp_path, "optional")
    async with open_house(tls=server) as house:
        wire = await house.connect()
        await wire.send(GET)
        assert b"HTTP/1.1" not in await wire.rest()
        assert (house.toy.seen, house.toy.refused) == ([], [])


async def test_tls_on_a_plain_port_is_refused_at_once() -> None:
    async with open_house() as house:
        with pytest.raises(ssl.SSLError):
            await house.connect(ssl.create_default_context())
        assert house.toy.codes == [Code.MALFORMED_REQUEST]


# -- limits ------------------------------------------------------------------------------------------------------------
async def test_connections_beyond_the_limit_are_told_to_come_again() -> None:
    async with open_house(max_connections=2) as house:
        inside = [await house.connect() for _ in range(2)]
        for wire in inside:
            assert (await wire.exchange(GET)).status == 200
        surplus = await house.connect()
        reply = await surplus.exchange(request(target="/api/secrets"))
        assert (reply.status, reply.headers["retry-after"], reply.closes) == (429, "1", True)
        assert house.toy.refused == [("/api/secrets", Code.OVERLOADED, "too many connections")]
        assert await surplus.rest() == b""
        for wire in inside:
            assert (await wire.exchange(GET)).status == 200
        inside[0].close()
        await until(lambda: len(house.admission.guests) == 1)
        assert (await house.ask(GET)).status == 200


async def test_connections_far_beyond_the_limit_are_cut() -> None:
    async with open_house(max_connections=1) as house:
        await (await house.connect()).exchange(GET)
        for _ in range(SURPLUS):
            await house.connect()
        await until(lambda: len(house.admission.guests) == 1 + SURPLUS)
        assert await (await house.connect()).rest() == b""
        assert len(house.toy.seen) == 1


async def test_a_surplus_connection_that_says_nothing_is_soon_let_go() -> None:
    async with open_house(max_connections=1, timeouts=Timeouts(surplus=0.1, sweep=0.02)) as house:
        first = await house.connect()
        await first.exchange(GET)
        silent, dripping = await house.connect(), await house.connect()
        await dripping.send(b"GET ")
        assert await silent.rest() == b""
        assert (await dripping.reply()).status == 400
        assert (await first.exchange(GET)).status == 200


async def test_requests_beyond_those_in_flight_are_told_to_come_again() -> None:
    release = asyncio.Event()

    async def wait(_: Seen) -> Answer:
        await release.wait()
        return Answer(200)

    async with open_house(Toy(wait), max_in_flight=2) as house:
        busy = [await house.connect() for _ in range(2)]
        for wire in busy:
            await wire.send(GET)
        await until(lambda: len(house.toy.seen) == 2)
        late = await house.connect()
        for _ in range(3):
            reply = await late.exchange(request("Content-Length: 3", method="PUT", body=b"abc"))
            assert (reply.status, reply.headers["retry-after"], reply.closes) == (429, "1", False)
        release.set()
        for wire in busy:
            assert (await wire.reply()).status == 200
        assert (await late.exchange(GET)).status == 200
        assert house.toy.codes == [Code.OVERLOADED] * 3


async def test_the_limits_of_the_configuration_hold() -> None:
    async with open_house(max_header_kib=4, max_uri_bytes=256) as house:
        assert (await house.ask(request("X: " + "a" * 4096))).status == 431
        assert (await house.ask(request(target="/" + "a" * 256))).status == 400
        assert house.toy.codes == [Code.HEADERS_TOO_LARGE, Code.INVALID_URI]


# -- closing -----------------------------------------------------------------------------------------------------------
async def test_draining_lets_the_idle_go_answers_the_busy_and_takes_nobody_in() -> None:
    release = asyncio.Event()

    async def wait(seen: Seen) -> Answer:
        if seen.head.path == "/slow":
            await release.wait()
        return Answer(200, {}, b"done")

    async with open_house(Toy(wait)) as house:
        idle, new, busy, half = [await house.connect() for _ in range(4)]
        await idle.exchange(GET)
        await busy.send(request(target="/slow") + GET)
        await half.send(GET[:20])
        await until(lambda: house.admission.in_flight == 1 and len(house.admission.guests) == 4)
        draining = asyncio.create_task(house.door.drain(10))
        assert await idle.rest() == b""
        assert await new.rest() == b""
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", house.port)
        await half.send(GET[20:])
        for wire in (half, busy):
            release.set()
            reply = await wire.reply()
            assert (reply.body, reply.closes) == (b"done", True)
            assert await wire.rest() == b""
        await draining
        assert len(house.toy.seen) == 3  # what was pipelined behind the last answer is not begun


async def test_draining_answers_what_was_sent_before_it_and_not_read_yet() -> None:
    """On a connection kept alive, and on one that nobody has taken in yet: neither client did anything wrong."""
    async with open_house() as house:
        kept = await house.connect()
        await kept.exchange(GET)
        new = socket.create_connection(("127.0.0.1", house.port))
        # The event loop, which runs this, reads neither before it drains.
        new.sendall(GET)
        os.write(kept.writer.get_extra_info("socket").fileno(), GET)
        draining = asyncio.create_task(house.door.drain(10))
        for wire in (kept, Wire(*await asyncio.open_connection(sock=new))):
            try:
                reply = await wire.reply()
                assert (reply.status, reply.closes, await wire.rest()) == (200, True, b"")
            finally:
                wire.close()
        await draining


async def test_draining_ends_in_time_whatever_the_handler_does() -> None:
    cancelled = asyncio.Event()

    async def forever(_: Seen) -> Answer:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return Answer(200)

    async with open_house(Toy(forever)) as house:
        wire = await house.connect()
        await wire.send(GET)
        await until(lambda: house.toy.seen)
        await asyncio.wait_for(house.door.drain(0.1), 5)
        assert cancelled.is_set()
        assert await wire.rest() == b""


async def test_draining_waits_for_a_handler_whose_client_is_gone() -> None:
    release, done = asyncio.Event(), asyncio.Event()

    async def slow(_: Seen) -> Answer:
        await release.wait()
        done.set()
        return Answer(200)

    async with open_house(Toy(slow)) as house:
        wire = await house.connect()
        await wire.send(GET)
        await until(lambda: house.toy.seen)
        wire.writer.transport.abort()
        draining = asyncio.create_task(house.door.drain(10))
        await asyncio.sleep(0.05)
        assert not draining.done()
        release.set()
        await draining
        assert done.is_set()


async def test_a_door_nobody_opened_can_be_closed() -> None:
    await Door(Toy(), Limits()).drain(1)


# -- clients -----------------------------------------------------------------------------------------------------------
async def test_a_real_client_gets_along_with_it() -> None:
    def echo(seen: Seen) -> Answer:
        return Answer(200, {"Content-Type": "application/json"}, seen.body or b"{}")

    async with open_house(Toy(echo)) as house, aiohttp.ClientSession(f"http://{house.door.addresses[0]}") as session:
        for _ in range(3):
            async with session.put("/v1/a", json={"a": 1}) as answer:
                assert await answer.json() == {"a": 1}
            async with session.post("/v1/a", data=b"x" * 100_000, expect100=True) as answer:
                assert await answer.read() == b"x" * 100_000
            async with session.request("LIST", "/v1/a/") as answer:
                assert answer.status == 200
        assert len(house.admission.guests) == 1
