"""The sidecar's share of the machine, and what it means for the pod's. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from sidecar.injector.config import Resources
from sidecar.injector.names import PREFIX
from sidecar.injector.quantity import parse_quantity
from sidecar.injector.refusal import Denied
from sidecar.injector.workload import Pod

Given = dict[str, dict[str, str]]
"""`requests` and `limits` of `cpu` and `memory`."""

_KINDS: Final = ("cpu", "memory")


def sidecar_resources(asked: Mapping[str, str], usual: Resources) -> Given:
    """Requests and limits of the sidecar's container. Raises Denied where what is asked does not fit."""
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}
    for kind in ("cpu", "memory"):
        request = asked.get(f"{kind}-request", "")
        limit = asked.get(f"{kind}-limit", "")
        if request and limit and parse_quantity(request) > parse_quantity(limit):
            raise Denied(f"annotation {PREFIX}{kind}-request: is above {PREFIX}{kind}-limit")
        usual_request, usual_limit = getattr(usual, f"{kind}_request"), getattr(usual, f"{kind}_limit")
        # What one asks for moves what is only usual, not the other way round.
        if not request and usual_request:
            request = limit if limit and parse_quantity(limit) < parse_quantity(usual_request) else usual_request
        if not limit and usual_limit:
            limit = request if request and parse_quantity(request) > parse_quantity(usual_limit) else usual_limit
        if request:
            requests[kind] = request
        if limit:
            limits[kind] = limit
    return {name: values for name, values in (("requests", requests), ("limits", limits)) if values}


def raised(pod: Pod, ours: Given) -> Given:
    """What the pod as a whole is to have beside the sidecar, where it says so (`spec.resources`): what it had, and the
    sidecar's own on top, so that the application keeps its share. Only what changes."""
    found: Given = {}
    whole = pod.spec.get("resources")
    for name in ("requests", "limits"):
        had = whole.get(name) if isinstance(whole, dict) else None
        if not isinstance(had, dict):
            continue
        for kind in _KINDS:
            more = ours.get(name, {}).get(kind) or ours.get("requests", {}).get(kind)
            if kind in had and more:
                found.setdefault(name, {})[kind] = _sum(kind, str(had[kind]), more)
    return found


def _sum(kind: str, one: str, other: str) -> str:
    try:
        total = parse_quantity(one) + parse_quantity(other)
    except ValueError:  # the API server will say what is wrong with it
        return one
    return f"{math.ceil(total * 1000)}m" if kind == "cpu" else str(math.ceil(total))


def is_guaranteed(pod: Pod) -> bool:
    """Whether Kubernetes puts the pod into the quality of service class Guaranteed."""
    return bool(pod.containers) and all(
        all_limited(container.tree.get("resources")) for container in (*pod.init_containers, *pod.containers)
    )


def all_limited(resources: Any) -> bool:
    """Whether a container's requests are its limits, of both kinds."""
    if not isinstance(resources, dict):
        return False
    requests, limits = resources.get("requests"), resources.get("limits")
    if not isinstance(requests, dict) or not isinstance(limits, dict):
        return False
    return all(_amount(requests.get(kind)) == _amount(limits.get(kind)) is not None for kind in _KINDS)


def _amount(quantity: Any) -> Decimal | None:
    try:
        return parse_quantity(str(quantity))
    except ValueError:
        return None
