"""Values for the chart: the least that it takes, and one case for each thing that it can be told."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

CHART: Final = Path(__file__).resolve().parent.parent.parent / "deploy" / "k8s" / "chart"
EXAMPLES: Final = CHART.parent / "examples"

LEAST: Final[dict[str, Any]] = {
    "ops": {
        "tenant": {"id": "acme", "allowedMounts": ["secret"], "saltSecret": {"name": "acme-salt"}},
        "identity": {"issuers": [{"issuer": "https://idp.example", "jwksUri": "https://idp.example/jwks"}]},
        "upstream": {"address": "https://openbao:8200"},
    },
}


def values(changes: Mapping[str, Any] | None = None, *, example: bool = True) -> dict[str, Any]:
    """The least values with changes, given by dotted key, on top; with the example unless told otherwise."""
    tree = copy.deepcopy(LEAST)
    given = dict(changes or {})
    beside = example and not given.get("gateway.enabled") and not given.get("injector.enabled")
    for key, value in ({"example.enabled": beside} | given).items():
        *sections, last = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    return tree


def defaults() -> dict[str, Any]:
    """The chart's own values."""
    loaded: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return loaded


_KAFKA: Final = {"ops.kafka.bootstrapServers": "kafka-0.kafka:9093,kafka-1.kafka:9093"}

BUILT: Final[dict[str, dict[str, Any]]] = {
    "least": {},
    "trust": {
        "ops.upstream.caConfigMap": "openbao-ca",
        "ops.identity.issuers": [
            {"issuer": "https://idp.example", "jwksUri": "https://idp.example/jwks"},
            {"issuer": "https://oidc.acme.example", "kind": "spiffe", "trustDomain": "acme.example"},
            {
                "issuer": "https://kubernetes.default.svc",
                "kind": "kubernetes",
                "jwks_uri": "https://kubernetes.default.svc/openid/v1/jwks",
                "algorithms": ["RS256"],
                "token_types": ["JWT"],
                "caConfigMap": "kube-root-ca.crt",
            },
        ],
    },
    "token file": {"ops.upstream.auth.method": "token_file", "ops.upstream.auth.secret": "broker-token"},
    "approle with its role id": {"ops.upstream.auth.role": "0b3e-41", "ops.upstream.auth.mount": "approle-pods"},
    "authzen": {
        "ops.authorization.pdp": "authzen",
        "ops.authorization.authzen.url": "https://cerbos.pdp.svc:3592",
        "ops.authorization.authzen.timeoutMs": 150,
        "ops.authorization.authzen.caSecret": "pdp-ca",
        "ops.authorization.authzen.tokenSecret": "pdp-token",
    },
    "named policies": {"ops.authorization.cedar.policiesConfigMap": "team-policies"},
    "given policies": {"policies": {"app.cedar": "permit (principal, action, resource);\n"}},
    "kafka": _KAFKA
    | {"ops.kafka.caSecret": "kafka-ca", "ops.kafka.topicPrefix": "acme.crud"}
    | {"ops.kafka.compression": "zstd", "ops.kafka.maxRecordsPerSecond": 500},
    "kafka with sasl": _KAFKA
    | {
        "ops.kafka.securityProtocol": "SASL_SSL",
        "ops.kafka.sasl.mechanism": "SCRAM-SHA-512",
        "ops.kafka.sasl.secret": "kafka-login",
    },
    "revocations": _KAFKA
    | {"ops.revocations.topic": "acme.revocations", "ops.revocations.tokenSecret": "revalidate-token"},
    "everything off that may be": {
        "ops.environment": "dev",
        "ops.api.requireAuth": False,
        "ops.identity.issuers": [],
        "ops.authorization.enabled": False,
        "ops.metrics.enabled": False,
        "ops.upstream.address": "http://openbao:8200",
        "sidecar.podReadiness": False,
        "networkPolicy.enabled": False,
        "serviceAccount.create": False,
    },
    "service monitor": {"ops.metrics.serviceMonitor": True, "monitoring.labels": {"release": "prometheus"}},
    "numbers": {
        "ops.grants.defaultTtlSeconds": 1_000_000,
        "ops.grants.defaultMaxUses": 1_000_000_000,
        "ops.grants.maxTtlSeconds": 31_536_000,
        "ops.grants.negativeTtlSeconds": 0.5,
        "ops.antiReplay.windowSeconds": 1_000_000,
        "ops.audit.maxSpoolMib": 1_048_576,
    },
    "switches": {
        "ops.api.enforceScopes": True,
        "ops.api.audience": "secrets.acme",
        "ops.identity.binding": "preferred",
        "ops.antiReplay.dpopNonce": "optional",
        "ops.audit.durability": "write",
        "ops.logging.level": "debug",
        "ops.logging.format": "console",
        "ops.upstream.provider": "hashicorp",
        "ops.upstream.namespace": "team/a",
    },
    "image": {
        "image.repository": "registry.example:5000/team/openbao-sidecar",
        "image.digest": "sha256:" + "0a" * 32,
        "image.pullSecrets": ["registry-login"],
        "image.pullPolicy": "Always",
        "serviceAccount.annotations": {"example.com/owner": "team: a"},
        "serviceAccount.name": "app",
    },
    "IPv6 only": {"sidecar.operationsAddress": "[::]:9102"},
    "retention": {"ops.audit.retentionMib": 128},
    "checkpoints": {
        "ops.audit.checkpoint.keySecret": "audit-key",
        "ops.audit.checkpoint.everyRecords": 50,
        "ops.audit.checkpoint.everySeconds": 1.5,
    },
    "kubernetes login": {"ops.upstream.auth.method": "kubernetes", "ops.upstream.auth.role": "app"},
    "jwt login": {"ops.upstream.auth.method": "jwt", "ops.upstream.auth.role": "app"},
    "cert login": {"ops.upstream.auth.method": "cert", "ops.upstream.auth.role": "app"},
    "traces": {"ops.tracing.otlpEndpoint": "http://collector:4318"},
    "exchange": {"ops.upstream.auth.mode": "exchange", "ops.upstream.auth.role": "app"},
    "exchange at kubernetes": {
        "ops.upstream.auth.mode": "exchange",
        "ops.upstream.auth.method": "kubernetes",
        "ops.upstream.auth.role": "app",
    },
    "exchange without a login of its own": {
        "ops.upstream.auth.mode": "exchange",
        "ops.upstream.auth.mount": "team/jwt",
        "ops.mounts": [{"path": "secret", "engine": "kv2"}, {"path": "db", "engine": "database", "namespace": "team"}],
    },
    "passthrough": {"ops.upstream.auth.mode": "passthrough"},
    "passthrough without a login of its own": {
        "ops.upstream.auth.mode": "passthrough",
        "ops.mounts": [{"path": "secret", "engine": "kv2"}],
    },
    "a shared replay store": {
        "ops.antiReplay.store": "valkeys://sidecar@valkey:6379",
        "ops.antiReplay.storePasswordSecret": "valkey-login",
        "ops.antiReplay.storeCaSecret": "valkey-ca",
    },
    "the pod as a caller": {
        "ops.identity.pod.enabled": True,
        "ops.identity.issuers": [
            {
                "issuer": "https://kubernetes.default.svc.cluster.local",
                "kind": "kubernetes",
                "jwksUri": "https://kubernetes.default.svc/openid/v1/jwks",
                "caConfigMap": "kube-root-ca.crt",
                "tokenAudience": "https://kubernetes.default.svc.cluster.local",
            }
        ],
    },
    "what has no value": {
        "ops.extraConfig": {
            "grants": {"on_binding_change": "separate"},
            "limits": {"max_in_flight": 1000},
            "authorization": {
                "cedar": {"schema": "/run/sidecar/secrets/extra/schema.json"},
                "candidate": {"pdp": "cedar", "cedar": {"policies": "/run/sidecar/secrets/extra/candidate"}},
                "recordings": {"file": "/var/lib/sidecar/decisions"},
            },
        },
        "ops.extraFiles": [
            {"configMap": {"name": "schema", "items": [{"key": "schema.json", "path": "schema.json"}]}},
            {"configMap": {"name": "next", "items": [{"key": "app.cedar", "path": "candidate/app.cedar"}]}},
        ],
    },
    "egress": {
        "networkPolicy.egress": [
            {"namespace": "openbao", "podLabels": {"app.kubernetes.io/name": "openbao"}, "ports": [8200]},
            {"cidr": "10.20.0.0/16", "ports": [9093, 443]},
        ]
    },
}
"""Cases whose configuration the sidecar takes, beside an application."""

GATEWAY: Final[dict[str, Any]] = _KAFKA | {
    "gateway.enabled": True,
    "gateway.publicUrls": ["https://secrets.acme.example"],
    "gateway.tls.secret": "gateway-tls",
    "ops.antiReplay.store": "valkeys://sidecar@valkey.acme.svc:6379",
    "ops.antiReplay.storePasswordSecret": "valkey-login",
}
GATEWAYS: Final[dict[str, dict[str, Any]]] = {
    "gateway": GATEWAY,
    "gateway with client certificates": GATEWAY
    | {"gateway.tls.clientCert": "optional", "gateway.tls.clientCaConfigMap": "clients-ca"},
    "gateway in a mesh": GATEWAY
    | {
        "gateway.podLabels": {"mesh.example/revision": "stable"},
        "gateway.podAnnotations": {"mesh.example/inject": "true"},
        "gateway.clientNamespaces": ["shop", "billing"],
        "gateway.service.sessionAffinity": "ClientIP",
        "ops.metrics.serviceMonitor": True,
    },
    "gateway on IPv6": GATEWAY | {"sidecar.operationsAddress": "[::]:9102", "gateway.replicas": 5},
}
"""Cases of the gateway; the same."""

INJECTOR: Final[dict[str, Any]] = {
    "example.enabled": False,
    "injector.enabled": True,
    "injector.namespaces": {"team-a": {"configs": ["sidecar-config"], "policiesConfigMap": "sidecar-policies"}},
    "ops.upstream.auth.method": "kubernetes",
    "ops.upstream.auth.role": "app",
}
_UMBRELLA: Final = {
    "id": "umbrella",
    "allowedMounts": ["kv", "team/kv"],
    "roles": ["web", "batch"],
    "saltSecret": {"name": "umbrella-salt", "key": "key"},
}
INJECTORS: Final[dict[str, dict[str, Any]]] = {
    "injector": INJECTOR,
    "injector with cert-manager": INJECTOR
    | {"injector.certificates.by": "cert-manager", "injector.nativeSidecars": "always"},
    "injector with an issuer that is there": INJECTOR
    | {"injector.certificates.by": "cert-manager", "injector.certificates.issuer": {"name": "internal"}},
    "injector that tells its callers apart": INJECTOR
    | {
        "injector.clientCaConfigMap": "api-servers-ca",
        "injector.apiServerCidrs": ["10.1.0.0/24", "fd00:1::/64"],
        "injector.allowPortForward": True,
        "injector.priorityClassName": "system-cluster-critical",
        "injector.tolerated": {"env": ["AWS_ROLE_ARN"], "mountPaths": ["/var/run/secrets/eks.amazonaws.com"]},
    },
    "injector for several tenants": INJECTOR
    | {
        "ops.tenant": {},
        "ops.upstream.auth.role": "",
        "injector.namespaces": {
            "team-b": {
                "tenants": [_UMBRELLA],
                "configs": ["sidecar-config", "quiet"],
                "policiesConfigMap": "sidecar-policies",
                "required": True,
            }
        },
    },
    "injector with all that sidecars may be told": INJECTOR
    | BUILT["the pod as a caller"]
    | BUILT["kafka with sasl"]
    | {
        "ops.identity.pod.enabled": False,
        "ops.upstream.caConfigMap": "openbao-ca",
        "ops.kafka.caSecret": "kafka-ca",
        "ops.authorization.pdp": "authzen",
        "ops.authorization.authzen.url": "https://pdp.pdp.svc",
        "ops.authorization.authzen.caSecret": "pdp-ca",
        "ops.authorization.authzen.tokenSecret": "pdp-token",
        "ops.revocations.topic": "acme.revocations",
        "ops.revocations.tokenSecret": "revalidate-token",
        "ops.audit.checkpoint.keySecret": "audit-key",
        "ops.tracing.otlpEndpoint": "http://collector:4318",
        "ops.extraConfig": {
            "upstream": {"timeout_seconds": 10, "cluster_addresses": ["https://bao-0.bao:8200"]},
            "authorization": {"authzen": {"client_cert_file": "/run/sidecar/secrets/extra/pdp.crt"}},
            "ops": {"trace_ratio": 0.5},
        },
        "ops.extraFiles": [{"secret": {"name": "pdp-client", "items": [{"key": "tls.crt", "path": "pdp.crt"}]}}],
        "ops.mounts": [{"path": "secret", "engine": "kv2"}],
        "monitoring.podMonitor": True,
        "networkPolicy.openbao.namespace": "openbao",
        "networkPolicy.openbao.alsoFrom": ["operators"],
    },
}
"""Cases of the injector; its configuration is the injector's own."""

CASES: Final = BUILT
