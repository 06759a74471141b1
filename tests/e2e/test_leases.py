"""Leases through the real sidecar: made, held, renewed and revoked, on a real OpenBao and a real database."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hvac.exceptions
import pytest

from sidecar.client.key import DPoPKey
from tests.real.database import Database
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.real

MOUNTS = [{"path": "db", "engine": "database"}, {"path": "pki-leases", "engine": "pki"}]
POLICY = """
@id("apps") @max_uses("1000") @ttl_seconds("300")
permit (principal, action, resource in Mount::"db") unless { principal == Workload::"reader" };
@id("certificates") @max_uses("1000")
permit (principal, action, resource in Mount::"pki-leases");
@id("reader reads only") @max_uses("1000")
permit (principal == Workload::"reader", action == Action::"read", resource);
"""


@pytest.fixture(scope="module")
def house(
    tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, database: Database, issuer: Issuer
) -> Iterator[SidecarProcess]:
    """A sidecar in front of a database engine and a certificate authority."""
    root = openbao.root()
    root.sys.enable_secrets_engine("pki", "pki-leases")
    root.secrets.pki.generate_root("internal", "leases.test", {"ttl": "8760h"}, mount_point="pki-leases")
    root.secrets.pki.create_or_update_role("web", {"allow_any_name": True}, mount_point="pki-leases")
    overrides = {"mounts": MOUNTS, "tenant": {"allowed_mounts": ["db", "pki-leases"]}}
    process = SidecarProcess(tmp_path_factory.mktemp("leases"), openbao, issuer, overrides)
    (process.policies / "policies.cedar").write_text(POLICY)
    with process:
        yield process


KEYS = {subject: DPoPKey.generate() for subject in ("app", "other", "reader")}


def client(house: SidecarProcess, subject: str = "app") -> Any:
    """An application, with the key that it has had all along."""
    return house.hvac(subject, KEYS[subject])


def credentials(house: SidecarProcess, subject: str = "app") -> dict[str, Any]:
    answer: dict[str, Any] = client(house, subject).read("db/creds/app")
    return answer


def permits(house: SidecarProcess) -> list[dict[str, Any]]:
    return [record for record in house.records() if record["event"] == "SECRET_PERMIT"]


def test_an_application_gets_renews_and_revokes_its_credentials(house: SidecarProcess, database: Database) -> None:
    before = len(permits(house))
    made = credentials(house)
    user = made["data"]
    assert made["renewable"] is True
    assert made["lease_duration"] == 3600
    assert database.takes(user["username"], user["password"])
    app = client(house)
    renewed = app.sys.renew_lease(made["lease_id"], increment=7200)
    assert (renewed["lease_id"], renewed["lease_duration"], renewed["renewable"]) == (made["lease_id"], 7200, True)
    app.sys.revoke_lease(made["lease_id"])
    assert not database.takes(user["username"], user["password"])
    records = permits(house)[before:]
    assert [(record["operation"], record["purpose"], record["phase"]) for record in records] == [
        *(("database.creds", "read", "intent"), ("database.creds", "read", "outcome")),
        *(("lease.renew", "renew", "intent"), ("lease.renew", "renew", "outcome")),
        *(("lease.revoke", "revoke", "intent"), ("lease.revoke", "revoke", "outcome")),
    ]
    assert len({record["resource_ref"] for record in records}) == 1
    refs = [record["lease_ref"] for record in records]
    assert refs[0] is None
    assert len(set(refs[1:])) == 1
    assert refs[1] not in (None, records[0]["resource_ref"])
    assert made["lease_id"].rsplit("/", 1)[1].encode() not in house.spool_bytes() + house.log.read_bytes()


def test_a_lease_that_was_revoked_may_be_revoked_again_by_its_holder(house: SidecarProcess) -> None:
    lease_id = credentials(house)["lease_id"]
    app = client(house)
    app.sys.revoke_lease(lease_id)
    app.sys.revoke_lease(lease_id)
    with pytest.raises(hvac.exceptions.InvalidRequest, match="lease not found"):
        app.sys.renew_lease(lease_id)


def test_policy_and_purpose_decide_about_leases_too(house: SidecarProcess) -> None:
    lease_id = credentials(house, "reader")["lease_id"]
    for act in (client(house, "reader").sys.renew_lease, client(house, "reader").sys.revoke_lease):
        with pytest.raises(hvac.exceptions.Forbidden) as caught:
            act(lease_id)
        assert "POLICY_DENIED" in caught.value.text


def test_a_restart_forgets_no_holder_whatever_its_key(house: SidecarProcess, database: Database) -> None:
    made = credentials(house)
    house.terminate()
    house.start()
    assert database.takes(made["data"]["username"], made["data"]["password"])
    assert house.hvac().sys.renew_lease(made["lease_id"], increment=60)["lease_duration"] == 60
    second = house.hvac().read("db/creds/app")
    house.kill()
    house.start()
    assert house.hvac().sys.renew_lease(second["lease_id"], increment=60)["lease_duration"] == 60
    with pytest.raises(hvac.exceptions.Forbidden):
        client(house, "other").sys.renew_lease(second["lease_id"])
    house.hvac().sys.revoke_lease(second["lease_id"])
    assert house.verify() == 0


def test_the_salts_are_rotated_and_no_holder_is_forgotten(
    tmp_path: Path, house: SidecarProcess, openbao: OpenBao, issuer: Issuer
) -> None:
    """SIGHUP takes up the new salt: what is held from then on needs no earlier one after a restart."""
    salts = tmp_path / "salts"
    salts.write_text(f"{'a' * 32}\n")
    tenant = {"allowed_mounts": ["db"], "salt": None, "salt_file": str(salts)}
    process = SidecarProcess(tmp_path / "sidecar", openbao, issuer, {"mounts": MOUNTS, "tenant": tenant})
    (process.policies / "policies.cedar").write_text(POLICY)
    with process:
        earlier = credentials(process)["lease_id"]
        salts.write_text(f"{'b' * 32}\n{'a' * 32}\n")
        running = process.process
        assert running is not None
        running.send_signal(signal.SIGHUP)
        wait_until(lambda: '"reloaded"' in process.log.read_text())
        client(process).sys.renew_lease(earlier)
        later = credentials(process)["lease_id"]
        process.terminate()
        salts.write_text(f"{'b' * 32}\n")
        process.start()
        client(process).sys.revoke_lease(later)


def test_a_certificate_is_revoked_by_the_caller_that_it_was_issued_to(house: SidecarProcess, openbao: OpenBao) -> None:
    before = len(permits(house))
    made = client(house).write("pki-leases/issue/web", common_name="a.test", ttl="1h")["data"]
    serial = made["serial_number"]
    with pytest.raises(hvac.exceptions.Forbidden):
        client(house, "other").write("pki-leases/revoke", serial_number=serial)
    answer = client(house).write("pki-leases/revoke", serial_number=serial.upper().replace(":", "-"))
    assert answer["data"]["state"] == "revoked"
    root = openbao.root()
    assert root.read(f"pki-leases/cert/{serial}")["data"]["revocation_time"] > 0
    issued, revoked = permits(house)[before:][1::2]
    assert (issued["operation"], revoked["operation"], revoked["purpose"]) == ("pki.issue", "pki.revoke", "revoke")
    assert issued["resource_ref"] == revoked["resource_ref"]
    assert issued["lease_ref"] == revoked["lease_ref"] is not None


def test_a_certificate_that_nobody_got_here_is_not_revoked(house: SidecarProcess, openbao: OpenBao) -> None:
    serial = openbao.root().write("pki-leases/issue/web", common_name="b.test", ttl="1h")["data"]["serial_number"]
    with pytest.raises(hvac.exceptions.Forbidden):
        client(house).write("pki-leases/revoke", serial_number=serial)
    assert not openbao.root().read(f"pki-leases/cert/{serial}")["data"]["revocation_time"]


def test_a_full_ledger_makes_nothing_and_a_lost_one_withholds(
    tmp_path: Path, house: SidecarProcess, openbao: OpenBao, issuer: Issuer
) -> None:
    overrides = {"mounts": MOUNTS, "tenant": {"allowed_mounts": ["db"]}, "limits": {"max_leases": 2}}
    process = SidecarProcess(tmp_path, openbao, issuer, overrides)
    (process.policies / "policies.cedar").write_text(POLICY)
    with process:
        first = credentials(process)["lease_id"]
        mark = openbao.mark()
        with pytest.raises(hvac.exceptions.RateLimitExceeded) as caught:
            credentials(process)
        assert "OVERLOADED" in caught.value.text
        assert openbao.requests(since=mark) == []
        client(process).sys.revoke_lease(first)
    (tmp_path / "audit" / "leases.db").write_bytes(b"\0" * 5000)
    process.start()
    with pytest.raises(hvac.exceptions.Forbidden):
        client(process).sys.renew_lease(first)
    assert "damaged" in process.ready_text()
    process.terminate()
