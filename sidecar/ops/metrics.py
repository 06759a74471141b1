"""Every metric, by its contract name. No label carries a path, a subject or a token: label values are closed sets."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics

from sidecar.errors import STATUS, Code

# A second series beside each counter, which nobody asked for.
disable_created_metrics()  # type: ignore[no-untyped-call] # the library has no type for it

REGISTRY: Final = CollectorRegistry(auto_describe=True)
ProcessCollector(registry=REGISTRY)  # nobody else can read it: the process is not dumpable

_FAST: Final = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.3, 1.0)
_SLOW: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 3.0, 10.0, 30.0)

DECISIONS: Final = Counter(
    "sidecar_decisions", "Decisions by effect and purpose", ["effect", "purpose"], registry=REGISTRY
)
DENIES: Final = Counter("sidecar_denies", "Requests denied, by code", ["code"], registry=REGISTRY)
GRANTS: Final = Counter(
    "sidecar_grants", "Grant look-ups: hit, miss, expired, exhausted", ["result"], registry=REGISTRY
)
NEGATIVE_HITS: Final = Counter(
    "sidecar_negative_cache_hits", "Denials answered from the negative cache", registry=REGISTRY
)
REVOCATIONS: Final = Counter(
    "sidecar_revocations", "Revocations applied: ops, kafka, signal, policy", ["source"], registry=REGISTRY
)
REVOCATIONS_MALFORMED: Final = Counter(
    "sidecar_revocations_malformed", "Messages that were no revocation, each taken as one of all", registry=REGISTRY
)
GRANTS_REVOKED: Final = Counter("sidecar_grants_revoked", "Grants ended before their time", registry=REGISTRY)
REPLAYS: Final = Counter("sidecar_replays", "Replays refused: proof or token", ["kind"], registry=REGISTRY)
REPLAY_STORE_ERRORS: Final = Counter(
    "sidecar_replay_store_errors", "Requests refused because the shared replay store did not say", registry=REGISTRY
)
MOUNT_VIOLATIONS: Final = Counter(
    "sidecar_tenant_mount_violations", "Requests outside the tenant's mounts", registry=REGISTRY
)
MOUNT_CHANGES: Final = Counter(
    "sidecar_mount_changes", "Times that OpenBao's mounts were found changed since the start", registry=REGISTRY
)
MOUNTS_AGE_SECONDS: Final = Gauge(
    "sidecar_mounts_age_seconds", "Age of the last look at OpenBao's mounts that succeeded", registry=REGISTRY
)
PEP_SECONDS: Final = Histogram(
    "sidecar_pep_seconds",
    "Time to a decision, without upstream: from a live grant, or the first time",
    ["path"],
    buckets=_FAST,
    registry=REGISTRY,
)
PDP_SECONDS: Final = Histogram("sidecar_pdp_seconds", "Time of one PDP call", buckets=_FAST, registry=REGISTRY)
PDP_ERRORS: Final = Counter("sidecar_pdp_errors", "PDP calls without a trustworthy answer", registry=REGISTRY)
ATTRIBUTES: Final = Counter(
    "sidecar_attributes",
    "Resource attributes asked for: known, fetched, none there, or not to be had",
    ["result"],
    registry=REGISTRY,
)
POLICY_LOADS: Final = Counter(
    "sidecar_policy_loads", "Readings of the policy folder: taken, or refused", ["result"], registry=REGISTRY
)
POLICIES_REFUSED: Final = Gauge(
    "sidecar_policies_refused", "1 while the folder's newest state is not the set in force", registry=REGISTRY
)
CANDIDATE: Final = Counter(
    "sidecar_candidate_decisions",
    "Decisions put before the candidate: same, would_permit, would_deny, other_obligations, error, dropped",
    ["result"],
    registry=REGISTRY,
)
RECORDINGS: Final = Counter(
    "sidecar_decision_recordings", "Decisions recorded for a replay: written, or dropped", ["result"], registry=REGISTRY
)
UPSTREAM_SECONDS: Final = Histogram(
    "sidecar_upstream_seconds", "Time to OpenBao's head", ["operation"], buckets=_SLOW, registry=REGISTRY
)
ERRORS: Final = Counter(
    "sidecar_errors", "Requests that failed with a 5xx of the sidecar's own", ["code"], registry=REGISTRY
)
AUDIT_RECORDS: Final = Counter("sidecar_audit_records", "Audit records written", ["event"], registry=REGISTRY)
AUDIT_BACKLOG_RECORDS: Final = Gauge(
    "sidecar_audit_backlog_records", "Records not yet acknowledged by Kafka", registry=REGISTRY
)
AUDIT_BACKLOG_BYTES: Final = Gauge("sidecar_audit_backlog_bytes", "Bytes of the spool in use", registry=REGISTRY)
AUDIT_LIMIT_BYTES: Final = Gauge(
    "sidecar_audit_limit_bytes", "Bytes that the spool may use: beyond them nothing is released", registry=REGISTRY
)
AUDIT_OLDEST_SECONDS: Final = Gauge(
    "sidecar_audit_oldest_seconds",
    "Age of the oldest record not yet acknowledged by Kafka",
    registry=REGISTRY,
)
KAFKA_REASONS: Final = (
    *("no_broker", "no_answer", "topic_missing", "topic_replaced"),
    *("not_authorized", "record_too_large", "credentials", "certificate"),
    *("time_refused", "leader_moved", "other"),
)
AUDIT_KAFKA_ERRORS: Final = Counter(
    "sidecar_audit_kafka_errors",
    f"Times that records could not be sent to Kafka: {', '.join(KAFKA_REASONS)}",
    ["reason"],
    registry=REGISTRY,
)
PROVENANCE_FAILURES: Final = Counter(
    "sidecar_provenance_failures", "Secrets written without the stamp of who made them", registry=REGISTRY
)
EVENT_STREAMS: Final = Gauge("sidecar_event_streams", "Open streams of `/api/secrets/events`", registry=REGISTRY)
CACHE_ENTRIES: Final = Gauge("sidecar_cache_entries", "Entries of each bounded table", ["cache"], registry=REGISTRY)
PART_READY: Final = Gauge(
    "sidecar_part_ready",
    "What /readyz says: 1 for each part that is ready, 0 for one that is not",
    ["part"],
    registry=REGISTRY,
)
PART_WARNING: Final = Gauge(
    "sidecar_part_warning",
    "What /readyz says: 1 for each part that is ready with a warning",
    ["part"],
    registry=REGISTRY,
)

# A counter that only appears with its first event looks to Prometheus as if nothing had happened: what alerts look at
# is there from the start.
for _code, _status in STATUS.items():
    if _status >= 500:
        ERRORS.labels(_code)
for _code in (Code.BINDING_MISMATCH, Code.BINDING_CHANGED, Code.PROOF_INVALID):
    DENIES.labels(_code)
for _kind in ("proof", "token"):
    REPLAYS.labels(_kind)
for _reason in KAFKA_REASONS:
    AUDIT_KAFKA_ERRORS.labels(_reason)
