"""The injector as it runs beside a real API server: its certificates, its probes, its metrics, its end."""

from __future__ import annotations

import asyncio
import base64
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests
import yaml
from cryptography import x509

from sidecar.dev.ports import free_port
from sidecar.injector import certificates
from sidecar.injector.app import Injector
from sidecar.injector.certificates import CertificateKeeper
from sidecar.injector.cluster import Cluster as ApiServer
from sidecar.injector.cluster import ClusterError
from sidecar.injector.config import InjectorConfig, SelfMade
from tests.injector.making import NAMESPACE, Tree, config, pod, review, sidecar_of, variables
from tests.real.injector import ADMISSION, REGISTRATION, SECRET, SERVICE, Cluster, InjectorProcess
from tests.real.injector import NAMESPACE as INJECTORS
from tests.real.kube import BUILD_TIMEOUT
from tests.support.certificates import Authority

pytestmark = [pytest.mark.real, pytest.mark.timeout(BUILD_TIMEOUT)]

SECRETS = f"/api/v1/namespaces/{INJECTORS}/secrets"


def stored(cluster: Cluster, name: str = SECRET) -> dict[str, bytes]:
    found = cluster.kube.call("GET", f"{SECRETS}/{name}").get("data", {})
    return {key: base64.b64decode(text) for key, text in found.items()}


def bundles(cluster: Cluster) -> set[bytes]:
    found = set()
    for kind in ("mutatingwebhookconfigurations", "validatingwebhookconfigurations"):
        registration = cluster.kube.call("GET", f"{ADMISSION}/{kind}/{REGISTRATION}")
        found |= {base64.b64decode(one["clientConfig"]["caBundle"]) for one in registration["webhooks"]}
    return found


def let_in(cluster: Cluster) -> Tree:
    tree = pod()
    del tree["metadata"]["namespace"]
    made: Tree = cluster.kube.call("POST", f"/api/v1/namespaces/{NAMESPACE}/pods?dryRun=All", tree)
    return made


def test_the_registrations_trust_what_the_secret_holds(cluster: Cluster) -> None:
    assert bundles(cluster) == {stored(cluster)["ca.crt"]}


def test_an_injector_that_starts_anew_serves_what_is_stored(cluster: Cluster) -> None:
    before = stored(cluster)
    cluster.injector.stop()
    shutil.rmtree(cluster.injector.folder / "tls")
    cluster.injector.start()
    assert stored(cluster) == before
    assert let_in(cluster)


def test_a_secret_that_was_lost_is_made_anew_and_trusted(cluster: Cluster) -> None:
    before = stored(cluster)
    cluster.injector.stop()
    path = f"{SECRETS}/{SECRET}"
    secret = cluster.kube.call("GET", path)
    cluster.kube.call("PUT", path, secret | {"data": {"ca.crt": base64.b64encode(b"nonsense").decode()}})
    cluster.injector.start()
    assert stored(cluster)["ca.crt"] != before["ca.crt"]
    assert bundles(cluster) == {stored(cluster)["ca.crt"]}
    assert let_in(cluster)


# -- several replicas, over time -------------------------------------------------------------------------------------
class Replicas:
    """Keepers of one Secret, each with its own folder, under the injector's own account."""

    def __init__(self, cluster: Cluster, folder: Path, count: int) -> None:
        self.cluster = cluster
        self.now = datetime.now(UTC)
        token = folder / "token"
        token.write_text(cluster.kube.token(SERVICE, INJECTORS))
        self.api = ApiServer(cluster.kube.address, cluster.kube.ca_file, token)
        made = {"service": "replicas", "mutating_webhook": REGISTRATION, "validating_webhook": REGISTRATION}
        self.keepers = [
            CertificateKeeper(
                self.api,
                SelfMade.model_validate(made | {"secret": SECRET, "folder": folder / str(number)}),
                INJECTORS,
                lambda: self.now,
            )
            for number in range(count)
        ]

    async def look(self) -> None:
        """All at the same time."""
        async with self.api:
            await asyncio.gather(*(keeper.look() for keeper in self.keepers))

    def served(self) -> set[bytes]:
        """What they serve, each the same."""
        return {keeper.file.read_bytes() for keeper in self.keepers}


async def test_replicas_that_start_at_once_agree_without_a_leader(cluster: Cluster, tmp_path: Path) -> None:
    cluster.injector.stop()
    try:
        secret = cluster.kube.call("GET", f"{SECRETS}/{SECRET}")
        cluster.kube.call("PUT", f"{SECRETS}/{SECRET}", secret | {"data": {}})
        replicas = Replicas(cluster, tmp_path, 5)
        await replicas.look()
        now = stored(cluster)
        assert replicas.served() == {now["tls.key"] + now["tls.crt"]}
        assert bundles(cluster) == {now["ca.crt"]}
        assert replicas.keepers[0].file.stat().st_mode & 0o777 == 0o600
        first = now
        replicas.now += timedelta(days=183)  # the next authority is due, and the certificate
        await replicas.look()
        announced = stored(cluster)
        assert announced["ca.crt"].startswith(first["ca.crt"])
        assert len(x509.load_pem_x509_certificates(announced["ca.crt"])) == 2
        assert bundles(cluster) == {announced["ca.crt"]}
        replicas.now += timedelta(days=1)  # and is used
        await replicas.look()
        (served,) = replicas.served()
        _, second = x509.load_pem_x509_certificates(announced["ca.crt"])
        assert x509.load_pem_x509_certificate(served).issuer == second.subject
    finally:
        cluster.injector.start()
    assert let_in(cluster)


async def test_what_the_account_may_not_do_is_said(cluster: Cluster, tmp_path: Path) -> None:
    replicas = Replicas(cluster, tmp_path, 1)
    async with replicas.api:
        other = SelfMade.model_validate({"secret": "other", "service": "s", "mutating_webhook": "w"})
        with pytest.raises(ClusterError, match="403") as refusal:
            await CertificateKeeper(replicas.api, other, INJECTORS).look()
    assert "ey" not in str(refusal.value)  # no token


# -- its end, its probes ---------------------------------------------------------------------------------------------
def test_it_says_how_it_is_and_ends_when_told(cluster: Cluster) -> None:
    let_in(cluster)
    assert cluster.injector.operations("/healthz").status_code == 200
    ready = cluster.injector.operations("/readyz").json()
    assert ready["checks"]["certificate"] == {"ready": True}
    lines = cluster.injector.operations("/metrics").text.splitlines()
    assert any(line.startswith('sidecar_injector_admissions_total{phase="mutate",result="injected"}') for line in lines)
    (expires,) = (line for line in lines if line.startswith("sidecar_injector_certificate_expiry_seconds "))
    assert time.time() < float(expires.split()[1]) < time.time() + 31 * 86_400
    assert cluster.injector.stop() == 0
    cluster.injector.start()


def test_on_an_older_cluster_the_sidecar_is_a_classic_container(cluster: Cluster) -> None:
    cluster.injector.stop()
    cluster.injector.config["native_sidecars"] = "never"
    cluster.injector.start()
    try:
        made = let_in(cluster)
        assert sidecar_of(made, native=False)["lifecycle"]["preStop"]["exec"]["command"][-1].endswith("sleep(30)")
        assert variables(made["spec"]["containers"][0])["VAULT_ADDR"]
        again = {"metadata": {"name": "app", "annotations": made["metadata"]["annotations"]}, "spec": made["spec"]}
        once_more = cluster.kube.call("POST", f"/api/v1/namespaces/{NAMESPACE}/pods?dryRun=All", again)
        assert once_more["spec"] == made["spec"]
    finally:
        cluster.injector.stop()
        del cluster.injector.config["native_sidecars"]
        cluster.injector.start()


# -- with a certificate of others ------------------------------------------------------------------------------------
class Certified:
    """An injector whose certificate comes from files, as cert-manager writes them, and its callers."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder = folder
        configured = config().model_dump(mode="json")
        self.process = InjectorProcess(folder, cluster.kube, configured["sidecar"], configured["namespaces"])
        del self.process.config["self_made"], self.process.config["api_server"]
        self.process.config["native_sidecars"] = "always"
        self.authority = self.renew()
        self.process.config["listen"]["tls"] = {
            "cert_file": str(folder / "tls.pem"),
            "key_file": str(folder / "tls.key"),
            "client_ca_file": str(folder / "clients.pem"),
            "client_cert": "required",
        }
        self.clients = Authority("clients")
        self.clients.write(folder, "clients")

    def renew(self) -> Authority:
        """A certificate of a new authority takes the old one's place."""
        authority = Authority(f"authority {time.monotonic_ns()}")
        for path in authority.issue_server().write(self.folder, "next"):
            path.replace(self.folder / path.name.replace("next", "tls"))
        return authority

    def ask(self, context: ssl.SSLContext) -> Tree:
        """One review on a connection of its own."""
        with requests.Session() as session:
            session.mount("https://", _Trusting(context))
            url = f"https://localhost:{self.process.port}/mutate"
            answer: Tree = session.post(url, json=review(pod()), timeout=10).json()
            return answer


class _Trusting(requests.adapters.HTTPAdapter):
    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *given: Any, **more: Any) -> None:
        super().init_poolmanager(*given, **more, ssl_context=self._context)


@pytest.fixture
def certified(cluster: Cluster, tmp_path: Path) -> Iterator[Certified]:
    made = Certified(tmp_path, cluster)
    made.process.start()
    yield made
    made.process.stop()


def test_a_new_certificate_is_served_while_it_is_asked_and_no_review_is_lost(certified: Certified) -> None:
    client = certified.clients.issue("api-server")
    context = client.client_context(certified.folder, certified.authority)
    assert certified.ask(context)["response"]["allowed"]
    renewed = certified.renew()
    context.load_verify_locations(renewed.write(certified.folder, "renewed"))
    only_new = client.client_context(certified.folder, renewed)
    deadline = time.monotonic() + 30
    while True:
        assert certified.ask(context)["response"]["allowed"]  # whichever of the two it serves
        try:
            assert certified.ask(only_new)["response"]["allowed"]
            return
        except requests.exceptions.SSLError:
            assert time.monotonic() < deadline, "the new certificate is not served"


def test_with_client_certificates_only_the_api_server_asks(certified: Certified) -> None:
    with pytest.raises((requests.exceptions.SSLError, requests.exceptions.ConnectionError)):
        certified.ask(certified.authority.trusting_context(certified.folder))
    thief = Authority("clients").issue("api-server")
    with pytest.raises((requests.exceptions.SSLError, requests.exceptions.ConnectionError)):
        certified.ask(thief.client_context(certified.folder, certified.authority))


def issued_for(authority: Authority, folder: Path, ends_in: timedelta) -> InjectorConfig:
    """A configuration with a certificate that ends then."""
    made = authority.issue("localhost", starts_in=timedelta(days=-9), ends_in=ends_in)
    cert, key = made.write(folder, "short")
    tree = config().model_dump(mode="json") | {"native_sidecars": "always"}
    tree["listen"] = {"address": f"127.0.0.1:{free_port()}", "tls": {"cert_file": str(cert), "key_file": str(key)}}
    tree["ops"] = {"address": f"127.0.0.1:{free_port()}"}
    return InjectorConfig.model_validate(tree)


@pytest.mark.parametrize(("ends_in", "status"), [(timedelta(hours=1), 200), (timedelta(hours=-1), 503)])
async def test_it_is_not_ready_with_a_certificate_that_nobody_takes(
    tmp_path: Path, ends_in: timedelta, status: int
) -> None:
    configured = issued_for(Authority(), tmp_path, ends_in)
    url = f"http://{configured.ops.address}/readyz"
    async with Injector(configured), aiohttp.ClientSession() as http, http.get(url) as answer:
        assert answer.status == status
        assert (await answer.json())["checks"]["certificate"]["ready"] is (status == 200)


async def test_an_api_server_that_is_away_is_told_and_what_is_served_stays(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "LOOK_SECONDS", 0.01)
    away = Replicas(cluster, tmp_path, 1)
    away.api = ApiServer(f"https://127.0.0.1:{free_port()}", cluster.kube.ca_file, tmp_path / "token")
    made = SelfMade.model_validate({"secret": SECRET, "service": "s", "folder": tmp_path})
    async with away.api:
        keeper = CertificateKeeper(away.api, made, INJECTORS)
        watching = asyncio.create_task(keeper.watch())
        while not keeper.problem:
            await asyncio.sleep(0.01)
        watching.cancel()
    assert "certificates could not be kept" in keeper.problem
    assert not keeper.file.exists()


# -- the commands ----------------------------------------------------------------------------------------------------
def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sidecar", "injector", *words], capture_output=True, text=True, timeout=60, check=False
    )


def test_check_says_what_is_wrong_and_serve_does_not_start_with_it(tmp_path: Path) -> None:
    path = tmp_path / "injector.yaml"
    path.write_text(yaml.safe_dump({"sidecar": {"image": "i", "upstream": {"address": "https://o"}}}))
    for verb in ("check", "serve"):
        done = command(verb, "--config", str(path))
        assert done.returncode == 2
        assert "listen.tls" in done.stderr
    path.write_text(yaml.safe_dump(config().model_dump(mode="json")))
    done = command("check", "--config", str(path))
    assert (done.returncode, yaml.safe_load(done.stdout)["namespace"]) == (0, INJECTORS)


def test_without_a_cluster_it_says_so(tmp_path: Path) -> None:
    path = tmp_path / "injector.yaml"
    tree = config().model_dump(mode="json")
    path.write_text(yaml.safe_dump(tree))
    done = command("serve", "--config", str(path))
    assert done.returncode == 1
    assert "no pod of a cluster" in done.stderr
