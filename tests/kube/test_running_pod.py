"""Pods of the chart, run by the kubelet's rules between the real API server and the real OpenBao."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import sys
from typing import Any

import pytest

from sidecar.audit.commands import verify
from tests.audit.spools import records
from tests.kube.place import Place, policy
from tests.kubelet.network import ADDRESS
from tests.kubelet.pod import RunningPod, wait_for
from tests.real.helm import Helm
from tests.real.kube import BUILD_TIMEOUT, KubeApi
from tests.real.openbao import SEEDS, OpenBao

pytestmark = [pytest.mark.real, pytest.mark.timeout(BUILD_TIMEOUT)]

SECRET = json.dumps(SEEDS["app/db"], sort_keys=True)
SIDECAR = "openbao-sidecar"
RESTARTS = int(os.environ.get("ROLLING_RESTARTS", "4"))
"""Twenty are a minute and more."""
LEAST_READS = 10  # the application's last ones alone


@pytest.fixture(scope="module")
def place(kube: KubeApi, openbao: OpenBao, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(kube, openbao, tmp_path_factory.mktemp("pods"), "pods")


@pytest.fixture(scope="module")
def template(place: Place, helm: Helm) -> dict[str, Any]:
    return place.example(place.install(helm))


def running(pod: RunningPod, template: dict[str, Any]) -> None:
    """Starts it and waits until its application has read its secret."""
    pod.start()
    says(pod, SECRET)


def says(pod: RunningPod, line: str, times: int = 1) -> None:
    """Waits until the application has said something so often."""
    wait_for(lambda: pod.container("application").log().splitlines().count(line) >= times, f"it says {line!r}")


def doing(template: dict[str, Any], command: list[str], **more: Any) -> dict[str, Any]:
    """The template with another application."""
    changed = copy.deepcopy(template)
    changed["spec"]["containers"][0]["command"] = command
    changed["spec"] |= more
    return changed


def readiness(pod: RunningPod) -> dict[str, Any]:
    """What `/readyz` says of each dependency."""
    _, body = pod.network.get(ADDRESS, 9102, "/readyz")
    checks: dict[str, Any] = json.loads(body)["checks"]
    return checks


# -- its life --------------------------------------------------------------------------------------------------------
def test_an_unchanged_application_reads_its_secret_from_its_first_request_to_its_last(
    place: Place, template: dict[str, Any]
) -> None:
    with place.running(template) as pod:
        order: list[str] = []
        pod.start(before_main=lambda: order.append(str(pod.container(SIDECAR).probe("startupProbe"))))
        says(pod, SECRET)
        assert order == ["True"]
        assert pod.is_ready()
        _ended_well(pod)
        spool = pod.volumes.path("sidecar-spool") / "audit"
        assert verify([spool], sys.stdout) == 0
        permits = [record for record in records(spool) if record["event"] == "SECRET_PERMIT"]
        assert {record["binding"]["kind"] for record in permits} == {"pod"}


def test_a_job_and_an_init_container_read_and_the_pod_ends(place: Place, template: dict[str, Any]) -> None:
    """The sidecar comes before the init container that needs it, and does not keep the Job from ending."""
    job = doing(template, place.command("once"), restartPolicy="Never")
    first = copy.deepcopy(job["spec"]["containers"][0]) | {"name": "first"}
    job["spec"]["initContainers"].append(first)
    with place.running(job) as pod:
        pod.start()
        assert pod.wait() == [0]
        assert pod.container(SIDECAR).exit_code() == 0
        assert [pod.container(name).log().strip() for name in ("first", "application")] == [SECRET, SECRET]


# -- what the application cannot have --------------------------------------------------------------------------------
@pytest.mark.parametrize("shares", [False, True], ids=["as it is", "if it mounted them"])
def test_the_application_finds_nothing_of_the_sidecars(place: Place, template: dict[str, Any], shares: bool) -> None:
    """Held against a pod that shares the volume, where the same look finds the tokens."""
    curious = doing(template, place.command("look"), restartPolicy="Never")
    if shares:
        mounts = [one for one in curious["spec"]["initContainers"][0]["volumeMounts"] if one["name"] == "sidecar-token"]
        curious["spec"]["containers"][0]["volumeMounts"] = mounts
    with place.running(curious) as pod:
        pod.start()
        assert pod.wait() == [0]
        found = json.loads(pod.container("application").log())
        assert bool(found["files"]) is shares
        assert found["processes"] == 0
        assert not [name for name in found["variables"] if name.startswith("SIDECAR")]


# -- what goes wrong -------------------------------------------------------------------------------------------------
def test_a_killed_sidecar_is_started_again_and_the_application_reads_on(place: Place, template: dict[str, Any]) -> None:
    with place.running(template) as pod:
        running(pod, template)
        pod.container(SIDECAR).kill()
        says(pod, "failing")
        says(pod, SECRET, times=2)
        assert pod.container(SIDECAR).starts == 2
        pod.terminate()
        spool = pod.volumes.path("sidecar-spool") / "audit"
        assert verify([spool], sys.stdout) == 0
        starts = [record["previous_run"] for record in records(spool) if record["event"] == "AUDIT_START"]
        assert starts == ["none", "crashed"]


def test_a_full_spool_refuses_says_so_and_recovers(place: Place, template: dict[str, Any]) -> None:
    with place.running(template, disks={"sidecar-spool": "2m"}) as pod:
        running(pod, template)
        filler = pod.volumes.path("sidecar-spool") / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        says(pod, "failing")
        wait_for(lambda: not pod.is_ready(), "the pod is not ready")
        assert not readiness(pod)["audit"]["ready"]
        assert pod.container(SIDECAR).probe("livenessProbe")
        filler.unlink()
        says(pod, SECRET, times=2)
        pod.wait_until_ready()


def test_while_the_api_server_is_away_none_starts_and_those_that_run_go_on(
    place: Place, template: dict[str, Any]
) -> None:
    with place.running(template) as pod:
        pod.network.away(place.kube.port)
        start = pod.begin()
        wait_for(lambda: pod.container(SIDECAR).starts == 1 and "keys" in _checks(pod), "the sidecar answers")
        assert not readiness(pod)["keys"]["ready"]
        assert pod.container("application").starts == 0
        pod.network.back(place.kube.port)
        start.join()
        says(pod, SECRET)
        pod.network.away(place.kube.port)
        assert pod.terminate()["application"] == 0  # its last reads too


def _checks(pod: RunningPod) -> dict[str, Any]:
    try:
        return readiness(pod)
    except OSError:
        return {}


# -- changes while it runs -------------------------------------------------------------------------------------------
def test_policies_change_with_their_config_map_and_no_restart(place: Place, template: dict[str, Any]) -> None:
    with place.running(template) as pod:
        running(pod, template)
        name = next(one for one in template["spec"]["volumes"] if one["name"] == "sidecar-policies")["configMap"][
            "name"
        ]
        path = f"/api/v1/namespaces/{place.namespace}/configmaps/{name}"
        before = place.kube.call("GET", path)
        nobody = {"pods.cedar": policy("somewhere-else")}
        changed = place.kube.call("PUT", path, before | {"data": nobody})
        pod.volumes.refresh()
        says(pod, "failing")
        place.kube.call("PUT", path, changed | {"data": before["data"]})
        pod.volumes.refresh()
        says(pod, SECRET, times=2)
        assert pod.container(SIDECAR).starts == 1


# -- rolling restarts ------------------------------------------------------------------------------------------------
def test_over_rolling_restarts_no_request_fails(place: Place, template: dict[str, Any]) -> None:
    """As a Deployment rolls: the next pod is ready before the one before is told to end. Each application asks from its
    first moment to its last."""
    reads: list[int] = []
    with contextlib.ExitStack() as last:
        before = _next_pod(place, template, last)
        for _ in range(RESTARTS):
            this = contextlib.ExitStack()
            pod = _next_pod(place, template, this)
            with last:
                reads.append(_ended_well(before))
            before, last = pod, this
        with last:
            reads.append(_ended_well(before))
    assert len(reads) == RESTARTS + 1
    assert min(reads) > LEAST_READS


def _next_pod(place: Place, template: dict[str, Any], stack: contextlib.ExitStack) -> RunningPod:
    pod = stack.enter_context(place.running(template))
    running(pod, template)
    pod.wait_until_ready()
    return pod


def _ended_well(pod: RunningPod) -> int:
    """How many reads there were, all good, each with its record."""
    assert pod.terminate() == {"application": 0, SIDECAR: 0}
    told = json.loads(pod.container("application").log().splitlines()[-1])
    assert told["failed"] == []
    spool = pod.volumes.path("sidecar-spool") / "audit"
    assert sum(record["event"] == "SECRET_PERMIT" for record in records(spool)) == told["reads"]
    return int(told["reads"])
