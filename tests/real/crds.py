"""The resource definitions of others that the chart makes objects of: the Prometheus operator's and cert-manager's, out
of their Go modules, fetched once per machine."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

from tests.real.go_tools import CannotBuild, GoTool

_MODULES: Final = {
    "github.com/prometheus-operator/prometheus-operator@v0.92.1": [
        f"example/prometheus-operator-crd/monitoring.coreos.com_{kind}.yaml"
        for kind in ("podmonitors", "prometheusrules", "servicemonitors")
    ],
    "github.com/cert-manager/cert-manager@v1.18.2": [
        f"deploy/crds/crd-{kind}.yaml" for kind in ("certificates", "issuers")
    ],
}
CRDS: Final = GoTool("crds", "0.92.1-1.18.2", "", cold_seconds=10)
"""No program, but kept and looked for like one."""
_TIMEOUT_SECONDS: Final = 300


def definitions() -> list[dict[str, Any]]:
    """The CustomResourceDefinitions, without what a cluster does not need. Raises `CannotBuild`."""
    CRDS.folder.mkdir(parents=True, exist_ok=True)
    with (CRDS.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not CRDS.binary.exists():
            unfinished = CRDS.binary.with_suffix(".new")
            unfinished.write_text(json.dumps([_bare(path) for path in _fetched()]))
            unfinished.rename(CRDS.binary)
    found: list[dict[str, Any]] = json.loads(CRDS.binary.read_text())
    return found


def _fetched() -> list[Path]:
    go = shutil.which("go")
    if go is None:
        raise CannotBuild("Go is needed once, to fetch resource definitions: apt-get install golang-go (`make doctor`)")
    found: list[Path] = []
    for module, paths in _MODULES.items():
        done = subprocess.run(
            [go, "mod", "download", "-json", module],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
            cwd="/",
        )
        if done.returncode != 0:
            raise CannotBuild(f"go could not fetch {module}:\n{done.stdout}{done.stderr}")
        found += [Path(json.loads(done.stdout)["Dir"]) / path for path in paths]
    return found


def _bare(path: Path) -> dict[str, Any]:
    """Without its labels, some of which are Helm's templates."""
    tree = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    return {
        "apiVersion": tree["apiVersion"],
        "kind": tree["kind"],
        "metadata": {"name": tree["metadata"]["name"]},
        "spec": tree["spec"],
    }
