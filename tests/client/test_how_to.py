"""The examples of docs/how-to/use-dpop-from-python.md and of the adapters' docstrings, run as they stand."""

from __future__ import annotations

import ast
import asyncio
import re
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import hvac
import pytest

import sidecar.client.aiohttp
import sidecar.client.httpx
import sidecar.client.requests
from sidecar.client import DPoPKey
from tests.support.desk import open_desk
from tests.support.guarded_server import GuardedServer

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "use-dpop-from-python.md"
SUBJECT = {"data": {"sub": "app"}}


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[GuardedServer, str]]:
    monkeypatch.chdir(tmp_path)
    key = DPoPKey.load_or_generate("dpop.pem")
    async with open_desk(tmp_path) as desk, GuardedServer(desk.authenticator) as server:
        yield server, desk.issuer.bound_token(key.thumbprint)


async def run(code: str, server: GuardedServer, names: dict[str, Any]) -> None:
    """Runs an example in a thread, with a loop of its own where it awaits something."""
    code = code.replace("http://127.0.0.1:8200", server.url)
    compiled = compile(code, "example", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    def work() -> None:
        pending = eval(compiled, names)
        if pending is not None:
            asyncio.run(pending)

    await asyncio.to_thread(work)


async def test_the_pages_examples(server: tuple[GuardedServer, str]) -> None:
    guarded, token = server
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, Any] = {"access_token": token}
    for block in blocks:
        names.pop("secret", None)
        await run(block, guarded, names)
        if "secret =" in block:
            assert names["secret"]["data"] == SUBJECT
        for client in (names.get("client"), names.get("session")):
            if isinstance(client, httpx.Client):
                client.close()
    assert guarded.statuses == [401, 200] * 4


@pytest.mark.parametrize(
    "module", [sidecar.client.requests, sidecar.client.httpx, sidecar.client.aiohttp], ids=["hvac", "httpx", "aiohttp"]
)
async def test_the_docstrings_examples_are_three_lines(server: tuple[GuardedServer, str], module: Any) -> None:
    guarded, token = server
    lines = [line for line in (module.__doc__ or "").splitlines() if line.startswith("    ")]
    assert len(lines) == 3
    names: dict[str, Any] = {
        "access_token": token,
        "hvac": hvac,
        "httpx": httpx,
        "aiohttp": aiohttp,
        "DPoPKey": DPoPKey,
    }
    names |= {name: value for name, value in vars(module).items() if name.startswith("DPoP")}
    example = textwrap.dedent("\n".join(lines))
    if module is sidecar.client.aiohttp:
        example += "\nanswer.release()\nawait session.close()"
    await run(example, guarded, names)
    if isinstance(names.get("client"), hvac.Client):
        await asyncio.to_thread(names["client"].secrets.kv.v2.read_secret_version, "app", raise_on_deleted_version=True)
    elif isinstance(names.get("client"), httpx.Client):
        assert names["secret"] == {"sub": "app"}
        names["client"].close()
    assert guarded.statuses == [401, 200]
