"""docs/how-to/use-a-yaml-file.md: its configuration is taken, its file is read as the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from sidecar.config import load
from sidecar.secrets.providers.yaml_file.document import at, read
from tests.secrets.yaml_file.making import private

PAGE: Final = Path(__file__).parents[3] / "docs" / "how-to" / "use-a-yaml-file.md"
CONFIGURATION, FILE = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_pages_configuration_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    private(tmp_path / "secrets.yaml", FILE)
    (tmp_path / "sidecar.yaml").write_text(CONFIGURATION)
    assert load(Path("sidecar.yaml"), {}).yaml_provider.path == Path("secrets.yaml")


def test_the_pages_file_reads_as_it_says() -> None:
    secret = at(read(FILE), ("secret", "app", "db"))
    assert secret is not None
    assert secret.values() == {"user": "app", "password": "first"}
