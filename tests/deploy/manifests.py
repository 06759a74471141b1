"""The plain manifests of deploy/k8s/manifests: what the chart makes of the values beside them, for who has no Helm, and
so that every change of a template is seen. `make manifests` writes them anew; a test holds them against the chart."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import yaml

from tests.deploy.values import CHART
from tests.real.go_tools import cached_go_tool
from tests.real.helm import HELM, Helm

FOLDER: Final = CHART.parent / "manifests"
SHAPES: Final = {"sidecar": "default", "gateway": "secrets-gateway", "injector": "openbao-sidecar"}
"""Each with the namespace it is rendered for."""


def written(helm: Helm, shape: str) -> str:
    """The text of one file."""
    values = yaml.safe_load((FOLDER / f"{shape}.values.yaml").read_text(encoding="utf-8"))
    manifests = helm.template(CHART, values, "--namespace", SHAPES[shape])
    head = f"# Written by `make manifests` from the chart and {shape}.values.yaml.\n"
    texts = (yaml.dump(one, Dumper=_Dumper, sort_keys=True, width=120, allow_unicode=True) for one in manifests)
    return head + "---\n".join(texts)


def differing(helm: Helm) -> Iterator[str]:
    """The files that are not what the chart makes."""
    for shape in SHAPES:
        file = FOLDER / f"{shape}.yaml"
        if not file.exists() or file.read_text(encoding="utf-8") != written(helm, shape):
            yield file.name


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, so that they can be read; no anchors."""

    def ignore_aliases(self, data: object) -> bool:
        """Whatever it is."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def main() -> None:
    """Writes the files."""
    with tempfile.TemporaryDirectory() as home:
        helm = Helm(cached_go_tool(HELM), Path(home))
        for shape in SHAPES:
            (FOLDER / f"{shape}.yaml").write_text(written(helm, shape), encoding="utf-8")
            sys.stdout.write(f"written: deploy/k8s/manifests/{shape}.yaml\n")


if __name__ == "__main__":
    main()
