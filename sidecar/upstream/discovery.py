"""Which secrets engines OpenBao has mounted where, read with the sidecar's own token.

It is the whole table that is read (`sys/mounts`), not the part that the token may use (`sys/internal/ui/mounts`): a
mount that was left out would make its paths look like secrets of the mount above it. To compare a configured table
with, the part does: what is left out of it OpenBao refuses to the token anyhow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from hvac.exceptions import Forbidden

from sidecar.errors import Code, Refused
from sidecar.upstream.control import AbsentError, AwayError, ControlError, DeniedError
from sidecar.upstream.failure import unavailable
from sidecar.upstream.login import BrokerLogin

_DENIED: Final = "the sidecar may not read OpenBao's mounts"
_REMEDY: Final = 'configure `mounts`, or allow the sidecar: path "sys/mounts" { capabilities = ["read"] }'
_KV_VERSIONS: Final = {"1": "kv1", "2": "kv2"}


class FoundMount(NamedTuple):
    """A mount as OpenBao has it: `path` without slashes at its ends, `namespace` as asked for. `uuid` is its own,
    by which a mount is told from another of the same path and engine."""

    path: str
    engine: str
    namespace: str
    uuid: str = ""


async def discover(
    login: BrokerLogin, namespaces: Iterable[str] = ("",), *, or_usable: bool = False, where_there: bool = False
) -> list[FoundMount]:
    """All mounts in these namespaces, which are below `upstream.namespace`; `""` is that namespace itself. With
    `or_usable`, those that the token may use where it may not read all; with `where_there`, a namespace that is not
    there has none.

    Raises `Refused`: UPSTREAM_UNAVAILABLE where OpenBao or the login is away, UPSTREAM_ERROR where the token may not
    read the table or the answer is not one.
    """
    found: list[FoundMount] = []
    for namespace in dict.fromkeys(each.strip("/") for each in namespaces):
        try:
            table = await login.call(_read_any if or_usable else _read_table, namespace)
            found += [
                FoundMount(_path(path), _engine(entry), namespace, str(entry.get("uuid", "")))
                for path, entry in sorted(table.items())
            ]
        except DeniedError as error:
            if where_there and isinstance(error, AbsentError):
                continue
            where = f" in the namespace {namespace}" if namespace else ""
            raise Refused(Code.UPSTREAM_ERROR, _DENIED, detail=f"{_REMEDY}{where} ({error})") from None
        except ControlError as error:
            raise unavailable("OpenBao's mounts cannot be read now", str(error)) from None
    return found


async def discover_named(login: BrokerLogin, names: Sequence[str]) -> list[FoundMount]:
    """All mounts here, and in the namespaces that `names` (`namespace/mount`) may begin with. OpenBao has no namespace
    above or below a mount, so that a mount that is found here is not looked for in one. Raises as `discover`.
    """
    here = await discover(login)
    paths = {mount.path for mount in here}
    elsewhere = {
        name[:end] for name in names if name not in paths for end, sign in enumerate(name) if sign == "/" and end
    }
    return here + await discover(login, sorted(elsewhere), where_there=True)


def _read_table(client: Any) -> dict[str, Any]:
    table = client.sys.list_mounted_secrets_engines()["data"]
    if not isinstance(table, dict):
        raise TypeError("a table of mounts that is none")
    return table


def _read_any(client: Any) -> dict[str, Any]:
    try:
        return _read_table(client)
    except Forbidden:
        table = client.read("sys/internal/ui/mounts")["data"]["secret"]
        if not isinstance(table, dict):
            raise TypeError("a table of mounts that is none") from None
        return table


def _path(path: str) -> str:
    if not path.endswith("/") or path.startswith("/") or "//" in path or not path.isprintable():
        raise AwayError("sys/mounts names a mount that is not a path")
    return path[:-1]


def _engine(entry: Any) -> str:
    """`kv` by its version, others as OpenBao calls them."""
    kind = entry.get("type") if isinstance(entry, dict) else None
    if not isinstance(kind, str) or not kind:
        raise AwayError("sys/mounts names a mount without a type")
    if kind != "kv":
        return kind
    options = entry.get("options")
    return _KV_VERSIONS.get(options.get("version", "1") if isinstance(options, dict) else "1", "kv")
