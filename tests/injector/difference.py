"""What an injected pod has more than it had; anything else is harm."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sidecar.injector.quantity import parse_quantity
from tests.injector.making import Tree

ADDRESSES: Final = frozenset({"VAULT_ADDR", "BAO_ADDR", "VAULT_AGENT_ADDR", "BAO_AGENT_ADDR"})
OURS: Final = "openbao-sidecar"
_ADDED: Final = ("containers", "initContainers", "volumes", "terminationGracePeriodSeconds")
_ACCOUNTS_VOLUME: Final = re.compile(r"kube-api-access-[a-z0-9]{5}")
_EVERYWHERE: Final = ("containers", "initContainers")


def assert_only_added(before: Mapping[str, Any], after: Mapping[str, Any], *, overridden: bool = False) -> None:
    """Every container, volume and field of a pod's spec is as it was, in its order. `overridden`: addresses may have
    been replaced."""
    before, after = _plain(before), _plain(after)
    for key in before.keys() | after.keys():
        if key in _EVERYWHERE:
            remaining = [one for one in after.get(key, ()) if one["name"] != OURS]
            assert [one["name"] for one in remaining] == [one["name"] for one in before.get(key, ())]
            for was, is_now in zip(before.get(key, ()), remaining, strict=True):
                _assert_container(was, is_now, overridden=overridden)
        elif key == "volumes":
            assert [one for one in after[key] if not one["name"].startswith(OURS)] == before.get(key, [])
        elif key == "imagePullSecrets":
            assert after[key][: len(before.get(key, ()))] == before.get(key, [])
        elif key == "securityContext":
            assert _without_group(after.get(key)) == _without_group(before.get(key))
        elif key == "resources":
            _assert_no_less(before[key], after[key])
        elif key == "terminationGracePeriodSeconds":
            assert after[key] == before.get(key, 30) + 30
        else:
            assert after.get(key) == before.get(key), key


def _assert_no_less(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """The pod as a whole may be given more, for the sidecar."""
    for name, quantities in before.items():
        assert quantities.keys() == after[name].keys()
        for kind, quantity in quantities.items():
            assert parse_quantity(after[name][kind]) > parse_quantity(quantity)


def _assert_container(was: Mapping[str, Any], is_now: Mapping[str, Any], *, overridden: bool) -> None:
    for key in was.keys() | is_now.keys():
        if key == "env":
            assert _foreign(is_now.get(key)) == _foreign(was.get(key))
            if not overridden:
                kept = [one for one in was.get(key) or () if one["name"] in ADDRESSES]
                assert [one for one in is_now.get(key) or () if one in kept] == kept
        elif key == "volumeMounts":
            assert [one for one in is_now[key] if one["name"] != f"{OURS}-socket"] == (was.get(key) or [])
        else:
            assert is_now.get(key) == was.get(key), key


def _foreign(env: Sequence[Mapping[str, Any]] | None) -> list[Mapping[str, Any]]:
    return [one for one in env or () if one["name"] not in ADDRESSES]


def _without_group(context: Mapping[str, Any] | None) -> Tree:
    found = dict(context or {})
    found["supplementalGroups"] = [one for one in found.get("supplementalGroups") or () if one != 65532]
    return {key: value for key, value in found.items() if value != []}


def _plain(tree: Any) -> Any:
    """Without the name that Kubernetes makes up for the volume of an account's token."""
    if isinstance(tree, Mapping):
        return {key: _plain(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_plain(item) for item in tree]
    return _ACCOUNTS_VOLUME.sub("kube-api-access", tree) if isinstance(tree, str) else tree
