"""What the tour looks at besides the answers themselves: the audit, the metrics, and everything that was written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import requests
from prometheus_client.parser import text_string_to_metric_families

from sidecar.dev.openbao import FOREIGN_MOUNT
from sidecar.dev.processes import child_environment
from sidecar.dev.state import SidecarServer

TIMEOUT_SECONDS: Final = 10
_AUDIT_SECONDS: Final = 60


class UnexpectedError(Exception):
    """A step did not give what it must; the text is what it gave."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer as a client saw it: what the audit must have a record of."""

    correlation_id: str
    status: int
    code: str


@dataclass(slots=True)
class Canaries:
    """Texts that must be in no audit record and no log: values, paths, tokens, proofs."""

    values: set[str] = field(default_factory=set)
    tokens: set[str] = field(default_factory=set)
    paths: set[str] = field(
        default_factory=lambda: {
            "app/db",
            "app/api",
            "app/new",
            "app/rotated",
            "secret/data",
            "data/app",
            FOREIGN_MOUNT,
        }
    )

    def add_token(self, token: str) -> None:
        """A JWT, and its signature alone: the rest of it may stand in no other text either."""
        self.tokens |= {token, *token.split(".")[1:]}

    def found_in(self, files: Iterable[Path]) -> list[str]:
        """What was found, told by its kind, not by itself."""
        found = []
        for file in files:
            content = file.read_bytes()
            for kind, canaries in (("a value", self.values), ("a token or proof", self.tokens), ("a path", self.paths)):
                if any(canary.encode() in content for canary in canaries):
                    found.append(f"{kind} in {file.name}")
        return found

    def __len__(self) -> int:
        return len(self.values) + len(self.tokens) + len(self.paths)


def code_of(answer: requests.Response) -> str:
    """`403 POLICY_DENIED`; the status alone where there is no code."""
    try:
        code = answer.json().get("code", "") if answer.status_code >= 400 else ""
    except (ValueError, AttributeError):
        code = "(no JSON)"
    return f"{answer.status_code} {code}".rstrip()


def tells(record: dict[str, Any], seen: Seen) -> bool:
    """Whether a record is the outcome that the client saw."""
    effect = "permit" if seen.status < 400 else "deny" if seen.status < 500 else "error"
    return record["phase"] == "outcome" and record["effect"] == effect and (record["code"] or "") == seen.code


def run_audit(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sidecar", "audit", command, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=child_environment(),
        timeout=_AUDIT_SECONDS,
    )


def audit_records(server: SidecarServer) -> list[dict[str, Any]]:
    done = run_audit("cat", str(server.spool))
    if done.returncode != 0:
        raise UnexpectedError(f"sidecar audit cat: exit {done.returncode}: {done.stderr[-200:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def decisions(server: SidecarServer) -> int:
    """How often the sidecar has asked its PDP."""
    text = requests.get(f"{server.operations}/metrics", timeout=TIMEOUT_SECONDS, proxies={"no_proxy": "*"}).text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "sidecar_pdp_seconds_count":
                return int(sample.value)
    raise UnexpectedError("no sidecar_pdp_seconds in /metrics")
