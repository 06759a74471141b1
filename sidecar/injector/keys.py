"""The Secrets that are the sidecar's: the salt, and what else its operator gives it. Whoever may make a pod can have
any Secret of its namespace put into it; not these. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from sidecar.injector.allowed import Namespace
from sidecar.injector.config import Sidecar
from sidecar.injector.names import CONTAINER, VOLUME_PREFIX
from sidecar.injector.refusal import Denied
from sidecar.injector.workload import Container, Pod

_REFERENCES: Final = ("secret", "secretRef", "secretKeyRef", "nodePublishSecretRef")
"""Members that name a Secret in their `name` or `secretName`; volumes of old kinds have a `secretName` of their own."""


def sidecars_secrets(sidecar: Sidecar, allowed: Namespace | None) -> frozenset[str]:
    """The names of Secrets that only a sidecar may have, in a namespace."""
    salts = [tenant.salt_secret.name for tenant in allowed.tenants] if allowed is not None else []
    return frozenset([*salts, *_secrets_in(sidecar.secrets), *_secrets_in(sidecar.env)])


def refuse_others_secrets(pod: Pod, reserved: frozenset[str]) -> None:
    """No volume or variable but the sidecar's holds one of these.

    Raises:
        Denied: naming who has it.
    """
    for volume in pod.volumes:
        if not volume["name"].startswith(VOLUME_PREFIX):
            _refuse(f"volume {volume['name']!r}", volume, reserved)
    for container in pod.everywhere:
        if container.name != CONTAINER:
            refuse_secret_variables(container, reserved)


def refuse_secret_variables(container: Container, reserved: frozenset[str]) -> None:
    """Raises Denied where a variable of a container comes from one of these."""
    variables = [container.tree.get("env"), container.tree.get("envFrom")]
    _refuse(f"container {container.name!r}", variables, reserved)


def _refuse(what: str, tree: Any, reserved: frozenset[str]) -> None:
    for name in _secrets_in(tree):
        if name in reserved:
            raise Denied(f"{what}: has the Secret {name!r}, which is the sidecar's alone")


def _secrets_in(tree: Any) -> Iterator[str]:
    """The names of all Secrets that something of a pod refers to."""
    if isinstance(tree, list):
        for item in tree:
            yield from _secrets_in(item)
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            if key == "secretName" and isinstance(value, str):
                yield value
            elif key in _REFERENCES and isinstance(value, Mapping) and isinstance(value.get("name"), str):
                yield value["name"]
            yield from _secrets_in(value)
