"""The real OpenBao of the development world: what is in it, and how little the sidecars' own login may do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hvac
import pytest
import pytest_asyncio
from hvac.exceptions import Forbidden, InvalidRequest

from sidecar.dev import openbao
from sidecar.dev.ports import free_pair
from sidecar.dev.processes import Child, Supervisor

pytestmark = pytest.mark.real


@dataclass(frozen=True)
class Seeded:
    """A running, seeded server."""

    address: str
    root_token: str
    role: openbao.AppRole
    child: Child

    def root(self) -> Any:
        return hvac.Client(url=self.address, token=self.root_token)

    def as_sidecar(self) -> Any:
        client = hvac.Client(url=self.address)
        client.auth.approle.login(self.role.role_id, self.role.secret_id)
        return client


@pytest_asyncio.fixture
async def seeded(tmp_path: Path) -> AsyncIterator[Seeded]:
    root_token = "a-root-token-of-this-test"
    port = free_pair()
    address = f"http://127.0.0.1:{port}"
    async with Supervisor(tmp_path, tmp_path) as supervisor:
        child = await supervisor.start(
            "openbao",
            openbao.server_command(openbao.find_binary(), port),
            environment=openbao.server_environment(root_token),
            ready_url=f"{address}/v1/sys/health",
        )
        yield Seeded(address, root_token, openbao.seed(address, root_token), child)


async def test_the_seeds_are_there(seeded: Seeded) -> None:
    kv = seeded.root().secrets.kv.v2
    database = kv.read_secret_version("app/db", mount_point="secret", raise_on_deleted_version=True)
    assert database["data"]["data"].keys() == {"username", "password"}
    listed = kv.list_secrets("app", mount_point="secret")["data"]["keys"]
    assert listed == ["api", "db", "frozen"]
    foreign = kv.read_secret_version("app/db", mount_point="team/kv", raise_on_deleted_version=True)
    assert foreign["data"]["data"].keys() == {"password"}


async def test_the_sidecars_login_reaches_secrets_and_its_own_token_and_nothing_else(seeded: Seeded) -> None:
    client = seeded.as_sidecar()
    kv = client.secrets.kv.v2
    assert kv.create_or_update_secret("app/new", secret={"a": "1"}, mount_point="secret")["data"]["version"] == 1
    assert kv.list_secrets("", mount_point="secret")["data"]["keys"] == ["app/", "other/"]
    client.auth.token.renew_self()
    looked_up = client.auth.token.lookup_self()["data"]
    assert looked_up["policies"] == [openbao.ROLE]
    assert looked_up["period"] == 600
    for forbidden in (
        lambda: kv.read_secret_version("app/db", mount_point="team/kv", raise_on_deleted_version=True),
        client.sys.list_mounted_secrets_engines,
        client.sys.list_policies,
        client.sys.seal,
        client.auth.token.create,
        lambda: client.auth.approle.generate_secret_id(openbao.ROLE),
        lambda: client.write_data("cubbyhole/x", data={"a": "1"}),
        lambda: client.write_data("secret/config", data={"max_versions": "1"}),
    ):
        with pytest.raises(Forbidden):
            forbidden()


async def test_the_login_needs_its_secret_id(seeded: Seeded) -> None:
    with pytest.raises(InvalidRequest):
        hvac.Client(url=seeded.address).auth.approle.login(seeded.role.role_id, "guessed")


async def test_the_root_token_is_neither_in_the_process_list_nor_in_the_home_folder(
    seeded: Seeded, tmp_path: Path
) -> None:
    assert seeded.root().lookup_token()["data"]["policies"] == ["root"]
    assert seeded.root_token.encode() not in Path(f"/proc/{seeded.child.pid}/cmdline").read_bytes()
    stored = Path("~/.vault-token").expanduser()
    assert not (stored.exists() and seeded.root_token in stored.read_text())
