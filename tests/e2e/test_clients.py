"""Clients nobody here wrote: the `bao` CLI with a client certificate, and curl."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from sidecar.dev.certificates import Certificates, make_certificates, thumbprint
from sidecar.dev.openbao import find_binary
from tests.real.openbao import SEEDS, OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    return make_certificates(folder)


@pytest.fixture(scope="module")
def mtls_sidecar(
    tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer, certificates: Certificates
) -> Iterator[SidecarProcess]:
    tls = {
        "cert_file": str(certificates.server.cert),
        "key_file": str(certificates.server.key),
        "client_ca_file": str(certificates.ca),
        "client_cert": "required",
    }
    with SidecarProcess(tmp_path_factory.mktemp("mtls"), openbao, issuer, {"listen": {"tls": tls}}) as process:
        yield process


def bao(
    process: SidecarProcess, certificates: Certificates, token: str, *words: str
) -> subprocess.CompletedProcess[str]:
    """The official CLI, told where and who by its environment only."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("BAO_", "VAULT_"))} | {
        "BAO_ADDR": process.url,
        "BAO_CACERT": str(certificates.ca),
        "BAO_CLIENT_CERT": str(certificates.client.cert),
        "BAO_CLIENT_KEY": str(certificates.client.key),
        "BAO_TOKEN": token,
    }
    return subprocess.run(
        [str(find_binary()), *words], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_bao_cli_gets_puts_and_lists_with_a_client_certificate(
    mtls_sidecar: SidecarProcess, certificates: Certificates
) -> None:
    token = mtls_sidecar.issuer.certificate_token(thumbprint(certificates.client.cert))
    got = bao(mtls_sidecar, certificates, token, "kv", "get", "-format=json", "secret/app/db")
    assert got.returncode == 0, got.stderr
    assert json.loads(got.stdout)["data"]["data"] == SEEDS["app/db"]
    field = bao(mtls_sidecar, certificates, token, "kv", "get", "-mount=secret", "-field=key", "app/api")
    assert field.stdout == SEEDS["app/api"]["key"], field.stderr
    put = bao(mtls_sidecar, certificates, token, "kv", "put", "secret/bao-cli/one", "a=1")
    assert put.returncode == 0, put.stderr
    patched = bao(mtls_sidecar, certificates, token, "kv", "patch", "secret/bao-cli/one", "b=2")
    assert patched.returncode == 0, patched.stderr
    listed = bao(mtls_sidecar, certificates, token, "kv", "list", "-format=json", "secret/bao-cli")
    assert json.loads(listed.stdout) == ["one"], listed.stderr
    metadata = bao(mtls_sidecar, certificates, token, "kv", "metadata", "get", "-format=json", "secret/bao-cli/one")
    assert json.loads(metadata.stdout)["data"]["current_version"] == 2, metadata.stderr
    deleted = bao(mtls_sidecar, certificates, token, "kv", "delete", "secret/bao-cli/one")
    assert deleted.returncode == 0, deleted.stderr


def test_the_bao_cli_is_refused_a_mount_that_is_not_the_tenants(
    mtls_sidecar: SidecarProcess, certificates: Certificates
) -> None:
    token = mtls_sidecar.issuer.certificate_token(thumbprint(certificates.client.cert))
    got = bao(mtls_sidecar, certificates, token, "kv", "get", "team/kv/app/db")
    assert got.returncode != 0
    assert "403" in got.stderr


def test_a_token_of_another_certificate_is_a_binding_mismatch(
    mtls_sidecar: SidecarProcess, certificates: Certificates
) -> None:
    token = mtls_sidecar.issuer.certificate_token(thumbprint(certificates.other_client.cert))
    got = bao(mtls_sidecar, certificates, token, "read", "secret/data/app/db")
    assert got.returncode != 0
    assert mtls_sidecar.records()[-1]["code"] == "BINDING_MISMATCH"


def test_curl_reads_lists_and_writes_with_an_unbound_token(unbound_sidecar: SidecarProcess) -> None:
    curl = shutil.which("curl")
    assert curl is not None, "curl is needed: apt-get install curl"

    def run(*words: str, give: str = "") -> tuple[int, dict[str, object]]:
        # A token opens each grant once, so each request brings its own.
        header = f"X-Vault-Token: {unbound_sidecar.issuer.token(sub='app')}"
        done = subprocess.run(
            [curl, "-s", "-w", "\n%{http_code}", "-H", header, *words],
            input=give,
            capture_output=True,
            text=True,
            check=True,
        )
        body, _, status = done.stdout.rpartition("\n")
        return int(status), json.loads(body) if body else {}

    url = unbound_sidecar.url
    status, body = run(f"{url}/v1/secret/data/app/db")
    assert (status, body["data"]["data"]) == (200, SEEDS["app/db"])  # type: ignore[index] # JSON
    status, body = run("-X", "LIST", f"{url}/v1/secret/metadata/app")
    assert (status, body["data"]) == (200, {"keys": ["api", "db"]})
    status, body = run(f"{url}/v1/secret/metadata/app?list=true")
    assert (status, body["data"]) == (200, {"keys": ["api", "db"]})
    # What `curl -d` sends says it is a form; OpenBao takes it as JSON, and so does the sidecar.
    status, body = run("-d", '{"data": {"a": "1"}}', f"{url}/v1/secret/data/curl/one")
    assert status == 200
    # curl waits for `100 Continue` before it sends so much; OpenBao takes a secret of this size.
    large = json.dumps({"data": {"a": "x" * 900_000}})
    status, body = run(
        "-H", "Expect: 100-continue", "--data-binary", "@-", f"{url}/v1/secret/data/curl/large", give=large
    )
    assert (status, body["data"]["version"]) == (200, 1)  # type: ignore[index] # JSON
