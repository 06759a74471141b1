"""TLS towards the real OpenBao: only the certificate that the configuration trusts, on both planes."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.caller.identity import Credential
from sidecar.config import Upstream, UpstreamTls
from sidecar.decision.permit import Permit
from sidecar.upstream.client import UpstreamClient, UpstreamFailure
from sidecar.upstream.login import BrokerLogin
from sidecar.upstream.presented import Presented
from sidecar.upstream.tls import client_context
from tests.real.openbao import OpenBao, TlsListener
from tests.upstream.certificates import Authority
from tests.upstream.raw_server import RawServer, permit, plain

pytestmark = pytest.mark.real


class World:
    """A CA, another one, and servers whose certificates are right or wrong in one thing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = Authority(folder, "ca")
        self.other_ca = Authority(folder, "other-ca")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server(world: World) -> Iterator[OpenBao]:
    """A real OpenBao that asks for a client certificate and has a right one itself."""
    pair = world.ca.issue("server")
    listener = TlsListener(pair.cert, pair.key, client_ca=world.ca.file)
    with OpenBao(world.folder / "openbao", tls=listener) as started:
        started.put("app/db", {"password": "canary"})
        yield started


async def both_planes(address: str, token: str, **tls: Any) -> tuple[str, str]:
    """What becomes of a login and of a read: empty, or the problem and the failure's code."""
    auth = {"method": "token", "token": token}
    upstream = Upstream.model_validate({"address": address, "auth": auth, "tls": tls, "timeout_seconds": 5})
    login = BrokerLogin(upstream)
    await login.start()
    read = ""
    client = UpstreamClient(upstream, login)
    if not login.ready:
        # The data plane must refuse by itself, not for want of a login.
        client._login = _AnyToken()
    try:
        received = await client.forward(permit("/v1/secret/data/app/db"))
        assert b"canary" in await received.read(10_000)
    except UpstreamFailure as failure:
        read = f"{failure.code}{', perhaps sent' if failure.sent else ''}"
    finally:
        await client.close()
        await login.stop()
    return login.problem, read


class _AnyToken:
    async def token_for(self, permit: Permit) -> Presented:
        return Presented(Credential("s.ATokenThatMustNotBeSent"))

    async def still_good(self, permit: Permit, used: Credential) -> bool:
        return True


async def test_the_right_certificate_is_taken(server: OpenBao, world: World) -> None:
    own = world.ca.issue("sidecar", client=True)
    tls = {"ca_file": world.ca.file, "cert_file": own.cert, "key_file": own.key}
    assert await both_planes(server.tls_address, server.root_token, **tls) == ("", "")
    localhost = server.tls_address.replace("127.0.0.1", "localhost")
    assert await both_planes(localhost, server.root_token, **tls) == ("", "")


async def test_without_the_client_certificate_that_openbao_asks_for_nothing_is_released(
    server: OpenBao, world: World
) -> None:
    problem, read = await both_planes(server.tls_address, server.root_token, ca_file=world.ca.file)
    assert "SSL" in problem
    # With TLS 1.3 the server's refusal comes after the handshake, when the request may be under way.
    assert read == "UPSTREAM_ERROR, perhaps sent"


@pytest.mark.parametrize("wrong", ["another CA", "expired", "another name", "no CA at all", "a client's"])
async def test_a_wrong_certificate_is_refused_on_both_planes(wrong: str, world: World) -> None:
    pairs = {
        "another CA": lambda: world.other_ca.issue("another"),
        "expired": lambda: world.ca.issue("expired", expired=True),
        "another name": lambda: world.ca.issue("named", dns="elsewhere.example", ip="127.0.0.2"),
        "no CA at all": lambda: world.ca.issue("untrusted"),
        "a client's": lambda: world.ca.issue("clients", client=True),
    }
    pair = pairs[wrong]()
    tls = {} if wrong == "no CA at all" else {"ca_file": world.ca.file}
    with OpenBao(world.folder / wrong.replace(" ", "-"), tls=TlsListener(pair.cert, pair.key)) as bad:
        mark = bad.mark()
        problem, read = await both_planes(bad.tls_address, bad.root_token, **tls)
        assert "CERTIFICATE_VERIFY_FAILED" in problem
        assert read == "UPSTREAM_UNAVAILABLE"
        assert bad.requests(since=mark) == []


async def test_the_configured_server_name_is_what_the_certificate_must_say(world: World) -> None:
    pair = world.ca.issue("internal", dns="openbao.internal", ip="127.0.0.2")
    with OpenBao(world.folder / "internal-openbao", tls=TlsListener(pair.cert, pair.key)) as named:
        named.put("app/db", {"password": "canary"})
        right = {"ca_file": world.ca.file, "server_name": "openbao.internal"}
        assert await both_planes(named.tls_address, named.root_token, **right) == ("", "")
        wrong = {"ca_file": world.ca.file, "server_name": "localhost"}
        problem, read = await both_planes(named.tls_address, named.root_token, **wrong)
        assert "CERTIFICATE_VERIFY_FAILED" in problem
        assert read == "UPSTREAM_UNAVAILABLE"


async def test_tls_1_1_is_refused(world: World) -> None:
    pair = world.ca.issue("old-tls")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with RawServer(plain, tls=context) as old:
        problem, read = await both_planes(old.address, "s.ATokenThatMustNotBeSent", ca_file=world.ca.file)
        assert "SSL" in problem
        assert read == "UPSTREAM_UNAVAILABLE"
        assert old.exchanges == []


def test_session_keys_are_not_written_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    context = client_context(UpstreamTls())
    assert context.keylog_filename is None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_a_file_that_is_no_certificate_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("not a certificate")
    with pytest.raises(ssl.SSLError):
        client_context(UpstreamTls(ca_file=file))
    with pytest.raises(OSError):
        client_context(UpstreamTls(ca_file=tmp_path / "absent.pem"))
