"""The development world's first policies."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sidecar.dev.files import write_private

POLICIES: Final = """\
// Who may do what in the development world. Edit at will: `sidecar dev up` writes this file only where it is missing.
// A running sidecar takes changes on SIGHUP. What no policy permits is denied: `stranger` is not mentioned here.
//
// The annotations are obligations. @ttl_seconds: how long a grant lives. @max_uses: how many requests it serves
// before the policies are asked again.

@id("app-reads")
@ttl_seconds("60")
@max_uses("2")
permit (
    principal == Workload::"app",
    action == Action::"read",
    resource in Folder::"secret/app"
);

@id("app-looks-around")
@ttl_seconds("60")
@max_uses("20")
permit (
    principal == Workload::"app",
    action == Action::"read_metadata",
    resource in Folder::"secret/app"
);

@id("app-changes")
@max_uses("1")
permit (
    principal == Workload::"app",
    action in [Action::"write", Action::"rotate", Action::"delete", Action::"undelete"],
    resource in Folder::"secret/app"
);

@id("app-uses-its-key")
@max_uses("10")
permit (
    principal == Workload::"app",
    action in [Action::"execute", Action::"rotate", Action::"read_metadata"],
    resource in Secret::"openbao+transit://transit/app"
);

// Nobody, whatever else is permitted. `in`, not `==`: it holds for the secret's keys and versions too.
@id("frozen")
forbid (
    principal,
    action,
    resource in Secret::"openbao+kv2://secret/app/frozen"
);
"""


def write_policies(folder: Path) -> None:
    """Puts the first policies into a folder that has none."""
    if not any(folder.glob("*.cedar")):
        write_private(folder / "dev.cedar", POLICIES)
