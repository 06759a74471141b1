"""Canonical secret URIs: `provider[+engine]://mount/path[#fragment][?version=N]`, one form per secret.

Note the order: the version stands behind the fragment, and a `?` always begins it. In the fragment, which names one key
of a secret, a slash is encoded in the canonical form and taken as it is when read.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

from sidecar.errors import Code, Refused
from sidecar.surface.encoding import decode_fragment, encode_path, encode_segment, spell_out, split_path

MAX_URI_CHARACTERS: Final = 65_536
YAML: Final = "yaml"
"""The provider of secrets in a YAML file. Like every one beside OpenBao it has no engines; its mount is one segment."""

_VAULTS: Final = frozenset({"openbao", "hashicorp"})
_VERSIONED: Final = frozenset({"kv2"})
_KEYED: Final = frozenset({"kv1", "kv2"})
_scheme: Final = re.compile(r"([a-z][a-z0-9]*)(?:\+([a-z][a-z0-9_-]*))?").fullmatch
_number: Final = re.compile(r"0|[1-9][0-9]{0,17}").fullmatch


@dataclass(frozen=True, slots=True)
class SecretUri:
    """A secret's canonical name, held as decoded parts. `str()` is the canonical form.

    `mount` is the full mount (`namespace/mount`), `path` the decoded segments below it, `folder` true for a list.
    """

    provider: str
    engine: str
    mount: str
    path: tuple[str, ...] = ()
    fragment: str | None = None
    version: int | None = None
    folder: bool = False

    def __str__(self) -> str:
        scheme = f"{self.provider}+{self.engine}" if self.engine else self.provider
        text = f"{scheme}://{encode_path((*self.mount.split('/'), *self.path))}"
        if self.folder:
            text += "/"
        if self.fragment is not None:
            text += "#" + encode_segment(self.fragment)
        if self.version is not None:
            text += f"?version={self.version}"
        return text

    def without_version(self) -> SecretUri:
        """The secret itself, whichever version was named."""
        if self.version is None:
            return self
        return SecretUri(self.provider, self.engine, self.mount, self.path, self.fragment, None, self.folder)

    def without_fragment(self) -> SecretUri:
        """The whole secret (of that version), whichever key was named."""
        if self.fragment is None:
            return self
        return SecretUri(self.provider, self.engine, self.mount, self.path, None, self.version, self.folder)


class Mounts(Protocol):
    """What `parse` must know of the mounts: `sidecar.surface.mounts.MountTable`."""

    @property
    def provider(self) -> str:
        """The scheme of the URIs."""

    @property
    def stores(self) -> Mapping[str, Collection[str]]:
        """The providers beside OpenBao by their schemes."""

    def locate(self, segments: tuple[str, ...]) -> tuple[str, str, int]:
        """Engine, full mount, and how many segments it takes. Raises `Refused`: TENANT_MOUNT_MISMATCH and others."""


def parse(text: str, mounts: Mounts | None = None) -> SecretUri:
    """Reads a secret URI in any spelling that has one reading; `str()` of the result is the canonical form.

    With `mounts` the longest mount that the tenant may use wins, and an engine that is left out is the mount's. Without
    them the first segment is the mount, and the engine must be given.

    Raises `Refused`: INVALID_URI, ILLEGAL_SEGMENT, ILLEGAL_ENCODING, INVALID_WILDCARD, AMBIGUOUS_QUERY,
    PROVIDER_TRAILING_SLASH_MISMATCH, UNSUPPORTED_ENGINE; with mounts also TENANT_MOUNT_MISMATCH, AMBIGUOUS_MOUNT.
    """
    if len(text) > MAX_URI_CHARACTERS:
        _invalid("the URI is too long")
    scheme, separator, rest = text.partition("://")
    match = _scheme(scheme.lower()) if separator and scheme.isascii() else None
    if match is None:
        _invalid("a secret URI begins with provider+engine://, as in openbao+kv2://secret/app/db")
    provider, engine = match.group(1), match.group(2) or ""
    raw_path, fragment, version = _parts(rest)
    segments, folder = split_path(raw_path)
    is_store = provider == YAML or (mounts is not None and provider in mounts.stores)
    if is_store:
        if engine:
            raise Refused(Code.UNSUPPORTED_ENGINE, "this provider has no engines")
        mount, depth = segments[0], 1
    elif provider in _VAULTS:
        engine, mount, depth = _locate(provider, engine, segments, mounts)
    else:
        _invalid("the provider of a secret URI is openbao, hashicorp or yaml")
    if len(segments) == depth and not folder:
        _invalid("a secret URI names a path below its mount; a folder ends with a slash")
    if folder and (fragment is not None or version is not None):
        raise Refused(
            Code.PROVIDER_TRAILING_SLASH_MISMATCH, "a folder, which ends with a slash, has no keys or versions"
        )
    if version is not None and engine not in _VERSIONED:
        raise Refused(Code.AMBIGUOUS_QUERY, "only secrets of a KV version 2 mount have versions")
    if fragment is not None and engine not in _KEYED and not is_store:
        _invalid("only secrets of a KV mount have keys to name in a fragment")
    return SecretUri(provider, engine, mount, segments[depth:], fragment, version or None, folder)


def _locate(provider: str, engine: str, segments: tuple[str, ...], mounts: Mounts | None) -> tuple[str, str, int]:
    """Engine, full mount and its depth in segments."""
    if mounts is not None:
        if provider != mounts.provider:
            _invalid("the URI's provider is not the configured one")
        found, mount, depth = mounts.locate(segments)
        if engine and engine != found:
            raise Refused(Code.UNSUPPORTED_ENGINE, "the mount has another engine than the URI says")
        return found, mount, depth
    # Not at the top: the engines' tables are built from this module's `SecretUri`.
    from sidecar.surface.engines import ENGINES

    if not engine:
        _invalid("the URI names no engine: openbao+kv2://…")
    if engine not in ENGINES:
        raise Refused(Code.UNSUPPORTED_ENGINE, "there is no table of operations for this engine")
    return engine, segments[0], 1


def _parts(rest: str) -> tuple[str, str | None, int | None]:
    """What follows `://` → the raw path, the decoded fragment, the version. 0 is the latest, as OpenBao has it."""
    head, mark, query = rest.partition("?")
    path, hash_mark, fragment = head.partition("#")
    if "#" in query:
        _invalid("the version stands behind the fragment: mount/path#key?version=3")
    if hash_mark and not fragment:
        _invalid("the fragment is empty")
    key = decode_fragment(spell_out(fragment)) if hash_mark else None
    return spell_out(path), key, _version(query) if mark else None


def _version(query: str) -> int:
    name, _, value = query.partition("=")
    if name != "version" or "&" in value:
        raise Refused(Code.AMBIGUOUS_QUERY, "a secret URI's query is ?version=N, once, and nothing else")
    return whole_number(value)


def whole_number(text: str) -> int:
    """A plain decimal number, written the one way. Raises `Refused`: AMBIGUOUS_QUERY."""
    if not _number(text):
        raise Refused(Code.AMBIGUOUS_QUERY, "a number in a query is written in plain decimal digits")
    return int(text)


def _invalid(message: str) -> NoReturn:
    raise Refused(Code.INVALID_URI, message)
