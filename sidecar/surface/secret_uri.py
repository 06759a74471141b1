"""Canonical secret URIs: `provider[+engine]://mount/path[#fragment][?version=N]`, one form per secret."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SecretUri:
    """A secret's canonical name, held as decoded parts.

    `mount` is the full mount (`namespace/mount`), `path` the decoded segments below it, `folder` true for a list.
    """

    provider: str
    engine: str
    mount: str
    path: tuple[str, ...] = ()
    fragment: str | None = None
    version: int | None = None
    folder: bool = False
