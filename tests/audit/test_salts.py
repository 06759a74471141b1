"""The tenant's salt is rotated without losing the look-ups of what was recorded under the one before."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sidecar.audit.record import ResourceRefs
from sidecar.config import salts_of
from sidecar.config.tree import Tenant
from sidecar.surface.secret_uri import SecretUri
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer

OLD, NEW = "the-old-salt-of-enough-bytes", "the-new-salt-of-enough-bytes"
URI = SecretUri("openbao", "kv2", "secret", ("app", "db"), fragment="password")


def in_file(folder: Path, content: str | bytes) -> Tenant:
    file = folder / "salt"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return Tenant(id="acme", salt_file=file)


@pytest.mark.parametrize(
    ("content", "salts"),
    [
        pytest.param(OLD, [OLD.encode()], id="one"),
        pytest.param(f"{OLD}\n", [OLD.encode()], id="one-line"),
        pytest.param(f"{NEW}\n{OLD}\n", [NEW.encode(), OLD.encode()], id="current-and-previous"),
        pytest.param(f"\r\n{NEW}\r\n\r\n {OLD} \r\n", [NEW.encode(), OLD.encode()], id="as-an-editor-leaves-it"),
        pytest.param(b"\x00\xff" * 8 + b"\n" + b"\x01" * 20, [b"\x00\xff" * 8 + b"\n" + b"\x01" * 20], id="binary"),
        pytest.param("é" * 20 + "\n" + OLD, [("é" * 20 + "\n" + OLD).encode()], id="not-ascii"),
    ],
)
def test_a_salt_file_holds_one_salt_a_line_the_current_one_first(
    tmp_path: Path, content: str | bytes, salts: list[bytes]
) -> None:
    assert salts_of(in_file(tmp_path, content)) == salts


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "less than 16 bytes|no salt"),
        ("short", "less than 16 bytes"),
        (f"{NEW}\nshort\n", "salt 2 holds less"),
        (f"{NEW}\n{NEW}\n", "twice"),
        ("\n".join(f"{NEW}-{n}" for n in range(40)), "more than"),
    ],
)
def test_a_salt_file_that_is_not_fit_is_refused_without_telling_a_salt(tmp_path: Path, content: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        salts_of(in_file(tmp_path, content))
    assert NEW not in str(refused.value)


def test_a_reference_under_an_earlier_salt_is_still_found_and_told_by_its_key_id() -> None:
    before = ResourceRefs("acme", OLD.encode()).of(URI)
    refs = ResourceRefs("acme", NEW.encode(), OLD.encode())
    current, previous = refs.all_of(URI)
    assert previous == before
    assert current == refs.of(URI) == ResourceRefs("acme", NEW.encode()).of(URI)
    assert len({current.resource_ref, previous.resource_ref, current.parent_ref, previous.parent_ref}) == 4
    assert current.ref_key_id != previous.ref_key_id


def test_a_new_salt_is_used_at_once_though_references_are_remembered() -> None:
    refs = ResourceRefs("acme", OLD.encode())
    before = refs.of(URI)
    refs.use([NEW.encode(), OLD.encode()])
    assert refs.of(URI) != before
    with pytest.raises(ValueError, match="16 bytes"):
        refs.use([b"short"])
    other = SecretUri("openbao", "kv2", "secret", ("other",))
    for uri in (URI, other):  # one is remembered, one is not
        assert refs.of(uri) == ResourceRefs("acme", NEW.encode()).of(uri)


@pytest.mark.real
def test_on_sighup_records_are_under_the_new_salt_and_audit_ref_finds_both(
    tmp_path: Path, openbao: OpenBao, issuer: Issuer
) -> None:
    salt = tmp_path / "salt"
    salt.write_text(OLD)
    overrides = {"tenant": {"salt_file": str(salt), "salt": None}}
    with SidecarProcess(tmp_path / "sidecar", openbao, issuer, overrides) as sidecar:
        client = sidecar.hvac("bulk")

        def read() -> None:
            client.secrets.kv.v2.read_secret_version(path="app/db", raise_on_deleted_version=True)

        def reload(until: str) -> None:
            assert sidecar.process is not None
            said = sidecar.log.read_text().count(until)
            sidecar.process.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + 20
            while sidecar.log.read_text().count(until) == said:
                assert time.monotonic() < deadline, sidecar.log_tail()
                time.sleep(0.02)

        openbao.put("app/db", {"password": "x"})
        read()
        salt.write_text(f"{NEW}\n{OLD}\n")
        reload('"reloaded"')
        read()
        salt.write_text("short")
        reload("not reloaded")
        read()
        salt.write_text(f"{NEW}\n{OLD}\n")
        found = [record["resource_ref"] for record in sidecar.records() if record["event"] == "SECRET_PERMIT"]
        log = sidecar.log.read_text()
    command = [sys.executable, "-m", "sidecar", "audit", "ref", "openbao+kv2://secret/app/db"]
    done = subprocess.run(
        [*command, "--config", str(sidecar.config_file)], capture_output=True, text=True, check=True, timeout=60
    )
    shown = json.loads(done.stdout)
    assert found == [shown["previous"][0]["resource_ref"], shown["resource_ref"], shown["resource_ref"]]
    assert shown["previous"][0]["ref_key_id"] != shown["ref_key_id"]
    assert shown["resource_arn"] == f"auth:v1:resource:secret:acme:{shown['resource_ref']}"
    assert not any(text in log for text in (OLD, NEW))
