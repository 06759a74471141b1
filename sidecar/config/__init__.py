"""The one configuration tree: a YAML file, overridden by the environment, validated as a whole.

`tree` has every key, default and unit once; `loading` reads file and environment; `checks` holds the rules that span
keys. `load` reports every problem of a file in one run, each with its key and a remedy.
"""

from sidecar.config.checks import is_loopback, split_address
from sidecar.config.loading import ENVIRONMENT_NAMES, ENVIRONMENT_PREFIX, effective, load
from sidecar.config.problems import ConfigError, Problem
from sidecar.config.salts import salts_of
from sidecar.config.tree import (
    Algorithm,
    AntiReplay,
    Audit,
    Authorization,
    Authzen,
    Cedar,
    Checkpoint,
    Config,
    Environment,
    Grants,
    Identity,
    Issuer,
    Kafka,
    Limits,
    Listen,
    ListenTls,
    MountEntry,
    Ops,
    Pod,
    ProofAlgorithm,
    Scopes,
    Tenant,
    TokenUse,
    Upstream,
    UpstreamAuth,
    UpstreamTls,
    YamlProvider,
)

__all__ = [
    "ENVIRONMENT_NAMES",
    "ENVIRONMENT_PREFIX",
    "Algorithm",
    "AntiReplay",
    "Audit",
    "Authorization",
    "Authzen",
    "Cedar",
    "Checkpoint",
    "Config",
    "ConfigError",
    "Environment",
    "Grants",
    "Identity",
    "Issuer",
    "Kafka",
    "Limits",
    "Listen",
    "ListenTls",
    "MountEntry",
    "Ops",
    "Pod",
    "Problem",
    "ProofAlgorithm",
    "Scopes",
    "Tenant",
    "TokenUse",
    "Upstream",
    "UpstreamAuth",
    "UpstreamTls",
    "YamlProvider",
    "effective",
    "is_loopback",
    "load",
    "salts_of",
    "split_address",
]
