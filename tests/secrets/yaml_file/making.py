"""Files, URIs and permitted work for the tests of the YAML provider."""

from __future__ import annotations

from pathlib import Path

from sidecar.secrets.providers.port import Reply
from sidecar.surface.operation import Operation, UpstreamRequest
from sidecar.surface.secret_uri import SecretUri, parse


class Working:
    """A permit's work; the provider asks it for nothing."""

    @property
    def operation(self) -> Operation:
        raise AssertionError("a file needs no operation of OpenBao's")

    async def ask(self, request: UpstreamRequest) -> Reply:
        raise AssertionError("a file asks OpenBao for nothing")


def uri(text: str) -> SecretUri:
    """A URI in the mount `secret`."""
    return parse(f"yaml://secret/{text}")


def private(path: Path, text: str) -> Path:
    """A file that only its owner can read."""
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path
