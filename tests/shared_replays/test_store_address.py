"""Where the store is, and what is refused about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.config import ConfigError, load
from sidecar.config.store_address import StoreAddress, store_address


@pytest.mark.parametrize(
    ("store", "address"),
    [
        ("valkey://store:6380", StoreAddress("store", 6380, False, "", 0)),
        ("redis://store", StoreAddress("store", 6379, False, "", 0)),
        ("valkeys://user@store:6380/3", StoreAddress("store", 6380, True, "user", 3)),
        ("rediss://us%40er@[::1]:1", StoreAddress("::1", 1, True, "us@er", 0)),
    ],
)
def test_the_parts_of_a_stores_url(store: str, address: StoreAddress) -> None:
    assert store_address(store) == address


@pytest.mark.parametrize(
    "store",
    [
        *(
            "disk",
            "",
            "valkey://",
            "valkey:///0",
            "http://store:1",
            "memory://",
            "valkey://store:x",
            "valkey://store:99999",
        ),
        *("valkey://store/a", "valkey://store?db=1", "valkey://store#1", "valkey://store/1/2", "valkey://[::1"),
        *("valkey://user:canary@store", "valkey://:canary@store", "disk://user:canary@store"),
    ],
)
def test_what_is_no_store_is_refused_and_not_repeated(tmp_path: Path, store: str) -> None:
    said = problems(tmp_path, store=store)
    assert set(said) == {"anti_replay.store"}
    assert "canary" not in str(said)
    assert "store_password_file" in said["anti_replay.store"]


def test_files_that_are_not_there_or_do_not_fit(tmp_path: Path) -> None:
    said = problems(
        tmp_path,
        store="valkey://store:1",
        store_password_file=str(tmp_path / "none"),
        store_ca_file=str(tmp_path / "jwks.json"),
        store_cert_file=str(tmp_path / "jwks.json"),
    )
    assert set(said) == {"anti_replay.store_password_file", "anti_replay.store_cert_file", "anti_replay.store"}
    assert "valkeys://" in said["anti_replay.store"]


def problems(folder: Path, **replay: Any) -> dict[str, str]:
    """By key, where `anti_replay` is this and all else is right."""
    (folder / "jwks.json").write_text("{}")
    (folder / "policies").mkdir()
    tree = {
        "environment": "prod",
        "upstream": {"address": "https://openbao:8200", "auth": {"method": "token", "token": "t"}},
        "mounts": [{"path": "secret", "engine": "kv2"}],
        "tenant": {"id": "acme", "allowed_mounts": ["secret"], "salt": "salt-of-enough-bytes"},
        "identity": {"issuers": [{"issuer": "https://idp.example", "jwks_file": str(folder / "jwks.json")}]},
        "authorization": {"cedar": {"policies": str(folder / "policies")}},
        "audit": {"spool_dir": str(folder)},
    }
    file = folder / "sidecar.yaml"
    file.write_text(yaml.safe_dump(tree))
    load(file, {})
    file.write_text(yaml.safe_dump(tree | {"anti_replay": replay}))
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    return {problem.key: f"{problem}" for problem in caught.value.problems}
