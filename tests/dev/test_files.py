"""The world's folder is closed to others, taken by one world at a time, and never somebody's other folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.dev.files import FolderError, Layout, write_private


def test_the_folder_is_made_closed_to_everybody_else(tmp_path: Path) -> None:
    layout = Layout.of(tmp_path / "a" / "world")
    with layout.claim():
        for folder in (layout.root, layout.keys, layout.tls, layout.policies, layout.logs):
            assert folder.stat().st_mode & 0o777 == 0o700


def test_a_second_world_in_the_folder_is_refused_while_the_first_runs(tmp_path: Path) -> None:
    layout = Layout.of(tmp_path / "world")
    with layout.claim():
        assert layout.is_running()
        with pytest.raises(FolderError, match="already runs in"), layout.claim():
            pass
    assert not layout.is_running()
    with layout.claim():
        assert layout.is_running()


def test_a_world_that_was_killed_does_not_hold_its_folder(tmp_path: Path) -> None:
    layout = Layout.of(tmp_path / "world")
    script = (
        "import sys, time; from pathlib import Path; from sidecar.dev.files import Layout\n"
        f"with Layout.of(Path({str(layout.root)!r})).claim():\n    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert layout.is_running()
        holder.kill()
    assert not layout.is_running()


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    tmp_path.chmod(0o755)
    with pytest.raises(FolderError, match="holds other things"), Layout.of(tmp_path).claim():
        pass
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_symlink_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "world"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FolderError, match="not a folder"), Layout.of(link).claim():
        pass
    assert not any((tmp_path / "elsewhere").iterdir())


def test_a_private_file_is_private_also_where_it_replaces_an_open_one(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o644)
    before = os.umask(0)
    try:
        write_private(path, "new")
    finally:
        os.umask(before)
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["secret"]
