"""What the process does not load, and what it gives back after its start."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Final

import pytest

from sidecar.footprint import without

NOT_FOR_EVERYBODY: Final = {"aiokafka", "opentelemetry", "rich", "pygments", "jwcrypto", "httpx"}


def told_by(script: str) -> Any:
    """What a fresh interpreter prints, as JSON."""
    command = [sys.executable, "-c", f"import json, sys\n{script}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_the_command_and_the_proxy_load_nothing_that_only_some_need() -> None:
    """Each of them is time before a pod's application may start, and memory in every pod."""
    script = """
sys.argv = ["sidecar", "--version"]
import sidecar.cli
try:
    sidecar.cli.main()
except SystemExit:
    pass
import sidecar.process
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    loaded = set(told_by(script))
    assert {"aiohttp", "cedarpy", "structlog"} <= loaded
    assert not loaded & NOT_FOR_EVERYBODY


def test_what_was_left_out_can_still_be_had() -> None:
    script = """
from sidecar.footprint import without
found = []
with without("rich"):
    try:
        import rich.table
    except ModuleNotFoundError:
        found.append("not inside")
import rich.table
found.append("after")
with without("rich"):
    import rich.table
found.append("loaded before")
print(json.dumps(found))
"""
    assert told_by(script) == ["not inside", "after", "loaded before"]


def test_an_error_inside_leaves_the_package_importable() -> None:
    with pytest.raises(RuntimeError), without("a_package_of_nobody"):
        raise RuntimeError
    assert "a_package_of_nobody" not in sys.modules


def test_settling_gives_code_back_and_everything_goes_on_working() -> None:
    script = """
import gc, hashlib
import cedarpy, orjson
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from sidecar.footprint import settle

def pages():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssFile:"))

def work():
    generate_private_key(SECP256R1()).public_key().public_numbers()
    cedarpy.policies_to_json_str("permit (principal, action, resource);")
    return orjson.dumps({"a": [1]}).decode() + hashlib.sha256(b"x").hexdigest()

first, before = work(), pages()
settle()
after = pages()
print(json.dumps([before, after, first == work(), gc.get_freeze_count() > 0]))
"""
    before, after, same, frozen = told_by(script)
    assert after < before / 2
    assert same
    assert frozen
