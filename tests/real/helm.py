"""The real Helm, so that charts are rendered and linted by what operators use."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.real.go_tools import GoTool, cached_go_tool
from tests.real.kube_version import MINOR

HELM: Final = GoTool("helm", "3.22.0", "helm.sh/helm/v3/cmd/helm", cold_seconds=130)
KUBERNETES: Final = f"{MINOR}.0"
"""What charts are rendered for; a Helm from source believes in 1.20 otherwise."""
BUILD_TIMEOUT: Final = 1200
"""Seconds for the first test on a machine, whose fixture builds Helm."""

_TIMEOUT_SECONDS: Final = 60


class HelmRefused(Exception):  # noqa: N818 - reads as what happened
    """Helm ended with an error; the message is what it said."""


@dataclass(frozen=True, slots=True)
class Helm:
    """Helm with a home of its own, so that nothing of the user's (plugins, clusters) takes part."""

    binary: Path
    home: Path

    def template(
        self, chart: Path, values: Mapping[str, Any], *flags: str, release: str = "openbao-sidecar"
    ) -> list[dict[str, Any]]:
        """The manifests of a chart. Raises `HelmRefused`."""
        given = self._values_file(values)
        text = self._run("template", release, str(chart), "-f", str(given), "--kube-version", KUBERNETES, *flags)
        return [document for document in yaml.safe_load_all(text) if document is not None]

    def lint(self, chart: Path, values: Mapping[str, Any]) -> str:
        """What `helm lint --strict` says. Raises `HelmRefused` for a warning too."""
        given = self._values_file(values)
        return self._run("lint", "--strict", str(chart), "-f", str(given), "--kube-version", KUBERNETES)

    def _values_file(self, values: Mapping[str, Any]) -> Path:
        given = self.home / "values.json"
        given.write_text(json.dumps(values))  # ASCII: Helm reads it as YAML, which folds some characters beyond that
        return given

    def _run(self, *arguments: str) -> str:
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.home),
            "KUBECONFIG": "/dev/null",
            "HELM_CACHE_HOME": str(self.home / "cache"),
            "HELM_CONFIG_HOME": str(self.home / "config"),
            "HELM_DATA_HOME": str(self.home / "data"),
        }
        done = subprocess.run(
            [str(self.binary), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise HelmRefused(done.stdout + done.stderr)
        return done.stdout


@pytest.fixture(scope="session")
def helm(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """The real Helm. The first time on a machine it is built, and that is seen."""
    capture: Any = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        binary = cached_go_tool(HELM)
    return Helm(binary, tmp_path_factory.mktemp("helm"))
