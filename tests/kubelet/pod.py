"""A pod that runs: its containers in the order of its specification, restarted, and ended as Kubernetes documents."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from tests.kubelet.container import PATIENCE_SECONDS, Container, Surroundings
from tests.kubelet.network import ADDRESS, PodNetwork
from tests.kubelet.volumes import Cluster, Volumes

_POLL_SECONDS: Final = 0.1


class RunningPod:
    """One pod, from a specification that the API server gave. Used in a `with`, it is killed at the latest then."""

    def __init__(
        self,
        folder: Path,
        cluster: Cluster,
        pod: Mapping[str, Any],
        *,
        images: Mapping[str, Sequence[str]],
        ways_out: Iterable[int] = (),
        disks: Mapping[str, str] | None = None,
    ) -> None:
        spec = pod["spec"]
        for unknown in ("hostNetwork", "shareProcessNamespace", "hostPID"):
            assert not spec.get(unknown), f"{unknown} is not played here"
        self.network = PodNetwork(ways_out)
        self.pod = {**pod, "status": {"podIP": ADDRESS, "hostIP": ADDRESS}}
        self.volumes = Volumes(cluster, self.pod, folder / "volumes", disks or {})
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="pod-starter")
        around = Surroundings(self._starter, cluster, self.pod, self.network, self.volumes, folder, images)
        self._init = [Container(around, one) for one in spec.get("initContainers", ())]
        self._main = [Container(around, one) for one in spec["containers"]]
        self._sidecars = [container for container in self._init if container.is_native_sidecar]
        self._started: list[Container] = []
        self._ends = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="pod-keeper", daemon=True)

    def __enter__(self) -> RunningPod:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _at: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(self.logs())
        self._kill()

    def container(self, name: str) -> Container:
        """One of its containers."""
        return next(one for one in (*self._init, *self._main) if one.name == name)

    def logs(self) -> str:
        """What all of them wrote."""
        return "\n".join(f"-- {one.name}:\n{one.log()[-6000:]}" for one in (*self._init, *self._main))

    # -- its start ---------------------------------------------------------------------------------------------------
    def start(self, before_main: Callable[[], None] = lambda: None) -> None:
        """Init containers one after the other, each ended with 0, a native sidecar started, before the next; then all
        others at once. `before_main` is called in between."""
        self.volumes.set_up()
        for container in self._init:
            self._start(container)
            if container.is_native_sidecar:
                container.wait_until_started()
            else:
                code = container.wait()
                assert code == 0, f"{container.name} ended with {code}\n{container.log()}"
        before_main()
        for container in self._main:
            self._start(container)
        self._keeper.start()

    def begin(self) -> threading.Thread:
        """`start` in a thread, for a pod that has to wait. Its end is the pod's start."""
        thread = threading.Thread(target=self.start, name="pod-start", daemon=True)
        thread.start()
        return thread

    def is_ready(self) -> bool:
        """Whether it takes part in its Services: every container that stays is ready."""
        return all(one.exit_code() is None and one.probe("readinessProbe") for one in (*self._sidecars, *self._main))

    def wait_until_ready(self) -> None:
        """Until `is_ready`."""
        wait_for(self.is_ready, "the pod is ready")

    def _start(self, container: Container) -> None:
        container.start()
        self._started.append(container)

    # -- while it runs -----------------------------------------------------------------------------------------------
    def _keep(self) -> None:
        """Starts again what ended and must not; ends the sidecars of a pod that has done its work."""
        policy = self.pod["spec"].get("restartPolicy", "Always")
        while not self._ends.wait(_POLL_SECONDS):
            for container in (*self._sidecars, *self._main):
                code = container.exit_code()
                stays = container.is_native_sidecar or policy == "Always" or (policy == "OnFailure" and code != 0)
                if code is not None and stays and not self._ends.is_set():
                    container.start()
            if all(container.exit_code() is not None for container in self._main):
                self._ends.set()
                self._end_sidecars()

    def wait(self) -> list[int]:
        """Until all of its containers have ended; the exit codes of those that did its work. For a Job's pod."""
        wait_for(self._ends.is_set, "the work ended")
        codes = [container.wait() for container in self._main]
        self._keeper.join(PATIENCE_SECONDS)
        assert all(container.exit_code() is not None for container in self._sidecars)
        return codes

    # -- its end -----------------------------------------------------------------------------------------------------
    def terminate(self) -> dict[str, int]:
        """As the kubelet does on deletion: all preStop hooks at once, SIGTERM to each main container after its own, to
        the sidecars in reverse order once the main ones have ended; SIGKILL where the grace period is over. The exit
        codes by container."""
        deadline = time.monotonic() + self.pod["spec"].get("terminationGracePeriodSeconds", 30)
        self._ends.set()
        self._keeper.join()
        hooks = [threading.Thread(target=one.pre_stop, daemon=True) for one in self._sidecars]
        for thread in (*hooks, *(threading.Thread(target=_end, args=(one,), daemon=True) for one in self._main)):
            thread.start()
        for container in self._main:
            self._ended(container, deadline)
        for hook in hooks:
            hook.join(max(0.0, deadline - time.monotonic()))
        self._end_sidecars(deadline)
        return {one.name: one.wait(1.0) for one in (*self._main, *self._sidecars)}

    def _end_sidecars(self, deadline: float | None = None) -> None:
        if deadline is None:
            deadline = time.monotonic() + self.pod["spec"].get("terminationGracePeriodSeconds", 30)
        for container in reversed(self._sidecars):
            container.terminate()
            self._ended(container, deadline)

    def _ended(self, container: Container, deadline: float) -> None:
        while container.exit_code() is None:
            if time.monotonic() > deadline:
                container.kill()
                container.wait()
            time.sleep(_POLL_SECONDS)

    def _kill(self) -> None:
        self._ends.set()
        if self._keeper.ident is not None:
            self._keeper.join()
        for container in self._started:
            container.kill()
            container.wait()
        self._starter.shutdown()
        self.volumes.tear_down()
        self.network.close()


def _end(container: Container) -> None:
    """Its hook, then SIGTERM: no container waits for another's hook."""
    container.pre_stop()
    container.terminate()


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Until it holds; fails where it does not for a minute."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen that {what}"
        time.sleep(_POLL_SECONDS)
