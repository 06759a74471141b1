"""The injector's own configuration: what is put into pods, and what each namespace is allowed. One YAML file, validated
as a whole; docs/reference/injector.md has every key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from sidecar.config import ENVIRONMENT_NAMES, ENVIRONMENT_PREFIX, ListenTls
from sidecar.config.loading import read_tree, validated
from sidecar.config.problems import ConfigError, Problem
from sidecar.config.tree import Environment, LogLevel
from sidecar.injector.allowed import Namespace
from sidecar.injector.forms import CLOSED, ObjectName, OptionalObjectName, is_namespace
from sidecar.injector.names import UNTOUCHED_NAMESPACES
from sidecar.injector.quantity import parse_cpu, parse_memory


class _Section(BaseModel):
    model_config = CLOSED


# -- the webhook itself ----------------------------------------------------------------------------------------------
class Listen(_Section):
    """Where the API server calls. With `tls.client_cert: required` only it can (a kubeconfig for webhooks)."""

    address: str = "0.0.0.0:8443"
    tls: ListenTls = ListenTls()
    max_body_mib: Annotated[int, Field(ge=1, le=64)] = 8
    """A review holds an object twice, and each is at most 3 MiB."""


class Ops(_Section):
    """Operations listener (`/healthz`, `/readyz`, `/metrics`) and logs."""

    address: str = "127.0.0.1:9102"
    log_level: LogLevel = "info"
    log_format: Literal["json", "console"] = "json"


class SelfMade(_Section):
    """Certificates that the injector makes itself and keeps in a Secret; off where no Secret is named."""

    secret: OptionalObjectName = ""
    """In `namespace`; it exists already, empty at first."""
    service: OptionalObjectName = ""
    """The Service that the API server calls: its names are in the certificate."""
    mutating_webhook: OptionalObjectName = ""
    """The MutatingWebhookConfiguration whose `caBundle` is kept."""
    validating_webhook: OptionalObjectName = ""
    folder: Path = Path("/run/injector")
    """Where the certificate is written for the listener; in memory, writable."""
    days: Annotated[int, Field(ge=1, le=397)] = 30
    """A certificate's life; made anew after two thirds of it."""
    authority_days: Annotated[int, Field(ge=10, le=3650)] = 365
    """An authority's life; the next is announced after half of it, and used a day later."""


class ApiServer(_Section):
    """The cluster's API server, where the injector does not run as a pod of it."""

    address: Annotated[str, Field(pattern=r"^(?:https://[^/]+)?$")] = ""
    """Empty: as every pod finds it."""
    ca_file: Path | None = None
    token_file: Path | None = None


# -- what is put into pods -------------------------------------------------------------------------------------------
class Upstream(_Section):
    """OpenBao, and how the sidecar logs in: always by the pod's own projected token."""

    address: str
    provider: Literal["openbao", "hashicorp"] = "openbao"
    namespace: str = ""
    cluster_addresses: list[str] = []
    timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] = 30
    ca_config_map: OptionalObjectName = ""
    """A ConfigMap with `ca.crt`, in each pod's namespace, where OpenBao's certificate is not publicly trusted."""
    server_name: str = ""
    mode: Literal["broker", "exchange"] = "broker"
    method: Literal["kubernetes", "jwt"] = "kubernetes"
    mount: str = ""
    """Of the auth method; its own name where empty."""


class Token(_Section):
    """The projected service-account token of the sidecar's login. OpenBao's roles are bound to this audience."""

    audience: Annotated[str, Field(min_length=1, max_length=253)] = "openbao"
    """Nobody else's: a pod that projects a token for it elsewhere is refused. Never the API server's own audience."""
    expiration_seconds: Annotated[int, Field(ge=600, le=86_400)] = 3600


class Resources(_Section):
    """Of the sidecar's container, where a pod's annotations say nothing. Empty: none."""

    cpu_request: str = "50m"
    cpu_limit: str = ""
    memory_request: str = "128Mi"
    memory_limit: str = "256Mi"

    @field_validator("cpu_request", "cpu_limit", "memory_request", "memory_limit")
    @classmethod
    def _is_quantity(cls, text: str, info: Any) -> str:
        if text:
            (parse_cpu if info.field_name.startswith("cpu") else parse_memory)(text)
        return text

    @model_validator(mode="after")
    def _fit(self) -> Resources:
        for parse, request, limit in (
            (parse_cpu, self.cpu_request, self.cpu_limit),
            (parse_memory, self.memory_request, self.memory_limit),
        ):
            if request and limit and parse(request) > parse(limit):
                raise ValueError("a request is above its limit")
        return self


class Tolerated(_Section):
    """What other webhooks may add to the sidecar's container. Nothing else may: it could be the pod's author."""

    env: list[str] = []
    """Names of variables, such as `AWS_ROLE_ARN`."""
    mount_paths: list[str] = []
    """Paths where volumes may be mounted read-only, such as `/var/run/secrets/eks.amazonaws.com/serviceaccount`."""

    @field_validator("env")
    @classmethod
    def _is_harmless(cls, names: list[str]) -> list[str]:
        for name in names:
            if name.startswith((ENVIRONMENT_PREFIX, "LD_", "PYTHON")) or name in ENVIRONMENT_NAMES:
                raise ValueError(f"{name} would decide what the sidecar does")
        return names


PINNED_BY_US: Final = frozenset({"environment", "listen", "upstream", "tenant", "ops", "yaml_provider"})


class Sidecar(_Section):
    """The container, and the part of its configuration that a namespace's ConfigMap has no say in."""

    image: Annotated[str, Field(min_length=1)]
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secrets: list[ObjectName] = []
    environment: Environment = Environment.PROD
    upstream: Upstream
    token: Token = Token()
    audience: Annotated[str, Field(min_length=1)] = "crud.secrets"
    """Of the pod's own token for `identity.pod`: the sidecar's `identity.audience`."""
    pinned: dict[str, Any] = {}
    """Sections of the sidecar's configuration (`authorization: {…}`), each set as a whole, above the ConfigMap."""
    env: list[dict[str, Any]] = []
    """Further variables of the container, as Kubernetes writes them."""
    trust: list[dict[str, Any]] = []
    """Further sources of the projected volume at /etc/sidecar/trust."""
    secrets: list[dict[str, Any]] = []
    """Further sources of the projected volume at /run/sidecar/secrets, beside the salt."""
    operations_address: str = "0.0.0.0:9102"
    """Where the kubelet's probes come to; `[::]:9102` on an IPv6-only cluster."""
    log_level: LogLevel = "info"
    startup_seconds: Annotated[int, Field(ge=1, le=3600)] = 120
    pod_readiness: bool = True
    drain_seconds: Annotated[int, Field(ge=5, le=600)] = 30
    """What a pod's grace period gets beyond the application's."""
    spool_mib: Annotated[int, Field(ge=16)] = 384
    """Size limit of the spool's emptyDir: above what the journal takes, since a pod that passes it is evicted."""
    resources: Resources = Resources()
    tolerated: Tolerated = Tolerated()

    @field_validator("operations_address")
    @classmethod
    def _has_port(cls, text: str) -> str:
        if not re.fullmatch(r"(?:[0-9.]+|\[[0-9a-f:]+\]):[1-9][0-9]{0,4}", text):
            raise ValueError("is not address:port")
        return text

    @field_validator("pinned")
    @classmethod
    def _not_ours(cls, sections: dict[str, Any]) -> dict[str, Any]:
        for name in sections:
            if name in PINNED_BY_US:
                raise ValueError(f"{name} is set by the injector itself")
        identity = sections.get("identity", {})
        if not isinstance(identity, dict) or "pod" in identity:
            raise ValueError("identity.pod is set by the injector itself")
        return sections

    @property
    def operations_port(self) -> int:
        """The number in `operations_address`."""
        return int(self.operations_address.rpartition(":")[2])


# -- the whole ---------------------------------------------------------------------------------------------------------
class InjectorConfig(_Section):
    """The whole tree."""

    listen: Listen = Listen()
    ops: Ops = Ops()
    namespace: OptionalObjectName = ""
    """The injector's own, whose pods are never touched; where empty, its service account's."""
    native_sidecars: Literal["auto", "always", "never"] = "auto"
    """`auto` asks the API server: from 1.29 on. `always` where every node has them, `never` for classic containers."""
    api_server: ApiServer = ApiServer()
    self_made: SelfMade = SelfMade()
    sidecar: Sidecar
    namespaces: dict[str, Namespace] = {}

    @field_validator("namespaces")
    @classmethod
    def _are_namespaces(cls, namespaces: dict[str, Namespace]) -> dict[str, Namespace]:
        for name in namespaces:
            if not is_namespace(name):
                raise ValueError(f"{name!r} is no name of a namespace")
            if name in UNTOUCHED_NAMESPACES:
                raise ValueError(f"{name} is never injected")
        return namespaces


def load(path: Path) -> InjectorConfig:
    """Reads and validates the file.

    Raises:
        ConfigError: with every problem found.
    """
    problems: list[Problem] = []
    config = validated(InjectorConfig, read_tree(path, problems), problems, "injector.md")
    if config is not None:
        problems += _cross_checks(config)
    if problems or config is None:
        raise ConfigError(problems)
    return config


def _cross_checks(config: InjectorConfig) -> list[Problem]:
    found: list[Problem] = []
    tls, made, sidecar = config.listen.tls, config.self_made, config.sidecar
    if made.secret and tls.cert_file is not None:
        found.append(Problem("self_made.secret", "the listener has a certificate of its own", "remove one"))
    if not made.secret and (tls.cert_file is None or tls.key_file is None):
        found.append(Problem("listen.tls", "there is no certificate", "give cert_file and key_file, or self_made"))
    if made.secret and not (made.service and made.mutating_webhook):
        found.append(Problem("self_made", "is not complete", "name service and mutating_webhook beside the secret"))
    api = config.api_server
    if api.address and (api.ca_file is None or api.token_file is None):
        found.append(Problem("api_server", "is not complete", "give ca_file and token_file beside the address"))
    if config.namespace in config.namespaces:
        found.append(Problem(f"namespaces.{config.namespace}", "is the injector's own", "remove it"))
    if sidecar.environment is Environment.PROD and not sidecar.upstream.address.startswith("https://"):
        found.append(Problem("sidecar.upstream.address", "is not https where environment is prod", "use https"))
    if re.match(r"(?:https://)?kubernetes\.default(?:\.|:|/|$)", sidecar.token.audience):
        found.append(
            Problem(
                "sidecar.token.audience",
                "is the API server's own: OpenBao would take the token that every container gets",
                "give OpenBao's login an audience of its own",
            )
        )
    if sidecar.token.audience == sidecar.audience:
        found.append(
            Problem(
                "sidecar.token.audience",
                "is the audience of callers' tokens: OpenBao would take what the application holds",
                "give OpenBao's login an audience of its own",
            )
        )
    return found
