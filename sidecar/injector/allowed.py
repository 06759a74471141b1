"""What the pods of each namespace are allowed: the part of the configuration that annotations are measured by."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, field_validator

from sidecar.injector.forms import CLOSED, Mount, ObjectName, OptionalObjectName, PlainName


class _Section(BaseModel):
    model_config = CLOSED


class SaltSecret(_Section):
    """The Secret with the salt of the audit's references, in the pod's namespace."""

    name: ObjectName
    key: Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]{1,253}$")] = "salt"


class AllowedTenant(_Section):
    """A tenant that a namespace's pods may be, with all it may reach."""

    id: PlainName
    allowed_mounts: Annotated[list[Mount], Field(min_length=1)]
    roles: Annotated[list[PlainName], Field(min_length=1)]
    """OpenBao's roles; the first where a pod names none."""
    salt_secret: SaltSecret


class Namespace(_Section):
    """What the pods of one namespace are allowed. Their annotations choose among it, and narrow it."""

    tenants: Annotated[list[AllowedTenant], Field(min_length=1)]
    """The first where a pod names none."""
    configs: Annotated[list[ObjectName], Field(min_length=1)]
    """ConfigMaps with `config.yaml`, in that namespace; the first where a pod names none."""
    policies_config_map: OptionalObjectName = ""
    """A ConfigMap with `*.cedar`, in that namespace."""
    required: bool = False
    """Every pod gets the sidecar; `inject: "false"` is refused."""

    @field_validator("tenants")
    @classmethod
    def _told_apart(cls, tenants: list[AllowedTenant]) -> list[AllowedTenant]:
        if len({tenant.id for tenant in tenants}) != len(tenants):
            raise ValueError("a tenant stands twice")
        return tenants
