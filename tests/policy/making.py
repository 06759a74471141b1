"""Configurations and files of these tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sidecar.config.tree import Config
from tests.decision.making import cedar_folder

ALL = '@id("all") @max_uses("3") permit (principal == Workload::"app", action, resource in Mount::"secret");'


def configured(folder: Path, *policies: str, entities: Path | None = None, **sections: Any) -> Config:
    """A tree with these policies and a few mounts."""
    cedar = {"policies": cedar_folder(folder / "policies", *policies), "entities": entities}
    tree: dict[str, Any] = {
        "environment": "test",
        "tenant": {"id": "acme", "allowed_mounts": ["secret", "payments", "database"], "salt": "x" * 16},
        "mounts": [
            {"path": "secret", "engine": "kv2"},
            {"path": "payments", "engine": "kv2"},
            {"path": "database", "engine": "database"},
        ],
        "identity": {"issuers": [{"issuer": "https://idp.example", "jwks_file": "/nowhere"}]},
        "authorization": {"cedar": cedar},
    }
    return Config.model_validate(tree | sections)
