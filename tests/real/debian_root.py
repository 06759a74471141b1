"""A root file system of what the image's last stage is: Debian 12's Python and the libraries that it needs, and nothing
else. No container runs here, so the packages are unpacked and the result is entered by chroot."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.real.go_tools import cache_dir

PACKAGES: Final = (
    *("base-files", "netbase", "tzdata", "libc6", "libssl3", "libgcc-s1", "libstdc++6", "zlib1g"),
    *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libbz2-1.0", "libcrypt1", "libdb5.3"),
    *("libexpat1", "libffi8", "liblzma5", "libncursesw6", "libtinfo6", "libreadline8", "libsqlite3-0", "libuuid1"),
    *("libnsl2", "libtirpc3", "libgssapi-krb5-2", "libk5crypto3", "libkeyutils1", "libkrb5-3", "libkrb5support0"),
    *("libcom-err2", "libgomp1"),
)
"""What gcr.io/distroless/python3-debian12 is made of (its base, cc and python3 layers)."""
_NOT_SHIPPED: Final = ("usr/share/doc", "usr/share/man", "usr/share/lintian")
_TIMEOUT_SECONDS: Final = 300


def fresh_root(into: Path) -> Path:
    """A copy for one test; fetched from Debian once per machine."""
    kept = cache_dir() / "debian-root"
    if not (kept / "complete").exists():
        shutil.rmtree(kept, ignore_errors=True)
        _unpack(kept)
        (kept / "complete").touch()
    subprocess.run(["cp", "-a", str(kept / "root"), str(into)], check=True)
    return into


def _unpack(kept: Path) -> None:
    debs, root = kept / "debs", kept / "root"
    debs.mkdir(parents=True)
    root.mkdir()
    download = ["apt-get", "download", "-qq", *PACKAGES]
    done = subprocess.run(download, cwd=debs, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    if done.returncode != 0:
        pytest.fail(f"Debian 12's packages are needed once; run `apt-get update` first:\n{done.stderr}")
    for deb in sorted(debs.glob("*.deb")):
        subprocess.run(["dpkg", "-x", str(deb), str(root)], check=True)
    shutil.rmtree(debs)
    for folder in _NOT_SHIPPED:
        shutil.rmtree(root / folder, ignore_errors=True)
    (root / "usr" / "bin" / "python3").symlink_to("python3.11")


def entered(root: Path, user: str) -> list[str]:
    """What a command is put behind to run in it: as process 1 of its own, as that user where we may change ours."""
    unshare, chroot = "/usr/bin/unshare", "/usr/sbin/chroot"
    if os.geteuid() == 0:
        return [
            unshare,
            "--pid",
            "--fork",
            "--kill-child",
            f"--mount-proc={root}/proc",
            chroot,
            f"--userspec={user}",
            str(root),
        ]
    return [
        unshare,
        "--map-root-user",
        "--pid",
        "--fork",
        "--kill-child",
        f"--mount-proc={root}/proc",
        chroot,
        str(root),
    ]
