"""Mounts that change under a running sidecar, on a real OpenBao: noticed before a request is misread."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

import hvac.exceptions
import pytest
import requests

from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer

pytestmark = pytest.mark.real

WAYS: Final = ("another engine", "moved", "taken away", "upgraded", "downgraded", "deeper", "its like")
MISREAD: Final = {"upgraded": "metadata/app"}
"""What is asked for below the mount, where it is not `data/app`."""


class House:
    """A sidecar over one mount for each way in which one may change."""

    def __init__(self, folder: Any, openbao: OpenBao, issuer: Issuer, *, discovered: bool) -> None:
        self.openbao, self.discovered = openbao, discovered
        self._prefix = "found" if discovered else "told"
        root, mounts = openbao.root(), []
        for way in (*WAYS, "withheld"):
            version = "1" if way == "upgraded" else "2"
            root.sys.enable_secrets_engine("kv", self.path(way), options={"version": version})
            mounts.append({"path": self.path(way), "engine": f"kv{version}"})
            if version == "1":
                root.write_data(f"{self.path(way)}/metadata/app", data={"b": "canary"})
            else:
                openbao.put("app", {"a": "canary"}, mount=self.path(way))
        overrides = {
            "mounts": None if discovered else mounts,
            "upstream": {"mounts_max_age_seconds": 0},
            "tenant": {"allowed_mounts": [mount["path"] for mount in mounts]},
            "identity": {"binding": "preferred"},
            "anti_replay": {"unbound_token": "off"},
        }
        self.sidecar = SidecarProcess(folder, openbao, issuer, overrides)
        (self.sidecar.policies / "policies.cedar").write_text('@max_uses("1000") permit (principal, action, resource);')

    def path(self, way: str) -> str:
        return f"{self._prefix}-{way.replace(' ', '-')}"

    def ask(self, method: str, way: str, below: str = "data/app") -> tuple[int, str, str]:
        """Status, code and text of an answer to a request below the mount."""
        url, token = f"{self.sidecar.url}/v1/{self.path(way)}/{below}", self.sidecar.issuer.token(sub="app")
        answer = requests.request(method, url, headers={"X-Vault-Token": token}, timeout=30)
        return answer.status_code, (answer.json().get("code", "") if answer.content else ""), answer.text

    def replace(self, way: str, engine: str, **options: Any) -> None:
        root = self.openbao.root()
        root.sys.disable_secrets_engine(self.path(way))
        root.sys.enable_secrets_engine(engine, self.path(way), **options)

    def change(self, way: str) -> None:
        """Changes the mount in this way."""
        root, path = self.openbao.root(), self.path(way)
        match way:
            case "another engine":
                self.replace(way, "transit")
            case "moved":
                root.sys.move_backend(path, f"{path}-there")
                deadline = time.monotonic() + 20
                while f"{path}-there/" not in root.sys.list_mounted_secrets_engines()["data"]:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            case "taken away":
                root.sys.disable_secrets_engine(path)
            case "upgraded":
                root.sys.tune_mount_configuration(path, options={"version": "2"})
            case "downgraded" | "withheld":
                self.replace(way, "kv", options={"version": "1"})
                root.write_data(f"{path}/data/app", data={"b": "canary-of-kv1"})
            case "deeper":
                # OpenBao mounts nothing below or above a mount: so it takes the place of the one above.
                with pytest.raises(hvac.exceptions.InvalidRequest, match="already in use"):
                    root.sys.enable_secrets_engine("transit", f"{path}/data")
                root.sys.disable_secrets_engine(path)
                root.sys.enable_secrets_engine("kv", f"{path}/data", options={"version": "1"})
                root.write_data(f"{path}/data/app", data={"c": "canary-of-kv1"})
            case "its like":
                self.replace(way, "kv", options={"version": "2"})


@pytest.fixture(scope="module", params=[False, True], ids=["configured", "discovered"])
def house(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer
) -> Iterator[House]:
    made = House(tmp_path_factory.mktemp("mounts"), openbao, issuer, discovered=request.param)
    with made.sidecar:
        yield made
    root = openbao.root()
    for mount in root.sys.list_mounted_secrets_engines()["data"]:
        if mount.startswith(("found-", "told-")):
            root.sys.disable_secrets_engine(mount)


@pytest.mark.parametrize("way", WAYS)
def test_however_a_mount_changes_nothing_in_it_is_taken_for_what_it_was(house: House, way: str) -> None:
    asked = MISREAD.get(way, "data/app")
    assert house.ask("GET", way, asked)[0] == 200
    house.change(way)
    mark = house.openbao.mark()
    # Named by the mounts as they were: refused, since they changed. From then on they are known as they are.
    assert house.ask("DELETE", way, asked)[:2] == (503, "UPSTREAM_UNAVAILABLE")
    requests_then = [request for request in house.openbao.requests(since=mark) if house.path(way) in request["path"]]
    assert requests_then == []
    code = house.ask("DELETE", way, asked)[1]
    if way == "its like":
        assert code == ""
    elif house.discovered and way in ("downgraded", "upgraded"):
        assert code == ""
        assert house.sidecar.records()[-1]["operation"] == ("kv1.delete" if way == "downgraded" else "kv2.delete_all")
    elif house.discovered:
        assert code == ("OPERATION_FORBIDDEN" if way == "another engine" else "TENANT_MOUNT_MISMATCH")
    else:
        assert code == ("TENANT_MOUNT_MISMATCH" if way == "deeper" else "AMBIGUOUS_MOUNT")
        assert "disagree" in house.sidecar.ready_text()


def test_what_was_read_while_the_mounts_changed_is_withheld(house: House) -> None:
    before = house.sidecar.metrics()
    house.change("withheld")
    status, code, text = house.ask("GET", "withheld")
    assert (status, code) == (503, "UPSTREAM_UNAVAILABLE")
    assert "canary" not in text
    record = house.sidecar.records()[-1]
    assert (record["event"], record["operation"], record["upstream"]["status"]) == ("SECRET_ERROR", "kv2.read", 200)
    name = "sidecar_mount_changes_total "
    counts = [float(page.split(name)[-1].split()[0]) for page in (before, house.sidecar.metrics())]
    assert counts[1] == counts[0] + 1
