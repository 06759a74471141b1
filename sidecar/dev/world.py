"""The development world: OpenBao, an issuer and two sidecars as child processes, in one folder.

`async with World(layout, …)` has it running inside, and nothing of it after.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import yaml

from sidecar.dev import openbao
from sidecar.dev.certificates import Certificates, make_certificates
from sidecar.dev.files import Layout, write_private
from sidecar.dev.issuer import issuer_url, load_or_make_key
from sidecar.dev.policies import write_policies
from sidecar.dev.ports import LOOPBACK, free_pair, free_port
from sidecar.dev.processes import Child, ChildFailed, Supervisor
from sidecar.dev.state import AUDIENCE, Server, SidecarServer, WorldState
from sidecar.ops.logs import register_secret

TENANT: Final = "dev"
_ATTEMPTS: Final = 3

Say = Callable[[str], None]
Started = TypeVar("Started")


@dataclass(frozen=True, slots=True)
class PortWishes:
    """Ports to try first; 0 takes any. The next free one is taken, and said, where one is in use."""

    sidecar: int = 0
    operations: int = 0


class World:
    """Starts everything in order; `say` gets a line as each thing begins and is there."""

    def __init__(self, layout: Layout, wishes: PortWishes, say: Say) -> None:
        self._layout = layout
        self._wishes = wishes
        self._say = say
        self._supervisor = Supervisor(layout.root, layout.logs)
        self._stack = AsyncExitStack()
        self._state: WorldState | None = None

    @property
    def state(self) -> WorldState:
        """What runs where, once it runs."""
        if self._state is None:
            raise RuntimeError("the world is not running")
        return self._state

    async def __aenter__(self) -> World:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def first_end(self) -> ChildFailed:
        """Waits until a child ends, which it should not."""
        return await self._supervisor.first_end()

    def kill(self) -> None:
        """Ends all children at once."""
        self._supervisor.kill()

    async def _start(self) -> None:
        layout = self._layout
        binary = openbao.find_binary()
        self._stack.enter_context(layout.claim())
        layout.state.unlink(missing_ok=True)
        self._stack.callback(layout.state.unlink, missing_ok=True)
        self._stack.push_async_callback(self._supervisor.stop)

        self._say("making certificates, keys and policies …")
        certificates = make_certificates(layout.tls)
        write_policies(layout.policies)
        load_or_make_key(layout.issuer_key)
        if not layout.tenant_salt.exists():
            write_private(layout.tenant_salt, secrets.token_urlsafe(32))

        root_token = secrets.token_urlsafe(24)
        register_secret(root_token)
        write_private(layout.root_token, root_token)
        bao = await self._start_openbao(binary, root_token)
        self._say("seeding secrets, and a login of the sidecars' own …")
        try:
            role = await asyncio.to_thread(openbao.seed, bao.origin, root_token)
        except openbao.SEED_ERRORS as error:
            raise ChildFailed("openbao", f"could not be seeded ({error})", bao.log) from error
        write_private(layout.secret_id, role.secret_id)

        issuer = await self._start_issuer()
        settings = _Settings(layout, bao.origin, issuer.origin, role.role_id)
        plain = await self._start_sidecar("sidecar", "audit", self._wishes, settings, None)
        beside = PortWishes(*(wish + 1 if wish else 0 for wish in (self._wishes.sidecar, self._wishes.operations)))
        mtls = await self._start_sidecar("sidecar-mtls", "audit-mtls", beside, settings, certificates)

        self._state = WorldState(
            pid=os.getpid(), audience=AUDIENCE, openbao=bao, issuer=issuer, sidecar=plain, sidecar_mtls=mtls
        )
        self._state.write(layout)

    async def _start_openbao(self, binary: Path, root_token: str) -> Server:
        async def start() -> Server:
            port = free_pair()
            origin = f"http://{LOOPBACK}:{port}"
            child = await self._supervisor.start(
                "openbao",
                openbao.server_command(binary, port),
                environment=openbao.server_environment(root_token),
                ready_url=f"{origin}/v1/sys/health",
            )
            return self._started(child, origin)

        self._say("starting OpenBao …")
        return await _while_ports_are_taken(start)

    async def _start_issuer(self) -> Server:
        async def start() -> Server:
            port = free_port()
            origin = issuer_url(port)
            child = await self._supervisor.start(
                "issuer",
                [sys.executable, "-m", "sidecar.dev.issuer", str(self._layout.issuer_key), str(port)],
                ready_url=f"{origin}/jwks.json",
            )
            return self._started(child, origin)

        self._say("starting the issuer …")
        return await _while_ports_are_taken(start)

    async def _start_sidecar(
        self, name: str, spool: str, wishes: PortWishes, settings: _Settings, certificates: Certificates | None
    ) -> SidecarServer:
        layout = self._layout
        config, spool_dir = layout.config(name), layout.spool(spool)
        spool_dir.mkdir(mode=0o700, exist_ok=True)

        async def start() -> SidecarServer:
            port, ops_port = free_port(wishes.sidecar), free_port(wishes.operations)
            for wish, got in ((wishes.sidecar, port), (wishes.operations, ops_port)):
                if wish and got != wish:
                    self._say(f"  port {wish} is taken: {name} takes {got} instead")
            origin = f"{'https' if certificates else 'http'}://{LOOPBACK}:{port}"
            operations = f"http://{LOOPBACK}:{ops_port}"
            tree = settings.tree(port, ops_port, spool, certificates)
            write_private(config, _HEADER + yaml.safe_dump(tree, sort_keys=False))
            child = await self._supervisor.start(
                name,
                [sys.executable, "-m", "sidecar", "serve", "--config", str(config)],
                ready_url=f"{operations}/readyz",
            )
            server = self._started(child, origin)
            return SidecarServer(**server.model_dump(), operations=operations, config=config, spool=spool_dir)

        self._say("starting the sidecar …" if certificates is None else "starting the sidecar with mutual TLS …")
        return await _while_ports_are_taken(start)

    def _started(self, child: Child, origin: str) -> Server:
        self._say(f"  {child.name} answers on {origin} ({child.took_seconds:.1f} s)")
        return Server(origin=origin, pid=child.pid, log=child.log)


async def _while_ports_are_taken(start: Callable[[], Awaitable[Started]]) -> Started:
    """A free port may be taken by somebody else before a child listens on it: then another is tried."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return await start()
        except ChildFailed as failed:
            if not failed.port_taken:
                raise
    return await start()


_HEADER: Final = """\
# Written anew by every `sidecar dev up`. See what it amounts to: sidecar check --config <this file>
"""


@dataclass(frozen=True, slots=True)
class _Settings:
    """What the two sidecars' configurations have in common."""

    layout: Layout
    upstream: str
    issuer: str
    role_id: str

    def tree(self, port: int, ops_port: int, spool: str, certificates: Certificates | None) -> dict[str, Any]:
        """The configuration tree of one sidecar."""
        layout = self.layout
        listen: dict[str, Any] = {"address": f"{LOOPBACK}:{port}"}
        if certificates is not None:
            listen["tls"] = {
                "cert_file": str(certificates.server.cert),
                "key_file": str(certificates.server.key),
                "client_ca_file": str(certificates.ca),
                "client_cert": "required",
            }
        return {
            "environment": "dev",
            "listen": listen,
            "upstream": {
                "provider": "openbao",
                "address": self.upstream,
                "auth": {
                    "mode": "broker",
                    "method": "approle",
                    "role_id": self.role_id,
                    "secret_id_file": str(layout.secret_id),
                },
            },
            "mounts": [
                {"path": "secret", "engine": "kv2"},
                {"path": "transit", "engine": "transit"},
                {"path": openbao.FOREIGN_MOUNT, "engine": "kv2"},
            ],
            "tenant": {"id": TENANT, "allowed_mounts": ["secret", "transit"], "salt_file": str(layout.tenant_salt)},
            "identity": {
                "audience": AUDIENCE,
                "binding": "required",
                "issuers": [
                    {
                        "issuer": self.issuer,
                        "jwks_uri": f"{self.issuer}/jwks.json",
                        "algorithms": ["ES256"],
                        "token_types": ["at+jwt"],
                    }
                ],
            },
            "authorization": {"pdp": "cedar", "cedar": {"policies": str(layout.policies)}},
            "audit": {"spool_dir": str(layout.spool(spool))},
            "ops": {"address": f"{LOOPBACK}:{ops_port}", "log_format": "console"},
        }
