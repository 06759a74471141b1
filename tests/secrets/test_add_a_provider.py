"""The worked example of docs/how-to/add-a-provider.md, plugged into a sidecar and asked over HTTP."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import aiohttp
import pytest

from sidecar.app import Sidecar
from sidecar.config import load
from sidecar.secrets.providers.port import Provider
from sidecar.surface.secrets.endpoints import ROWS, Endpoint
from tests.secrets.yaml_file.making import private
from tests.test_config import alone, with_, written

PAGE: Final = (Path(__file__).parents[2] / "docs" / "how-to" / "add-a-provider.md").read_text(encoding="utf-8")
POLICIES: Final = """
permit (principal, action, resource in Folder::"secret/app");
@release("user") permit (principal, action, resource in Folder::"secret/half");
"""


def provider(root: Path) -> Provider:
    """The page's class."""
    code, _ = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    module = ModuleType("files")
    exec(compile(code, "docs/how-to/add-a-provider.md", "exec"), module.__dict__)
    made = module.Files(root)
    assert isinstance(made, Provider)
    return made


Ask = Any


@pytest.fixture
async def ask(tmp_path: Path) -> AsyncIterator[Ask]:
    """Asks a sidecar with the provider; every caller is `anonymous`."""
    root = tmp_path / "root"
    for name, text in {
        "secret/app/db/password": "first",
        "secret/app/db/user": "u",
        "secret/app/db/deep/more/k": "v",
        "secret/half/x/user": "u",
        "secret/half/x/password": "held",
        "secret/other/y/k": "held",
        "foreign/app/z/k": "held",
        "secret/app/binary/k": "",
    }.items():
        private_file = root / name
        private_file.parent.mkdir(parents=True, exist_ok=True)
        private(private_file, text)
    (root / "secret/app/binary/k").write_bytes(b"\xff")
    (root / "secret/app/linked").symlink_to(root / "foreign" / "app" / "z")
    (root / "secret/app/db/link").symlink_to(root / "secret/other/y/k")
    tree = with_(alone(tmp_path), "environment", "dev")
    (tmp_path / "policies" / "all.cedar").write_text(POLICIES)
    tree |= {
        "identity": {"required": False},
        "listen": {"address": "127.0.0.1:0"},
        "ops": {"address": "127.0.0.1:0"},
        "audit": {"spool_dir": str(tmp_path / "audit")},
    }
    config = load(written(tmp_path, tree), {})
    async with Sidecar(config, further=[provider(root)]) as sidecar, aiohttp.ClientSession() as session:

        async def asking(method: str, path: str, body: Any = None, **query: str) -> tuple[int, Any]:
            url = f"http://{sidecar.addresses[0]}/api/secrets{path}"
            async with session.request(method, url, json=body, params=query) as answer:
                return answer.status, await answer.json()

        yield asking


async def test_the_page_s_provider_is_served(ask: Ask, tmp_path: Path) -> None:
    db = "files://secret/app/db"
    assert await ask("GET", "/value", uri=f"{db}#password") == (
        200,
        {"uri": f"{db}#password", "version": None, "value": "first"},
    )
    assert (await ask("GET", "/value", uri=db))[1]["value"] == {"password": "first", "user": "u"}
    assert (await ask("GET", "/keys", uri=db))[1]["keys"] == ["password", "user"]
    listed = (await ask("GET", "/metadata", prefix="files://secret/"))[1]["items"]
    assert [item["uri"] for item in listed] == [
        "files://secret/app/binary",
        "files://secret/app/db",
        "files://secret/app/db/deep/more",
    ]
    assert (await ask("GET", "/value", uri="files://secret/half/x"))[1]["value"] == {"user": "u"}
    copied = await ask("POST", "/copy", {"fromUri": db, "toUri": "yaml://secret/app/copied"})
    assert copied[0] == 200, copied
    assert (await ask("GET", "", uri="yaml://secret/app/copied"))[1] == {"password": "first", "user": "u"}


@pytest.mark.parametrize(
    ("uri", "status", "code"),
    [
        ("files://secret/other/y", 403, "POLICY_DENIED"),
        ("files://foreign/app/z", 400, "TENANT_MOUNT_MISMATCH"),
        ("files://secret/app/linked", 404, "NOT_FOUND"),
        ("files://secret/app/db#link", 404, "NOT_FOUND"),
        ("files://secret/app/never", 404, "NOT_FOUND"),
        ("files://secret/app/binary", 502, "UPSTREAM_ERROR"),
        ("files://secret/app/../other/y", 400, "ILLEGAL_SEGMENT"),
        ("files+kv2://secret/app/db", 400, "UNSUPPORTED_ENGINE"),
        ("unknown://secret/app/db", 400, "INVALID_URI"),
        ("files://secret/app/db?version=1", 400, "AMBIGUOUS_QUERY"),
    ],
)
async def test_what_it_does_not_serve_is_refused(ask: Ask, uri: str, status: int, code: str) -> None:
    found = await ask("GET", "/value", uri=uri)
    assert (found[0], found[1]["code"]) == (status, code)
    assert "held" not in json.dumps(found[1])


async def test_what_it_does_not_declare_is_501(ask: Ask) -> None:
    """At every endpoint."""
    uri = "files://secret/app/db"
    bodies: dict[Endpoint, Any] = {
        Endpoint.WRITE: {"uri": uri, "value": {"a": "1"}},
        Endpoint.ROTATE: {"uri": f"{uri}#user", "value": "1"},
        Endpoint.UNDELETE: {"uri": uri, "versions": [1]},
        Endpoint.DESTROY: {"uri": uri, "versions": [1]},
        Endpoint.OWNER: {"uri": uri, "owner": "o"},
        Endpoint.MOVE: {"fromUri": uri, "toUri": "yaml://secret/app/moved"},
        Endpoint.COPY: {"fromUri": "yaml://secret/app/moved", "toUri": uri},
    }
    for row in ROWS:
        if row.endpoint in bodies:
            found = await ask(row.method, row.path, bodies[row.endpoint])
        elif row.endpoint in (Endpoint.DELETE, Endpoint.DETAIL, Endpoint.VERSIONS, Endpoint.YAML):
            found = await ask(row.method, row.path, uri=uri)
        else:
            continue
        assert (found[0], found[1]["code"]) == (501, "UNSUPPORTED_OPERATION"), row.endpoint
