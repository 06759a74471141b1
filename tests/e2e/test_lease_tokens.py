"""Database credentials outlive the sidecar's login, its restart, its end: OpenBao revokes leases with their token."""

from __future__ import annotations

import time
from contextlib import suppress
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

RULES = """
path "auth/token/lookup-self"        { capabilities = ["read"] }
path "auth/token/renew-self"         { capabilities = ["update"] }
path "auth/token/renew-accessor"     { capabilities = ["update"] }
path "auth/token/create/lease-maker" { capabilities = ["update"] }
path "sys/mounts"                    { capabilities = ["read"] }
path "sys/leases/renew"              { capabilities = ["update"] }
path "sys/leases/revoke"             { capabilities = ["update"] }
path "db/*"                          { capabilities = ["read"] }
"""
POLICY = '@max_uses("1000") permit (principal, action, resource in Mount::"db");'
MAX_TTL, PERIOD = 5, 60


def sidecar_with(
    folder: Path, openbao: OpenBao, issuer: Issuer, name: str, role: str | None, **options: Any
) -> SidecarProcess:
    """A sidecar that logs in by an AppRole with these options."""
    openbao.policy("leases-broker", RULES)
    role_id, secret_id = openbao.approle(name, "leases-broker", **options)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "secret-id").write_text(secret_id)
    auth = {"method": "approle", "role_id": role_id, "secret_id_file": str(folder / "secret-id"), "lease_role": role}
    overrides = {
        "upstream": {"auth": auth | {"token": None}},
        "mounts": [{"path": "db", "engine": "database"}],
        "tenant": {"allowed_mounts": ["db"]},
    }
    process = SidecarProcess(folder, openbao, issuer, overrides)
    (process.policies / "policies.cedar").write_text(POLICY)
    return process


def renewed_at(openbao: OpenBao, accessor: str) -> int:
    """When a token was renewed last, in seconds since the epoch."""
    return int(openbao.root().write("auth/token/lookup-accessor", accessor=accessor)["data"]["last_renewal_time"])


def accessors(openbao: OpenBao, path: str = "auth/approle/login") -> set[str]:
    """The accessors of all tokens that were made by this path."""
    root, found = openbao.root(), set()
    for accessor in root.list("auth/token/accessors")["data"]["keys"]:
        with suppress(hvac.exceptions.InvalidRequest):  # it has just ended
            if root.write("auth/token/lookup-accessor", accessor=accessor)["data"]["path"] == path:
                found.add(accessor)
    return found


def test_credentials_outlive_the_login_s_max_ttl_a_restart_and_the_end(
    tmp_path: Path, openbao: OpenBao, database: Database, issuer: Issuer
) -> None:
    settings = {"orphan": True, "token_period": f"{PERIOD}s", "allowed_policies": "leases-broker", "renewable": True}
    openbao.root().write_data("auth/token/roles/lease-maker", data=settings)
    options = {"token_ttl": f"{MAX_TTL}s", "token_max_ttl": f"{MAX_TTL}s"}
    process = sidecar_with(tmp_path, openbao, issuer, "short-lived", "lease-maker", **options)
    others = accessors(openbao)
    process.start()
    key = DPoPKey.generate()
    made = process.hvac("app", key).read("db/creds/app")
    assert made["lease_duration"] == 3600
    user = (made["data"]["username"], made["data"]["password"])
    first = accessors(openbao) - others
    assert first
    # Every token that a login made until then reaches its max_ttl, and the lease token would have ended twice over.
    wait_until(lambda: not first & accessors(openbao), "the logins' tokens reached their max_ttl", MAX_TTL * 4)
    assert database.takes(*user)
    assert process.hvac("app", key).sys.renew_lease(made["lease_id"], increment=1800)["lease_duration"] == 1800

    # The sidecar goes and another comes: it takes the old token up by its accessor, and revokes nothing.
    assert process.terminate() == 0
    assert database.takes(*user)
    (keeper,) = accessors(openbao, "auth/token/create/lease-maker")
    handed_over = renewed_at(openbao, keeper)
    wait_until(lambda: time.time() >= handed_over + 1, "OpenBao tells renewals apart, by whole seconds")
    process.start()
    wait_until(lambda: renewed_at(openbao, keeper) > handed_over, "the old token is kept by the new sidecar")
    assert database.takes(*user)
    restarted = process.hvac("app")  # with a new key
    restarted.sys.revoke_lease(made["lease_id"])
    assert not database.takes(*user)
    process.terminate()


def test_an_answer_tells_the_truth_where_the_token_ends_before_the_lease(
    tmp_path: Path, openbao: OpenBao, database: Database, issuer: Issuer
) -> None:
    options = {"token_ttl": "600s", "token_max_ttl": "600s"}
    with sidecar_with(tmp_path, openbao, issuer, "without-role", None, **options) as process:
        key = DPoPKey.generate()
        made = process.hvac("app", key).read("db/creds/app")
        assert 300 < made["lease_duration"] <= 600
        assert made["renewable"] is True
        renewed = process.hvac("app", key).sys.renew_lease(made["lease_id"], increment=7200)
        assert 300 < renewed["lease_duration"] <= 600


def test_a_periodic_login_promises_the_lease_whole(
    tmp_path: Path, openbao: OpenBao, database: Database, issuer: Issuer
) -> None:
    with sidecar_with(tmp_path, openbao, issuer, "periodic", None, token_period="60s") as process:
        assert process.hvac().read("db/creds/app")["lease_duration"] == 3600


def test_a_token_role_that_makes_children_is_refused(
    tmp_path: Path, openbao: OpenBao, database: Database, issuer: Issuer
) -> None:
    """A child would end with the login whose end it must outlive."""
    settings = {"orphan": False, "token_period": "1h", "allowed_policies": "leases-broker"}
    openbao.root().write_data("auth/token/roles/lease-maker", data=settings)
    with sidecar_with(tmp_path, openbao, issuer, "children", "lease-maker", token_period="60s") as process:
        client = process.hvac()
        with pytest.raises(Exception, match="no token to make leases under"):
            client.read("db/creds/app")
        assert "orphan=true" in process.ready_text()
