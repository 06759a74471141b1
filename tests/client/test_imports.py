"""What the application has to install: `cryptography`, and the HTTP client it uses. Nothing of the server."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        allowed = sys.argv[2].split(",")
        third_party = {blocked!r}
        if name.partition(".")[0] in third_party and name.partition(".")[0] not in allowed:
            raise ImportError(name + " is not installed")

sys.meta_path.insert(0, Absent())
__import__(sys.argv[1])
print(*sorted(name for name in sys.modules if name.partition(".")[0] == "sidecar"))
"""
BLOCKED = {
    *("aiohttp", "aiokafka", "cachetools", "cedarpy", "hvac", "httpx", "jwcrypto", "jwt", "orjson"),
    *("prometheus_client", "pydantic", "requests", "rich", "structlog", "typer", "uvloop", "yaml"),
}


@pytest.mark.parametrize(
    ("module", "needs"),
    [
        ("sidecar.client", ""),
        ("sidecar.client.requests", "requests"),
        ("sidecar.client.httpx", "httpx"),
        ("sidecar.client.aiohttp", "aiohttp"),
    ],
)
def test_each_adapter_needs_its_own_client_only(module: str, needs: str) -> None:
    script = SCRIPT.format(blocked=BLOCKED)
    result = subprocess.run([sys.executable, "-c", script, module, needs], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert all(name == "sidecar" or name.startswith("sidecar.client") for name in result.stdout.split())
