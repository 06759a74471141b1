"""The rules of the configuration that types cannot say: what goes together, what must exist, what `prod` refuses."""

from __future__ import annotations

from sidecar.config.checks.audit import check_audit
from sidecar.config.checks.caller import check_identity, check_replay
from sidecar.config.checks.decision import check_authorization, check_revocations
from sidecar.config.checks.places import is_loopback, split_address
from sidecar.config.checks.serving import (
    MAX_YAML_BYTES,
    check_listen,
    check_mounts,
    check_ops,
    check_tenant,
    check_upstream,
    check_yaml_provider,
)
from sidecar.config.problems import Problem
from sidecar.config.tree import Config

__all__ = ["MAX_YAML_BYTES", "cross_checks", "is_loopback", "split_address"]


def cross_checks(config: Config) -> list[Problem]:
    """Everything wrong with a tree whose single values are right."""
    found: list[Problem] = []
    for check in (
        check_listen,
        check_upstream,
        check_mounts,
        check_tenant,
        check_identity,
        check_authorization,
        check_replay,
        check_revocations,
        check_audit,
        check_ops,
        check_yaml_provider,
    ):
        found += check(config)
    return found
