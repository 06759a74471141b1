"""Where a PDP's endpoints are: its own metadata (OpenID AuthZEN 1.0, section 9), within what is configured.

Metadata says which path of the configured origin to ask, nothing more: it never names another host, scheme or port,
and it never takes precedence over a path that the operator wrote down. Metadata that speaks for another PDP, or for
another origin, is not used at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from sidecar.config.tree import Authzen

WELL_KNOWN: Final = "/.well-known/authzen-configuration"
_MAX_URL_CHARS: Final = 2048
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Endpoints:
    """URLs to ask. `evaluations` is None where the PDP says that it takes one question at a time."""

    evaluation: str
    evaluations: str | None


def metadata_url(url: str) -> str:
    """Where a PDP's metadata is: the well-known path stands between its host and its own path (section 9.2)."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{WELL_KNOWN}{parts.path.rstrip('/')}"


def configured(config: Authzen) -> Endpoints:
    """The endpoints of the configuration, or its defaults.

    Raises:
        ValueError: where there is no URL.
    """
    if config.url is None:
        raise ValueError("authorization.authzen.url is not configured")
    base = config.url.rstrip("/")
    return Endpoints(base + config.evaluation_path, base + config.evaluations_path)


def is_discoverable(config: Authzen) -> bool:
    """Whether metadata could change anything: an endpoint is left to its default."""
    return not {"evaluation_path", "evaluations_path"} <= config.model_fields_set


def discovered(config: Authzen, metadata: Mapping[str, Any]) -> Endpoints:
    """The endpoints by a PDP's metadata; a path that is configured stays.

    Raises:
        ValueError: where the metadata may not be used. The text is for the operator.
    """
    own = configured(config)
    base = (config.url or "").rstrip("/")
    name = metadata.get("policy_decision_point")
    if type(name) is not str or name.rstrip("/") != base:
        raise ValueError("its policy_decision_point is not authorization.authzen.url")
    evaluation = _endpoint(metadata, "access_evaluation_endpoint", base)
    if evaluation is None:
        raise ValueError("it names no access_evaluation_endpoint")
    evaluations = _endpoint(metadata, "access_evaluations_endpoint", base)
    return Endpoints(
        own.evaluation if "evaluation_path" in config.model_fields_set else evaluation,
        own.evaluations if "evaluations_path" in config.model_fields_set else evaluations,
    )


def _endpoint(metadata: Mapping[str, Any], name: str, base: str) -> str | None:
    value = metadata.get(name)
    if value is None:
        return None
    if type(value) is not str or len(value) > _MAX_URL_CHARS or not (value.isascii() and value.isprintable()):
        raise ValueError(f"its {name} is not a URL")
    parts = urlsplit(value)
    if " " in value or "\\" in value or "@" in parts.netloc or "#" in value:
        raise ValueError(f"its {name} is not a plain URL")
    if _origin(parts) != _origin(urlsplit(base)):
        raise ValueError(f"its {name} is not of the origin of authorization.authzen.url")
    return value


def _origin(parts: SplitResult) -> tuple[str, str, int | None]:
    return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme)
