"""Engines that make the new value themselves: transit keys and static database roles."""

from __future__ import annotations

from sidecar.secrets.providers.port import Provider, Work
from sidecar.surface.operation import UpstreamRequest
from sidecar.surface.secret_uri import SecretUri
from sidecar.surface.secrets.operations import Act


class Rotating(Provider):
    """Rotates by the one request that the operation is."""

    can = frozenset({Act.ROTATE})

    async def rotate(self, work: Work, uri: SecretUri) -> None:  # noqa: ARG002 - the permit's operation names it
        """Rotates; the new value stays in OpenBao, or is read by the engine's own way."""
        main = work.operation.upstream
        await work.ask(UpstreamRequest(main.method, main.path, "", main.namespace, b"{}"))
