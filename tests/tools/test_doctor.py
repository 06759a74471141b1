"""`make doctor`: says what is missing before anything is installed, on whatever Python there is."""

from __future__ import annotations

import ast
import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.kubelet import launch
from tests.real import kafka
from tests.real.crds import CRDS
from tests.real.go_tools import GoTool, own_program
from tests.real.helm import HELM
from tests.real.kube import KUBE_APISERVER
from tests.real.kubeconform import KUBECONFORM
from tests.real.network_policies import NETPOL
from tests.real.node_tools import kept_in
from tests.real.pdps import OPA, OPENFGA, cerbos_folder
from tools import doctor

ROOT: Final = Path(__file__).resolve().parent.parent.parent
SCRIPT: Final = ROOT / "tools" / "doctor.py"


BUILT_BY_GO: Final[list[GoTool]] = [
    *(CRDS, HELM, KUBECONFORM, KUBE_APISERVER, NETPOL, OPA, OPENFGA),
    own_program(doctor.GO_CLIENT, cold_seconds=80),
]
"""All that `cached_go_tool` is asked for."""


class Machine:
    """A machine with a path and a cache of its own, so that a test says what it has."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.cache = folder / "cache"
        self.bin.mkdir()

    def has(self, name: str, says: str = "") -> None:
        """Puts a program on its path."""
        program = self.bin / name
        program.write_text(f"#!/bin/sh\nprintf '{says}'\n")
        program.chmod(0o755)

    def without(self, name: str) -> Machine:
        """Takes a program off its path."""
        (self.bin / name).unlink(missing_ok=True)
        return self

    def has_built(self, tool: GoTool) -> None:
        """As after the first `make test`."""
        binary = self.cache / "openbao-sidecar" / f"{tool.name}-{tool.version}" / tool.name
        binary.parent.mkdir(parents=True)
        binary.touch()

    def doctor(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs it isolated, without any installed package."""
        return subprocess.run(
            [sys.executable, "-I", "-S", str(SCRIPT), *arguments],
            env={"PATH": str(self.bin), "XDG_CACHE_HOME": str(self.cache), "HOME": str(self.cache)},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """One that `make test` can run on."""
    found = Machine(tmp_path)
    found.has("make")
    found.has("curl", "curl 8.11")
    found.has("etcd")
    found.has("promtool")
    found.has("redis-server")
    found.has("go", r"go1.26.8\nlocal\n")
    found.has("node", "v20.20.2")
    found.has("npm")
    found.has("mvn", "Apache Maven 3.8.7")
    return found


def test_a_machine_that_has_everything_is_fit(machine: Machine) -> None:
    done = machine.doctor()
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("make test can run\n")
    assert "MISSING" not in done.stdout


@pytest.mark.parametrize(
    ("tool", "package"),
    [
        ("go", "golang-go"),
        ("mvn", "maven default-jdk-headless"),
        ("curl", "curl"),
        ("node", "nodejs"),
        ("npm", "npm"),
        ("etcd", "etcd-server"),
        ("promtool", "prometheus"),
        ("redis-server", "redis-server"),
        ("make", "make"),
    ],
)
def test_what_is_missing_is_named_with_the_package_that_brings_it(machine: Machine, tool: str, package: str) -> None:
    (machine.bin / tool).unlink()
    done = machine.doctor()
    assert done.returncode == 1
    (row,) = (number for number, line in enumerate(done.stdout.splitlines()) if line.startswith(f"MISSING {tool} "))
    assert done.stdout.splitlines()[row + 1].strip() == f"apt-get install {package}"
    assert done.stdout.endswith("make test cannot run yet\n")
    assert machine.doctor("--packages").stdout == f"{package}\n"


def test_what_only_other_targets_need_is_said_and_does_not_count(machine: Machine) -> None:
    done = machine.doctor()
    assert "missing openssl" in done.stdout
    assert "missing git" in done.stdout
    assert done.returncode == 0
    assert machine.doctor("--packages").stdout == "\n"


@pytest.mark.parametrize(
    ("says", "fit", "remedy"),
    [
        (r"go1.26.0\nlocal\n", True, ""),
        (r"go1.27rc1\nlocal\n", True, ""),
        (r"go1.21.6\nauto\n", True, ""),
        (r"go1.24.4\nlocal\n", False, "export GOTOOLCHAIN=auto"),
        (r"go1.19.8\n\n", False, "https://go.dev/dl/"),
    ],
)
def test_a_go_that_cannot_build_them_is_too_old(machine: Machine, says: str, fit: bool, remedy: str) -> None:
    machine.has("go", says)
    done = machine.doctor()
    assert (done.returncode == 0) is fit, done.stdout
    assert remedy in done.stdout


def test_go_and_maven_are_not_asked_for_once_they_have_done_their_part(machine: Machine) -> None:
    for tool in BUILT_BY_GO:
        assert f"{tool.name} {tool.version}" in machine.without("go").doctor().stdout
        machine.has_built(tool)
    fetched = machine.cache / "openbao-sidecar" / f"kafka-{kafka.VERSION}" / "complete"
    fetched.parent.mkdir(parents=True)
    fetched.touch()
    assert machine.without("mvn").doctor().returncode == 0


@pytest.mark.parametrize(("says", "fit"), [("v18.0.0", True), ("v22.1.0", True), ("v16.20.2", False), ("", False)])
def test_a_node_that_cannot_run_node_vault_is_too_old(machine: Machine, says: str, fit: bool) -> None:
    machine.has("node", says)
    assert (machine.doctor().returncode == 0) is fit


def test_npm_is_asked_for_until_all_that_it_fetches_is_there(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(machine.cache))
    (machine.cache / "openbao-sidecar" / "node-of-another-lock" / "node_modules").mkdir(parents=True)
    for name, folder in (("node-vault", kept_in(doctor.NODE_CLIENT)), ("Cerbos", cerbos_folder())):
        done = machine.without("npm").doctor()
        assert done.returncode == 1
        assert name in done.stdout
        assert machine.doctor("--packages").stdout == "npm\n"
        (folder / "node_modules").mkdir(parents=True)
    assert machine.doctor().returncode == 0


def test_a_maven_that_does_not_run_is_as_good_as_none(machine: Machine) -> None:
    (machine.bin / "mvn").write_text("#!/bin/sh\necho 'JAVA_HOME is not defined' >&2\nexit 1\n")
    done = machine.doctor()
    assert done.returncode == 1
    assert "has it a JDK?" in done.stdout


@pytest.mark.parametrize(("version", "fit"), [((3, 10, 13), False), ((3, 11, 0), True), ((3, 13, 1), True)])
def test_an_older_python_is_refused(version: tuple[int, ...], fit: bool) -> None:
    assert doctor.python(version).blocks is not fit


@pytest.mark.parametrize(("user", "needs"), [(1000, "needs root"), (0, "needs CAP_SYS_ADMIN")])
def test_who_may_not_run_pods_is_told_what_that_needs(user: int, needs: str) -> None:
    found = doctor.pods(errno.EPERM, user)
    assert found.blocks
    assert "refused (EPERM)" in found.problem
    assert needs in found.problem
    assert not doctor.pods(0, user).blocks


def test_the_namespaces_are_those_that_pods_of_the_tests_are_given() -> None:
    made = launch.CLONE_NEWNET | launch.CLONE_NEWNS | launch.CLONE_NEWPID | launch.CLONE_NEWIPC
    assert made == doctor.POD_NAMESPACES


def test_too_little_space_is_said() -> None:
    assert doctor.space("disk", Path("/"), 1e9).blocks
    assert not doctor.space("disk", Path("/nowhere/at/all"), 0.001).blocks


def test_an_old_python_can_read_it_to_the_end() -> None:
    tree = ast.parse(SCRIPT.read_text(), feature_version=(3, 8))
    imported = {
        name.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    }
    assert imported <= sys.stdlib_module_names


def test_it_asks_for_what_the_tests_use() -> None:
    assert {tool.name: tool.version for tool in BUILT_BY_GO} == doctor.GO_PROGRAMS
    assert f"require k8s.io/kubernetes v{KUBE_APISERVER.version}\n" in KUBE_APISERVER.module
    assert kafka.VERSION == doctor.KAFKA


def test_ci_runs_all_that_make_test_runs() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = script.read_text().splitlines()
    assert "set -euo pipefail" in lines
    assert lines[-1] == "exec make test"
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
