"""The schema of the chart's `ops.extraConfig`: those keys of the configuration that the chart has no value for.

Every key of the configuration is one of three things: written by the chart, refused in the chart with a reason, or
taken by `ops.extraConfig`. A test holds the three against the tree, so that a new key is decided on before it lands.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from sidecar.config import Config
from tools.chart_docs import CHART

SCHEMA: Final = CHART / "values.schema.json"

TAKEN: Final = (
    "upstream.cluster_addresses",
    "upstream.tls.server_name",
    "upstream.timeout_seconds",
    "upstream.mounts_max_age_seconds",
    "upstream.auth.lease_role",
    "identity.clock_skew_seconds",
    "identity.client_certificates",
    "identity.proof_algorithms",
    "authorization.cedar.schema",
    "authorization.cedar.entities",
    "authorization.authzen.evaluation_path",
    "authorization.authzen.evaluations_path",
    "authorization.authzen.obligations",
    "authorization.authzen.extra_context",
    "authorization.authzen.ids",
    "authorization.authzen.client_cert_file",
    "authorization.authzen.client_key_file",
    "authorization.attributes",
    "authorization.candidate",
    "authorization.recordings",
    "grants.max_entries",
    "grants.on_binding_change",
    "revocations.max_silence_seconds",
    "anti_replay.proof_max_age_seconds",
    "anti_replay.unbound_token",
    "anti_replay.bound_token",
    "anti_replay.store_cert_file",
    "anti_replay.store_key_file",
    "anti_replay.store_timeout_ms",
    "audit.kafka.cert_file",
    "audit.kafka.key_file",
    "listen.tls.client_crl_file",
    "ops.trace_ratio",
    "ops.debug",
    "limits",
)
"""Keys and whole sections that `ops.extraConfig` takes."""

REFUSED: Final = {
    "tenant.salt": "a secret, and the configuration is a ConfigMap",
    "upstream.auth.token": "a secret, and the configuration is a ConfigMap",
    "yaml_provider": "secrets in a file, for development",
    "events": "for development",
    "identity.issuers.jwks_file": "a list is not merged; keys that are given as a file do not rotate",
}
"""What a chart's configuration never holds, and why."""

FILE: Final = r"^/(run/sidecar/secrets/extra|var/lib/sidecar)(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$"
"""A path that `ops.extraFiles` or the spool's volume can have: there is nothing else to be named."""
TEXT: Final = "^[ -~]*$"


def key_paths(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Every key of the configuration that holds a value; those of a list's entries stand below the list."""
    for name, found in schema["properties"].items():
        node = _section(found)
        here = f"{path}.{name}" if path else name
        if "properties" in node:
            yield from key_paths(node, here)
        elif "properties" in (entry := _section(node.get("items", {}))):
            yield from key_paths(entry, here)
        else:
            yield here


def tree() -> dict[str, Any]:
    """The configuration's own schema, with every reference resolved."""
    schema = Config.model_json_schema(by_alias=True)
    resolved: dict[str, Any] = _resolved(schema, schema["$defs"])
    return resolved


def extra_config() -> dict[str, Any]:
    """The schema of `ops.extraConfig`."""
    return _cut(tree(), "")


def _resolved(node: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_resolved(each, definitions) for each in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _resolved(definitions[node["$ref"].rpartition("/")[2]], definitions)
    return {key: _resolved(value, definitions) for key, value in node.items() if key != "$defs"}


def _section(node: dict[str, Any]) -> dict[str, Any]:
    """A section that may be null is a section: a key given as null counts as not given."""
    choices = [choice for choice in node.get("anyOf", ()) if choice.get("type") != "null"]
    return dict(choices[0]) if len(choices) == 1 else node


def _cut(schema: dict[str, Any], path: str) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, found in schema["properties"].items():
        here = f"{path}.{name}" if path else name
        node = _section(found)
        if _taken(here) or any(one.startswith(f"{here}.") for one in TAKEN):
            kept[name] = _cut(node, here) if "properties" in node else _value(node)
    return {"type": "object", "additionalProperties": False, "properties": kept}


def _taken(path: str) -> bool:
    return any(path == one or path.startswith(f"{one}.") for one in TAKEN)


def _value(node: dict[str, Any]) -> dict[str, Any]:
    """One value's schema, closed: a path is one that a volume can have, a text has no control characters."""
    if node.get("format") == "path":
        return {"type": "string", "pattern": FILE, "maxLength": 512}
    bare = {key: value for key, value in node.items() if key not in ("default", "title", "description", "format")}
    if "items" in bare:
        bare["items"] = _value(bare["items"])
    if bare.get("type") == "string" and "enum" not in bare:
        bare |= {"pattern": TEXT, "maxLength": 2048}
    return bare


def write() -> None:
    """Writes it into the chart's schema."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    schema["$defs"]["extraConfig"] = extra_config()
    SCHEMA.write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
