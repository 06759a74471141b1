"""A listener with TLS whose files change while it listens, and clients with certificates."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from sidecar.config import Limits, ListenTls
from sidecar.door.server import Door
from sidecar.door.timeouts import Timeouts
from sidecar.door.tls import ListenerTls
from tests.support.certificates import DAY, Authority, Certificate
from tests.support.wire import GET, PATIENCE, House, Toy, Wire

OLD, NEW = Authority("Old CA"), Authority("New CA")


def crl(authority: Authority, *revoked: Certificate, ends_in: datetime.timedelta = DAY) -> bytes:
    """An authority's revocation list."""
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.name).last_update(now - 2 * DAY)
    for certificate in revoked:
        serial = certificate.certificate.serial_number
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - DAY).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.next_update(now + ends_in).sign(authority.key, hashes.SHA256()).public_bytes(Encoding.PEM)


class Place:
    """A listener with TLS, and the folder of its files."""

    def __init__(self, folder: Path, house: House, listener: ListenerTls) -> None:
        self.folder, self.house, self.listener = folder, house, listener

    def trusts(self, *authorities: Authority) -> None:
        """The file of authorities changes, as a mounted volume does."""
        put(self.folder / "ca.pem", b"".join(pem(authority) for authority in authorities))

    def revokes(self, *lists: bytes) -> None:
        """The file of revocation lists changes."""
        put(self.folder / "crl.pem", b"".join(lists))

    async def connect(self, certificate: Certificate | None, server: Authority = OLD) -> Wire:
        """A connection that shows a certificate; `server` is whose certificate it expects of the listener."""
        context = server.trusting_context(self.folder)
        if certificate is not None:
            context = certificate.client_context(self.folder, server)
        return await self.house.connect(context)

    async def status(self, wire: Wire) -> int:
        """Of one request."""
        return (await wire.exchange(GET)).status

    async def is_let_in(self, certificate: Certificate | None) -> bool:
        """Whether a new connection gets an answer."""
        try:
            return await self.status(await self.connect(certificate)) == 200
        except (OSError, asyncio.IncompleteReadError):  # ssl.SSLError is an OSError
            return False


def pem(authority: Authority) -> bytes:
    return authority.certificate.public_bytes(Encoding.PEM)


def put(path: Path, content: bytes) -> None:
    aside = path.with_suffix(".aside")
    aside.write_bytes(content)
    aside.rename(path)


@contextlib.asynccontextmanager
async def open_place(folder: Path, *lists: bytes, client_cert: str = "required") -> AsyncIterator[Place]:
    cert_file, key_file = OLD.issue_server().write(folder, "server")
    put(folder / "ca.pem", pem(OLD))
    tls: dict[str, Any] = {
        "cert_file": cert_file,
        "key_file": key_file,
        "client_ca_file": folder / "ca.pem",
        "client_cert": client_cert,
    }
    if lists:
        put(folder / "crl.pem", b"".join(lists))
        tls["client_crl_file"] = folder / "crl.pem"
    listener = ListenerTls(ListenTls(**tls))
    toy = Toy()
    door = Door(toy, Limits(), Timeouts(sweep=0.02, linger=0.2))
    await door.listen("127.0.0.1:0", listener.context, listener)
    house = House(door, toy)
    try:
        yield Place(folder, house, listener)
    finally:
        await house.close()
        await door.drain(PATIENCE)
