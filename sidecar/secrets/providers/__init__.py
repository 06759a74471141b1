"""Where the Secrets API's secrets are: one class for each kind of store."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sidecar.config import Config, Environment
from sidecar.secrets.providers.kv import Kv1, Kv2
from sidecar.secrets.providers.port import Provider
from sidecar.secrets.providers.rotating import Rotating
from sidecar.surface.mounts import MountTable


def engines(mounts: Callable[[], MountTable]) -> Mapping[str, Provider]:
    """The provider of each of OpenBao's engines."""
    rotating = Rotating()
    return {"kv2": Kv2(mounts), "kv1": Kv1(mounts), "transit": rotating, "database": rotating}


def stores(config: Config) -> list[Provider]:
    """The configured providers beside OpenBao, each with a URI scheme of its own."""
    found: list[Provider] = []
    if config.yaml_provider.path is not None:
        from sidecar.secrets.providers.yaml_file import YamlFile  # and its parser, for those who use it

        found.append(YamlFile(config.yaml_provider.path, read_only=config.environment is Environment.PROD))
    return found


def read_only(config: Config) -> list[str]:
    """The schemes of those that are not to be changed."""
    return [store.scheme for store in stores(config) if store.read_only]
