"""The one configuration tree: a YAML file, overridden by the environment, validated as a whole.

Every key, default and unit stands here once; `docs/reference/configuration.md` is written from it. A key given as
null (`ca_file:`) counts as not given. Unknown keys are refused. `load` reports every problem of a file in one run,
each with its key and a remedy.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError


def _split_commas(value: object) -> object:
    """An environment variable gives a list as `a,b`."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


CommaList = Annotated[list[str], BeforeValidator(_split_commas)]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=86_400 * 365)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Environment(StrEnum):
    """What the sidecar runs in. Switches that weaken it exist outside `prod` only."""

    DEV = "dev"
    TEST = "test"
    PROD = "prod"


# -- listen --------------------------------------------------------------------------------------------------------
class ListenTls(_Section):
    """TLS of the application's listener. `client_cert: required` refuses a handshake without one (RFC 8705)."""

    cert_file: Path | None = None
    key_file: Path | None = None
    client_ca_file: Path | None = None
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
    """How the sidecar logs in to OpenBao."""

    mode: Literal["broker", "exchange", "passthrough"] = "broker"
    method: Literal["token", "token_file", "approle", "kubernetes", "jwt", "cert"] = "token"
    token: SecretStr | None = None
    token_file: Path | None = None
    role: str | None = None
    role_id: str | None = None
    secret_id_file: Path | None = None
    jwt_file: Path | None = None
    mount: str | None = None
    """Mount of the auth method; its own name where absent."""


class Upstream(_Section):
    """OpenBao."""

    provider: Literal["openbao", "hashicorp"] = "openbao"
    address: str | None = None
    namespace: str = ""
    tls: UpstreamTls = UpstreamTls()
    timeout_seconds: Seconds = 30
    auth: UpstreamAuth = UpstreamAuth()


class MountEntry(_Section):
    """One mount of the static table."""

    path: str
    engine: str
    namespace: str = ""


class YamlProvider(_Section):
    """Secrets in one YAML file, for development."""

    path: Path | None = None


class Tenant(_Section):
    """Whose secrets these are. `allowed_mounts` names full mounts (`namespace/mount`)."""

    id: str | None = None
    allowed_mounts: CommaList = []
    salt: SecretStr | None = None
    salt_file: Path | None = None


# -- identity ------------------------------------------------------------------------------------------------------
Algorithm = Literal["ES256", "ES384", "ES512", "EdDSA", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
ProofAlgorithm = Literal["ES256", "ES384", "EdDSA", "RS256", "PS256"]


class Issuer(_Section):
    """An authorization server whose access tokens are taken. Keys come from `jwks_uri` or from `jwks_file`."""

    issuer: str
    jwks_uri: str | None = None
    jwks_file: Path | None = None
    ca_file: Path | None = None
    algorithms: Annotated[list[Algorithm], BeforeValidator(_split_commas), Field(min_length=1)] = [
        "ES256",
        "RS256",
        "EdDSA",
    ]
    token_types: Annotated[CommaList, Field(min_length=1)] = ["at+jwt", "JWT"]


class Pod(_Section):
    """The pod itself as the caller, for applications that cannot be changed."""

    enabled: bool = False
    token_file: Path | None = None


class Identity(_Section):
    """Who may call, and how a token must be bound to its sender."""

    required: bool = True
    audience: str = "crud.secrets"
    binding: Literal["required", "preferred"] = "required"
    issuers: list[Issuer] = []
    clock_skew_seconds: Annotated[int, Field(ge=0, le=60)] = 5
    pod: Pod = Pod()
    proof_algorithms: Annotated[list[ProofAlgorithm], BeforeValidator(_split_commas), Field(min_length=1)] = [
        "ES256",
        "ES384",
        "EdDSA",
    ]


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
    timeout_ms: Positive = 300
    ca_file: Path | None = None
    token_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None


class Authorization(_Section):
    """Which PDP decides."""

    enabled: bool = True
    pdp: Literal["cedar", "authzen"] = "cedar"
    cedar: Cedar = Cedar.model_validate({})
    authzen: Authzen = Authzen()


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


class Audit(_Section):
    """The durable journal."""

    spool_dir: Path = Path("/var/lib/sidecar/audit")
    durability: Literal["fsync", "write"] = "fsync"
    on_failure: Literal["deny"] = "deny"
    max_spool_mib: Positive = 256
    retention_mib: Annotated[int, Field(ge=0)] = 0
    kafka: Kafka = Kafka()


class Ops(_Section):
    """Operations listener and logs."""

    address: str = "127.0.0.1:9102"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    otlp_endpoint: str = ""


class Limits(_Section):
    """What one caller may cost."""

    max_body_mib: Positive = 32
    max_header_kib: Annotated[int, Field(ge=4, le=1024)] = 64
    max_connections: Positive = 1024
    max_in_flight: Positive = 256
    max_uri_bytes: Annotated[int, Field(ge=256, le=65_536)] = 4096


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
    anti_replay: AntiReplay = AntiReplay()
    audit: Audit = Audit()
    ops: Ops = Ops()
    limits: Limits = Limits()


ENVIRONMENT_NAMES: Final[Mapping[str, str]] = {
    "ENVIRONMENT": "environment",
    "VAULT_URL": "upstream.address",
    "VAULT_TOKEN": "upstream.auth.token",
    "YAML_VAULT_PATH": "yaml_provider.path",
    "TENANT_ID": "tenant.id",
    "TENANT_ALLOWED_MOUNTS": "tenant.allowed_mounts",
    "TENANT_SALT": "tenant.salt",
    "SECRETS_API_REQUIRE_AUTH": "identity.required",
    "SECRETS_AUDIENCE": "identity.audience",
    "SECRETS_ENFORCE_SCOPES": "scopes.enforce",
    "ENABLE_AUTHORIZATION": "authorization.enabled",
    "GRANT_TTL_DEFAULT": "grants.default_ttl_seconds",
    "GRANT_MAX_USES_DEFAULT": "grants.default_max_uses",
    "NEGATIVE_CACHE_TTL_S": "grants.negative_ttl_seconds",
    "ANTI_REPLAY_TTL_S": "anti_replay.window_seconds",
    "KAFKA_BOOTSTRAP_SERVERS": "audit.kafka.bootstrap_servers",
    "KAFKA_TOPIC_PREFIX": "audit.kafka.topic_prefix",
}
"""The documented short names; each stands for one key. `SIDECAR__SECTION__KEY` reaches every key and wins."""

ENVIRONMENT_PREFIX: Final = "SIDECAR__"


# -- loading -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a configuration: where, what, and what to do about it."""

    key: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.key or '(file)'}: {self.message}" + (f" ({self.remedy})" if self.remedy else "")


class ConfigError(Exception):
    """The configuration cannot be used; `problems` names everything that is wrong with it."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class _StrictLoader(yaml.SafeLoader):
    """YAML 1.1 without its traps: a repeated key is an error, not a silent override."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, "a key must be text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def load(path: Path | None, environ: Mapping[str, str] = os.environ) -> Config:
    """Reads the file and the environment into one validated tree.

    Raises:
        ConfigError: with every problem found, never only the first.
    """
    problems: list[Problem] = []
    tree = _read_file(path, problems) if path is not None else {}
    _apply_environment(tree, environ, problems)
    config = _validate(tree, problems)
    if config is not None:
        broken = {problem.key for problem in problems}
        problems += [
            found
            for found in _cross_checks(config)
            if not any(found.key == key or found.key.startswith(f"{key}.") for key in broken)
        ]
    if problems or config is None:
        raise ConfigError(problems)
    return config


def _read_file(path: Path, problems: list[Problem]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.load(text, _StrictLoader)  # noqa: S506 - a subclass of SafeLoader
    except OSError as error:
        problems.append(Problem("", f"cannot read {path}: {error.strerror}", "give a readable file to --config"))
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        # The parser's own text may quote the line, and the line may hold a secret: only the place is told.
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = getattr(error, "problem", None) or "not readable as UTF-8 YAML"
        problems.append(Problem("", f"{path} is not valid YAML{where}: {what}", "correct the syntax there"))
        return {}
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        problems.append(Problem("", f"{path} holds no mapping", "write `section: {key: value}`"))
        return {}
    pruned = _without_nulls(tree)
    return pruned if isinstance(pruned, dict) else {}


def _without_nulls(node: object) -> object:
    if isinstance(node, dict):
        return {key: _without_nulls(value) for key, value in node.items() if value is not None}
    if isinstance(node, list):
        return [_without_nulls(item) for item in node]
    return node


def _apply_environment(tree: dict[str, Any], environ: Mapping[str, str], problems: list[Problem]) -> None:
    named = {key: environ[name] for name, key in ENVIRONMENT_NAMES.items() if environ.get(name)}
    prefixed = {
        name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", "."): value
        for name, value in environ.items()
        if name.startswith(ENVIRONMENT_PREFIX)
    }
    for key, text in (named | prefixed).items():
        value: object = text
        if text[:1] in "[{" and text:
            try:
                value = yaml.load(text, _StrictLoader)  # noqa: S506 - a subclass of SafeLoader
            except yaml.YAMLError:
                problems.append(Problem(key, "its environment variable is not valid YAML or JSON", "correct it"))
                continue
        *sections, last = key.split(".")
        node = tree
        for section in sections:
            child = node.setdefault(section, {})
            if not isinstance(child, dict):
                problems.append(Problem(key, f"{section} is not a section", "correct the file or the variable"))
                break
            node = child
        else:
            node[last] = value


def _validate(tree: dict[str, Any], problems: list[Problem]) -> Config | None:
    """Validates; what is wrong is noted and taken out, so that the rest is looked at in the same run."""
    for _ in range(100):
        try:
            return Config.model_validate(tree)
        except ValidationError as error:
            for item in error.errors(include_url=False, include_input=False, include_context=False):
                problems.append(_problem_of(item["type"], item["loc"], item["msg"]))
                _take_out(tree, item["loc"])
    return None


def _problem_of(kind: str, location: tuple[int | str, ...], message: str) -> Problem:
    key = ".".join(map(str, location))
    if kind == "extra_forbidden":
        return Problem(key, "unknown key", "remove it, or correct its spelling; `sidecar check --help` names the page")
    if kind == "missing":
        return Problem(key, "is missing", "give it")
    return Problem(key, message[:1].lower() + message[1:], "see docs/reference/configuration.md")


def _take_out(tree: dict[str, Any], location: tuple[int | str, ...]) -> None:
    """Removes the value at a location; where that is missing, the smallest thing around it that exists."""
    holder: Any = None
    last: Any = None
    node: Any = tree
    for part in location:
        try:
            child = node[part]
        except (KeyError, IndexError, TypeError):
            break
        holder, last, node = node, part, child
    if holder is not None:
        del holder[last]


# -- what the types cannot say --------------------------------------------------------------------------------------
def _cross_checks(config: Config) -> list[Problem]:
    found: list[Problem] = []
    for check in (
        _check_listen,
        _check_upstream,
        _check_mounts,
        _check_tenant,
        _check_identity,
        _check_authorization,
        _check_replay,
        _check_audit,
        _check_not_built,
    ):
        found += check(config)
    return found


def is_loopback(host: str) -> bool:
    """True for `localhost` and loopback addresses."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def split_address(address: str) -> tuple[str, int]:
    """`host:port` → its parts. Raises ValueError where it is not one."""
    parts = urlsplit(f"//{address}")
    if parts.hostname is None or parts.port is None or parts.path or parts.username is not None:
        raise ValueError("not host:port")
    return parts.hostname, parts.port


def _check_address(key: str, address: str) -> list[Problem]:
    if address.startswith("unix:///"):
        return []
    try:
        split_address(address)
    except ValueError:
        return [Problem(key, f"{address!r} is not an address", "write host:port, or unix:///absolute/path")]
    return []


def _check_url(key: str, url: str, config: Config) -> list[Problem]:
    """https, or http to loopback, or http outside prod."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return [Problem(key, "not a URL", "write https://host[:port]")]
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        return [Problem(key, "not an http(s) URL", "write https://host[:port]")]
    if parts.scheme == "http" and config.environment is Environment.PROD and not is_loopback(host):
        return [Problem(key, "plain http where environment is prod", "use https; http is taken for loopback only")]
    return []


def _files(pairs: dict[str, Path | None]) -> list[Problem]:
    return [
        Problem(key, f"{path} is not a readable file", "create it, or correct the path")
        for key, path in pairs.items()
        if path is not None and not (path.is_file() and os.access(path, os.R_OK))
    ]


def _check_listen(config: Config) -> list[Problem]:
    listen, tls = config.listen, config.listen.tls
    found = _check_address("listen.address", listen.address) + _check_address("ops.address", config.ops.address)
    if (tls.cert_file is None) != (tls.key_file is None):
        found.append(Problem("listen.tls", "cert_file and key_file go together", "give both or neither"))
    if tls.client_cert != "none" and (tls.cert_file is None or tls.client_ca_file is None):
        found.append(
            Problem("listen.tls.client_cert", "needs cert_file, key_file and client_ca_file", "give all three")
        )
    for url in listen.public_urls:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query:
            found.append(Problem("listen.public_urls", f"{url!r} is not an origin", "write https://host[:port]"))
    found += _files(
        {
            "listen.tls.cert_file": tls.cert_file,
            "listen.tls.key_file": tls.key_file,
            "listen.tls.client_ca_file": tls.client_ca_file,
        }
    )
    return found


def _check_upstream(config: Config) -> list[Problem]:
    upstream, auth = config.upstream, config.upstream.auth
    found: list[Problem] = []
    if upstream.address is None:
        if config.yaml_provider.path is None:
            found.append(Problem("upstream.address", "is missing", "give OpenBao's URL here or in VAULT_URL"))
        return found
    found += _check_url("upstream.address", upstream.address, config)
    tls = upstream.tls
    if (tls.cert_file is None) != (tls.key_file is None):
        found.append(Problem("upstream.tls", "cert_file and key_file go together", "give both or neither"))
    if auth.mode == "broker":
        needs: dict[str, dict[str, object]] = {
            "token": {"token": auth.token},
            "token_file": {"token_file": auth.token_file},
            "approle": {"role_id": auth.role_id, "secret_id_file": auth.secret_id_file},
            "kubernetes": {"role": auth.role, "jwt_file": auth.jwt_file},
            "jwt": {"role": auth.role, "jwt_file": auth.jwt_file},
            "cert": {},
        }
        found += [
            Problem(f"upstream.auth.{key}", f"is missing for method {auth.method}", "give it")
            for key, value in needs[auth.method].items()
            if value is None
        ]
    found += _files(
        {
            "upstream.tls.ca_file": tls.ca_file,
            "upstream.tls.cert_file": tls.cert_file,
            "upstream.tls.key_file": tls.key_file,
            "upstream.auth.token_file": auth.token_file,
            "upstream.auth.secret_id_file": auth.secret_id_file,
            "upstream.auth.jwt_file": auth.jwt_file,
        }
    )
    return found


_ENGINES: Final = ("kv1", "kv2", "transit", "pki", "database")


def _check_mounts(config: Config) -> list[Problem]:
    found: list[Problem] = []
    seen: set[str] = set()
    for index, mount in enumerate(config.mounts or ()):
        key = f"mounts.{index}"
        full = "/".join(part.strip("/") for part in (mount.namespace, mount.path) if part.strip("/"))
        if not full or any(segment in ("", ".", "..") for segment in full.split("/")):
            found.append(Problem(f"{key}.path", "is not a mount path", "write it without empty, . or .. segments"))
        if full in seen:
            found.append(Problem(f"{key}.path", f"{full!r} stands twice", "remove one"))
        seen.add(full)
    return found


def _check_tenant(config: Config) -> list[Problem]:
    tenant = config.tenant
    found: list[Problem] = []
    if not tenant.id:
        found.append(Problem("tenant.id", "is missing", "give the tenant's id here or in TENANT_ID"))
    elif not tenant.id.isprintable() or "/" in tenant.id or ":" in tenant.id or len(tenant.id) > 128:
        found.append(Problem("tenant.id", "holds characters an identifier may not", "use letters, digits, - . _"))
    if not tenant.allowed_mounts and config.upstream.address is not None:
        found.append(Problem("tenant.allowed_mounts", "is empty, nothing would be allowed", "name the mounts"))
    if (tenant.salt is None) == (tenant.salt_file is None):
        found.append(
            Problem("tenant.salt", "give exactly one of salt and salt_file", "a random text of at least 16 bytes")
        )
    if tenant.salt is not None and len(tenant.salt.get_secret_value().encode()) < 16:
        found.append(Problem("tenant.salt", "is shorter than 16 bytes", "use a random text of at least 16 bytes"))
    if config.environment is Environment.PROD and tenant.salt is not None:
        pass  # the environment (TENANT_SALT, from a Kubernetes secret) is a documented source
    return found + _files({"tenant.salt_file": tenant.salt_file})


def _check_identity(config: Config) -> list[Problem]:
    identity = config.identity
    found: list[Problem] = []
    if not identity.required and config.environment is Environment.PROD:
        found.append(
            Problem(
                "identity.required",
                "false is refused where environment is prod",
                "remove it, or set dev or test",
            )
        )
    if identity.required and not identity.issuers:
        found.append(Problem("identity.issuers", "is empty, nobody could call", "name at least one issuer"))
    if not identity.audience:
        found.append(Problem("identity.audience", "is empty", "name the audience that tokens must carry"))
    seen: set[str] = set()
    for index, issuer in enumerate(identity.issuers):
        key = f"identity.issuers.{index}"
        if (issuer.jwks_uri is None) == (issuer.jwks_file is None):
            found.append(Problem(f"{key}.jwks_uri", "give exactly one of jwks_uri and jwks_file", "remove one"))
        if issuer.jwks_uri is not None:
            found += _check_url(f"{key}.jwks_uri", issuer.jwks_uri, config)
        if issuer.issuer in seen:
            found.append(Problem(f"{key}.issuer", "stands twice", "remove one"))
        seen.add(issuer.issuer)
        found += _files({f"{key}.jwks_file": issuer.jwks_file, f"{key}.ca_file": issuer.ca_file})
    if identity.pod.enabled and identity.pod.token_file is None:
        found.append(Problem("identity.pod.token_file", "is missing", "name the projected token's file"))
    return found


def _check_authorization(config: Config) -> list[Problem]:
    authorization = config.authorization
    found: list[Problem] = []
    if not authorization.enabled and config.environment is not Environment.DEV:
        found.append(
            Problem("authorization.enabled", "false is refused unless environment is dev", "remove it, or set dev")
        )
    if not authorization.enabled:
        return found
    if authorization.pdp == "cedar":
        policies = authorization.cedar.policies
        if policies is None:
            found.append(Problem("authorization.cedar.policies", "is missing", "name the folder of *.cedar files"))
        elif not policies.is_dir():
            found.append(Problem("authorization.cedar.policies", f"{policies} is not a folder", "create it"))
        found += _files(
            {
                "authorization.cedar.schema": authorization.cedar.schema_,
                "authorization.cedar.entities": authorization.cedar.entities,
            }
        )
    elif authorization.authzen.url is None:
        found.append(Problem("authorization.authzen.url", "is missing", "give the PDP's URL"))
    else:
        found += _check_url("authorization.authzen.url", authorization.authzen.url, config)
    return found


def _check_replay(config: Config) -> list[Problem]:
    store, replay = config.anti_replay.store, config.anti_replay
    found: list[Problem] = []
    if store != "memory" and not store.startswith(("valkey://", "valkeys://", "redis://", "rediss://")):
        found.append(Problem("anti_replay.store", f"{store!r} is not a store", "write memory or valkey://host:port"))
    if replay.window_seconds < replay.proof_max_age_seconds + config.identity.clock_skew_seconds:
        found.append(
            Problem(
                "anti_replay.window_seconds",
                "is shorter than a proof may live, so a proof could be used twice",
                "make it at least proof_max_age_seconds + clock_skew_seconds",
            )
        )
    return found


def _check_audit(config: Config) -> list[Problem]:
    kafka = config.audit.kafka
    found: list[Problem] = []
    if kafka.bootstrap_servers is None:
        return found
    if kafka.security_protocol.startswith("SASL") and (kafka.sasl_mechanism is None or kafka.username is None):
        found.append(Problem("audit.kafka.sasl_mechanism", "SASL needs a mechanism and a username", "give both"))
    if (
        kafka.security_protocol in ("PLAINTEXT", "SASL_PLAINTEXT")
        and config.environment is Environment.PROD
        and not all(is_loopback(server.rpartition(":")[0]) for server in kafka.bootstrap_servers.split(","))
    ):
        found.append(
            Problem("audit.kafka.security_protocol", "plain text where environment is prod", "use SSL or SASL_SSL")
        )
    found += _files(
        {
            "audit.kafka.password_file": kafka.password_file,
            "audit.kafka.ca_file": kafka.ca_file,
            "audit.kafka.cert_file": kafka.cert_file,
            "audit.kafka.key_file": kafka.key_file,
        }
    )
    return found


def _check_not_built(config: Config) -> list[Problem]:
    """Keys the contract names and this version cannot honour yet: refused, never ignored."""
    found: list[Problem] = []
    later: list[tuple[str, bool, str]] = [
        ("upstream.auth.mode", config.upstream.auth.mode != "broker", "use broker"),
        (
            "upstream.auth.method",
            config.upstream.auth.method not in ("token", "token_file", "approle"),
            "use token, token_file or approle",
        ),
        ("yaml_provider.path", config.yaml_provider.path is not None, "remove it"),
        ("identity.pod.enabled", config.identity.pod.enabled, "remove it"),
        ("anti_replay.store", config.anti_replay.store != "memory", "use memory"),
        ("ops.otlp_endpoint", bool(config.ops.otlp_endpoint), "remove it"),
        ("audit.retention_mib", config.audit.retention_mib != 0, "use 0"),
    ]
    found += [Problem(key, "is not built in this version", remedy) for key, wanted, remedy in later if wanted]
    return found


# -- showing --------------------------------------------------------------------------------------------------------
def effective(config: Config) -> dict[str, Any]:
    """The tree as it is in force, with secrets masked, for `sidecar check`."""
    return config.model_dump(mode="json", by_alias=True)
