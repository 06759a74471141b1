"""docs/tutorial/first-steps.md and README.md, done: every command in them, in order, with the output they show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dev.world import starting

ROOT = Path(__file__).parents[2]
PAGES = (
    ROOT / "docs" / "tutorial" / "first-steps.md",
    ROOT / "README.md",
)  # what the second makes, the first lists not
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _shown(text: str) -> re.Pattern[str]:
    """Output as the tutorial shows it: `…` stands for anything."""
    return re.compile(".*?".join(map(re.escape, text.strip().split("…"))), re.DOTALL)


@pytest.mark.real
def test_tutorial_and_readme_work_as_written(tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    blocks: list[tuple[str, str]] = BLOCK.findall("\n".join(page.read_text() for page in PAGES))
    done = 0
    command = [".venv/bin/sidecar", "dev", "up", "--port", "0"]
    with starting(tmp_path / ".dev", command=command) as world:
        world.wait_until_up()
        plain, mtls = world.state.sidecar.origin, world.state.sidecar_mtls.origin
        for (language, text), (next_language, expected) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
            if language != "bash":
                continue
            run = subprocess.run(
                [
                    "bash",
                    "-e",
                    "-c",
                    text.replace("http://127.0.0.1:8200", plain).replace("https://127.0.0.1:8201", mtls),
                ],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
                env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LANG": "C.UTF-8"},
            )
            assert (run.returncode, run.stderr) == (0, ""), text
            if next_language in ("json", "text"):
                assert _shown(expected).fullmatch(run.stdout.strip()), (text, run.stdout)
            done += 1
    assert done >= 13
