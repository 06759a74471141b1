"""What NetworkPolicies let pass, as another project reads them: cyclonus, which holds network plugins against the same
reading. Nothing here enforces them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.real.go_tools import cached_go_tool, own_program

NETPOL: Final = own_program(Path(__file__).with_name("netpol"), cold_seconds=20)
_NAME: Final = "kubernetes.io/metadata.name"
_TIMEOUT_SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class Peer:
    """A pod; without a namespace an address outside of the cluster."""

    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    namespace_labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    address: str = "10.244.0.7"

    def as_traffic(self) -> dict[str, Any]:
        """As the program reads it."""
        if not self.namespace:
            return {"IP": self.address}
        of_namespace = {_NAME: self.namespace, **self.namespace_labels}
        inside = {"Namespace": self.namespace, "NamespaceLabels": of_namespace, "PodLabels": self.labels}
        return {"Internal": inside, "IP": self.address}


@dataclass(frozen=True, slots=True)
class Connection:
    """Who connects to whom."""

    source: Peer
    target: Peer
    port: int
    protocol: str = "TCP"


def passing(policies: Sequence[Mapping[str, Any]], connections: Sequence[Connection]) -> list[bool]:
    """Of each connection whether all policies together let it pass."""
    traffic = [
        {
            "Source": one.source.as_traffic(),
            "Destination": one.target.as_traffic(),
            "ResolvedPort": one.port,
            "Protocol": one.protocol,
        }
        for one in connections
    ]
    asked = json.dumps({"policies": policies, "traffic": traffic})
    command = [str(cached_go_tool(NETPOL))]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    found: list[bool] = json.loads(done.stdout)
    assert len(found) == len(connections)
    return found
