"""Becomes a container's first process: `python -I -S launch.py SPECIFICATION.json`, with the pod's network as FD.

A file of its own that needs nothing but the standard library, since it runs alone, before anything is there. The
process that was started stays outside as the parent; it hands on signals and ends as its container does.
"""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

CLONE_NEWNS = 0x00020000  # <linux/sched.h>
CLONE_NEWPID = 0x20000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWNET = 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    """Raises `OSError` where a call failed."""
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def mount(source: str, target: Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    done = libc.mount(source.encode(), bytes(target), kind.encode() or None, flags, options.encode() or None)
    check(done, f"mount {source} on {target}")


def root_of(spec: dict[str, Any]) -> Path:
    """The container's own view of this machine: read as it is, what is written forgotten."""
    mount("none", Path("/"), flags=MS_REC | MS_PRIVATE)
    scratch = Path(spec["scratch"])
    mount("tmpfs", scratch, "tmpfs")
    upper, work, root = scratch / "upper", scratch / "work", scratch / "root"
    for folder in (upper, work, root):
        folder.mkdir()
    mount("overlay", root, "overlay", options=f"lowerdir=/,upperdir={upper},workdir={work}")
    hidden = [root / path.lstrip("/") for path in spec["hidden"]]
    for folder in hidden:
        folder.mkdir(parents=True, exist_ok=True)
        mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    for path in spec["programs"]:  # the interpreter and this tree: they may stand on a disk of their own
        inside = root / path.lstrip("/")
        if not inside.exists() or not any(inside.iterdir()):
            inside.mkdir(parents=True, exist_ok=True)
            mount(path, inside, flags=MS_BIND | MS_REC)
        for parent in inside.parents:
            if parent.is_relative_to(root):
                parent.chmod(0o755)
    mount("/dev", root / "dev", flags=MS_BIND | MS_REC)
    for volume in spec["mounts"]:
        target = root / volume["target"].lstrip("/")
        if Path(volume["source"]).is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        mount(volume["source"], target, flags=MS_BIND | MS_REC)
        if volume["read_only"]:
            mount("none", target, flags=MS_REMOUNT | MS_BIND | MS_RDONLY)
    if spec["read_only_root"]:
        for folder in (*hidden, root):
            mount("none", folder, flags=MS_REMOUNT | MS_BIND | MS_RDONLY)
    return root


def become(spec: dict[str, Any], root: Path) -> None:
    """The first process of the container: its own processes, its user, no way to more."""
    mount("proc", root / "proc", "proc", MS_NOSUID | MS_NODEV)
    os.chroot(root)
    os.chdir(spec["folder"])
    os.setgroups(spec["groups"])
    os.setresgid(spec["gid"], spec["gid"], spec["gid"])
    os.setresuid(spec["uid"], spec["uid"], spec["uid"])
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    leash()  # after the change of user, which takes it off
    os.execve(spec["command"][0], spec["command"], spec["environment"])


def leash() -> None:
    """Ends with the parent, whatever ended that."""
    check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "death signal")


def main() -> None:
    """See above."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    leash()
    if os.getppid() != spec["parent"]:
        sys.exit("the parent ended before its child began")
    check(libc.setns(spec["network"], CLONE_NEWNET), "network namespace")
    os.close(spec["network"])
    check(libc.unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC), "namespaces")
    root = root_of(spec)
    child = os.fork()
    if child == 0:
        become(spec, root)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda sent, _frame: os.kill(child, sent))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
