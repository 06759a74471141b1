"""Asks the surface what a request is, over the mounts of the corpus' OpenBao."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pytest

from sidecar.door.head import Head
from sidecar.errors import Code, Refused
from sidecar.surface.mounts import Mount, MountTable
from sidecar.surface.operation import LocalAnswer, Operation
from sidecar.surface.vault_api import VaultApi

MOUNTS: Final = (
    Mount("secret", "kv2"),
    Mount("team/kv", "kv2"),
    Mount("kv1", "kv1"),
    Mount("transit", "transit"),
    Mount("pki", "pki"),
    Mount("database", "database"),
    Mount("totp", "totp"),
    Mount("secret", "kv2", "ns1"),
    Mount("secret", "kv2", "ns1/child"),
    Mount("secret", "kv2", "ns2"),
)
TABLE: Final = MountTable(MOUNTS, [mount.name for mount in MOUNTS])
"""All mounts, each of them allowed."""

API: Final = VaultApi(lambda: TABLE)
JSON: Final = {"content-type": "application/json"}
MERGE_PATCH: Final = {"content-type": "application/merge-patch+json"}


def head_of(method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Head:
    """A head as the door hands it on: the target split at the first `?`, header names in lower case."""
    path, mark, query = target.partition("?")
    return Head(method, path, query if mark else None, dict(headers or {}), len(body) if body else None)


def ask(
    method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None, api: VaultApi = API
) -> Operation:
    """The operation that a request is; a body that nothing reads is refused."""
    route = api.route(head_of(method, target, headers, body))
    assert not isinstance(route, LocalAnswer), "it is answered locally"
    return route.operation(body)


def local(method: str, target: str, headers: Mapping[str, str] | None = None, api: VaultApi = API) -> LocalAnswer:
    """The local answer that a request asks for."""
    route = api.route(head_of(method, target, headers))
    assert isinstance(route, LocalAnswer), "it goes to OpenBao"
    return route


def refusal(
    method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None, api: VaultApi = API
) -> Code:
    """The code that a request is refused with."""
    with pytest.raises(Refused) as caught:
        ask(method, target, body, headers, api)
    assert 400 <= caught.value.status < 500
    return caught.value.code
