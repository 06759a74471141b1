"""Policies exchanged in a running sidecar, as the kubelet exchanges a ConfigMap."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from pathlib import Path

import pytest
import requests

from sidecar.dev.ports import LOOPBACK
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.real

OVERRIDES = {"identity": {"binding": "preferred"}, "grants": {"negative_ttl_seconds": 1}}


def exchange(volume: Path, generation: str, **files: str) -> None:
    """A folder of its own for each generation; the link `..data` is swapped in one step."""
    folder = volume / f"..{generation}"
    folder.mkdir()
    for name, text in files.items():
        (folder / f"{name}.cedar").write_text(text)
    (volume / "..data_tmp").symlink_to(folder.name)
    (volume / "..data_tmp").rename(volume / "..data")
    for name in files:
        link = volume / f"{name}.cedar"
        if not link.is_symlink():
            link.symlink_to(f"..data/{name}.cedar")


def only(name: str, other: str) -> dict[str, str]:
    """Exactly one of two subjects may read. A mixture of two such sets would permit both, or neither."""
    return {
        "a": f'@id("{name}") @max_uses("2") permit (principal == Workload::"{name}", action, resource);',
        "b": f'@id("not-{other}") forbid (principal == Workload::"{other}", action, resource);',
    }


def loads(process: SidecarProcess, result: str) -> float:
    line = f'sidecar_policy_loads_total{{result="{result}"}} '
    return next((float(one.removeprefix(line)) for one in process.metrics().splitlines() if one.startswith(line)), 0.0)


def reload(process: SidecarProcess, result: str = "taken") -> None:
    """SIGHUP, and waits until the folder was read."""
    before = loads(process, result)
    assert process.process is not None
    process.process.send_signal(signal.SIGHUP)
    wait_until(lambda: loads(process, result) > before)


@pytest.fixture
def process(tmp_path: Path, openbao: OpenBao, issuer: Issuer) -> SidecarProcess:
    sidecar = SidecarProcess(tmp_path / "rollout", openbao, issuer, OVERRIDES)
    (sidecar.policies / "policies.cedar").unlink()
    exchange(sidecar.policies, "start", **only("even", "odd"))
    return sidecar


def test_a_set_exchanged_100_times_under_load_decides_each_request_by_one_of_the_two(process: SidecarProcess) -> None:
    """Each record says which set decided, and agrees with it; each answer is what its record says."""
    sets = [only("even", "odd"), only("odd", "even")]
    running = True
    answers: Counter[tuple[str, int]] = Counter()

    def load(subject: str) -> None:
        while running:
            answer = process.get("/v1/secret/data/app/db", process.issuer.token(sub=subject))
            answers[subject, answer.status_code] += 1

    with process:
        workers = [threading.Thread(target=load, args=(subject,)) for subject in ("even", "odd")]
        for worker in workers:
            worker.start()
        try:
            for index in range(1, 101):
                exchange(process.policies, str(index), **sets[index % 2])
                reload(process)
        finally:
            running = False
            for worker in workers:
                worker.join()
        records = [one for one in process.records() if one["event"] in ("SECRET_PERMIT", "SECRET_DENY")]
    decided: dict[str, set[tuple[str, str]]] = {}
    for record in records:
        decided.setdefault(record["policy_version"], set()).add((record["subject"]["sub"], record["event"]))
    assert len(decided) == 2
    for outcomes in decided.values():
        permitted = {subject for subject, event in outcomes if event == "SECRET_PERMIT"}
        denied = {subject for subject, event in outcomes if event == "SECRET_DENY"}
        assert len(permitted) == len(denied) == 1
        assert permitted != denied
    counted = Counter((one["subject"]["sub"], 200 if one["event"] == "SECRET_PERMIT" else 403) for one in records)
    assert counted == answers
    assert len(records) > 200


def test_a_bad_set_is_refused_with_file_and_line_and_everybody_is_told(process: SidecarProcess) -> None:
    def pdp() -> dict[str, object]:
        return dict(requests.get(f"http://{LOOPBACK}:{process.ops_port}/readyz", timeout=5).json()["checks"]["pdp"])

    def asked(subject: str) -> int:
        return process.get("/v1/secret/data/app/db", process.issuer.token(sub=subject)).status_code

    with process:
        exchange(process.policies, "bad", **(only("odd", "even") | {"b": "\n\nforbid (principal, action, resou"}))
        wait_until(lambda: loads(process, "refused") == 1)  # by the change of `..data` alone
        wait_until(lambda: "warning" in pdp())
        assert pdp()["ready"] is True
        assert "b.cedar:3: no `;` ends this policy" in str(pdp()["warning"])
        assert "sidecar_policies_refused 1.0" in process.metrics()
        assert (asked("even"), asked("odd")) == (200, 403)
        reload(process, "refused")
        assert (asked("even"), asked("odd")) == (200, 403)
        assert "b.cedar:3: no `;`" in process.log.read_text()
        exchange(process.policies, "good", **only("odd", "even"))
        reload(process)
        assert "warning" not in pdp()
        assert "sidecar_policies_refused 0.0" in process.metrics()
        assert (asked("even"), asked("odd")) == (403, 200)
