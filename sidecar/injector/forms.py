"""The forms of names, in the configuration and in annotations alike. Pure."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, ConfigDict

_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SUBDOMAIN: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_MOUNT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.@-]*)*")
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@/-]{0,252}")


def is_object_name(text: str) -> bool:
    """Whether Kubernetes lets a ConfigMap, Secret or claim have this name (RFC 1123 subdomain)."""
    return _SUBDOMAIN.fullmatch(text) is not None


def is_namespace(text: str) -> bool:
    """Whether this may be a namespace's name (RFC 1123 label)."""
    return _LABEL.fullmatch(text) is not None


def is_mount(text: str) -> bool:
    """Whether this names one full mount in one spelling: no empty, `.` or `..` segment, no slash at either end."""
    return _MOUNT.fullmatch(text) is not None


def is_plain_name(text: str) -> bool:
    """Whether this may be a tenant or a role: nothing that any format between here and OpenBao reads as structure."""
    return _NAME.fullmatch(text) is not None


def _object_name(text: str) -> str:
    if not is_object_name(text):
        raise ValueError("is no name of a Kubernetes object")
    return text


def _plain_name(text: str) -> str:
    if not is_plain_name(text):
        raise ValueError("is not a plain name: letters, digits, . _ - @ /")
    return text


def _mount(text: str) -> str:
    if not is_mount(text):
        raise ValueError("is not a mount: write it without leading or trailing slash")
    return text


ObjectName = Annotated[str, AfterValidator(_object_name)]
OptionalObjectName = Annotated[str, AfterValidator(lambda text: text and _object_name(text))]
PlainName = Annotated[str, AfterValidator(_plain_name)]
Mount = Annotated[str, AfterValidator(_mount)]


CLOSED: Final = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
"""How each part of the configuration is read: nothing unknown in it, and no value told in an error."""
