"""The Secrets API held against its own description by schemathesis: real process, real OpenBao, a fixed seed.

A longer run: `.venv/bin/pytest tests/e2e/test_secrets_description.py --fuzz-seed 7 --fuzz-examples 200`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import requests

from sidecar.dev.processes import child_environment
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.secrets.yaml_file.making import private
from tests.support.tokens import Issuer

pytestmark = pytest.mark.real

POLICIES: Final = '@ttl_seconds("60") @max_uses("1000000")\npermit (principal, action, resource);\n'
COMMITTED: Final = Path(__file__).parent.parent.parent / "docs" / "reference" / "openapi.json"
THERE: Final = [f"openbao+kv2://secret/fuzz/s{number}" for number in range(4)]
URIS: Final = [*THERE, *(f"{uri}#k" for uri in THERE), "openbao+kv2://secret/fuzz/new", f"{THERE[0]}?version=1"]
IN_THE_FILE: Final = ["yaml://secret/fuzz/y", "yaml://secret/fuzz/y#k", "yaml://secret/fuzz/new"]
PREFIXES: Final = ["openbao+kv2://secret/", "openbao+kv2://secret/fuzz/s"]
NOT_HELD: Final = "positive_data_acceptance"
"""A schema cannot say what a URI must be; so much that fits it is 400."""


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer) -> Iterator[SidecarProcess]:
    for uri in THERE:
        openbao.put(uri.removeprefix("openbao+kv2://secret/"), {"k": "v", "user": "u"})
    folder = tmp_path_factory.mktemp("description")
    overrides = {
        "yaml_provider": {"path": str(private(folder / "secrets.yaml", "secret: {fuzz: {y: {k: v}}}\n"))},
        "identity": {"binding": "preferred"},
        "anti_replay": {"unbound_token": "off"},
        "events": {"enabled": True},
    }
    made = SidecarProcess(folder, openbao, issuer, overrides)
    (made.policies / "policies.cedar").write_text(POLICIES)
    with made as running:
        yield running


def narrowed(document: Any) -> Any:
    """The description with secrets that are there in place of any text: deeper than the refusal of a URI."""
    if isinstance(document, list):
        return [narrowed(each) for each in document]
    if not isinstance(document, dict):
        return document
    if document.get("in") == "query" and document["name"] in ("uri", "prefix"):
        there = IN_THE_FILE if "pattern" in document["schema"] else URIS if document["name"] == "uri" else PREFIXES
        return document | {"schema": {"type": "string", "enum": there}}
    uris = {name: {"type": "string", "enum": URIS} for name in ("uri", "fromUri", "toUri")}
    return {
        name: {key: uris.get(key, narrowed(each)) for key, each in value.items()}
        if name == "properties"
        else value  # an answer may name others
        if name == "responses"
        else narrowed(value)
        for name, value in document.items()
    }


def test_narrowing_reaches_every_secret_that_a_request_names() -> None:
    text = json.dumps(narrowed(json.loads(COMMITTED.read_text())))
    assert text.count(json.dumps(URIS)) >= 12
    assert text.count(json.dumps(PREFIXES)) == 2


@pytest.mark.parametrize("narrow", [False, True], ids=["as committed", "secrets that are there"])
def test_every_answer_is_one_that_is_described(
    process: SidecarProcess, tmp_path: Path, pytestconfig: pytest.Config, narrow: bool
) -> None:
    """No 5xx, no undocumented status, media type or shape, no method but those described, nothing that the schema
    forbids, nothing without a token. The stream does not end."""
    document = json.loads(COMMITTED.read_text())
    described = tmp_path / "openapi.json"
    described.write_text(json.dumps(narrowed(document) if narrow else document))
    token = process.issuer.token(sub="fuzz", exp=int(time.time()) + 3600)
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", str(described), "--url", process.url, "--no-color"),
        *("--header", f"Authorization: Bearer {token}"),
        *("--exclude-operation-id", "streamEvents"),
        *(
            "--phases",
            "examples,coverage,fuzzing,stateful",
            "--exclude-checks",
            NOT_HELD,
            "--warnings",
            "off",
            "--generation-database",
            "none",
        ),
        *("--seed", pytestconfig.getoption("--fuzz-seed")),
        *("--max-examples", pytestconfig.getoption("--fuzz-examples")),
    ]
    done = subprocess.run(command, cwd=tmp_path, env=child_environment(), capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "Selected: 18/19" in done.stdout


def test_the_stream_is_what_it_is_described_as(process: SidecarProcess) -> None:
    """It does not end, so that nobody generates requests for it."""
    bearer = {"Authorization": f"Bearer {process.issuer.token(sub='fuzz')}"}
    described = json.loads(COMMITTED.read_text())["paths"]["/api/secrets/events"]["get"]["responses"]["200"]["content"]
    with requests.get(f"{process.url}/api/secrets/events", headers=bearer, stream=True, timeout=30) as answer:
        assert (answer.status_code, [answer.headers["Content-Type"]]) == (200, list(described))
