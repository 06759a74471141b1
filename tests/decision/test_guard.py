"""Tenant's mounts and scopes, before any PDP."""

from __future__ import annotations

import pytest

from sidecar.decision.guard import Guard
from sidecar.errors import Code, Refused
from sidecar.surface.operation import SCOPE, Purpose
from sidecar.surface.secret_uri import SecretUri
from tests.decision.making import caller, config, operation


@pytest.mark.parametrize("mount", ["other", "secret2", "Secret", "ns/secret", "secret/app", ""])
def test_a_mount_outside_the_tenants_is_refused(mount: str) -> None:
    with pytest.raises(Refused) as refused:
        Guard(config()).check(operation(uri=SecretUri("openbao", "kv2", mount, ("app", "db"))), caller())
    assert refused.value.code is Code.TENANT_MOUNT_MISMATCH
    assert refused.value.status == 400
    assert not mount or mount not in refused.value.message


def test_a_namespaced_mount_is_named_in_full() -> None:
    guard = Guard(config(tenant={"id": "acme", "allowed_mounts": ["ns1/secret/"]}))
    guard.check(operation(uri=SecretUri("openbao", "kv2", "ns1/secret", ("db",))), caller())
    with pytest.raises(Refused):
        guard.check(operation(uri=SecretUri("openbao", "kv2", "secret", ("db",))), caller())


def test_scopes_count_only_where_they_are_enforced() -> None:
    Guard(config()).check(operation(), caller(scopes=frozenset()))


@pytest.mark.parametrize("purpose", list(Purpose))
def test_each_purpose_needs_its_scope(purpose: Purpose) -> None:
    guard = Guard(config(scopes={"enforce": True}))
    guard.check(operation(purpose=purpose), caller(scopes=frozenset({SCOPE[purpose]})))
    others = frozenset(SCOPE.values()) - {SCOPE[purpose]}
    with pytest.raises(Refused) as refused:
        guard.check(operation(purpose=purpose), caller(scopes=others))
    assert refused.value.code is Code.SCOPE_MISSING
    assert refused.value.wanted == {"scope": SCOPE[purpose]}


@pytest.mark.parametrize("purpose", list(Purpose))
def test_a_read_only_provider_is_looked_at_only(purpose: Purpose) -> None:
    """Others are not its business."""
    guard = Guard(config(), ["yaml"])
    guard.check(operation(purpose=purpose), caller())
    asked = operation(purpose=purpose, uri=SecretUri("yaml", "", "secret", ("app",)))
    if purpose in (Purpose.READ, Purpose.READ_METADATA):
        guard.check(asked, caller())
        return
    with pytest.raises(Refused) as refused:
        guard.check(asked, caller())
    assert refused.value.code is Code.PROVIDER_READ_ONLY
