"""Every key of the configuration, with its default and unit. A key given as null counts as not given."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr


def _split_commas(value: object) -> object:
    """An environment variable gives a list as `a,b`."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


CommaList = Annotated[list[str], BeforeValidator(_split_commas)]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=86_400 * 365)]
LogLevel = Literal["debug", "info", "warning", "error"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Environment(StrEnum):
    """What the sidecar runs in. Switches that weaken it exist outside `prod` only."""

    DEV = "dev"
    TEST = "test"
    PROD = "prod"


# -- listen --------------------------------------------------------------------------------------------------------
class ListenTls(_Section):
    """TLS of the application's listener. `client_cert: required` refuses a handshake without one (RFC 8705). Changed
    files are taken up within seconds, and on SIGHUP; connections that stand are measured by them too."""

    cert_file: Path | None = None
    key_file: Path | None = None
    client_ca_file: Path | None = None
    client_crl_file: Path | None = None
    """Certificate revocation lists (PEM), one of each authority in a client's chain; one out of date lets nobody in."""
    client_cert: Literal["none", "optional", "required"] = "none"


class Listen(_Section):
    """Where applications connect."""

    address: str = "127.0.0.1:8200"
    """`host:port`, or `unix:///absolute/path`."""
    public_urls: CommaList = []
    """Further origins (`scheme://host[:port]`) taken in `Host` and in a proof's `htu`, beside the loopback names."""
    tls: ListenTls = ListenTls()


# -- upstream ------------------------------------------------------------------------------------------------------
class UpstreamTls(_Section):
    """TLS towards OpenBao. The certificate is always verified; there is no switch that turns that off."""

    ca_file: Path | None = None
    server_name: str | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


class UpstreamAuth(_Section):
    """Whose login requests go by: the sidecar's own, one for each caller, or the caller's own token."""

    mode: Literal["broker", "exchange", "passthrough"] = "broker"
    method: Literal["token", "token_file", "approle", "kubernetes", "jwt", "cert"] = "token"
    token: SecretStr | None = None
    token_file: Path | None = None
    role: str | None = None
    role_id: str | None = None
    secret_id_file: Path | None = None
    jwt_file: Path | None = None
    mount: str | None = None
    """Mount of the auth method; its own name where absent. `exchange` logs callers in at `jwt` where absent."""
    lease_role: str | None = None
    """Token role under whose orphan, periodic token leases are made, so that they outlive the broker's own login."""


class Upstream(_Section):
    """OpenBao."""

    provider: Literal["openbao", "hashicorp"] = "openbao"
    address: str | None = None
    cluster_addresses: CommaList = []
    """The API addresses of OpenBao's nodes: a standby's redirect is followed to these, and to no other."""
    namespace: str = ""
    tls: UpstreamTls = UpstreamTls()
    timeout_seconds: Seconds = 30
    mounts_max_age_seconds: Annotated[float, Field(ge=0, le=60)] = 1
    """What is read is released only where OpenBao's mounts were looked at since; 0: after its answer came."""
    auth: UpstreamAuth = UpstreamAuth()

    @property
    def has_own_login(self) -> bool:
        """Whether the sidecar itself logs in: always as broker, else where its method's credential is given."""
        auth = self.auth
        credentials: dict[str, object] = {
            "token": auth.token,
            "token_file": auth.token_file,
            "approle": auth.secret_id_file,
            "kubernetes": auth.jwt_file,
            "jwt": auth.jwt_file,
            "cert": self.tls.cert_file,
        }
        return self.address is not None and (auth.mode == "broker" or credentials[auth.method] is not None)


class MountEntry(_Section):
    """One mount of the static table."""

    path: str
    engine: str
    namespace: str = ""


class YamlProvider(_Section):
    """Secrets in one YAML file, for development: read-only unless `environment` is dev or test."""

    path: Path | None = None
    """Mode 0600, of the user who runs the sidecar. Without `upstream.address` it is all there is."""


class Tenant(_Section):
    """Whose secrets these are. `allowed_mounts` names full mounts (`namespace/mount`)."""

    id: str | None = None
    allowed_mounts: CommaList = []
    salt: SecretStr | None = None
    salt_file: Path | None = None


# -- identity ------------------------------------------------------------------------------------------------------
Algorithm = Literal["ES256", "ES384", "ES512", "EdDSA", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
ProofAlgorithm = Literal["ES256", "ES384", "EdDSA", "RS256", "PS256"]


_SPIFFE = "spiffe://"


def is_trust_domain(name: str) -> bool:
    """Whether this names a SPIFFE trust domain (SPIFFE ID, section 2.1)."""
    return re.fullmatch(r"[a-z0-9._-]{1,255}", name) is not None


class Issuer(_Section):
    """Whose tokens are taken. Keys come from `jwks_uri`, from `jwks_file`, or from where the issuer's metadata say."""

    issuer: str
    """A token's `iss`; for JWT-SVIDs `spiffe://<trust domain>`, or the `iss` that the SPIFFE server writes."""
    kind: Literal["oauth", "kubernetes", "spiffe"] | None = None
    """`kubernetes`: service-account tokens; `spiffe`: JWT-SVIDs. Where absent: `spiffe` for a `spiffe://` issuer, else
    OAuth access tokens, and service-account tokens, told by their claim `kubernetes.io`."""
    trust_domain: str | None = None
    """Of JWT-SVIDs, where `issuer` does not name it."""
    jwks_uri: str | None = None
    jwks_file: Path | None = None
    ca_file: Path | None = None
    token_file: Path | None = None
    """A bearer token sent to the issuer where keys are fetched, as a cluster's API server asks for."""
    algorithms: Annotated[list[Algorithm], BeforeValidator(_split_commas), Field(min_length=1)] = [
        "ES256",
        "RS256",
        "EdDSA",
    ]
    token_types: Annotated[CommaList, Field(min_length=1)] = ["at+jwt", "JWT"]

    @property
    def svid_domain(self) -> str | None:
        """The trust domain of an issuer of JWT-SVIDs; None for every other one."""
        if self.issuer.startswith(_SPIFFE):
            return self.issuer.removeprefix(_SPIFFE)
        return self.trust_domain if self.kind == "spiffe" else None


class Pod(_Section):
    """The pod itself as the caller, for applications that cannot be changed."""

    enabled: bool = False
    token_file: Path | None = None


class ClientCertificates(_Section):
    """What a client certificate is beside what a token may be bound to. With `subject: spiffe` an X.509-SVID of the
    trust domain is a caller of its own where the request has no token; `listen.tls.client_ca_file` then holds that
    trust domain's bundle and no other authority."""

    subject: Literal["none", "spiffe"] = "none"
    trust_domain: str | None = None


class Identity(_Section):
    """Who may call, and how a token must be bound to its sender."""

    required: bool = True
    audience: str = "crud.secrets"
    binding: Literal["required", "preferred"] = "required"
    issuers: list[Issuer] = []
    clock_skew_seconds: Annotated[int, Field(ge=0, le=60)] = 5
    pod: Pod = Pod()
    client_certificates: ClientCertificates = ClientCertificates()
    proof_algorithms: Annotated[list[ProofAlgorithm], BeforeValidator(_split_commas), Field(min_length=1)] = [
        "ES256",
        "ES384",
        "EdDSA",
    ]


class Revocations(_Section):
    """Grants taken back by messages in Kafka, on the connection of `audit.kafka`. See docs/how-to/revoke-access.md."""

    topic: str = ""
    """Read by every sidecar as a whole. Empty: none is read."""
    max_silence_seconds: Annotated[int, Field(ge=5, le=86_400)] = 60
    """So long without a sign of life from Kafka, readiness warns: what is revoked does not arrive."""


class Scopes(_Section):
    """OAuth scopes: where enforced, scope and policy must both permit."""

    enforce: bool = False


# -- authorization -------------------------------------------------------------------------------------------------
class Cedar(_Section):
    """The embedded PDP: a folder of `*.cedar` policies, optionally with a schema and entities (JSON)."""

    policies: Path | None = None
    schema_: Path | None = Field(None, alias="schema")
    entities: Path | None = None


class Authzen(_Section):
    """A remote PDP that speaks OpenID AuthZEN 1.0."""

    url: str | None = None
    evaluation_path: str = "/access/v1/evaluation"
    evaluations_path: str = "/access/v1/evaluations"
    obligations: str = "/obligations"
    """JSON pointer (RFC 6901) to the obligations inside the answer's `context`."""
    extra_context: dict[str, Any] = {}
    ids: Literal["plain", "encoded"] = "plain"
    """`encoded`: `:`, `#`, `@`, `%` and white space in the ids of subject and resource as `%XX`, as OpenFGA needs."""
    timeout_ms: Positive = 300
    ca_file: Path | None = None
    token_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None


class Attributes(_Section):
    """What a secret's metadata says of it, for policies. `auto` reads it where a Cedar policy in force looks at it, and
    for each question to a remote PDP; `off` never."""

    fetch: Literal["auto", "off"] = "auto"
    ttl_seconds: Annotated[float, Field(gt=0, le=60)] = 5
    max_entries: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000


class Candidate(_Section):
    """A second PDP, asked what the one in force was asked and never obeyed; differences are recorded."""

    pdp: Literal["cedar", "authzen"] | None = None
    cedar: Cedar = Cedar.model_validate({})
    authzen: Authzen = Authzen()
    max_waiting: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Decisions that wait to be compared; what comes beyond is dropped and counted."""
    max_concurrent: Annotated[int, Field(ge=1, le=64)] = 4
    timeout_ms: Positive = 1000


class Recordings(_Section):
    """Decisions written down for `sidecar policy diff`. Sensitive: the file holds paths and attributes of secrets."""

    file: Path | None = None
    max_mib: Annotated[int, Field(ge=2, le=1024)] = 16


class Authorization(_Section):
    """Which PDP decides."""

    enabled: bool = True
    pdp: Literal["cedar", "authzen"] = "cedar"
    cedar: Cedar = Cedar.model_validate({})
    authzen: Authzen = Authzen()
    attributes: Attributes = Attributes()
    candidate: Candidate = Candidate()
    recordings: Recordings = Recordings()


class Grants(_Section):
    """Bounds of a usage grant; the defaults apply where the PDP gives no obligation."""

    default_ttl_seconds: Positive = 300
    default_max_uses: Positive = 1
    max_ttl_seconds: Positive = 3600
    max_entries: Positive = 100_000
    negative_ttl_seconds: Annotated[float, Field(ge=0, le=300)] = 5
    on_binding_change: Literal["deny", "separate"] = "deny"


TokenUse = Literal["per_grant", "single_use", "off"]


class AntiReplay(_Section):
    """What may be presented twice, and for how long it is remembered."""

    window_seconds: Positive = 300
    dpop_nonce: Literal["required", "optional", "off"] = "required"
    proof_max_age_seconds: Positive = 60
    unbound_token: TokenUse = "per_grant"
    bound_token: TokenUse = "off"
    store: str = "memory"
    """`valkey://[user@]host[:port][/database]`, or with TLS `valkeys://…`; never with a password in it."""
    store_password_file: Path | None = None
    store_ca_file: Path | None = None
    store_cert_file: Path | None = None
    store_key_file: Path | None = None
    store_timeout_ms: Annotated[int, Field(ge=10, le=10_000)] = 300


# -- audit, ops, limits --------------------------------------------------------------------------------------------
class Kafka(_Section):
    """The way of the audit to Kafka."""

    bootstrap_servers: str | None = None
    topic_prefix: str = "crud"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    compression: Literal["none", "gzip", "lz4", "zstd"] = "none"
    max_records_per_second: Positive = 10_000
    """How fast a backlog drains, so that requests keep the processor."""


class Checkpoint(_Section):
    """Signed checkpoints in the chain; off where there is no key. `key_file`: an Ed25519 private key (PEM)."""

    key_file: Path | None = None
    every_records: Annotated[int, Field(ge=10, le=1_000_000)] = 1000
    every_seconds: Annotated[float, Field(ge=1, le=86_400)] = 60


class Audit(_Section):
    """The durable journal."""

    spool_dir: Path = Path("/var/lib/sidecar/audit")
    durability: Literal["fsync", "write"] = "fsync"
    on_failure: Literal["deny"] = "deny"
    max_spool_mib: Positive = 256
    retention_mib: Annotated[int, Field(ge=0)] = 0
    checkpoint: Checkpoint = Checkpoint()
    kafka: Kafka = Kafka()


class Events(_Section):
    """`/api/secrets/events` and `/api/secrets/audit`: what happened lately, to callers who may know of the secret."""

    enabled: bool | None = None
    """Where absent, they are served where `environment` is dev."""
    kept: Annotated[int, Field(ge=10, le=10_000)] = 1000
    """Newest audit records in memory, for both. A stream that falls behind by more ends."""
    max_streams: Annotated[int, Field(ge=1, le=256)] = 16


class Ops(_Section):
    """Operations listener and logs."""

    address: str = "127.0.0.1:9102"
    log_level: LogLevel = "info"
    log_format: Literal["json", "console"] = "json"
    otlp_endpoint: str = ""
    """An OpenTelemetry collector's base URL for OTLP over HTTP; empty: no traces."""
    trace_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the requests without a `traceparent` that begin a trace; the others follow their caller's `sampled`."""
    token_file: Path | None = None
    """Whoever has this token as Bearer may `POST /revalidate` from anywhere; without it, callers on loopback only."""
    debug: bool = True
    """`/debug/grants`, for callers on loopback only, whatever `address` is."""


class Limits(_Section):
    """What one caller may cost."""

    max_body_mib: Positive = 32
    max_header_kib: Annotated[int, Field(ge=4, le=1024)] = 64
    max_connections: Positive = 1024
    max_in_flight: Positive = 256
    max_uri_bytes: Annotated[int, Field(ge=256, le=65_536)] = 4096
    max_leases: Positive = 100_000
    """Leases and certificates whose holders are remembered; beyond it none is made."""


class Config(_Section):
    """The whole tree."""

    environment: Environment = Environment.PROD
    listen: Listen = Listen()
    upstream: Upstream = Upstream()
    mounts: list[MountEntry] | None = None
    yaml_provider: YamlProvider = YamlProvider()
    tenant: Tenant = Tenant()
    identity: Identity = Identity()
    scopes: Scopes = Scopes()
    authorization: Authorization = Authorization()
    grants: Grants = Grants()
    revocations: Revocations = Revocations()
    anti_replay: AntiReplay = AntiReplay()
    audit: Audit = Audit()
    events: Events = Events()
    ops: Ops = Ops()
    limits: Limits = Limits()

    @property
    def serves_events(self) -> bool:
        """Whether what happened lately is shown to callers."""
        return self.environment is Environment.DEV if self.events.enabled is None else self.events.enabled
