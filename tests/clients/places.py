"""Where the clients go: OpenBao itself, and one made alike behind a sidecar whose policy permits everything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest

from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer

POLICY: Final = """
path "secret/*"     { capabilities = ["create", "read", "update", "patch", "delete", "list"] }
path "secret/data/denied/*" { capabilities = ["deny"] }
path "kv1/*"        { capabilities = ["create", "read", "update", "patch", "delete", "list"] }
path "transit/*"    { capabilities = ["create", "read", "update", "delete", "list"] }
path "ns1/secret/*" { capabilities = ["create", "read", "update", "patch", "delete", "list"] }
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self"  { capabilities = ["update"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
path "sys/internal/ui/mounts" { capabilities = ["read"] }
path "sys/internal/ui/mounts/*" { capabilities = ["read"] }
"""


@dataclass
class Place:
    """Where a client connects, and a fresh token for it."""

    url: str
    token: Callable[[], str]


@dataclass
class Both:
    """The same thing twice: by itself, and behind a sidecar."""

    direct: Place
    through: Place
    sidecar: SidecarProcess
    alone: OpenBao


def furnish(server: OpenBao) -> str:
    """Mounts, a policy and a user; a token for the sidecar."""
    root = server.root()
    root.sys.enable_secrets_engine("kv", "kv1", options={"version": "1"})
    root.sys.enable_secrets_engine("kv", "team/kv", options={"version": "2"})
    root.sys.enable_secrets_engine("transit")
    root.sys.create_namespace("ns1")
    server.root("ns1").sys.enable_secrets_engine("kv", "secret", options={"version": "2"})
    root.sys.enable_auth_method("userpass")
    root.auth.userpass.create_or_update_user("alice", "alice-pass")
    root.secrets.transit.create_key("differences")
    server.policy("clients", POLICY)
    server.put("app/db", {"username": "app", "password": "db-password-canary"})
    server.put("app/db", {"password": "foreign-canary"}, mount="team/kv")
    return server.token("clients", period="1h")


@pytest.fixture(scope="package")
def both(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("clients")
    overrides: dict[str, Any] = {
        "mounts": [
            {"path": "secret", "engine": "kv2"},
            {"path": "kv1", "engine": "kv1"},
            {"path": "transit", "engine": "transit"},
            {"path": "team/kv", "engine": "kv2"},
            {"path": "secret", "engine": "kv2", "namespace": "ns1"},
        ],
        "tenant": {"allowed_mounts": ["secret", "kv1", "transit", "ns1/secret"]},
        "identity": {"binding": "preferred"},
        "anti_replay": {"unbound_token": "off"},
    }
    with OpenBao(folder / "alone") as alone, OpenBao(folder / "behind") as behind:
        furnish(alone)
        upstream = OpenBao.__new__(OpenBao)  # the sidecar is told its address and token only
        upstream.address, upstream.root_token = behind.address, furnish(behind)
        process = SidecarProcess(folder / "sidecar", upstream, issuer, overrides)
        (process.policies / "policies.cedar").write_text(
            '@id("all") @max_uses("1000") permit (principal, action, resource);'
        )
        with process:
            yield Both(
                Place(alone.address, lambda: alone.token("clients", period="1h")),
                Place(process.url, lambda: issuer.token(sub="clients")),
                process,
                alone,
            )
