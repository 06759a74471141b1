"""The corpus's lab with a real sidecar in front, and both journals: OpenBao's raw audit and the sidecar's."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from sidecar.dev.openbao import find_binary
from sidecar.surface.mounts import Mount
from sidecar.surface.secret_uri import SecretUri
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer

CORPUS: Final = Path(__file__).parent.parent / "corpus"
MOUNTS: Final = [
    {"path": "secret", "engine": "kv2"},
    {"path": "team/kv", "engine": "kv2"},
    {"path": "kv1", "engine": "kv1"},
    {"path": "transit", "engine": "transit"},
    {"path": "pki", "engine": "pki"},
    {"path": "totp", "engine": "totp"},
    {"path": "ssh", "engine": "ssh"},
    {"path": "secret", "engine": "kv2", "namespace": "ns1"},
    {"path": "secret", "engine": "kv2", "namespace": "ns1/child"},
    {"path": "secret", "engine": "kv2", "namespace": "ns2"},
]
ALLOWED: Final = [
    *("secret", "team/kv", "kv1", "transit", "pki", "totp", "ssh"),
    *("ns1/secret", "ns1/child/secret", "ns2/secret"),
]


def tool(name: str) -> ModuleType:
    """A tool of the corpus, as it was handed over: a script, not a package."""
    spec = importlib.util.spec_from_file_location(f"corpus_{name}", CORPUS / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


rawhttp: Final = tool("rawhttp")


@dataclass
class Desk:
    """The lab with its sidecar in front. `token` is one that the sidecar takes."""

    lab: Any
    sidecar: SidecarProcess
    token: str

    def exchange(self, raw: bytes, *, half_closed: bool = False, idle: float = 0.02) -> list[dict[str, Any]]:
        """Sends these bytes on a connection of their own; the answers. After each, `idle` seconds for a further one."""
        exchanged = rawhttp.exchange(
            "127.0.0.1",
            self.sidecar.port,
            raw,
            methods=[raw.split(b" ", 1)[0].decode("latin-1")],
            timeout=3.0,
            idle=idle,
            shut_wr=half_closed,
        )
        responses: list[dict[str, Any]] = exchanged["responses"]
        return responses


@contextmanager
def open_desk(
    folder: Path,
    issuer: Issuer,
    *,
    further: Iterable[Mount] = (),
    unnamed: Mapping[str, str] | None = None,
) -> Iterator[Desk]:
    """Starts both. `further` mounts are made besides and allowed; `unnamed` ones (path: type) are only made."""
    lab_module = tool("lab")
    further = tuple(further)
    with lab_module.Lab(bao=str(find_binary())) as lab:
        for mount in further:
            version = {"kv1": {"version": "1"}, "kv2": {"version": "2"}}.get(mount.engine)
            lab.mount(mount.path, "kv" if version else mount.engine, version, ns=mount.namespace or None)
            if mount.engine == "kv2":
                lab.kv2_wait(mount.path, mount.namespace or None)
        for path, kind in (unnamed or {}).items():
            lab.mount(path, kind)
        upstream = OpenBao.__new__(OpenBao)  # only its address and token are asked for: the lab runs the server
        upstream.address, upstream.root_token = f"http://127.0.0.1:{lab.port}", lab_module.ROOT_TOKEN
        overrides = {
            "listen": {"public_urls": ["http://bao.test:8200"]},
            "mounts": [*MOUNTS, *({"path": m.path, "engine": m.engine, "namespace": m.namespace} for m in further)],
            "tenant": {"allowed_mounts": [*ALLOWED, *(mount.name for mount in further)]},
            "identity": {"binding": "preferred"},
            "anti_replay": {"unbound_token": "off"},
            "upstream": {"timeout_seconds": 5},
        }
        process = SidecarProcess(folder, upstream, issuer, overrides)
        (process.policies / "policies.cedar").write_text(
            '@id("all") @max_uses("1000") permit (principal, action, resource);'
        )
        with process:
            yield Desk(lab, process, issuer.token(sub="fuzz"))


class Journal:
    """The sidecar's journal as it is on disk; every answer's record is there before the answer."""

    def __init__(self, spool: Path) -> None:
        self._spool = spool
        self._read: dict[Path, int] = {}

    def new(self) -> list[dict[str, Any]]:
        """The records of requests since the last look."""
        lines: list[bytes] = []
        for segment in sorted(self._spool.glob("*")):
            if segment.is_file() and segment.stat().st_size > self._read.get(segment, 0):
                with segment.open("rb") as stream:
                    stream.seek(self._read.get(segment, 0))
                    raw = stream.read()
                self._read[segment] = self._read.get(segment, 0) + len(raw)
                lines += [line[line.index(b"{") :] for line in raw.splitlines() if b'"event"' in line]
        return [record for record in map(json.loads, lines) if record["event"].startswith("SECRET_")]


_OWN: Final = {
    ("read", "auth/token/lookup-self"),
    ("update", "auth/token/renew-self"),
    ("read", "sys/mounts"),
    ("read", "sys/internal/ui/mounts"),
}


def executed(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The requests OpenBao took in, less exactly those that the sidecar sends for itself."""
    requests = [entry["request"] for entry in entries if entry.get("type") == "request"]
    done = [request for request in requests if (request["operation"], request["path"]) not in _OWN]
    return [each for each, following in zip_longest(done, done[1:]) if not _is_for(each, following)]


def _is_for(look: dict[str, Any], following: dict[str, Any] | None) -> bool:
    """Whether a request is the look at who made a secret, before all of its labels are replaced: it belongs to that."""
    if following is None or "custom_metadata" not in (following.get("data") or {}):
        return False
    same = all(look.get(name) == following.get(name) for name in ("path", "mount_point", "namespace"))
    return same and look["operation"] == "read" and following["operation"] in ("create", "update")


def upstream_status(records: list[dict[str, Any]]) -> int | None:
    """What OpenBao answered, as the records say; None where it was not asked."""
    return next((r["upstream"]["status"] for r in reversed(records) if r.get("upstream")), None)


def uri_of(request: dict[str, Any]) -> SecretUri | None:
    """The canonical URI that OpenBao's own audit entry stands for: written apart from the code under test.

    None for other engines than KV: which part of their paths names the secret is their table's to say.
    """
    namespace = (request.get("namespace") or {}).get("path", "").strip("/")
    mount = request["mount_point"].strip("/")
    below = request["path"].removeprefix(request["mount_point"])
    full = "/".join(filter(None, (namespace, mount)))
    engine = next((m["engine"] for m in MOUNTS if "/".join(filter(None, (m.get("namespace"), m["path"]))) == full), "")
    if engine == "kv2":
        _, _, path = below.partition("/")
    elif engine == "kv1":
        path = below
    else:
        return None
    folder = request["operation"] == "list" or path.endswith("/") or path == ""
    segments = tuple(segment for segment in path.split("/") if segment)
    return SecretUri("openbao", engine, full, segments, folder=folder)
