"""The sidecar as a pod gets it: its container and the volumes that only it mounts. Written with every default that the
API server would add, so that what is injected can be recognised by its content. Pure.

Paths are those of the chart. What the pod's ConfigMap may not decide stands in environment variables, which win over
the file: where OpenBao is, how to log in, tenant, mounts, role, listeners.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sidecar.injector.annotations import EMPTY_DIR, Wishes
from sidecar.injector.config import Sidecar
from sidecar.injector.names import CONTAINER, PORT, SOCKET, SOCKET_FOLDER, SOCKET_VOLUME, USER, VOLUME_PREFIX
from sidecar.injector.resources import sidecar_resources
from sidecar.injector.terms import Terms

Tree = dict[str, Any]

_CONFIG: Final = "/etc/sidecar/config"
_POLICIES: Final = "/etc/sidecar/policies"
_TRUST: Final = "/etc/sidecar/trust"
_SECRETS: Final = "/run/sidecar/secrets"
_TOKEN: Final = "/run/sidecar/token"
_SPOOL: Final = "/var/lib/sidecar"
_FILE_MODE: Final = 0o644
_PYTHON: Final = "/usr/bin/python3"


@dataclass(frozen=True, slots=True)
class Parts:
    """What is put into a pod."""

    container: Tree
    volumes: tuple[Tree, ...]


def sidecar_parts(wishes: Wishes, terms: Terms, sidecar: Sidecar, *, native: bool, application_grace: int) -> Parts:
    """The container and its volumes. `native`: an init container that stays; else one beside the application's, whose
    stop is put off by `application_grace` seconds, since Kubernetes tells all containers at once.

    Raises:
        Denied: requests and limits of the annotations do not fit.
    """
    volumes = _volumes(wishes, terms, sidecar)
    container: Tree = {
        "name": CONTAINER,
        "image": sidecar.image,
        "imagePullPolicy": sidecar.image_pull_policy,
        "args": ["serve", "--config", f"{_CONFIG}/config.yaml"],
        "env": _environment(wishes, terms, sidecar),
        "ports": [{"name": "operations", "containerPort": sidecar.operations_port, "protocol": "TCP"}],
        "startupProbe": _probe("/readyz", sidecar, period=1, timeout=1, failures=sidecar.startup_seconds),
        "livenessProbe": _probe("/healthz", sidecar, period=10, timeout=5, failures=6),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "resources": sidecar_resources(wishes.resources, sidecar.resources),
        "volumeMounts": [_mount(volume["name"]) for volume in volumes],
    }
    if sidecar.pod_readiness:
        container["readinessProbe"] = _probe("/readyz", sidecar, period=5, timeout=2, failures=3)
    if native:
        container["restartPolicy"] = "Always"
    else:
        wait = [_PYTHON, "-I", "-S", "-c", f"import time; time.sleep({application_grace})"]
        container["lifecycle"] = {"preStop": {"exec": {"command": wait}}}
    return Parts(container, volumes)


def socket_mount() -> Tree:
    """How an application's container mounts the socket: it may connect, and not put another in its place."""
    return {"name": SOCKET_VOLUME, "mountPath": SOCKET_FOLDER, "readOnly": True}


def address(wishes: Wishes) -> str:
    """Where the application finds the sidecar."""
    return f"unix://{SOCKET}" if wishes.listen == "unix" else f"http://127.0.0.1:{PORT}"


# -- its configuration -----------------------------------------------------------------------------------------------
def _environment(wishes: Wishes, terms: Terms, sidecar: Sidecar) -> list[Tree]:
    listen = f"unix://{SOCKET}" if wishes.listen == "unix" else f"127.0.0.1:{PORT}"
    pod: Tree = {"enabled": wishes.pod_identity}
    if wishes.pod_identity:
        pod["token_file"] = f"{_TOKEN}/pod"
    tenant = {"id": terms.tenant_id, "allowed_mounts": terms.allowed_mounts, "salt_file": f"{_SECRETS}/salt"}
    values: dict[str, Any] = {
        "ENVIRONMENT": sidecar.environment.value,
        "LISTEN": {"address": listen},
        "UPSTREAM": _upstream(terms, sidecar),
        "TENANT": tenant,
        "OPS__ADDRESS": sidecar.operations_address,
        "OPS__LOG_LEVEL": wishes.log_level or sidecar.log_level,
    }
    if "identity" not in sidecar.pinned:
        values["IDENTITY__POD"] = pod
    for section, tree in sidecar.pinned.items():
        values[section.upper()] = {**tree, "pod": pod} if section == "identity" else tree
    return [
        *({"name": f"SIDECAR__{key}", "value": _text(value)} for key, value in values.items()),
        *with_defaults(sidecar.env),
    ]


def _upstream(terms: Terms, sidecar: Sidecar) -> Tree:
    upstream = sidecar.upstream
    auth = {"mode": upstream.mode, "method": upstream.method, "role": terms.role, "jwt_file": f"{_TOKEN}/token"}
    if upstream.mount:
        auth["mount"] = upstream.mount
    tls: Tree = {}
    if upstream.ca_config_map:
        tls["ca_file"] = f"{_TRUST}/openbao.crt"
    if upstream.server_name:
        tls["server_name"] = upstream.server_name
    return {
        "provider": upstream.provider,
        "address": upstream.address,
        "namespace": upstream.namespace,
        "cluster_addresses": upstream.cluster_addresses,
        "timeout_seconds": upstream.timeout_seconds,
        "tls": tls,
        "auth": auth,
    }


_DEFAULTS: Final[Mapping[str, Tree]] = {
    "fieldRef": {"apiVersion": "v1"},
    "resourceFieldRef": {"divisor": "0"},
    "serviceAccountToken": {"expirationSeconds": 3600},
}


def with_defaults(given: list[Tree]) -> list[Tree]:
    """What an operator wrote for Kubernetes as the API server gives it back: with its defaults, without empty texts."""

    def filled(tree: Any) -> Any:
        if isinstance(tree, list):
            return [filled(item) for item in tree]
        if not isinstance(tree, dict):
            return tree
        return {
            key: {**_DEFAULTS.get(key, {}), **inner} if isinstance(inner := filled(value), dict) else inner
            for key, value in tree.items()
            if value not in ("", None)
        }

    return [filled(item) for item in given]


def _text(value: Any) -> str:
    """A value as a variable holds it. Kubernetes reads `$(NAME)` in one as a reference to another, unless doubled."""
    plain = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return plain.replace("$(", "$$(")


# -- its volumes -----------------------------------------------------------------------------------------------------
def _volumes(wishes: Wishes, terms: Terms, sidecar: Sidecar) -> tuple[Tree, ...]:
    salt = terms.salt_secret
    trust = with_defaults(sidecar.trust)
    if sidecar.upstream.ca_config_map:
        items = [{"key": "ca.crt", "path": "openbao.crt"}]
        trust.insert(0, {"configMap": {"name": sidecar.upstream.ca_config_map, "items": items}})
    secrets = [
        {"secret": {"name": salt.name, "items": [{"key": salt.key, "path": "salt"}]}},
        *with_defaults(sidecar.secrets),
    ]
    tokens = [_token(sidecar.token.audience, sidecar, "token")]
    if wishes.pod_identity:
        tokens.append(_token(sidecar.audience, sidecar, "pod"))
    config = {
        "name": terms.config,
        "items": [{"key": "config.yaml", "path": "config.yaml"}],
        "defaultMode": _FILE_MODE,
    }
    volumes: list[Tree] = [{"name": f"{VOLUME_PREFIX}config", "configMap": config}]
    if terms.policies_config_map:
        policies = {"name": terms.policies_config_map, "defaultMode": _FILE_MODE}
        volumes.append({"name": f"{VOLUME_PREFIX}policies", "configMap": policies})
    if trust:
        volumes.append(_projected("trust", trust))
    volumes.append(_projected("secrets", secrets))
    volumes.append(_projected("token", tokens))
    spool: Tree = {"persistentVolumeClaim": {"claimName": wishes.spool_volume}}
    if wishes.spool_volume == EMPTY_DIR:
        spool = {"emptyDir": {"sizeLimit": f"{sidecar.spool_mib}Mi"}}
    volumes.append({"name": f"{VOLUME_PREFIX}spool", **spool})
    if wishes.listen == "unix":
        volumes.append({"name": SOCKET_VOLUME, "emptyDir": {}})
    return tuple(volumes)


def _projected(name: str, sources: list[Tree]) -> Tree:
    return {"name": f"{VOLUME_PREFIX}{name}", "projected": {"sources": sources, "defaultMode": _FILE_MODE}}


def _token(audience: str, sidecar: Sidecar, path: str) -> Tree:
    seconds = sidecar.token.expiration_seconds
    return {"serviceAccountToken": {"audience": audience, "expirationSeconds": seconds, "path": path}}


_PATHS: Final = {
    f"{VOLUME_PREFIX}config": _CONFIG,
    f"{VOLUME_PREFIX}policies": _POLICIES,
    f"{VOLUME_PREFIX}trust": _TRUST,
    f"{VOLUME_PREFIX}secrets": _SECRETS,
    f"{VOLUME_PREFIX}token": _TOKEN,
    f"{VOLUME_PREFIX}spool": _SPOOL,
    SOCKET_VOLUME: SOCKET_FOLDER,
}
_WRITABLE: Final = frozenset({f"{VOLUME_PREFIX}spool", SOCKET_VOLUME})


def _mount(volume: str) -> Tree:
    mount: Tree = {"name": volume, "mountPath": _PATHS[volume]}
    return mount if volume in _WRITABLE else mount | {"readOnly": True}


# -- its probes -------------------------------------------------------------------------------------------------------
def _probe(path: str, sidecar: Sidecar, *, period: int, timeout: int, failures: int) -> Tree:
    return {
        "httpGet": {"path": path, "port": sidecar.operations_port, "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": timeout,
        "failureThreshold": failures,
        "successThreshold": 1,
    }
