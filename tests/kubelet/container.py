"""One container of a running pod: how it is started, probed, restarted and ended."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.kubelet.environment import environment_of, expanded
from tests.kubelet.network import ADDRESS, PodNetwork
from tests.kubelet.volumes import Cluster, Volumes, user_of

HERE: Final = Path(__file__).parent
TREE: Final = HERE.parent.parent
PROGRAMS: Final = tuple(dict.fromkeys((str(TREE), sys.prefix, sys.base_prefix)))
HIDDEN: Final = ("/tmp", "/run", "/var/tmp", "/var/lib", "/etc/sidecar")
"""Where no container finds what this machine keeps there."""
PATIENCE_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the containers of one pod have in common. `images` are entry points by image; `starter` is the one thread
    that starts processes, since they end with the thread that did."""

    starter: Executor
    cluster: Cluster
    pod: Mapping[str, Any]
    network: PodNetwork
    volumes: Volumes
    folder: Path
    images: Mapping[str, Sequence[str]]


class Container:
    """One of a pod's containers. `starts` counts how often it was started."""

    def __init__(self, around: Surroundings, spec: Mapping[str, Any]) -> None:
        self.spec = spec
        self.name: str = spec["name"]
        self.starts = 0
        self._around = around
        self._folder = around.folder / "containers" / self.name
        self._folder.mkdir(parents=True)
        self._log = self._folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_native_sidecar(self) -> bool:
        """Starts with the init containers, and stays."""
        return self.spec.get("restartPolicy") == "Always"

    # -- its life ----------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Starts it, anew where it has ended."""
        self.starts += 1
        specification = self._folder / "specification.json"
        specification.write_text(json.dumps(self._specification()))
        self._process = self._around.starter.submit(self._launch, specification).result()

    def _launch(self, specification: Path) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", str(HERE / "launch.py"), str(specification)],
                pass_fds=[self._around.network.namespace],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={},
            )

    def exit_code(self) -> int | None:
        """None while it runs; 128 and the signal's number where a signal ended it."""
        assert self._process is not None, f"{self.name} was not started"
        code = self._process.poll()
        return 128 - code if code is not None and code < 0 else code

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Its exit code, once it has ended."""
        deadline = time.monotonic() + seconds
        while (code := self.exit_code()) is None:
            assert time.monotonic() < deadline, f"{self.name} did not end\n{self.log()}"
            time.sleep(_POLL_SECONDS)
        return code

    def pre_stop(self) -> None:
        """Its preStop hook; where it has none, nothing."""
        hook = self.spec.get("lifecycle", {}).get("preStop", {})
        if "sleep" in hook:
            time.sleep(hook["sleep"]["seconds"])
        elif "exec" in hook:
            self._run_inside(hook["exec"]["command"])
        elif hook:
            raise NotImplementedError(f"{self.name}: {hook}")

    def _run_inside(self, command: Sequence[str]) -> None:
        """A command beside the container's own, in its namespaces and as its user."""
        assert self._process is not None, f"{self.name} was not started"
        outside = self._process.pid
        inside = Path(f"/proc/{outside}/task/{outside}/children").read_text().split()[0]
        user, group = (str(self._specification()[key]) for key in ("uid", "gid"))
        entered = ["--mount", "--net", "--pid", "--ipc", "--root", "--wd", "--setuid", user, "--setgid", group]
        done = subprocess.run(
            ["nsenter", "--target", inside, *entered, *command], env={}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{self.name}: {command}: {done.returncode}\n{done.stdout}{done.stderr}"

    def terminate(self) -> None:
        """SIGTERM."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, to all of its processes."""
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    # -- its probes --------------------------------------------------------------------------------------------------
    def wait_until_started(self) -> None:
        """Until its startup probe succeeds. One look each moment: how often the kubelet looks is not what matters."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.probe("startupProbe"):
            code = self.exit_code()
            assert code is None, f"{self.name} ended with {code} before it had started\n{self.log()}"
            assert time.monotonic() < deadline, f"{self.name} did not start\n{self.log()}"
            time.sleep(_POLL_SECONDS)

    def probe(self, kind: str) -> bool:
        """Whether a probe succeeds; one that is not there does."""
        described = self.spec.get(kind)
        if described is None:
            return True
        asked = described["httpGet"]
        with suppress(OSError, http.client.HTTPException):
            status, _ = self._around.network.get(asked.get("host") or ADDRESS, asked["port"], asked["path"])
            return 200 <= status < 400
        return False

    def log(self) -> str:
        """What it wrote."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    # -- inside ------------------------------------------------------------------------------------------------------
    def _specification(self) -> dict[str, Any]:
        around, spec = self._around, self.spec
        pod_security, security = around.pod["spec"].get("securityContext", {}), spec.get("securityContext", {})
        user = user_of(around.pod["spec"], spec)
        if security.get("runAsNonRoot", pod_security.get("runAsNonRoot")):
            assert user != 0, f"{self.name} must not run as root"
        variables = environment_of(around.cluster, around.pod, spec)
        words = [*(spec.get("command") or around.images[spec["image"]]), *spec.get("args", ())]
        scratch = self._folder / "root"
        scratch.mkdir(exist_ok=True)
        group = pod_security.get("fsGroup")
        usual = {"PATH": os.defpath, "HOSTNAME": around.pod["metadata"]["name"], "PYTHONDONTWRITEBYTECODE": "1"}
        return {
            "parent": os.getpid(),
            "network": around.network.namespace,
            "scratch": str(scratch),
            "hidden": [*HIDDEN, str(around.folder)],
            "programs": PROGRAMS,
            "mounts": [self._mount(mount) for mount in spec.get("volumeMounts", ())],
            "read_only_root": bool(security.get("readOnlyRootFilesystem")),
            "uid": user,
            "gid": security.get("runAsGroup", pod_security.get("runAsGroup", 0)),
            "groups": [*pod_security.get("supplementalGroups", ()), *([group] if group is not None else ())],
            "folder": spec.get("workingDir", "/"),
            "command": [expanded(word, variables) for word in words],
            "environment": usual | variables,
        }

    def _mount(self, mount: Mapping[str, Any]) -> dict[str, Any]:
        source = self._around.volumes.path(mount["name"])
        return {
            "source": str(source / mount.get("subPath", "")),
            "target": mount["mountPath"],
            "read_only": bool(mount.get("readOnly")),
        }
