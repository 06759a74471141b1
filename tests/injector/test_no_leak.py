"""Canaries in pods, in reviews and in the injector's own key: none is in its log, its metrics or its refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from sidecar.dev import leash
from sidecar.dev.ports import free_port
from sidecar.dev.processes import child_environment
from sidecar.injector.names import PREFIX
from tests.e2e.leaks import Answer, ask, connected
from tests.injector.making import Tree, config, pod, review
from tests.support.canaries import Canaries
from tests.support.certificates import Authority

pytestmark = pytest.mark.real

JSON: Final = {"Content-Type": "application/json"}
WISHES: Final = (
    "inject",
    "config",
    "tenant-id",
    "allowed-mounts",
    "role",
    "containers",
    "listen",
    "override-vault-addr",
)
WISHES_OF_SIZE: Final = ("pod-identity", "spool-volume", "cpu-request", "memory-limit", "log-level", "status")


class Place:
    """A running injector that needs no cluster, with Python telling all that it can."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.canaries = folder, Canaries()
        self.port, self.ops_port = free_port(), free_port()
        self.authority = Authority()
        cert, self.key = self.authority.issue_server().write(folder, "tls")
        self.canaries.add_pem("its key", self.key.read_text())
        self.tls = self.authority.trusting_context(folder)
        tree = config().model_dump(mode="json") | {
            "native_sidecars": "always",
            "ops": {"address": f"127.0.0.1:{self.ops_port}", "log_level": "debug"},
        }
        tree["listen"] |= {
            "address": f"127.0.0.1:{self.port}",
            "tls": {"cert_file": str(cert), "key_file": str(self.key)},
        }
        file = folder / "injector.yaml"
        file.write_text(yaml.safe_dump(tree))
        self.log, self.key_log = folder / "injector.log", folder / "session-keys.log"
        environment = {"PYTHONASYNCIODEBUG": "1", "SSLKEYLOGFILE": str(self.key_log)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", str(leash.__file__), str(os.getpid())),
                    *(sys.executable, "-X", "dev", "-m", "sidecar", "injector", "serve", "--config", str(file)),
                ],
                cwd=Path(__file__).parents[2],
                env=child_environment(environment),
                stdout=log,
                stderr=log,
            )
        self.places: dict[str, bytes] = {}

    def is_ready(self) -> bool:
        with suppress(OSError):
            return ask(self.ops_port, "GET", "/readyz").status == 200
        return False

    def send(self, body: Any, path: str = "/mutate", **headers: str) -> Answer:
        """What is answered to this body, kept to be searched."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = JSON | {"Authorization": f"Bearer {self.canaries.plant('a token')}"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        answer = ask(self.port, "POST", path, raw, given, self.tls)
        self.places[f"answer {len(self.places)}"] = answer.head + answer.body
        return answer

    def says(self, body: Any, path: str = "/mutate") -> bool:
        """Whether the pod is let in."""
        allowed = json.loads(self.send(body, path).body)["response"]["allowed"]
        assert isinstance(allowed, bool)
        return allowed

    def secret_pod(self, **wishes: str) -> Tree:
        """A pod with canaries wherever people put secrets."""
        plant = self.canaries.plant
        tree = pod(
            {
                "containers": [
                    {
                        "name": "app",
                        "image": "app:1",
                        "env": [{"name": "PASSWORD", "value": plant("a variable")}],
                        "command": ["run", plant("an argument")],
                        "args": [f"--token={plant('an argument')}"],
                        "livenessProbe": {"httpGet": {"port": 1, "httpHeaders": [{"name": "X", "value": plant("it")}]}},
                    }
                ],
                "initContainers": [{"name": "i", "image": "i:1", "env": [{"name": "K", "value": plant("a variable")}]}],
                "volumes": [{"name": "c", "csi": {"driver": "d", "volumeAttributes": {"key": plant("an attribute")}}}],
            },
            **wishes,
        )
        tree["metadata"]["annotations"]["example.org/note"] = plant("an annotation")
        return tree

    def look(self, when: str) -> None:
        """What the operations listener shows."""
        for path in ("/metrics", "/readyz", "/healthz", f"/{self.canaries.plant('a path')}"):
            answer = ask(self.ops_port, "GET", path)
            self.places[f"{path} {when}"] = answer.head + answer.body


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    try:
        deadline = time.monotonic() + 30
        while not made.is_ready():
            assert made.process.poll() is None, made.log.read_text()
            assert time.monotonic() < deadline, made.log.read_text()
            time.sleep(0.05)
        yield made
    finally:
        made.process.kill()
        made.process.wait()


def test_nothing_of_a_pod_or_of_its_own_key_is_told(place: Place) -> None:
    """Pods let in and kept out, reviews that are none, callers that speak no TLS, a key exchanged for a wrong one, an
    abort."""
    plant = place.canaries.plant
    assert place.says(review(place.secret_pod()))
    assert place.says(review(place.secret_pod(tenant_id="acme", role="app")))
    for key in (*WISHES, *WISHES_OF_SIZE):
        assert not place.says(review(place.secret_pod(**{key.replace("-", "_"): f"{plant('a wish')} \x1b"})))
    with_label = place.secret_pod()
    with_label["metadata"]["labels"] = {f"{PREFIX}inject": plant("a label")}
    on_the_node = place.secret_pod()
    on_the_node["spec"]["hostNetwork"] = True
    for tree in (with_label, on_the_node):
        assert not place.says(review(tree))
    for old in (place.secret_pod(), place.secret_pod(role=plant("a wish"))):
        place.send(review(place.secret_pod(), operation="UPDATE", old=old), "/validate")
    entering = {"container": "openbao-sidecar", "command": ["sh", "-c", plant("an argument")]}
    place.send(review(entering, operation="CONNECT", subresource="exec"), "/validate")
    good = review(place.secret_pod())
    for member in ("uid", "operation", "namespace", "resource", "kind", "dryRun", "subResource", "object"):
        place.send(good | {"request": good["request"] | {member: f"{plant('a member')}\n"}})
    for body in (
        f'{{"kind": "{plant("a kind")}"'.encode(),
        f'{{"{plant("a name")}": 1, "kind": "a", "kind": "{plant("a kind")}"}}'.encode(),
        good | {"kind": plant("a kind")},
        good | {"apiVersion": plant("a version")},
        [plant("an item")],
        b'{"x": "' + plant("a body").encode() * 200_000 + b'"}',
        plant("a body").encode() + b"\xff",
    ):
        assert place.send(body).status in (400, 413)
    place.send(good, Content_Type=plant("a type"))
    place.send(good, Content_Encoding=plant("an encoding"))
    # Whoever sends what is no HTTP may be told what it sent; the log is not.
    ask(place.port, "POST", "/mutate", b"{}", JSON | {"Content-Length": plant("a length")}, place.tls)
    place.send(good, f"/{plant('a path')}?{plant('a path')}")
    with connected(place.port) as plain:
        plain.sendall(f"POST /{plant('a path')} HTTP/1.1\r\n\r\n".encode())
        with suppress(ConnectionError):
            plain.recv(100)
    place.look("before")
    place.key.write_text(f"-----BEGIN PRIVATE KEY-----\n{plant('a wrong key')}\n-----END PRIVATE KEY-----\n")
    place.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 20
    while b"not reloaded" not in place.log.read_bytes():
        assert time.monotonic() < deadline, place.log.read_text()
        time.sleep(0.05)
    place.look("with a wrong key")
    limits = Path(f"/proc/{place.process.pid}/limits").read_text()
    assert [line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core")] == [["0", "0"]]
    assert Path(f"/proc/{place.process.pid}/environ").stat().st_uid == 0, "dumpable: others read its key"
    place.process.send_signal(signal.SIGABRT)
    assert place.process.wait(20) == -signal.SIGABRT
    log = place.log.read_bytes()
    assert b"Fatal Python error: Aborted" in log
    assert log.count(b'"result": "denied"') >= len(WISHES) + len(WISHES_OF_SIZE)
    found = place.canaries.found_in(place.places | {"its log": log})
    assert not found, "\n".join(found)
    assert not place.key_log.exists()
