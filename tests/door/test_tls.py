"""The listener's TLS while its files change: new handshakes, connections that stand, certificates that are revoked."""

from __future__ import annotations

import asyncio
import datetime
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from sidecar.door import tls as door_tls
from sidecar.door import trust as door_trust
from sidecar.errors import Code
from tests.support.certificates import DAY, Authority
from tests.support.tls_place import NEW, OLD, crl, open_place, pem
from tests.support.waiting import until
from tests.support.wire import GET


# -- authorities -----------------------------------------------------------------------------------------------------
async def test_new_handshakes_go_by_the_new_authorities(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        old, new = OLD.issue(), NEW.issue()
        assert (await place.is_let_in(old), await place.is_let_in(new)) == (True, False)
        place.trusts(NEW)
        place.listener.reload()
        assert (await place.is_let_in(old), await place.is_let_in(new)) == (False, True)
        place.trusts(OLD, NEW)
        place.listener.reload()
        assert (await place.is_let_in(old), await place.is_let_in(new)) == (True, True)


@pytest.mark.parametrize("client_cert", ["optional", "required"])
async def test_a_connection_that_stands_falls_with_its_authority(tmp_path: Path, client_cert: str) -> None:
    async with open_place(tmp_path, client_cert=client_cert) as place:
        wire = await place.connect(OLD.issue())
        assert await place.status(wire) == 200
        place.trusts(OLD, NEW)
        place.listener.reload()
        assert await place.status(wire) == 200
        place.trusts(NEW)
        place.listener.reload()
        reply = await wire.exchange(GET)
        assert (reply.status, reply.closes) == (401, True)
        assert place.house.toy.codes == [Code.BINDING_MISMATCH]
        assert await wire.rest() == b""


async def test_the_same_authority_under_a_renewed_certificate_is_the_same(tmp_path: Path) -> None:
    renewed, impostor = Authority("Old CA"), Authority("Old CA")
    renewed.key = OLD.key
    extensions: Any = [(x509.BasicConstraints(ca=True, path_length=0), True)]
    renewed.certificate = renewed._build(renewed.name, OLD.key, extensions, -DAY, 20 * DAY)
    async with open_place(tmp_path) as place:
        wire = await place.connect(OLD.issue())
        assert await place.status(wire) == 200
        place.trusts(renewed)
        place.listener.reload()
        assert await place.status(wire) == 200
        place.trusts(impostor)
        place.listener.reload()
        assert await place.status(wire) == 401


async def test_a_connection_without_a_certificate_stands(tmp_path: Path) -> None:
    async with open_place(tmp_path, client_cert="optional") as place:
        wire = await place.connect(None)
        assert await place.status(wire) == 200
        place.trusts(NEW)
        place.listener.reload()
        assert await place.status(wire) == 200


async def test_a_connection_falls_when_its_certificate_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_place(tmp_path) as place:
        wire = await place.connect(OLD.issue(ends_in=datetime.timedelta(hours=1)))
        assert await place.status(wire) == 200
        later = time.time() + 3605
        monkeypatch.setattr(door_trust, "wall_time", lambda: later)
        assert await place.status(wire) == 401


# -- revocation ------------------------------------------------------------------------------------------------------
async def test_a_revoked_certificate_is_let_in_no_more_and_its_connection_falls(tmp_path: Path) -> None:
    certificate, other = OLD.issue(), OLD.issue()
    async with open_place(tmp_path, crl(OLD)) as place:
        wire, others = await place.connect(certificate), await place.connect(other)
        assert (await place.status(wire), await place.status(others)) == (200, 200)
        place.revokes(crl(OLD, certificate))
        place.listener.reload()
        assert (await place.status(wire), await place.status(others)) == (401, 200)
        assert (await place.is_let_in(certificate), await place.is_let_in(other)) == (False, True)


async def test_a_revocation_list_of_somebody_else_out_of_date_or_none_lets_nobody_in(tmp_path: Path) -> None:
    certificate = OLD.issue()
    impostor = Authority("Old CA")
    async with open_place(tmp_path, crl(OLD)) as place:
        wire = await place.connect(certificate)
        assert await place.status(wire) == 200
        for lists in (crl(NEW), crl(impostor), crl(OLD, ends_in=-datetime.timedelta(minutes=1))):
            place.revokes(lists)
            place.listener.reload()
            assert not await place.is_let_in(certificate)
        assert await place.status(wire) == 401
        place.revokes(crl(NEW), crl(OLD))
        place.listener.reload()
        assert await place.is_let_in(certificate)
        for garbage in (b"", b"garbage", pem(OLD)):
            place.revokes(garbage)
            with pytest.raises((OSError, ValueError)):
                place.listener.reload()
            assert place.listener.problem
            assert await place.is_let_in(certificate)


# -- the listener's own ----------------------------------------------------------------------------------------------
async def test_a_pair_that_does_not_fit_leaves_the_old_in_force_and_a_good_one_is_taken(tmp_path: Path) -> None:
    certificate = OLD.issue()
    async with open_place(tmp_path) as place:
        (tmp_path / "server.key").write_bytes((NEW.issue_server().write(tmp_path, "other")[1]).read_bytes())
        with pytest.raises(ssl.SSLError):
            place.listener.reload()
        assert "old stay in force" in place.listener.problem
        assert await place.is_let_in(certificate)
        NEW.issue_server().write(tmp_path, "server")
        place.listener.reload()
        assert place.listener.problem == ""
        with pytest.raises(ssl.SSLError):
            await place.connect(certificate, server=OLD)
        assert await place.status(await place.connect(certificate, server=NEW)) == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_both_versions_of_tls_go_by_the_present_files(tmp_path: Path, version: ssl.TLSVersion) -> None:
    async with open_place(tmp_path) as place:
        place.trusts(NEW)
        place.listener.reload()
        for certificate, let_in in ((NEW.issue(), True), (OLD.issue(), False)):
            context = certificate.client_context(tmp_path, OLD)
            context.minimum_version = context.maximum_version = version
            try:
                assert await place.status(await place.house.connect(context)) == 200
                assert let_in
            except (OSError, asyncio.IncompleteReadError):
                assert not let_in


async def test_changed_files_are_taken_up_without_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_tls, "LOOK_SECONDS", 0.01)
    async with open_place(tmp_path) as place:
        watching = asyncio.create_task(place.listener.watch())
        before = place.listener.trust
        place.trusts(NEW)
        await until(lambda: place.listener.trust is not before)
        assert await place.is_let_in(NEW.issue())
        (tmp_path / "ca.pem").unlink()
        await until(lambda: place.listener.problem)
        assert await place.is_let_in(NEW.issue())
        place.trusts(OLD)
        await until(lambda: not place.listener.problem)
        assert await place.is_let_in(OLD.issue())
        watching.cancel()
