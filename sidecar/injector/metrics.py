"""The injector's metrics, in a registry of their own: its process is not the proxy's. Label values are closed sets."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sidecar.ops.metrics import REGISTRY as _PROXYS  # noqa: F401 - importing it sets the library's switches

REGISTRY: Final = CollectorRegistry(auto_describe=True)

ADMISSIONS: Final = Counter(
    "sidecar_injector_admissions",
    "Reviews answered: injected, unchanged, denied, malformed, failed",
    ["phase", "result"],
    registry=REGISTRY,
)
for _phase in ("mutate", "validate"):
    for _result in ("injected", "unchanged", "denied", "malformed", "failed"):
        ADMISSIONS.labels(_phase, _result)  # there from the start: an increase from nothing is not seen
SECONDS: Final = Histogram(
    "sidecar_injector_seconds",
    "Time to an answer",
    ["phase"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0),
    registry=REGISTRY,
)
CERTIFICATE_EXPIRES: Final = Gauge(
    "sidecar_injector_certificate_expiry_seconds",
    "When the listener's certificate expires, as a Unix time",
    registry=REGISTRY,
)
CERTIFICATE_ERRORS: Final = Counter(
    "sidecar_injector_certificate_errors",
    "Times that the injector's own certificates could not be kept",
    registry=REGISTRY,
)
