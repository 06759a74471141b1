"""`yaml://mount/path#key`: secrets in one YAML file, for development. See docs/how-to/use-a-yaml-file.md."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

import structlog

from sidecar.config.private_file import NotPrivateError
from sidecar.errors import Code, Refused
from sidecar.secrets.providers.port import Conflict, Current, Found, Provider, Values, Work, not_found, same
from sidecar.secrets.providers.yaml_file.document import Branch, DocumentError, at
from sidecar.secrets.providers.yaml_file.editing import EditError, edited
from sidecar.secrets.providers.yaml_file.store import Busy, SavedMeanwhile, Store
from sidecar.surface.secret_uri import YAML, SecretUri
from sidecar.surface.secrets.operations import Act
from sidecar.upstream.failure import UpstreamFailure, unavailable

WATCH_SECONDS: Final = 2.0

T = TypeVar("T")
_log = structlog.get_logger(__name__)


class YamlFile(Provider):
    """One file, without versions and without metadata. `problem` says why it cannot be read; empty where it can."""

    scheme = YAML
    can = frozenset({Act.READ, Act.WRITE, Act.ROTATE, Act.DELETE, Act.KEYS, Act.LIST})

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self.read_only = read_only
        self.problem = ""
        self._store = Store(path)
        self._turn = asyncio.Lock()
        self._seen: WeakKeyDictionary[Work, Values | None] = WeakKeyDictionary()
        """What each change began with: the file has no versions to compare, so its values are."""

    async def start(self) -> None:
        """Raises `ValueError` where the file cannot be used as it is."""
        try:
            await asyncio.to_thread(self._store.look)
        except DocumentError as error:
            raise ValueError(f"yaml_provider.path: {error}") from None

    async def watch(self) -> None:
        """Says when the file cannot be read, and when it can be again, until cancelled."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                await self._look()
            except Refused:
                continue

    # -- looking -----------------------------------------------------------------------------------------------------
    async def read(self, work: Work, uri: SecretUri) -> Found:  # noqa: ARG002 - nothing is asked of OpenBao
        values = _values(await self._look(), uri)
        if values is None:
            raise not_found()
        return Found(values, None)

    async def current(self, work: Work, uri: SecretUri) -> Current:
        values = self._seen[work] = _values(await self._look(), uri)
        return Current(values, None)

    async def keys(self, work: Work, uri: SecretUri) -> list[str]:
        return sorted((await self.read(work, uri)).values)

    async def names(self, work: Work, folder: SecretUri, after: str) -> list[str]:  # noqa: ARG002
        branch = at(await self._look(), (folder.mount, *folder.path))
        below = {} if branch is None else branch.branches()
        secrets = [name for name, each in below.items() if each.is_secret]
        folders = [f"{name}/" for name, each in below.items() if each.branches()]
        return sorted(secrets + folders)

    # -- changing ----------------------------------------------------------------------------------------------------
    async def write(self, work: Work, uri: SecretUri, values: Values, cas: int | None) -> int | None:
        if cas is not None:
            raise Refused(Code.UNSUPPORTED_OPERATION, "a YAML file has no versions to compare (cas, If-Match)")
        await self._change(work, uri, values)
        return None

    async def delete(self, work: Work, uri: SecretUri) -> None:
        await self._change(work, uri, None)

    async def _change(self, work: Work, uri: SecretUri, values: Values | None) -> None:
        """Writes the secret, where it still is what this change began with. Raises `Conflict`, `Refused`."""

        def made(root: Branch, text: str) -> tuple[str, Branch]:
            if work in self._seen and not same(_values(root, uri), self._seen[work]):
                raise Conflict
            return edited(text, root, (uri.mount, *uri.path), values)

        async with self._turn:
            try:
                await self._in_thread(lambda: self._store.change(made))
            except EditError as error:
                raise Refused(Code.MALFORMED_REQUEST, str(error)) from None
            except SavedMeanwhile:
                raise Conflict from None
            except Busy:
                raise unavailable("another process is changing the YAML file", "its lock is held") from None
            except OSError as error:
                reason = f"{type(error).__name__}: {error.strerror}"
                raise UpstreamFailure(
                    Code.UPSTREAM_ERROR, "the YAML file cannot be written", sent=True, detail=reason
                ) from None

    async def _look(self) -> Branch:
        return await self._in_thread(self._store.look)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            done = await asyncio.to_thread(work)
        except (NotPrivateError, DocumentError) as error:
            self._note(str(error))
            raise unavailable("the file of the YAML provider cannot be used now", str(error)) from None
        self._note("")
        return done

    def _note(self, problem: str) -> None:
        if problem and problem != self.problem:
            _log.error("the file of the YAML provider cannot be used; its secrets are not served", reason=problem)
        elif self.problem and not problem:
            _log.info("the file of the YAML provider can be used again")
        self.problem = problem


def _values(root: Branch, uri: SecretUri) -> Values | None:
    branch = at(root, (uri.mount, *uri.path))
    return branch.values() if branch is not None and branch.is_secret else None
