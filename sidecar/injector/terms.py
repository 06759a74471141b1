"""On what terms a pod gets its sidecar: what its namespace is allowed, narrowed by what its annotations ask. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.injector.allowed import AllowedTenant, Namespace, SaltSecret
from sidecar.injector.annotations import Wishes
from sidecar.injector.names import PREFIX
from sidecar.injector.refusal import Denied


@dataclass(frozen=True, slots=True)
class Terms:
    """What the sidecar is told, whatever the pod's own ConfigMap says."""

    tenant_id: str
    allowed_mounts: tuple[str, ...]
    role: str
    salt_secret: SaltSecret
    config: str
    policies_config_map: str


def settle(wishes: Wishes, allowed: Namespace) -> Terms:
    """The terms: never more than the namespace is allowed.

    Raises:
        Denied: naming the annotation that asks for more. It does not say what else the namespace may have.
    """
    tenant = _tenant(wishes, allowed)
    role = wishes.role or tenant.roles[0]
    if role not in tenant.roles:
        raise _beyond("role", role)
    config = wishes.config or allowed.configs[0]
    if config not in allowed.configs:
        raise _beyond("config", config)
    mounts = wishes.allowed_mounts or tuple(tenant.allowed_mounts)
    for mount in mounts:
        if mount not in tenant.allowed_mounts:
            raise _beyond("allowed-mounts", mount)
    return Terms(tenant.id, mounts, role, tenant.salt_secret, config, allowed.policies_config_map)


def _tenant(wishes: Wishes, allowed: Namespace) -> AllowedTenant:
    if not wishes.tenant_id:
        return allowed.tenants[0]
    for tenant in allowed.tenants:
        if tenant.id == wishes.tenant_id:
            return tenant
    raise _beyond("tenant-id", wishes.tenant_id)


def _beyond(key: str, asked: str) -> Denied:
    return Denied(f"annotation {PREFIX}{key}: {asked!r} is more than this namespace is allowed")
