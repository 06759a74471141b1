"""The real sidecar as a process of its own, in front of a real OpenBao; the issuer's keys are in a file."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Final

import hvac
import pytest
import requests
import yaml

from sidecar.audit.commands import cat, verify
from sidecar.client.key import DPoPKey
from sidecar.client.requests import DPoPAuth
from sidecar.dev import leash
from sidecar.dev.ports import LOOPBACK, free_port
from sidecar.dev.processes import child_environment
from tests.real.openbao import OpenBao
from tests.real.processes import tail
from tests.support.audit_format import undocumented
from tests.support.tokens import AUDIENCE, Issuer

READY_SECONDS: Final = 30.0
SALT: Final = "salt-canary-of-enough-bytes"

POLICIES: Final = """
@id("app reads, twice a minute")
@ttl_seconds("60")
@max_uses("2")
permit (principal == Workload::"app", action == Action::"read", resource in Mount::"secret");

@id("app does everything else")
@ttl_seconds("60")
@max_uses("100")
permit (principal == Workload::"app", action, resource in Mount::"secret") unless { action == Action::"read" };

@id("bulk reads much")
@ttl_seconds("300")
@max_uses("100")
permit (principal == Workload::"bulk", action == Action::"read", resource in Mount::"secret");

@id("endless reads")
@ttl_seconds("300")
@max_uses("1000000")
permit (principal == Workload::"endless", action, resource in Mount::"secret");
"""


class SidecarProcess:
    """One running sidecar. `overrides` is merged into its configuration, section by section; `program` is what Python
    is to run, `environment` what it finds beside the usual variables."""

    started: ClassVar[set[SidecarProcess]] = set()

    def __init__(
        self,
        folder: Path,
        openbao: OpenBao,
        issuer: Issuer,
        overrides: Mapping[str, Any] | None = None,
        program: Sequence[str] = ("-m", "sidecar"),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.environment = dict(environment or {})
        self.program = program
        self.folder = folder
        self.openbao = openbao
        self.issuer = issuer
        self.port = free_port()
        self.ops_port = free_port()
        self.spool = folder / "audit"
        self.config_file = folder / "sidecar.yaml"
        self.log = folder / "sidecar.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._scheme = "http"
        folder.mkdir(parents=True, exist_ok=True)
        self.policies = folder / "policies"
        self.policies.mkdir(exist_ok=True)
        (self.policies / "policies.cedar").write_text(POLICIES)
        config: dict[str, Any] = {
            "environment": "test",
            "listen": {"address": f"{LOOPBACK}:{self.port}"},
            "upstream": {"address": openbao.address, "auth": {"method": "token", "token": openbao.root_token}},
            "mounts": [{"path": "secret", "engine": "kv2"}, {"path": "team/kv", "engine": "kv2"}],
            "tenant": {"id": "acme", "allowed_mounts": ["secret"], "salt": SALT},
            "identity": {"issuers": [issuer.configured(folder / "jwks.json")]},
            "authorization": {"cedar": {"policies": str(self.policies)}},
            "audit": {"spool_dir": str(self.spool)},
            "ops": {"address": f"{LOOPBACK}:{self.ops_port}", "log_level": "debug"},
        }
        _merge(config, overrides or {})
        if config["listen"].get("tls", {}).get("cert_file"):
            self._scheme = "https"
        self.config_file.write_text(yaml.safe_dump(config))

    @property
    def url(self) -> str:
        """Where applications connect."""
        return f"{self._scheme}://{LOOPBACK}:{self.port}"

    # -- its life ----------------------------------------------------------------------------------------------------
    def start(self, *, wait: bool = True) -> None:
        """Starts it and waits for `/readyz`."""
        assert self.process is None, "it runs already"
        SidecarProcess.started.add(self)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", str(leash.__file__), str(os.getpid())),
                    *(sys.executable, *self.program, "serve", "--config", str(self.config_file)),
                ],
                cwd=Path(__file__).parent.parent.parent,
                env=child_environment(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Waits until `/readyz` answers 200."""
        deadline = time.monotonic() + READY_SECONDS
        last = ""
        while True:
            assert self.process is not None
            with suppress(requests.RequestException):
                answer = requests.get(f"http://{LOOPBACK}:{self.ops_port}/readyz", timeout=2)
                if answer.status_code == 200:
                    return
                last = answer.text
            if self.process.poll() is not None or time.monotonic() > deadline:
                ended = self.process.poll() is not None
                self.kill()
                pytest.fail(f"the sidecar {'ended' if ended else f'was not ready: {last}'}\n{self.log_tail()}")
            time.sleep(0.02)

    def terminate(self) -> int:
        """SIGTERM; returns the exit status."""
        process, self.process = self.process, None
        assert process is not None
        SidecarProcess.started.discard(self)
        process.send_signal(signal.SIGTERM)
        return process.wait(40)

    def kill(self) -> None:
        """kill -9."""
        process, self.process = self.process, None
        SidecarProcess.started.discard(self)
        if process is not None:
            process.kill()
            process.wait()

    def __enter__(self) -> SidecarProcess:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        if self.process is not None:
            self.terminate()

    # -- asking it ---------------------------------------------------------------------------------------------------
    def hvac(self, subject: str = "app", key: DPoPKey | None = None, **claims: Any) -> Any:
        """An unmodified hvac client whose requests session signs DPoP proofs."""
        key = key or DPoPKey.generate()
        token = self.issuer.bound_token(key.thumbprint, sub=subject, **claims)
        session = requests.Session()
        session.trust_env = False
        session.auth = DPoPAuth(key)
        return hvac.Client(url=self.url, token=token, session=session)

    def get(self, path: str, token: str | None = None, **headers: str) -> requests.Response:
        """A plain GET with the token, as curl would send it."""
        given = {"X-Vault-Token": token} if token else {}
        return requests.get(f"{self.url}{path}", headers=given | headers, timeout=30)

    def ready_text(self) -> str:
        """What `/readyz` says."""
        return requests.get(f"http://{LOOPBACK}:{self.ops_port}/readyz", timeout=5).text

    def metrics(self) -> str:
        """The exposition of `/metrics`."""
        return requests.get(f"http://{LOOPBACK}:{self.ops_port}/metrics", timeout=5).text

    # -- what it wrote -----------------------------------------------------------------------------------------------
    def records(self) -> list[dict[str, Any]]:
        """The audit's records, oldest first, by what `sidecar audit cat` does; a process for each look would cost more
        than most tests. Each has only members that the format page names."""
        out = io.TextIOWrapper(io.BytesIO())
        assert cat([self.spool], out) == 0
        records = [json.loads(line) for line in out.buffer.getvalue().splitlines()]
        for record in records:
            assert not undocumented(record), record
        return records

    def verify(self) -> int:
        """`sidecar audit verify` on the spool."""
        with (self.folder / "verify.txt").open("w") as out:
            return verify([self.spool], out)

    def spool_bytes(self) -> bytes:
        """Everything on disk in the spool, to search for what must not be there."""
        return b"".join(path.read_bytes() for path in sorted(self.spool.rglob("*")) if path.is_file())

    def log_tail(self) -> str:
        """The end of its log."""
        return tail(self.log)


def _merge(into: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    for key, value in overrides.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    """An authorization server whose key set each sidecar reads from a file."""
    return Issuer()


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer) -> Iterator[SidecarProcess]:
    """A sidecar with DPoP required, as it comes."""
    with SidecarProcess(tmp_path_factory.mktemp("sidecar"), openbao, issuer) as process:
        yield process


@pytest.fixture(scope="module")
def unbound_sidecar(
    tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer
) -> Iterator[SidecarProcess]:
    """A sidecar that takes unbound tokens too; each opens a grant once."""
    overrides = {"identity": {"binding": "preferred"}}
    with SidecarProcess(tmp_path_factory.mktemp("unbound"), openbao, issuer, overrides) as process:
        yield process


__all__ = ["AUDIENCE", "SidecarProcess", "issuer", "sidecar", "unbound_sidecar"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """What a test began and did not end, since it failed, ends with it: the next ones share its OpenBao."""
    before = set(SidecarProcess.started)
    try:
        yield
    finally:
        for left in SidecarProcess.started - before:
            left.kill()
