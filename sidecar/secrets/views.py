"""Looking at one secret: value, keys, versions, metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sidecar.errors import Code, Refused
from sidecar.secrets.changes import check_whole
from sidecar.secrets.desk import Desk, Held, Reply, obtain_one
from sidecar.secrets.provenance import CREATED_AT, CREATED_BY, OWNER
from sidecar.secrets.providers.port import Found, Values, Version, not_found
from sidecar.surface.secret_uri import YAML, SecretUri
from sidecar.surface.secrets.operations import Act


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
