"""kubeconform, with Kubernetes' own schemas (from the package kubernetes-validate) and those of others' resources."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import kubernetes_validate  # type: ignore[import-untyped]  # the package ships no types

from tests.real.crds import definitions
from tests.real.go_tools import GoTool, cached_go_tool
from tests.real.helm import KUBERNETES

KUBECONFORM: Final = GoTool("kubeconform", "0.8.0", "github.com/yannh/kubeconform/cmd/kubeconform", cold_seconds=25)
_SCHEMAS: Final = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
_TIMEOUT_SECONDS: Final = 120


class Kubeconform:
    """The program with its schemas laid out in a folder."""

    def __init__(self, folder: Path) -> None:
        self._binary = cached_go_tool(KUBECONFORM)
        self._schemas = folder
        version = f"v{KUBERNETES}-local-strict"
        for path in (_SCHEMAS / version).iterdir():
            tree = json.loads(path.read_text().replace('"/api/_definitions.json#', '"_definitions.json#'))
            tree.pop("$id", None)
            (folder / path.name).write_text(json.dumps(tree))
        for definition in definitions():
            spec = definition["spec"]
            for one in spec["versions"]:
                name = f"{spec['names']['kind'].lower()}-{spec['group'].partition('.')[0]}-{one['name']}.json"
                (folder / name).write_text(json.dumps(_closed(one["schema"]["openAPIV3Schema"])))

    def check(self, manifests: Sequence[Mapping[str, Any]], into: Path) -> str:
        """What it says of the manifests; empty where all are valid. A kind without a schema is not valid."""
        for number, manifest in enumerate(manifests):
            (into / f"{number}.json").write_text(json.dumps(manifest))
        location = f"{self._schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
        command = [str(self._binary), "-strict", "-kubernetes-version", KUBERNETES, "-schema-location", location]
        done = subprocess.run(
            [*command, str(into)], capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
        return "" if done.returncode == 0 else done.stdout + done.stderr


def _closed(node: Any) -> Any:
    """An object that names its properties has no others, as the API server's strict validation has it."""
    if isinstance(node, list):
        return [_closed(each) for each in node]
    if not isinstance(node, dict):
        return node
    found = {key: _closed(value) for key, value in node.items()}
    is_open = node.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in node
    if isinstance(node.get("properties"), dict) and node.get("type") == "object" and not is_open:
        found["additionalProperties"] = False
    return found
