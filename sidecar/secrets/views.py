"""Looking at secrets: values, keys, versions, metadata, listings and search."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from sidecar.errors import Code, Refused
from sidecar.secrets.changes import check_whole
from sidecar.secrets.desk import Desk, Held, Reply, obtain_one
from sidecar.secrets.provenance import CREATED_AT, CREATED_BY, OWNER
from sidecar.secrets.providers.port import Found, Values, Version, not_found
from sidecar.surface.secret_uri import YAML, SecretUri
from sidecar.surface.secrets.operations import Act, supports

MAX_FOLDERS: Final = 200
"""Folders that one listing or search looks into; what is left comes with the next page."""
MAX_CANDIDATES: Final = 2000
"""Secrets that one listing or search has decided."""
_BATCH: Final = 200
"""Secrets decided in one question to the PDP."""
MAX_DEPTH: Final = 32


# -- one secret ----------------------------------------------------------------------------------------------------
async def read_value(desk: Desk, uri: SecretUri, version: str | None) -> Reply:
    """`GET /api/secrets/value`."""
    if version is not None:
        number = int(version)
        if uri.version not in (None, number):
            raise Refused(Code.AMBIGUOUS_QUERY, "two versions are named")
        if uri.engine != "kv2":
            raise Refused(Code.AMBIGUOUS_QUERY, "only secrets of a KV version 2 mount have versions")
        uri = replace(uri, version=number)
    found, value = await read(desk, uri)
    return Reply(200, {"uri": str(uri), "version": found.version, "value": value}, _etag(found.version))


async def read_yaml(desk: Desk, uri: SecretUri) -> Reply:
    """`GET /api/secrets`: the map itself, or `{"value": …}` with a fragment."""
    if uri.provider != YAML:
        raise Refused(Code.UNSUPPORTED_OPERATION, "this is for the YAML provider; use /api/secrets/value")
    _, value = await read(desk, uri)
    return Reply(200, {"value": value} if uri.fragment is not None else value)


async def read(desk: Desk, uri: SecretUri) -> tuple[Found, Any]:
    """The secret, and what of it the URI names and the permit releases."""
    held = await obtain_one(desk, Act.READ, uri)

    async def taken(work: Any, provider: Any) -> tuple[Found, Any]:
        found: Found = await provider.read(work, uri)
        return found, pick(uri, released(held, found.values))

    return await held.use(taken)


def pick(uri: SecretUri, values: Values) -> Any:
    """The whole map, or one key's value. Raises `Refused`: NOT_FOUND."""
    if uri.fragment is None:
        return values
    if uri.fragment not in values:
        raise not_found()
    return values[uri.fragment]


def released(held: Held, values: Mapping[str, Any]) -> Values:
    """The keys that the permit lets out."""
    names = held.released
    return {name: value for name, value in values.items() if names is None or name in names}


async def list_keys(desk: Desk, uri: SecretUri) -> Reply:
    """`GET /api/secrets/keys`."""
    check_whole(uri)
    held = await obtain_one(desk, Act.KEYS, uri)
    keys = await held.use(lambda work, provider: provider.keys(work, uri))
    return Reply(200, {"uri": str(uri), "keys": sorted(released(held, dict.fromkeys(keys)))})


async def read_metadata(desk: Desk, uri: SecretUri) -> Reply:
    """`GET /api/secrets/metadata/detail`."""
    check_whole(uri)
    held = await obtain_one(desk, Act.METADATA, uri)
    found = await held.use(lambda work, provider: provider.metadata(work, uri))
    labels = found.labels
    return Reply(
        200,
        {
            "uri": str(uri),
            "owner": labels.get(OWNER),
            "created_by": labels.get(CREATED_BY),
            "created_at": labels.get(CREATED_AT),
            "current_version": found.current_version,
            "versions": [_shown(version) for version in found.versions],
            "custom_metadata": dict(labels),
        },
        _etag(found.current_version),
    )


async def list_versions(desk: Desk, uri: SecretUri) -> Reply:
    """`GET /api/secrets/versions`."""
    check_whole(uri)
    held = await obtain_one(desk, Act.METADATA, uri)
    found = await held.use(lambda work, provider: provider.metadata(work, uri))
    return Reply(200, {"uri": str(uri), "versions": [_shown(version) for version in found.versions]})


def _shown(version: Version) -> dict[str, Any]:
    return {
        "version": version.version,
        "created_at": version.created_at,
        "deleted_at": version.deleted_at or None,
        "destroyed": version.destroyed,
    }


def _etag(version: int | None) -> dict[str, str]:
    return {} if version is None else {"ETag": f'"{version}"'}


# -- many secrets --------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class _Budget:
    """What one page may cost yet."""

    folders: int = MAX_FOLDERS
    candidates: int = MAX_CANDIDATES


async def list_metadata(desk: Desk, prefix: str, limit: int, cursor: str) -> Reply:
    """`GET /api/secrets/metadata`: the secrets whose URI begins with the prefix."""
    return await _page(desk, _roots(desk, prefix), prefix, "", limit, cursor)


async def search(desk: Desk, text: str, prefix: str, limit: int, cursor: str) -> Reply:
    """`GET /api/secrets/search`: those whose path holds the text, in any case."""
    return await _page(desk, _roots(desk, prefix), prefix, text.casefold(), limit, cursor)


async def _page(desk: Desk, roots: list[SecretUri], prefix: str, text: str, limit: int, cursor: str) -> Reply:
    """One page, in the order of the walk. Each item is decided by itself; the cursor is the last one looked at, so that
    what was denied is not asked for again."""
    after = _after(cursor)
    budget = _Budget()
    items: list[dict[str, Any]] = []
    batch: list[SecretUri] = []
    last, complete = after, True

    async def decide() -> bool:
        """Adds what may be known of; False where the page is full."""
        nonlocal last
        for uri, known in zip(batch, await desk.visible(batch) if batch else [], strict=True):
            if len(items) == limit:
                return False
            last = sort_key(uri)
            if known:
                items.append({"uri": str(uri)})
        batch.clear()
        return True

    for root in roots:
        async for uri in _walk(desk, root, after, budget, 0):
            if uri is None:
                complete = False
                break
            if not _matches(uri, prefix, text):
                continue
            batch.append(uri)
            budget.candidates -= 1
            if len(batch) == min(_BATCH, limit + 1) and not await decide():
                return Reply(200, {"items": items, "next": _cursor(last)})
            if budget.candidates == 0:
                complete = False
                break
        if not complete:
            break
    full = not await decide()
    return Reply(200, {"items": items, "next": _cursor(last) if full or not complete else None})


async def _walk(
    desk: Desk, folder: SecretUri, after: tuple[str, ...], budget: _Budget, depth: int
) -> AsyncIterator[SecretUri | None]:
    """The secrets below a folder that come after a position, in one order; None where the budget ends."""
    if budget.folders == 0 or depth > MAX_DEPTH:
        yield None
        return
    budget.folders -= 1
    names = await desk.browse(folder, lambda work, provider: provider.names(work, folder))
    for name in sorted(names, key=lambda name: (name.removesuffix("/"), name.endswith("/"))):
        below = replace(folder, path=(*folder.path, name.removesuffix("/")), folder=name.endswith("/"))
        if not nameable(below):
            continue
        position = sort_key(below)
        if not below.folder:
            if position > after:
                yield below
        elif position > after or after[: len(position) - 1] == position[:-1]:
            async for found in _walk(desk, below, after, budget, depth + 1):
                yield found
                if found is None:
                    return


def nameable(uri: SecretUri) -> bool:
    """Whether a name that OpenBao lists can be asked for here: what the sidecar would refuse, it does not show."""
    name = uri.path[-1]
    return name not in ("", ".", "..", "*") and name.isprintable() and "/" not in name


def sort_key(uri: SecretUri) -> tuple[str, ...]:
    """The order of the walk: a secret comes before a folder of the same name."""
    return (uri.provider, uri.mount, *uri.path, *(("1",) if uri.folder else ()))


def _matches(uri: SecretUri, prefix: str, text: str) -> bool:
    path = "/".join(uri.path).casefold()
    return text in path and str(uri).startswith(prefix)


def _roots(desk: Desk, prefix: str) -> list[SecretUri]:
    """The folders in which everything with the prefix is: one, or each mount that can be listed where none is given."""
    mounts = desk.mounts
    if not prefix:
        every = [
            SecretUri(mounts.provider, place.mount.engine, place.full, (), folder=True) for place in mounts.allowed()
        ]
        every += [SecretUri(scheme, "", name, (), folder=True) for scheme in mounts.stores for name in mounts.own]
        return sorted((root for root in every if supports(root, Act.LIST, mounts)), key=sort_key)
    folder = prefix if prefix.endswith("/") else prefix[: prefix.rfind("/") + 1]
    if folder.endswith("://"):
        raise Refused(Code.INVALID_URI, "a prefix names a mount at least: openbao+kv2://secret/")
    uri = desk.uri(folder)
    if not supports(uri, Act.LIST, mounts):
        raise Refused(Code.UNSUPPORTED_OPERATION, "secrets of this kind are not listed")
    return [uri]


# -- cursors -------------------------------------------------------------------------------------------------------
_BEGINNING: Final = ("",)


def _cursor(position: tuple[str, ...]) -> str:
    return base64.urlsafe_b64encode("\0".join(position).encode()).decode().rstrip("=")


def _after(cursor: str) -> tuple[str, ...]:
    if not cursor:
        return _BEGINNING
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return tuple(raw.decode("utf-8").split("\0"))
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise Refused(Code.MALFORMED_REQUEST, "the cursor is not one that was given out") from None
