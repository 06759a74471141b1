"""The names that the injector gives things in a pod. All of them are its own: a pod that uses one is refused."""

from __future__ import annotations

from typing import Final

PREFIX: Final = "openbao-sidecar.io/"
"""Of every annotation that the injector reads, and of its namespace label `openbao-sidecar.io/injection: enabled`."""

CONTAINER: Final = "openbao-sidecar"
VOLUME_PREFIX: Final = "openbao-sidecar-"
SOCKET_VOLUME: Final = "openbao-sidecar-socket"

STATUS: Final = f"{PREFIX}status"
INJECTED: Final = "injected"

USER: Final = 65532
"""User and group of the sidecar's process, as its image has them."""

PORT: Final = 8200
SOCKET_FOLDER: Final = "/run/openbao-sidecar"
SOCKET: Final = f"{SOCKET_FOLDER}/sidecar.sock"

ADDRESS_VARIABLES: Final = ("VAULT_ADDR", "BAO_ADDR")
AGENT_VARIABLE: Final = "VAULT_AGENT_ADDR"
ALL_ADDRESSES: Final = (*ADDRESS_VARIABLES, AGENT_VARIABLE, "BAO_AGENT_ADDR")
"""Every variable that leads a Vault client somewhere."""

UNTOUCHED_NAMESPACES: Final = frozenset({"kube-system", "kube-public", "kube-node-lease"})
"""What a cluster needs to start is never injected, whatever labels say."""
