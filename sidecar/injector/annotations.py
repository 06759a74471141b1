"""What a pod's annotations ask for, parsed into a closed form: an unknown one, or a value that is not exactly of its
annotation's form, is refused. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast, get_args

from sidecar.config.tree import LogLevel
from sidecar.injector.forms import is_mount, is_object_name, is_plain_name
from sidecar.injector.names import INJECTED, PREFIX
from sidecar.injector.quantity import parse_cpu, parse_memory
from sidecar.injector.refusal import Denied

EMPTY_DIR: Final = "emptyDir"
_LONGEST: Final = 1024
_QUOTED: Final = 40


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a pod asks for. None or empty: it does not say."""

    inject: bool | None = None
    config: str = ""
    tenant_id: str = ""
    allowed_mounts: tuple[str, ...] = ()
    role: str = ""
    containers: tuple[str, ...] = ()
    listen: Literal["tcp", "unix"] = "tcp"
    override_vault_addr: bool = False
    vault_agent_addr: bool = False
    pod_identity: bool = True
    spool_volume: str = EMPTY_DIR
    log_level: LogLevel | None = None
    resources: Mapping[str, str] = field(default_factory=dict)
    """By annotation: `cpu-request`, `cpu-limit`, `memory-request`, `memory-limit`."""


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError('is neither "true" nor "false"')
    return text == "true"


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"is none of {', '.join(allowed)}")
        return text

    return parse


def _checked(is_good: Callable[[str], bool], what: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not is_good(text):
            raise ValueError(f"is not {what}")
        return text

    return parse


def _list(is_good: Callable[[str], bool], what: str) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        items = tuple(item.strip(" ") for item in text.split(","))
        if not all(map(is_good, items)):
            raise ValueError(f"is not a list of {what}, separated by commas")
        if len(set(items)) != len(items):
            raise ValueError("names one twice")
        return items

    return parse


def _quantity(parse: Callable[[str], object]) -> Callable[[str], str]:
    def check(text: str) -> str:
        parse(text)
        return text

    return check


_object: Final = _checked(is_object_name, "the name of a Kubernetes object")
_plain: Final = _checked(is_plain_name, "a plain name")

_FORMS: Final[Mapping[str, Callable[[str], Any]]] = {
    "inject": _boolean,
    "config": _object,
    "tenant-id": _plain,
    "allowed-mounts": _list(is_mount, "mounts"),
    "role": _plain,
    "containers": _list(is_object_name, "containers"),
    "listen": _one_of("tcp", "unix"),
    "override-vault-addr": _boolean,
    "vault-agent-addr": _boolean,
    "pod-identity": _boolean,
    "spool-volume": lambda text: text if text == EMPTY_DIR else _object(text),
    "cpu-request": _quantity(parse_cpu),
    "cpu-limit": _quantity(parse_cpu),
    "memory-request": _quantity(parse_memory),
    "memory-limit": _quantity(parse_memory),
    "log-level": _one_of(*get_args(LogLevel)),
    "status": _one_of(INJECTED),
}
ANNOTATIONS: Final = tuple(_FORMS)
"""Every annotation under the prefix, without it."""
_RESOURCES: Final = ("cpu-request", "cpu-limit", "memory-request", "memory-limit")


def parse_annotations(annotations: Mapping[str, str]) -> Wishes:
    """What a pod's annotations ask for.

    Raises:
        Denied: naming the annotation.
    """
    values: dict[str, Any] = {}
    for name, text in annotations.items():
        if not name.startswith(PREFIX):
            continue
        key = name.removeprefix(PREFIX)
        form = _FORMS.get(key)
        if form is None:
            raise Denied(f"annotation {_shown(name)}: is unknown; known are {', '.join(ANNOTATIONS)}")
        if len(text) > _LONGEST:
            raise Denied(f"annotation {name}: is longer than {_LONGEST} characters")
        try:
            values[key] = form(text)
        except ValueError as error:
            # Not what stands there: this goes to the log too, and somebody may have put a token there.
            raise Denied(f"annotation {name}: {error}") from None
    return Wishes(
        inject=values.get("inject"),
        config=values.get("config", ""),
        tenant_id=values.get("tenant-id", ""),
        allowed_mounts=values.get("allowed-mounts", ()),
        role=values.get("role", ""),
        containers=values.get("containers", ()),
        listen=cast('Literal["tcp", "unix"]', values.get("listen", "tcp")),
        override_vault_addr=values.get("override-vault-addr", False),
        vault_agent_addr=values.get("vault-agent-addr", False),
        pod_identity=values.get("pod-identity", True),
        spool_volume=values.get("spool-volume", EMPTY_DIR),
        log_level=values.get("log-level"),
        resources={key: values[key] for key in _RESOURCES if key in values},
    )


def _shown(text: str) -> str:
    """A stranger's text in a message: short, and without what drives terminals."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in text[:_QUOTED])
    return plain + ("…" if len(text) > _QUOTED else "")
