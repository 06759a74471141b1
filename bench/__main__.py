"""`make bench`: the sidecar beside `bao proxy`, the same load, interleaved, in one run.

CPU time per request is the server process's own (user and system, from /proc), so it does not depend on how fast the
load generator is. Each figure is the median over the rounds. Results go to bench/results/latest.json.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import secrets
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import uvloop
import yaml
from rich.console import Console
from rich.table import Table

from bench.journal import RATE, journal_bench
from bench.kafka import BACKLOG, DRAIN_RATE, kafka_bench
from bench.load import write_requests
from bench.micro import PROOF, RAW_CHECK, micro
from bench.process import cpu_seconds, rss_mib
from bench.start import STARTS, start_bench
from sidecar.client.key import DPoPKey
from sidecar.dev import openbao
from sidecar.dev.issuer import Confirmation, DevIssuer
from sidecar.dev.ports import LOOPBACK, free_port
from sidecar.dev.processes import Supervisor

ROUNDS: Final = int(os.environ.get("BENCH_ROUNDS", "3"))
SECONDS: Final = float(os.environ.get("BENCH_SECONDS", "3"))
CONNECTIONS: Final = int(os.environ.get("BENCH_CONNECTIONS", "16"))
AUDIENCE: Final = "crud.secrets"
PATH: Final = "/v1/secret/data/app/db"
RESULTS: Final = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Target:
    """One row of the table: where the load goes, and whose CPU time is counted."""

    name: str
    port: int
    pid: int
    proofs: bool = False


def request_bytes(port: int, token: str, proof: str = "") -> bytes:
    """What hvac sends, as bytes."""
    lines = [
        f"GET {PATH} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "User-Agent: python-requests/2.32",
        "Accept-Encoding: identity",
        "Accept: */*",
        "Connection: keep-alive",
        f"X-Vault-Token: {token}",
        "X-Vault-Request: true",
    ]
    if proof:
        lines.append(f"DPoP: {proof}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _load(target: Target, file: Path, seconds: float) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.load", LOOPBACK, str(target.port), str(CONNECTIONS), str(seconds), str(file)),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError("the load generator failed")
    result: dict[str, Any] = json.loads(out)
    return result


async def _measure(target: Target, requests: list[bytes], folder: Path, seconds: float) -> dict[str, float]:
    file = folder / "requests"
    write_requests(file, requests)
    before = cpu_seconds(target.pid)
    result = await _load(target, file, seconds)
    used = cpu_seconds(target.pid) - before
    statuses = result["statuses"]
    if set(statuses) != {"200"}:
        raise RuntimeError(f"{target.name}: not every answer was 200: {statuses}")
    return {
        "cpu_us": used / result["requests"] * 1e6,
        "rps": result["rps"],
        "p50_ms": result["p50_ms"],
        "p99_ms": result["p99_ms"],
        "rss_mib": rss_mib(target.pid),
    }


async def _fresh_nonce(port: int, token: str) -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{PATH}", headers={"X-Vault-Token": token}) as answer,
    ):
        return answer.headers["DPoP-Nonce"]


def _sidecar_config(folder: Path, issuer: DevIssuer, bao_port: int, root: str, port: int, ops: int) -> dict[str, Any]:
    policies = folder / "policies"
    policies.mkdir()
    (policies / "bench.cedar").write_text(
        '@id("bench")\n@ttl_seconds("3600")\n@max_uses("100000000")\n'
        'permit (principal, action == Action::"read", resource in Mount::"secret");\n'
    )
    return {
        "environment": "test",
        "listen": {"address": f"127.0.0.1:{port}"},
        "upstream": {"address": f"http://127.0.0.1:{bao_port}", "auth": {"method": "token", "token": root}},
        "mounts": [{"path": "secret", "engine": "kv2"}],
        "tenant": {"id": "bench", "allowed_mounts": ["secret"], "salt": secrets.token_hex(16)},
        "identity": {
            "binding": "preferred",
            "audience": AUDIENCE,
            "issuers": [{"issuer": issuer.issuer, "jwks_file": str(folder / "jwks.json")}],
        },
        "authorization": {"cedar": {"policies": str(policies)}},
        "audit": {"spool_dir": str(folder / "audit"), "max_spool_mib": 4096},
        "ops": {"address": f"127.0.0.1:{ops}", "log_level": "warning"},
        "anti_replay": {"window_seconds": 300},
    }


async def _bench(console: Console) -> tuple[dict[str, Any], dict[str, float]]:
    with tempfile.TemporaryDirectory(prefix="sidecar-bench-") as name:
        folder = Path(name)
        (folder / "logs").mkdir()
        async with Supervisor(folder, folder / "logs") as supervisor:
            root = secrets.token_urlsafe(24)
            bao_port, proxy_port, port, ops = (free_port() for _ in range(4))
            binary = openbao.find_binary()
            console.print("starting OpenBao, bao proxy and the sidecar …")
            await supervisor.start(
                "openbao",
                openbao.server_command(binary, bao_port),
                environment=openbao.server_environment(root),
                ready_url=f"http://127.0.0.1:{bao_port}/v1/sys/health",
            )
            openbao.seed(f"http://127.0.0.1:{bao_port}", root)
            (folder / "root-token").write_text(root)
            (folder / "proxy.hcl").write_text(
                f'vault {{\n  address = "http://127.0.0.1:{bao_port}"\n}}\n'
                'auto_auth {\n  method "token_file" {\n    config = {\n'
                f'      token_file_path = "{folder}/root-token"\n    }}\n  }}\n}}\n'
                'api_proxy {\n  use_auto_auth_token = "force"\n}\n'
                f'listener "tcp" {{\n  address = "127.0.0.1:{proxy_port}"\n  tls_disable = true\n}}\n'
            )
            proxy = await supervisor.start(
                "bao proxy",
                [str(binary), "proxy", f"-config={folder}/proxy.hcl"],
                ready_url=f"http://127.0.0.1:{proxy_port}/v1/sys/health",
            )
            issuer = DevIssuer.from_file(f"http://127.0.0.1:{free_port()}", folder / "issuer.pem")
            (folder / "jwks.json").write_text(json.dumps(issuer.jwks()))
            config = folder / "sidecar.yaml"
            config.write_text(yaml.safe_dump(_sidecar_config(folder, issuer, bao_port, root, port, ops)))
            start = await asyncio.to_thread(start_bench, config, ops)
            sidecar = await supervisor.start(
                "sidecar",
                [sys.executable, "-m", "sidecar", "serve", "--config", str(config)],
                ready_url=f"http://127.0.0.1:{ops}/readyz",
            )
            targets = [
                Target("bao proxy", proxy_port, proxy.pid),
                Target("sidecar, unbound", port, sidecar.pid),
                Target("sidecar, DPoP", port, sidecar.pid, proofs=True),
            ]
            return await _rounds(console, targets, issuer, folder), start


async def _rounds(console: Console, targets: list[Target], issuer: DevIssuer, folder: Path) -> dict[str, Any]:
    key = DPoPKey.generate()
    unbound = issuer.mint("app", audience=AUDIENCE, ttl_seconds=3600)
    bound = issuer.mint("bound", audience=AUDIENCE, ttl_seconds=3600, confirmation=Confirmation(jkt=key.thumbprint))
    figures: dict[str, list[dict[str, float]]] = {target.name: [] for target in targets}
    for number in range(-1, ROUNDS):  # the first round warms up and is not counted
        for target in targets:
            seconds = SECONDS if number >= 0 else 1.0
            if target.proofs:
                nonce = await _fresh_nonce(target.port, bound)
                url = f"http://127.0.0.1:{target.port}{PATH}"
                count = int(seconds * 4000)
                requests = [
                    request_bytes(target.port, bound, key.proof("GET", url, token=bound, nonce=nonce))
                    for _ in range(count)
                ]
            else:
                requests = [request_bytes(target.port, unbound)]
            measured = await _measure(target, requests, folder, seconds)
            if number >= 0:
                figures[target.name].append(measured)
                console.print(f"  round {number + 1}/{ROUNDS}  {target.name:18} {measured['cpu_us']:7.0f} µs CPU each")
    return {
        name: {figure: statistics.median(each[figure] for each in rounds) for figure in rounds[0]}
        for name, rounds in figures.items()
    }


def _table(console: Console, result: dict[str, Any]) -> None:
    peer = result["bao proxy"]["cpu_us"]
    table = Table(title=f"KVv2 read, {CONNECTIONS} connections, median of {ROUNDS} rounds")
    for column in ("", "CPU µs/request", "× bao proxy", "requests/s", "p50 ms", "p99 ms", "RSS MiB"):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for name, row in result.items():
        table.add_row(
            name,
            f"{row['cpu_us']:.0f}",
            f"{row['cpu_us'] / peer:.2f}",
            f"{row['rps']:.0f}",
            f"{row['p50_ms']:.2f}",
            f"{row['p99_ms']:.2f}",
            f"{row['rss_mib']:.0f}",
        )
    console.print(table)


def main() -> None:
    """Runs it all and writes the results."""
    console = Console(width=max(100, Console().width))
    small = micro()
    for name, cost in small.items():
        console.print(f"  {name:44} {cost:7.1f} µs")
    console.print(f"  {'caller: a proof, in raw checks':44} {small[PROOF] / small[RAW_CHECK]:7.2f} ×")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        journal = runner.run(journal_bench())
    for name, figure in journal.items():
        console.print(f"  audit, open load of {RATE:,} records a second with fsync: {name:32} {figure:8.1f}")
    result, start = asyncio.run(_bench(console))
    _table(console, result)
    for name, figure in start.items():
        console.print(f"  start, median of {STARTS}: {name:20} {figure:8.2f}")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        kafka = runner.run(kafka_bench())
    for name, figure in kafka.items():
        console.print(
            f"  audit to Kafka, backlog of {BACKLOG:,}, drain at most {DRAIN_RATE:,}/s: {name:32} {figure:8.1f}"
        )
    RESULTS.mkdir(exist_ok=True)
    document = {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()},
        "load": {"connections": CONNECTIONS, "rounds": ROUNDS, "seconds": SECONDS},
        "targets": result,
        "start": start,
        "micro_us": small,
        "audit_journal": journal,
        "audit_kafka": kafka,
    }
    (RESULTS / "latest.json").write_text(json.dumps(document, indent=2) + "\n")
    console.print(f"written: {RESULTS.name}/latest.json")


if __name__ == "__main__":
    main()
