"""The harness itself: what a test may rely on when a program is built for it. `go` here is a script."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

import pytest

from tests.real.go_tools import CannotBuild, GoTool, cached_go_tool

TOOL: Final = GoTool("probe", "1.2.3", "example.org/probe", cold_seconds=9)

BUILDS: Final = """
printf '#!/bin/sh\\necho built' > "$GOBIN/probe"
chmod +x "$GOBIN/probe"
"""


class Go:
    """A `go` on the path. `does` is its script; `calls` what it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "calls"
        self._script = folder / "bin" / "go"
        self._script.parent.mkdir()

    def does(self, script: str) -> None:
        """What it does from now on, after it has noted the call."""
        self._script.write_text(f'#!/bin/sh\necho "$CGO_ENABLED $GOFLAGS $*" >> {self.log}\n{script}')
        self._script.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        """One line for each time it ran."""
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Go:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return Go(tmp_path)


def quiet(_text: str) -> None:
    """No progress."""


def test_a_program_is_built_once_and_kept_by_its_version(go: Go, tmp_path: Path) -> None:
    go.does(BUILDS)
    built = cached_go_tool(TOOL, quiet)
    assert built == tmp_path / "cache" / "openbao-sidecar" / "probe-1.2.3" / "probe"
    assert built.stat().st_mode & 0o111
    assert cached_go_tool(TOOL, quiet) == built
    assert go.calls == ["0 -p=2 install -v -trimpath example.org/probe@v1.2.3"]


def test_a_program_with_a_module_of_its_own_is_built_in_it(go: Go, tmp_path: Path) -> None:
    module = "module probe\n"
    tool = GoTool("probe", "1.2.3", "example.org/cmd/probe", cold_seconds=9, module=module, ldflags="-s -X a.b=1")
    go.does("grep -q 'module probe' go.mod && touch probe")
    assert cached_go_tool(tool, quiet) == tool.binary
    assert [path.name for path in tool.folder.iterdir() if path.name != "lock"] == ["probe"]
    flags = "-v -mod=mod -buildvcs=false -trimpath -ldflags -s -X a.b=1"
    assert go.calls == [f"0 -p=2 build {flags} -o probe example.org/cmd/probe"]


def test_a_build_says_what_it_does_and_that_it_goes_on(go: Go) -> None:
    go.does("seq 100\n" + BUILDS)
    said: list[str] = []
    cached_go_tool(TOOL, said.append)
    assert "building probe 1.2.3: about 9 s, once per machine" in said[0]
    assert said.count(".") == 5
    assert said[-1] == " done\n"


def test_a_failed_build_leaves_nothing_behind_and_says_why(go: Go) -> None:
    go.does(BUILDS + "echo 'checksum mismatch'; exit 1")
    with pytest.raises(CannotBuild, match="checksum mismatch"):
        cached_go_tool(TOOL, quiet)
    assert not TOOL.binary.exists()
    go.does(BUILDS)
    assert cached_go_tool(TOOL, quiet).exists()


def test_a_build_that_ends_well_without_a_program_is_a_failure(go: Go) -> None:
    go.does("true")
    with pytest.raises(CannotBuild, match="could not build"):
        cached_go_tool(TOOL, quiet)


def test_an_interrupted_build_leaves_no_half_program(go: Go) -> None:
    go.does(f"{BUILDS}\necho half\nexec sleep 60")

    def interrupt(text: str) -> None:
        if text == ".":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_go_tool(TOOL, interrupt)
    assert (TOOL.folder / "unfinished" / "probe").exists()
    assert not TOOL.binary.exists()
    go.does(BUILDS)
    assert cached_go_tool(TOOL, quiet).exists()
    assert not (TOOL.folder / "unfinished").exists()


def test_several_who_find_it_missing_at_once_build_it_once(go: Go) -> None:
    go.does(BUILDS)
    threads = [threading.Thread(target=cached_go_tool, args=(TOOL, quiet)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(go.calls) == 1
    assert TOOL.binary.exists()


def test_without_go_the_message_names_what_to_install(go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CannotBuild, match=r"apt-get install golang-go"):
        cached_go_tool(TOOL, quiet)
    assert go.calls == []
