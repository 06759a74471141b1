"""The variables of a container, and what `$(NAME)` stands for in its arguments."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, Final

from tests.kubelet.volumes import Cluster, field_of

_REFERENCE: Final = re.compile(r"\$\$|\$\(([A-Za-z_.-][A-Za-z0-9_.-]*)\)")


def environment_of(cluster: Cluster, pod: Mapping[str, Any], container: Mapping[str, Any]) -> dict[str, str]:
    """`envFrom`, then `env` in its order; what is named later may refer to what stands before."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        kind, named = ("configmaps", "configMapRef") if "configMapRef" in source else ("secrets", "secretRef")
        for key, text in _data(cluster, pod, kind, source[named]["name"]).items():
            found[source.get("prefix", "") + key] = text
    for entry in container.get("env", ()):
        source = entry.get("valueFrom")
        value = _from(cluster, pod, source) if source else expanded(entry.get("value", ""), found)
        if value is not None:
            found[entry["name"]] = value
    return found


def expanded(text: str, known: Mapping[str, str]) -> str:
    """`$(NAME)` is the variable's value, or stays where there is none; `$$` is a dollar sign."""
    return _REFERENCE.sub(lambda found: known.get(found[1], found[0]) if found[1] else "$", text)


def _from(cluster: Cluster, pod: Mapping[str, Any], source: Mapping[str, Any]) -> str | None:
    if "fieldRef" in source:
        return field_of(pod, source["fieldRef"]["fieldPath"])
    kind, named = ("configmaps", "configMapKeyRef") if "configMapKeyRef" in source else ("secrets", "secretKeyRef")
    reference = source[named]
    data = _data(cluster, pod, kind, reference["name"])
    return data.get(reference["key"]) if reference.get("optional") else data[reference["key"]]


def _data(cluster: Cluster, pod: Mapping[str, Any], kind: str, name: str) -> dict[str, str]:
    found = cluster.call("GET", f"/api/v1/namespaces/{pod['metadata']['namespace']}/{kind}/{name}").get("data", {})
    if kind == "configmaps":
        return dict(found)
    return {key: base64.b64decode(text).decode() for key, text in found.items()}
