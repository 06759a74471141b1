"""docs/how-to/applications-that-cannot-be-changed.md as it stands, with real clients, and a real cluster's tokens."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import requests

from sidecar.dev.openbao import find_binary
from sidecar.errors import Code
from tests.real.kube import KubeApi
from tests.real.openbao import SEEDS, OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.desk import open_desk
from tests.support.tokens import AUDIENCE, Issuer

pytestmark = pytest.mark.real

PAGE: Final = Path(__file__).parents[2] / "docs" / "how-to" / "applications-that-cannot-be-changed.md"
SUBJECT: Final = "system:serviceaccount:shop:app"
POLICY: Final = f"""
@id("the shop's pods read, ten times a minute")
@ttl_seconds("60")
@max_uses("10")
permit (principal == Workload::"{SUBJECT}", action == Action::"read", resource in Mount::"secret")
when {{ principal has kubernetes_namespace && principal.kubernetes_namespace == "shop" }};
"""


def blocks() -> list[str]:
    """The page's commands."""
    found = re.findall(r"```console\n\$ (.*?)\n```", PAGE.read_text(), re.DOTALL)
    assert len(found) == 3
    return found


def start(folder: Path, openbao: OpenBao, cluster: Issuer, **listen: Any) -> SidecarProcess:
    """A sidecar in a pod of this cluster."""
    folder.mkdir(exist_ok=True)
    (folder / "token").write_text(cluster.service_account_token())
    issuers = [cluster.configured(folder / "cluster.json", kind="kubernetes")]
    identity = {"issuers": issuers, "pod": {"enabled": True, "token_file": str(folder / "token")}}
    overrides: dict[str, Any] = {"identity": {"binding": "preferred", **identity}, "listen": listen}
    process = SidecarProcess(folder, openbao, cluster, overrides)
    (process.policies / "shop.cedar").write_text(POLICY)
    return process


@pytest.fixture(scope="module")
def cluster() -> Issuer:
    return Issuer("https://kubernetes.default.svc.cluster.local", algorithm="RS256")


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, cluster: Issuer) -> Iterator[SidecarProcess]:
    with start(tmp_path_factory.mktemp("pod") / "p", openbao, cluster) as process:
        yield process


def shell(pod: SidecarProcess, command: str) -> str:
    """A command of the page, by an application that knows `VAULT_ADDR` and nothing else."""
    assert shutil.which("curl") is not None, "curl is needed: apt-get install curl"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("BAO_", "VAULT_"))}
    environment |= {
        "VAULT_ADDR": pod.url,
        "HOME": str(pod.folder),
        "PATH": f"{find_binary().parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-c", command], env=environment, cwd=pod.folder, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def test_the_pods_own_requests_by_the_bao_cli_and_curl(pod: SidecarProcess) -> None:
    by_cli, by_curl, _ = blocks()
    assert shell(pod, by_cli).strip() == SEEDS["app/api"]["key"]
    assert json.loads(shell(pod, by_curl))["data"]["data"] == SEEDS["app/api"]
    for record in pod.records()[-2:]:
        assert (record["subject"]["sub"], record["event"]) == (SUBJECT, "SECRET_PERMIT")
        assert record["binding"] == {"kind": "pod", "thumbprint": None}
        assert record["token_jti"]
    lookup = pod.get("/v1/auth/token/lookup-self", **{"X-Vault-Request": "true"}).json()
    assert (lookup["data"]["id"], lookup["data"]["display_name"]) == ("pod", SUBJECT)


def test_what_is_not_the_pods_own_is_refused(pod: SidecarProcess) -> None:
    path, own = "/v1/secret/data/app/api", {"X-Vault-Request": "true"}
    for headers, status, code in (
        ({}, 401, "TOKEN_MISSING"),
        (own | {"X-Forwarded-For": "10.0.0.9"}, 401, "TOKEN_MISSING"),
        (own | {"Authorization": "Bearer x"}, 401, "TOKEN_INVALID"),
        (own | {"X-Vault-Token": "root"}, 401, "TOKEN_INVALID"),
        (own | {"Origin": "http://localhost"}, 403, "OPERATION_FORBIDDEN"),
    ):
        answer = pod.get(path, **headers)
        assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_the_projected_token_as_vault_token(pod: SidecarProcess, cluster: Issuer) -> None:
    # The pod holds a grant for this; another binding of the same subject is taken where its token is newer.
    (pod.folder / "token").write_text(cluster.service_account_token(iat=int(cluster.now()) + 3, nbf=int(cluster.now())))
    assert shell(pod, blocks()[2]).strip() == SEEDS["app/api"]["key"]
    assert pod.records()[-1]["binding"]["kind"] == "none"


def test_a_token_that_is_gone_is_warned_of_and_refused(pod: SidecarProcess, cluster: Issuer) -> None:
    ready, path = f"http://127.0.0.1:{pod.ops_port}/readyz", "/v1/secret/data/app/db"
    (pod.folder / "token").write_text("garbage")
    answers: list[str] = []
    while not answers or answers[-1] == "ok":
        answers.append(pod.get(path, **{"X-Vault-Request": "true"}).json().get("code", "ok"))
        assert len(answers) < 1000
    assert answers[-1] == "TOKEN_INVALID"
    keys = requests.get(ready, timeout=5).json()["checks"]["keys"]
    assert keys["ready"]
    assert "identity.pod.token_file" in keys["warning"]


def test_by_unix_socket_the_record_says_which_user_it_was(tmp_path: Path, openbao: OpenBao, cluster: Issuer) -> None:
    socket = tmp_path / "s.sock"
    with start(tmp_path / "p", openbao, cluster, address=f"unix://{socket}") as process:
        command = f"curl -s --unix-socket {socket} -H 'X-Vault-Request: true' http://localhost/v1/secret/data/app/api"
        assert json.loads(shell(process, command))["data"]["data"] == SEEDS["app/api"]
        assert process.records()[-1]["binding"] == {"kind": "pod", "thumbprint": f"uid:{os.getuid()}"}


def test_every_answer_brings_a_nonce_and_every_challenge_is_the_standards(pod: SidecarProcess) -> None:
    """Those of the door too, which refuses what it cannot read."""
    for path, headers, status in (
        ("/v1/sys/health", {}, 200),
        ("/v1/secret/data/app/api", {"X-Vault-Request": "true"}, 401),
        ("/v1/secret/data/%2e%2e", {}, 400),
        ("/v1/sys/raw/x", {}, 403),
        ("/v1/secret/data/app/api", {"X": "y" * 70_000}, 431),
        ("/v1/secret/data/app/api", {"Host": "evil.example"}, 400),
        ("/v1/" + "a" * 5000, {}, 400),
        ("/api/nothing", {}, 403),
    ):
        answer = pod.get(path, **headers)
        assert answer.status_code in (status, 404 if path.startswith("/api") else status), (path[:40], answer.text)
        assert answer.headers["DPoP-Nonce"]
        assert ("WWW-Authenticate" in answer.headers) is (answer.status_code == 401)


async def test_a_real_clusters_tokens_by_its_own_metadata(kube: KubeApi, tmp_path: Path) -> None:
    """Keys by discovery, with the cluster's CA and a bearer token; a token by TokenRequest, as pods get theirs."""
    kube.service_account("caller-app")
    (tmp_path / "bearer").write_text(kube.token("caller-app"))
    cluster = {
        "issuer": kube.issuer,
        "kind": "kubernetes",
        "ca_file": str(kube.ca_file),
        "token_file": str(tmp_path / "bearer"),
        "algorithms": ["RS256"],
    }
    sections: dict[str, Any] = {"identity": {"binding": "preferred"}, "anti_replay": {"unbound_token": "off"}}
    async with open_desk(tmp_path, issuers=[cluster], **sections) as desk:
        token = kube.token("caller-app", audiences=[AUDIENCE])
        desk.clock.advance(1)
        caller = await desk.ask(desk.head(token))
        assert (caller.subject, caller.issuer) == ("system:serviceaccount:default:caller-app", kube.issuer)
        assert dict(caller.attributes)["kubernetes_service_account"] == "caller-app"
        other = kube.token("caller-app", audiences=["another"])
        assert await desk.code(desk.head(other)) is Code.AUDIENCE_MISMATCH
