"""A real Kubernetes API server for the tests, without a cluster: kube-apiserver and the etcd it keeps its objects in.

kube-apiserver is built once per machine from Go's modules (about four minutes), etcd is Debian's `etcd-server`. It
issues real service-account tokens (`token`), answers TokenReview as OpenBao's kubernetes auth asks it to, and calls
admission webhooks on loopback. No controller runs beside it: nothing makes pods of deployments or default accounts.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
import requests

from sidecar.dev import leash
from sidecar.dev.ports import LOOPBACK, free_port
from sidecar.dev.processes import child_environment
from tests.real.go_tools import GoTool, cached_go_tool
from tests.real.kube_version import MINOR, VERSION
from tests.real.processes import ended, tail
from tests.support.tokens import new_private_key
from tests.upstream.certificates import private_pem

_VERSION_PACKAGE: Final = "k8s.io/component-base/version"
_LDFLAGS: Final = (
    "-s",
    "-w",
    f"-X {_VERSION_PACKAGE}.gitVersion=v{VERSION}",
    f"-X {_VERSION_PACKAGE}.gitMajor=1",
    f"-X {_VERSION_PACKAGE}.gitMinor={MINOR.partition('.')[2]}",
)
KUBE_APISERVER: Final = GoTool(
    "kube-apiserver",
    VERSION,
    "k8s.io/kubernetes/cmd/kube-apiserver",
    cold_seconds=250,
    module=Path(__file__).with_name("kube-apiserver.mod").read_text().replace("34.4", VERSION[2:]),
    ldflags=" ".join(_LDFLAGS),
)
BUILD_TIMEOUT: Final = 1800
"""Seconds for the first test on a machine, whose fixture builds the API server."""
READY_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.05


class KubeApi:
    """One API server on its own etcd. `admin` may do everything."""

    def __init__(self, folder: Path, binary: Path, *, service_accounts: bool = False) -> None:
        """`service_accounts`: pods get the token of an account, which must exist, as in every cluster."""
        self.folder = folder
        self._without = () if service_accounts else ("--disable-admission-plugins=ServiceAccount",)
        self.port = free_port()
        self.address = f"https://{LOOPBACK}:{self.port}"
        self.issuer = self.address
        self.ca_file = folder / "certs" / "apiserver.crt"
        self.admin_token = secrets.token_urlsafe(16)
        self._binary = binary
        self._etcd = f"http://{LOOPBACK}:{free_port()}"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._kinds: dict[str, dict[str, Any]] = {}
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = str(self.ca_file)
        self._session.headers["Authorization"] = f"Bearer {self.admin_token}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sa.key").write_bytes(private_pem(new_private_key("RS256")))
        (folder / "tokens.csv").write_text(f"{self.admin_token},admin,admin,system:masters\n")

    # -- its life ----------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Starts both and waits until the API answers."""
        etcd = shutil.which("etcd")
        if etcd is None:
            pytest.fail("etcd is needed: apt-get install etcd-server")
        peers = f"http://{LOOPBACK}:{free_port()}"
        self._launch(
            "etcd",
            etcd,
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={self._etcd}",
            f"--advertise-client-urls={self._etcd}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            "--unsafe-no-fsync",
        )
        self._launch(
            "kube-apiserver",
            str(self._binary),
            f"--etcd-servers={self._etcd}",
            f"--bind-address={LOOPBACK}",
            f"--advertise-address={LOOPBACK}",
            f"--secure-port={self.port}",
            f"--cert-dir={self.ca_file.parent}",
            f"--service-account-key-file={self.folder / 'sa.key'}",
            f"--service-account-signing-key-file={self.folder / 'sa.key'}",
            f"--service-account-issuer={self.issuer}",
            "--service-cluster-ip-range=10.0.0.0/24",
            *self._without,
            "--authorization-mode=RBAC",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--endpoint-reconciler-type=none",
            "--allow-privileged",
        )
        self._wait_until_ready()

    def stop(self) -> None:
        """Ends both."""
        self._session.close()
        while self._processes:
            ended(self._processes.pop())  # the API server first

    def __enter__(self) -> KubeApi:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    # -- asking it ---------------------------------------------------------------------------------------------------
    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One call of the API as its administrator; fails the test where it is refused."""
        answer = self.answer(method, path, body)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def answer(self, method: str, path: str, body: Any = None, content_type: str = "") -> requests.Response:
        """One call of the API as its administrator, whatever comes of it."""
        headers = {"Content-Type": content_type} if content_type else {}
        return self._session.request(method, f"{self.address}{path}", json=body, headers=headers, timeout=30)

    def apply(self, manifest: Mapping[str, Any], *, dry_run: bool = False) -> Any:
        """Server-side apply with every check that the API server has: its own validation, admission, and no field that
        it does not know. Fails the test where it is refused."""
        version, metadata = manifest["apiVersion"], manifest["metadata"]
        base = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if base not in self._kinds:
            listed = self.call("GET", base)["resources"]
            self._kinds[base] = {one["kind"]: one for one in listed if "/" not in one["name"]}
        kind = self._kinds[base][manifest["kind"]]
        place = f"/namespaces/{metadata['namespace']}" if kind["namespaced"] else ""
        query = "fieldManager=helm&fieldValidation=Strict&force=true" + ("&dryRun=All" if dry_run else "")
        path = f"{base}{place}/{kind['name']}/{metadata['name']}?{query}"
        answer = self.answer("PATCH", path, manifest, "application/apply-patch+yaml")
        assert answer.ok, f"{manifest['kind']} {metadata['name']}: {answer.status_code} {answer.text}"
        return answer.json()

    def wait_until_served(self, spec: Mapping[str, Any]) -> None:
        """Until objects of a resource definition can be made."""
        path = f"/apis/{spec['group']}/{spec['versions'][-1]['name']}/{spec['names']['plural']}"
        deadline = time.monotonic() + READY_SECONDS
        while not self.answer("GET", path).ok:
            assert time.monotonic() < deadline, f"{path} is not served"
            time.sleep(_POLL_SECONDS)

    def service_account(self, name: str, namespace: str = "default") -> None:
        """Makes a service account."""
        metadata = {"name": name, "namespace": namespace}
        self.call("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": metadata})

    def token(
        self,
        account: str,
        namespace: str = "default",
        *,
        audiences: Sequence[str] = (),
        seconds: int = 3600,
        pod: Mapping[str, Any] | None = None,
    ) -> str:
        """A token of that account, as the kubelet projects it into pods (TokenRequest); 600 seconds are the least.
        With the metadata of a pod it is bound to that pod, and ends with it."""
        spec: dict[str, Any] = {"audiences": list(audiences), "expirationSeconds": seconds}
        if pod is not None:
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": pod["name"], "uid": pod["uid"]}
        made = self.call("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", {"spec": spec})
        return str(made["status"]["token"])

    def review(self, token: str, *, audiences: Sequence[str] = ()) -> dict[str, Any]:
        """What the API server says of a token (TokenReview's `status`)."""
        spec = {"token": token, "audiences": list(audiences)}
        made = self.call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", {"spec": spec})
        status: dict[str, Any] = made["status"]
        return status

    def may_review_tokens(self, account: str, namespace: str = "default") -> None:
        """Lets an account ask for TokenReviews, as OpenBao's `token_reviewer_jwt` must."""
        self.call(
            "POST",
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            {
                "metadata": {"name": f"{namespace}-{account}-reviews-tokens"},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": "system:auth-delegator",
                },
                "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
            },
        )

    def log_tail(self) -> str:
        """The last lines of both logs."""
        return "\n".join(tail(path) for path in sorted(self.folder.glob("*.log")))

    # -- inside ------------------------------------------------------------------------------------------------------
    def _launch(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(leash.__file__), str(os.getpid()), *command],
                cwd=self.folder,
                env=child_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes.append(process)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            with suppress(requests.RequestException, OSError):  # its certificate is made when it starts
                if self._session.get(f"{self.address}/readyz", timeout=5).status_code == 200:
                    return
            if any(process.poll() is not None for process in self._processes) or time.monotonic() > deadline:
                tail = self.log_tail()
                self.stop()
                pytest.fail(f"the API server did not become ready:\n{tail}")
            time.sleep(_POLL_SECONDS)


@pytest.fixture(scope="session")
def kube(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[KubeApi]:
    """The shared API server. Tests that use it carry `pytest.mark.timeout(BUILD_TIMEOUT)`, for the first time on a
    machine, and make accounts and namespaces of their own."""
    capture: Any = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():  # whoever waits for the build sees it
        binary = cached_go_tool(KUBE_APISERVER)
    with KubeApi(tmp_path_factory.mktemp("kube"), binary) as server:
        yield server
