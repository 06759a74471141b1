"""OpenBao's KV engines as providers: version 2 with versions and metadata, version 1 without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from sidecar.errors import Code, Refused
from sidecar.secrets.providers.port import (
    Current,
    Found,
    Metadata,
    Missing,
    NotServed,
    Provider,
    Values,
    Version,
    Work,
    not_found,
)
from sidecar.surface.encoding import encode_path
from sidecar.surface.json_body import MERGE_PATCH
from sidecar.surface.mounts import MountTable
from sidecar.surface.operation import UpstreamRequest
from sidecar.surface.query import encode_query
from sidecar.surface.secret_uri import SecretUri
from sidecar.surface.secrets.operations import Act
from sidecar.upstream.failure import untrustworthy

LISTED_AT_ONCE: Final = 1000
"""Names of a KV version 2 folder that OpenBao is asked for at once. Its KV version 1 and HashiCorp's Vault do not know
the question, and give all."""


class _Kv(Provider):
    """What both versions share."""

    def __init__(self, mounts: Callable[[], MountTable]) -> None:
        self._mounts = mounts

    def _request(
        self, method: str, area: str, uri: SecretUri, body: Mapping[str, Any] | None = None, query: str = ""
    ) -> UpstreamRequest:
        place = self._mounts().place(uri.mount)
        below = "/".join(filter(None, (area, encode_path(uri.path))))
        slash = "/" if method == "LIST" and uri.path else ""
        content = None if body is None else orjson.dumps(body)
        kind = MERGE_PATCH if method == "PATCH" else "application/json"
        return UpstreamRequest(method, f"{place.target}{below}{slash}", query, place.namespace, content, kind)

    async def _names(self, work: Work, request: UpstreamRequest) -> list[str]:
        try:
            reply = await work.ask(request)
        except Missing:
            return []
        if not reply.data:
            return []  # of nothing, where a warning keeps it from being 404
        names = reply.data.get("keys")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise untrustworthy("a list without keys")
        return sorted(names)


class Kv2(_Kv):
    """KV version 2."""

    can = frozenset(Act)
    names_at_once = LISTED_AT_ONCE

    async def read(self, work: Work, uri: SecretUri) -> Found:
        query = f"version={uri.version}" if uri.version is not None else ""
        try:
            data = (await work.ask(self._request("GET", "data", uri, query=query))).data
        except Missing:
            raise not_found() from None
        values = data.get("data")
        if not isinstance(values, dict):
            raise not_found()  # deleted or destroyed
        return Found(values, _version(data.get("metadata")))

    async def current(self, work: Work, uri: SecretUri) -> Current:
        try:
            data: Mapping[str, Any] = (await work.ask(self._request("GET", "data", replace(uri, version=None)))).data
        except Missing as missing:
            data = missing.data
        metadata = data.get("metadata")
        values = data.get("data")
        return Current(values if isinstance(values, dict) else None, _version(metadata) if metadata else 0)

    async def write(self, work: Work, uri: SecretUri, values: Values, cas: int | None) -> int | None:
        body: dict[str, Any] = {"data": values}
        if cas is not None:
            body["options"] = {"cas": cas}
        return _version((await work.ask(self._request("POST", "data", uri, body))).data)

    async def delete(self, work: Work, uri: SecretUri) -> None:
        await work.ask(self._request("POST", "delete", uri, {"versions": [uri.version]}))

    async def delete_all(self, work: Work, uri: SecretUri) -> None:
        await self.metadata(work, uri)  # OpenBao would say yes to what is not there
        await work.ask(self._request("DELETE", "metadata", uri))

    async def undelete(self, work: Work, uri: SecretUri, versions: list[int]) -> None:
        await self._check_there(work, uri, versions)
        await work.ask(self._request("POST", "undelete", uri, {"versions": versions}))

    async def destroy(self, work: Work, uri: SecretUri, versions: list[int]) -> None:
        await self._check_there(work, uri, versions)
        await work.ask(self._request("POST", "destroy", uri, {"versions": versions}))

    async def _check_there(self, work: Work, uri: SecretUri, versions: list[int]) -> None:
        """OpenBao passes over versions that are not there, and says yes. Raises `Refused`: NOT_FOUND."""
        there = {each.version for each in (await self.metadata(work, uri)).versions}
        if not there.issuperset(versions):
            raise Refused(Code.NOT_FOUND, "the secret has no such version, or not any more")

    async def keys(self, work: Work, uri: SecretUri) -> list[str]:
        try:
            data = (await work.ask(self._request("GET", "subkeys", uri))).data
        except Missing:
            raise not_found() from None
        keys = data.get("subkeys")
        if not isinstance(keys, dict):
            raise not_found()
        return sorted(keys)

    async def metadata(self, work: Work, uri: SecretUri) -> Metadata:
        try:
            data = (await work.ask(self._request("GET", "metadata", uri))).data
        except Missing:
            raise not_found() from None
        versions, labels = data.get("versions"), data.get("custom_metadata") or {}
        if not isinstance(versions, dict) or not isinstance(labels, dict):
            raise untrustworthy("metadata without versions")
        found = sorted(
            (
                Version(int(number), each["created_time"], each.get("deletion_time", ""), each["destroyed"] is True)
                for number, each in versions.items()
            ),
            key=lambda version: version.version,
        )
        return Metadata(int(data.get("current_version", 0)), tuple(found), labels)

    async def label(self, work: Work, uri: SecretUri, labels: Mapping[str, str]) -> None:
        try:
            await work.ask(self._request("PATCH", "metadata", uri, {"custom_metadata": dict(labels)}))
        except NotServed:
            there = (await self.metadata(work, uri)).labels
            await work.ask(self._request("POST", "metadata", uri, {"custom_metadata": {**there, **labels}}))

    async def names(self, work: Work, folder: SecretUri, after: str) -> list[str]:
        query = {"limit": str(LISTED_AT_ONCE)} | ({"after": after} if after else {})
        return await self._names(work, self._request("LIST", "metadata", folder, query=encode_query(query)))


class Kv1(_Kv):
    """KV version 1: one value, no versions, and no way to write only where nothing changed meanwhile."""

    can = frozenset({Act.READ, Act.WRITE, Act.ROTATE, Act.DELETE, Act.KEYS, Act.LIST})
    keeps_empty = False

    async def read(self, work: Work, uri: SecretUri) -> Found:
        try:
            return Found(dict((await work.ask(self._request("GET", "", uri))).data), None)
        except Missing:
            raise not_found() from None

    async def current(self, work: Work, uri: SecretUri) -> Current:
        try:
            return Current(dict((await work.ask(self._request("GET", "", uri))).data), None)
        except Missing:
            return Current(None, None)

    async def write(self, work: Work, uri: SecretUri, values: Values, cas: int | None) -> int | None:
        if cas is not None:
            raise Refused(Code.UNSUPPORTED_OPERATION, "a KV version 1 mount has no versions to compare (cas, If-Match)")
        if not values:
            raise Refused(Code.MALFORMED_REQUEST, "a KV version 1 mount takes no empty secret; delete it")
        await work.ask(self._request("POST", "", uri, values))
        return None

    async def delete(self, work: Work, uri: SecretUri) -> None:
        await work.ask(self._request("DELETE", "", uri))

    async def keys(self, work: Work, uri: SecretUri) -> list[str]:
        return sorted((await self.read(work, uri)).values)

    async def names(self, work: Work, folder: SecretUri, after: str) -> list[str]:  # noqa: ARG002 - it gives all
        return await self._names(work, self._request("LIST", "", folder))


def _version(metadata: object) -> int:
    version = metadata.get("version") if isinstance(metadata, dict) else None
    if type(version) is not int:
        raise untrustworthy("an answer without a version")
    return version
