"""THREATS, MTLS: certificates that are not the caller's. Over real TLS, with the listener's own context."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import socket
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from sidecar.caller.identity import Binding, BindingKind
from sidecar.config import ListenTls
from sidecar.door.head import Peer
from sidecar.door.tls import server_context
from sidecar.errors import Code
from tests.support.certificates import DAY, Authority, Certificate, key_usage
from tests.support.desk import PATH, Desk, open_desk
from tests.support.guarded_server import GuardedServer
from tests.support.tls_place import OLD, open_place

AUTHORITY = Authority()
SERVER = AUTHORITY.issue_server()


class Listener:
    """A TLS listener that asks for client certificates, and how an attacker's connection to it fares."""

    def __init__(self, desk: Desk, server: GuardedServer, folder: Path) -> None:
        self.desk = desk
        self.server = server
        self.folder = folder

    def client(self, certificate: Certificate | None) -> ssl.SSLContext:
        """A client with this certificate."""
        if certificate is None:
            return AUTHORITY.trusting_context(self.folder)
        return certificate.client_context(self.folder, AUTHORITY)

    async def get(self, token: str, certificate: Certificate | None, **headers: str) -> tuple[int, dict[str, Any]]:
        """One request on a connection of its own."""
        context = self.client(certificate)
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.server.url}{PATH}", headers={"X-Vault-Token": token} | headers, ssl=context) as answer,
        ):
            return answer.status, await answer.json()

    async def is_turned_away(self, certificate: Certificate) -> bool:
        """Whether the handshake itself fails, or the connection ends before any answer."""
        seen = len(self.server.seen)
        try:
            await self.get("any", certificate)
        except aiohttp.ClientError:
            return len(self.server.seen) == seen
        return False


@pytest.fixture(params=["optional", "required"])
async def listener(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Listener]:
    cert_file, key_file = SERVER.write(tmp_path, "server")
    tls = ListenTls(
        cert_file=cert_file,
        key_file=key_file,
        client_ca_file=AUTHORITY.write(tmp_path),
        client_cert=request.param,
    )
    async with (
        open_desk(tmp_path, listen={"tls": tls.model_dump()}) as desk,
        GuardedServer(desk.authenticator, server_context(tls)) as server,
    ):
        yield Listener(desk, server, tmp_path)


async def test_mtls_01_the_certificate_that_the_token_is_bound_to_is_taken(listener: Listener) -> None:
    certificate = AUTHORITY.issue()
    token = listener.desk.issuer.certificate_token(certificate.thumbprint)
    status, _ = await listener.get(token, certificate)
    assert status == 200
    caller = listener.server.seen[-1].caller
    assert caller is not None
    assert caller.binding == Binding(BindingKind.MTLS, certificate.thumbprint)


async def test_mtls_01_foreign_expired_early_and_other_purpose(listener: Listener) -> None:
    hour = datetime.timedelta(hours=1)
    for certificate in (
        Authority("Another CA").issue(),
        Authority("Test CA").issue(),  # the same name, another key
        AUTHORITY.issue(starts_in=-2 * DAY, ends_in=-hour),
        AUTHORITY.issue(starts_in=hour),
        AUTHORITY.issue(usage=ExtendedKeyUsageOID.SERVER_AUTH),
        AUTHORITY.issue(usage=ExtendedKeyUsageOID.CODE_SIGNING),
    ):
        assert await listener.is_turned_away(certificate)
    assert listener.server.seen == []


async def test_mtls_01_a_certificate_claimed_in_a_header_is_not_believed(listener: Listener) -> None:
    victim, attacker = AUTHORITY.issue("victim"), AUTHORITY.issue("attacker")
    token = listener.desk.issuer.certificate_token(victim.thumbprint)
    pem = victim.certificate.public_bytes(Encoding.PEM).decode().replace("\n", "%0A")
    claims = {
        "X-Forwarded-Client-Cert": f'By=spiffe://acme/mesh;Hash={hashlib.sha256(victim.der).hexdigest()};Cert="{pem}"',
        "X-SSL-Cert": pem,
        "X-SSL-Client-Cert": pem,
        "X-SSL-Client-Verify": "SUCCESS",
        "X-Client-Cert": pem,
        "Client-Cert": f":{pem}:",  # RFC 9440
        "SSL-Client-Cert": pem,
    }
    # Without any certificate the handshake fails where one is required.
    required = listener.desk.authenticator._config.listen.tls.client_cert == "required"
    for certificate in (attacker,) if required else (attacker, None):
        status, answer = await listener.get(token, certificate, **claims)
        assert (status, answer["code"]) == (401, Code.BINDING_MISMATCH)


async def test_mtls_02_a_token_on_another_certificates_connection(listener: Listener) -> None:
    owner, thief = AUTHORITY.issue("app"), AUTHORITY.issue("app")
    token = listener.desk.issuer.certificate_token(owner.thumbprint)
    assert (await listener.get(token, owner))[0] == 200
    status, answer = await listener.get(token, thief)
    assert (status, answer["code"]) == (401, Code.BINDING_MISMATCH)
    assert (await listener.get(token, owner))[0] == 200


async def test_mtls_02_a_connection_that_outlives_its_certificate(listener: Listener) -> None:
    certificate = AUTHORITY.issue(ends_in=datetime.timedelta(hours=1))
    token = listener.desk.issuer.certificate_token(certificate.thumbprint, exp=int(time.time()) + 86_400)
    headers = {"X-Vault-Token": token}
    async with aiohttp.ClientSession(headers=headers) as session:
        context = listener.client(certificate)
        for advance, status in ((0, 200), (3000, 200), (700, 401), (1, 401)):
            listener.desk.clock.advance(advance)
            async with session.get(f"{listener.server.url}{PATH}", ssl=context) as answer:
                assert answer.status == status
                if status == 401:
                    assert (await answer.json())["code"] == Code.BINDING_MISMATCH
        # One connection all the while: it was the certificate that ended, not the connection.
        assert listener.server.connections == 1


def handshakes(listener: Listener, certificate: Certificate, token: str, rounds: int) -> list[tuple[bool, bytes]]:
    """Connections of one client that resumes its session where it can: whether it did, and the answer's first line."""
    context = listener.client(certificate)
    host, _, port = listener.server.address.partition(":")
    results, session = [], None
    for _ in range(rounds):
        with (
            socket.create_connection((host, int(port)), timeout=10) as raw,
            context.wrap_socket(raw, server_hostname=host, session=session) as tls,
        ):
            head = f"GET {PATH} HTTP/1.1\r\nHost: {listener.server.address}\r\nX-Vault-Token: {token}\r\n\r\n"
            tls.sendall(head.encode())
            line = tls.recv(4096).partition(b"\r\n")[0]
            results.append((bool(tls.session_reused), line))
            session = tls.session
    return results


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_mtls_03_every_connection_proves_its_certificate_itself(
    listener: Listener, version: ssl.TLSVersion
) -> None:
    """Whether a session is resumed or not, the certificate that counts is the one it was made with."""
    certificate, other = AUTHORITY.issue(), AUTHORITY.issue()
    assert listener.server._tls is not None
    listener.server._tls.maximum_version = version
    own = listener.desk.issuer.certificate_token(certificate.thumbprint)
    for reused, line in await asyncio.to_thread(handshakes, listener, certificate, own, 3):
        assert line.startswith(b"HTTP/1.1 200")
        assert not reused
    for _, line in await asyncio.to_thread(handshakes, listener, other, own, 3):
        assert line.startswith(b"HTTP/1.1 401")


async def test_mtls_03_names_in_a_certificate_make_nobody(listener: Listener) -> None:
    """The subject is the token's, whatever the certificate calls itself."""
    for names in (
        [x509.UniformResourceIdentifier("spiffe://acme/admin")],
        [x509.UniformResourceIdentifier(f"spiffe://other{number}/admin") for number in range(40)],
        [x509.DNSName("app\x00.evil.example"), x509.UniformResourceIdentifier("spiffe://acme/admin\x00/app")],
    ):
        certificate = AUTHORITY.issue("admin", names=names)
        status, answer = await listener.get(listener.desk.issuer.certificate_token(certificate.thumbprint), certificate)
        assert (status, answer["data"]["data"]["sub"]) == (200, "app")
        status, answer = await listener.get(listener.desk.token(cnf=None), certificate)
        assert (status, answer["code"]) == (401, Code.BINDING_REQUIRED)


async def test_mtls_03_a_certificate_that_is_none(tmp_path: Path) -> None:
    async with open_desk(tmp_path) as desk:
        token = desk.issuer.certificate_token(AUTHORITY.issue().thumbprint)
        for der in (None, b"", b"\x30\x00", b"garbage" * 100):
            assert await desk.code(desk.head(token), Peer("tls", der)) is Code.BINDING_MISMATCH


# -- X.509-SVIDs -----------------------------------------------------------------------------------------------------
DOMAIN = "acme.example"
APP = f"spiffe://{DOMAIN}/ns/shop/sa/app"
SVIDS: dict[str, Any] = {"identity": {"client_certificates": {"subject": "spiffe", "trust_domain": DOMAIN}}}


@pytest.fixture
async def svids(tmp_path: Path) -> AsyncIterator[Listener]:
    cert_file, key_file = SERVER.write(tmp_path, "server")
    tls = ListenTls(
        cert_file=cert_file, key_file=key_file, client_ca_file=AUTHORITY.write(tmp_path), client_cert="optional"
    )
    async with (
        open_desk(tmp_path, listen={"tls": tls.model_dump()}, **SVIDS) as desk,
        GuardedServer(desk.authenticator, server_context(tls)) as server,
    ):
        yield Listener(desk, server, tmp_path)


async def test_mtls_03_an_svid_is_a_caller_of_its_own(svids: Listener) -> None:
    certificate = AUTHORITY.issue_svid(APP)
    assert (await svids.get("", certificate))[0] == 200
    caller = svids.server.seen[-1].caller
    assert caller is not None
    assert (caller.subject, caller.issuer, caller.token) == (APP, f"spiffe://{DOMAIN}", None)
    assert caller.binding == Binding(BindingKind.MTLS, certificate.thumbprint)
    assert caller.expires_at == int(certificate.certificate.not_valid_after_utc.timestamp())


def uri(*names: str) -> dict[str, Any]:
    return {"names": [x509.UniformResourceIdentifier(name) for name in names]}


@pytest.mark.parametrize(
    ("spiffe_ids", "more"),
    [
        ((f"spiffe://{DOMAIN}",), {}),
        ((f"spiffe://{DOMAIN}/",), {}),
        (("spiffe://other.example/app",), {}),
        ((f"spiffe://{DOMAIN}.evil.example/app",), {}),
        ((f"spiffe://{DOMAIN.upper()}/app",), {}),
        (("https://acme.example/app",), {}),
        ((APP, f"spiffe://{DOMAIN}/other"), {}),
        ((APP, APP), {}),
        ((APP, "https://acme.example/"), {}),
        ((f"{APP}\x00/admin",), {}),
        ((f"spiffe://{DOMAIN}/a/../admin",), {}),
        ((APP,), {"more": [x509.BasicConstraints(ca=True, path_length=0), key_usage()]}),
        ((APP,), {"more": [key_usage(certifies=True)]}),
        ((APP,), {"more": [key_usage(revokes=True)]}),
        ((APP,), {"more": [key_usage(signs=False)]}),
        ((APP,), {"more": []}),
    ],
)
async def test_mtls_03_a_certificate_that_is_no_svid_of_the_trust_domain(
    tmp_path: Path, spiffe_ids: tuple[str, ...], more: dict[str, Any]
) -> None:
    async with open_desk(tmp_path, **SVIDS) as desk:
        certificate = AUTHORITY.issue_svid(*spiffe_ids, **more)
        assert await desk.code(desk.head(), Peer("tls", certificate.der)) is Code.TOKEN_INVALID
        # As a key that a token is bound to it is good all the same, and names nobody there.
        token = desk.issuer.certificate_token(certificate.thumbprint)
        assert (await desk.ask(desk.head(token), Peer("tls", certificate.der))).attributes == ()


async def test_mtls_03_a_certificate_without_a_name_needs_a_token(svids: Listener) -> None:
    for certificate in (AUTHORITY.issue("app"), None):
        status, answer = await svids.get("", certificate)
        assert (status, answer["code"]) == (401, Code.TOKEN_MISSING)


async def test_mtls_03_an_svid_beside_a_token_does_not_bind_it(svids: Listener) -> None:
    """Only the token's own `cnf` does; and where it does, token and certificate must be the same workload's."""
    desk, certificate, other = svids.desk, AUTHORITY.issue_svid(APP), AUTHORITY.issue_svid(f"spiffe://{DOMAIN}/other")
    unbound = desk.issuer.token()
    assert (await svids.get(unbound, certificate))[1]["code"] == Code.BINDING_REQUIRED
    assert (await svids.get("root", certificate))[1]["code"] == Code.TOKEN_INVALID
    bound = desk.issuer.certificate_token(certificate.thumbprint)
    assert (await svids.get(bound, other))[1]["code"] == Code.BINDING_MISMATCH
    assert (await svids.get(bound, certificate))[0] == 200
    caller = svids.server.seen[-1].caller
    assert caller is not None
    assert (caller.subject, caller.attributes) == ("app", (("spiffe_id", APP),))
    others = desk.issuer.certificate_token(certificate.thumbprint, sub="spiffe://other.example/app")
    assert (await svids.get(others, certificate))[1]["code"] == Code.BINDING_MISMATCH


async def test_mtls_02_an_svid_is_looked_at_again_on_each_request(tmp_path: Path) -> None:
    async with open_desk(tmp_path, **SVIDS) as desk:
        peer = Peer("tls", AUTHORITY.issue_svid(APP, ends_in=datetime.timedelta(hours=1)).der)
        await desk.ask(desk.head(), peer)
        desk.clock.advance(3601)
        assert await desk.code(desk.head(), peer) is Code.TOKEN_EXPIRED
        desk.clock.step_wall(-10 * 86_400)
        assert await desk.code(desk.head(), peer) is Code.TOKEN_INVALID


async def test_mtls_01_without_the_switch_no_certificate_is_a_caller(listener: Listener) -> None:
    status, answer = await listener.get("", AUTHORITY.issue_svid(APP))
    assert (status, answer["code"]) == (401, Code.TOKEN_MISSING)


# -- 04 --------------------------------------------------------------------------------------------------------------
async def test_mtls_04_reload_under_load_drops_nobody_and_lets_nobody_in_by_the_old_authority(tmp_path: Path) -> None:
    """Clients of an authority that stays never fail, on connections kept alive and on new ones, while the listener's
    certificate and the other authorities change; those of the one that went get nothing once it is gone."""
    staying, going = AUTHORITY, Authority("Going CA")
    async with open_place(tmp_path) as place:
        place.trusts(staying, going)
        place.listener.reload()
        answers = {"kept": 0, "new": 0}
        done = asyncio.Event()

        async def keep(certificate: Certificate) -> None:
            wire = await place.connect(certificate, server=OLD)
            while not done.is_set():
                assert await place.status(wire) == 200
                answers["kept"] += 1

        async def renew(certificate: Certificate) -> None:
            while not done.is_set():
                wire = await place.connect(certificate, server=OLD)
                assert await place.status(wire) == 200
                answers["new"] += 1
                wire.close()

        async with asyncio.timeout(60), asyncio.TaskGroup() as clients:
            for work in (keep, keep, keep, renew, renew):
                clients.create_task(work(staying.issue()))
            leaver = going.issue()
            for _ in range(4):
                wires = [await place.connect(leaver) for _ in range(3)]
                assert [await place.status(wire) for wire in wires] == [200, 200, 200]
                place.trusts(staying)
                OLD.issue_server().write(tmp_path, "server")
                await asyncio.to_thread(place.listener.reload)
                # From here on it is announced.
                assert [await place.status(wire) for wire in wires] == [401, 401, 401]
                assert not await place.is_let_in(leaver)
                place.trusts(staying, going)
                await asyncio.to_thread(place.listener.reload)
                before = dict(answers)
                while answers["kept"] < before["kept"] + 5 or answers["new"] < before["new"] + 2:
                    await asyncio.sleep(0)
            done.set()
        assert set(place.house.toy.codes) == {Code.BINDING_MISMATCH}
        assert len(place.house.toy.codes) == 12
