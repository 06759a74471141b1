"""Says which tools this machine lacks for which make target, and the Debian package that brings each.

Runs with any Python 3.8 and nothing installed: `python3 tools/doctor.py`. Exit 0 where `make test` can run, else 1.
`--packages` prints only the Debian packages that `make test` lacks, on one line.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PYTHON = (3, 11)
GO_CLIENT = ROOT / "tests" / "clients" / "go"
NETPOL = ROOT / "tests" / "real" / "netpol"
NODE_CLIENT = ROOT / "tests" / "clients" / "node"
CERBOS = ROOT / "tests" / "real" / "cerbos"


def digest(*contents: bytes) -> str:
    """What files that hold this are kept by."""
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:16]


def version_of(source: Path) -> str:
    """The version of a program of ours: what its files say."""
    return digest(*(path.read_bytes() for path in sorted(source.iterdir()) if path.is_file()))


# Built by Go, once per machine.
GO_PROGRAMS = {
    "crds": "0.92.1-1.18.2",  # resource definitions, out of their Go modules
    "helm": "3.22.0",
    "kube-apiserver": "1.34.4",
    "kubeconform": "0.8.0",
    "netpol": version_of(NETPOL),
    "opa": "1.22.2",
    "openbao-client": version_of(GO_CLIENT),
    "openfga": "1.22.1",
}
GO = (1, 26)  # what the newest of them asks for
KAFKA = "4.4.0"
NODE = (18, 0)
TOOLCHAINS_SINCE = (1, 21)  # from here on Go fetches the toolchain that a module asks for, unless told not to
ENVIRONMENT_GIB, BUILD_GIB, REST_GIB = 1.5, 5.0, 0.5

POD_NAMESPACES = 0x40000000 | 0x00020000 | 0x20000000 | 0x08000000  # NEWNET, NEWNS, NEWPID, NEWIPC of <linux/sched.h>

ALL, TEST = "every target", "make test"


class Finding(NamedTuple):
    """One thing looked for. `problem` is empty where it is there; `package` is Debian's, where there is one."""

    tool: str
    found: str
    needed_for: str
    problem: str = ""
    package: str = ""

    @property
    def blocks(self) -> bool:
        """Whether `make test` cannot run without it."""
        return bool(self.problem) and self.needed_for in (ALL, TEST)


def cache() -> Path:
    """Where built and fetched programs are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openbao-sidecar"


def to_be_built() -> list[str]:
    """The programs that Go still has to build on this machine."""
    return [
        f"{name} {version}"
        for name, version in GO_PROGRAMS.items()
        if not (cache() / f"{name}-{version}" / name).exists()
    ]


def to_be_fetched() -> list[str]:
    """What npm still has to fetch on this machine: each is kept by the digest of what names it."""
    node_vault = digest((NODE_CLIENT / "package.json").read_bytes(), (NODE_CLIENT / "package-lock.json").read_bytes())
    cerbos = digest((CERBOS / "package-lock.json").read_bytes())
    kept = {"node-vault": f"node-{node_vault}", "Cerbos": f"cerbos-{cerbos}"}
    return [name for name, folder in kept.items() if not (cache() / folder / "node_modules").exists()]


def kafka_is_fetched() -> bool:
    """Whether Maven has done its part on this machine."""
    return (cache() / f"kafka-{KAFKA}" / "complete").exists()


def said_by(*command: str) -> str:
    """What a program prints, both ways; empty where it cannot run."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=os.sep, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else ""


def numbers(text: str) -> tuple[int, ...]:
    """The first version in a text."""
    found = re.search(r"\d+(\.\d+)+", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def dotted(version: tuple[int, ...]) -> str:
    """A version as people write it."""
    return ".".join(map(str, version))


# -- what is looked for ----------------------------------------------------------------------------------------------
def system() -> Finding:
    """The operating system."""
    name = platform.system()
    problem = "" if name == "Linux" else "the sidecar and what tests it run on Linux"
    return Finding("Linux", f"{name} {platform.machine()}", ALL, problem)


def python(version: tuple[int, ...]) -> Finding:
    """The interpreter that runs this, which is the one that `make` uses."""
    problem = "" if version >= PYTHON else f"older than {dotted(PYTHON)}; name another: make PYTHON=python3.11"
    return Finding("python", dotted(version), ALL, problem, "python3")


def venv() -> Finding:
    """What `python3 -m venv` needs; Debian packs it apart."""
    there = all(importlib.util.find_spec(name) for name in ("venv", "ensurepip"))
    return Finding("python venv", "yes" if there else "", ALL, "" if there else "missing", "python3-venv")


def program(name: str, needed_for: str, package: str) -> Finding:
    """A program whose version does not matter."""
    path = shutil.which(name) or ""
    return Finding(name, path, needed_for, "" if path else "missing", package)


def go() -> Finding:
    """Go builds some of what the tests run, once."""
    missing = ", ".join(to_be_built())
    if not missing:
        return Finding("go", "not needed: all that it builds is built", TEST)
    said = said_by("go", "env", "GOVERSION", "GOTOOLCHAIN").split()
    if not said:
        return Finding("go", "", TEST, f"missing; it builds, once: {missing}", "golang-go")
    version, fetches = numbers(said[0]), said[1:] != ["local"]
    if version >= GO or (version >= TOOLCHAINS_SINCE and fetches):
        return Finding("go", dotted(version), TEST)
    remedy = "export GOTOOLCHAIN=auto" if version >= TOOLCHAINS_SINCE else "install it from https://go.dev/dl/"
    return Finding("go", dotted(version), TEST, f"older than {dotted(GO)}; {remedy}")


def maven() -> Finding:
    """Maven fetches Kafka, once."""
    packages = "maven default-jdk-headless"
    if kafka_is_fetched():
        return Finding("mvn", f"not needed: Kafka {KAFKA} is there", TEST)
    if shutil.which("mvn") is None:
        return Finding("mvn", "", TEST, f"missing; it fetches Kafka {KAFKA}, once", packages)
    version = numbers(said_by("mvn", "--version"))
    return Finding("mvn", dotted(version), TEST, "" if version else "does not run; has it a JDK?", packages)


def node() -> Finding:
    """Node runs node-vault, which npm fetches, once."""
    version = numbers(said_by("node", "--version"))
    problem = "" if version >= NODE else f"older than {dotted(NODE)}" if version else "missing; it runs node-vault"
    return Finding("node", dotted(version), TEST, problem, "nodejs")


def npm() -> Finding:
    """npm fetches node-vault and Cerbos, once."""
    missing = ", ".join(to_be_fetched())
    if not missing:
        return Finding("npm", "not needed: all that it fetches is there", TEST)
    path = shutil.which("npm") or ""
    return Finding("npm", path, TEST, "" if path else f"missing; it fetches, once: {missing}", "npm")


def refused_namespaces() -> int:
    """The kernel's error number where this process may not make the namespaces that pods of the tests run in; else 0.
    Tried in a child, which ends with it."""
    child = os.fork()
    if child == 0:
        refused = errno.ENOSYS
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            refused = ctypes.get_errno() if libc.unshare(POD_NAMESPACES) != 0 else 0
        finally:
            os._exit(refused)
    return os.waitpid(child, 0)[1] >> 8


def pods(refused: int, user: int) -> Finding:
    """tests/kube runs pods as the kubelet does: in namespaces, with users and small disks of their own."""
    if not refused:
        return Finding("namespaces", "yes", TEST)
    needs = "root" if user else "CAP_SYS_ADMIN and no seccomp filter in the way: a privileged container, say"
    name = errno.errorcode.get(refused, refused)
    return Finding("namespaces", "", TEST, f"refused ({name}); tests/kubelet runs pods in them, and needs {needs}")


def space(name: str, folder: Path, gib: float) -> Finding:
    """Free disk space where something large goes."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    return Finding(name, f"{free:.1f} GiB free in {folder}", TEST, "" if free >= gib else f"less than {gib} GiB")


def findings() -> list[Finding]:
    """Everything, in the order in which it is needed."""
    environment = 0.1 if (ROOT / ".venv" / ".installed").exists() else ENVIRONMENT_GIB
    return [
        system(),
        python(tuple(sys.version_info[:3])),
        venv(),
        program("make", ALL, "make"),
        go(),
        maven(),
        node(),
        npm(),
        program("etcd", TEST, "etcd-server"),
        program("promtool", TEST, "prometheus"),
        program("redis-server", TEST, "redis-server"),
        program("curl", TEST, "curl"),
        pods(refused_namespaces(), os.getuid()),
        space("disk, checkout", ROOT, environment),
        space("disk, caches", cache(), BUILD_GIB if to_be_built() else REST_GIB),
        program("git", "contributing", "git"),
        program("openssl", "pasting the how-tos' commands", "openssl"),
    ]


def main() -> int:
    """Prints the table, or the packages. Returns the exit status."""
    found = findings()
    blocked = [finding for finding in found if finding.blocks]
    if sys.argv[1:] == ["--packages"]:
        print(" ".join(sorted({finding.package for finding in blocked if finding.package})))
        return 0
    for finding in found:
        state = "ok" if not finding.problem else "MISSING" if finding.blocks else "missing"
        said = finding.problem or finding.found
        print(f"{state:8}{finding.tool:16}{said:48}  {finding.needed_for}".rstrip())
        if finding.problem and finding.package:
            print(f"{'':24}apt-get install {finding.package}")
    print("make test can run" if not blocked else "make test cannot run yet")
    return 1 if blocked else 0


if __name__ == "__main__":
    sys.exit(main())
