"""Where the Secrets API's secrets are: one class for each kind of store."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sidecar.secrets.providers.kv import Kv1, Kv2
from sidecar.secrets.providers.port import Provider
from sidecar.secrets.providers.rotating import Rotating
from sidecar.surface.mounts import MountTable


def providers(mounts: Callable[[], MountTable]) -> Mapping[str, Provider]:
    """The provider of each engine."""
    rotating = Rotating()
    return {"kv2": Kv2(mounts), "kv1": Kv1(mounts), "transit": rotating, "database": rotating}
