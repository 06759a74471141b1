"""Who may do what on a real broker: ACLs and SCRAM passwords, changed while it runs."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any, Final

from aiokafka.protocol.admin import CreateAclsRequest
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    CompactArray,
    CompactBytes,
    CompactString,
    Int8,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from tests.real.kafka import admin_of

_TOPIC, _PREFIXED, _ALLOW, _READ, _WRITE = 2, 4, 3, 3, 4
_ITERATIONS: Final = 4096
_MECHANISMS: Final = {"SCRAM-SHA-256": (1, "sha256"), "SCRAM-SHA-512": (2, "sha512")}
_TAGS: Final = ("tags", TaggedFields)
_TEXT: Final = CompactString("utf-8")


class _ScramResponse_v0(Response):  # type: ignore[misc] # noqa: N801 - its base is untyped; aiokafka's naming
    API_KEY = 51
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("results", CompactArray(("user", _TEXT), ("error_code", Int16), ("error_message", _TEXT), _TAGS)),
        _TAGS,
    )


class _ScramRequest_v0(RequestStruct):  # type: ignore[misc] # noqa: N801
    API_KEY = 51
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _ScramResponse_v0
    SCHEMA = Schema(
        ("deletions", CompactArray(("name", _TEXT), ("mechanism", Int8), _TAGS)),
        (
            "upsertions",
            CompactArray(
                ("name", _TEXT),
                ("mechanism", Int8),
                ("iterations", Int32),
                ("salt", CompactBytes),
                ("salted_password", CompactBytes),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _ScramRequest(Request[_ScramRequest_v0]):  # type: ignore[misc]
    """AlterUserScramCredentials (KIP-554), which aiokafka does not have."""

    API_KEY = 51

    def __init__(self, name: str, password: str, mechanism: str) -> None:
        number, digest = _MECHANISMS[mechanism]
        salt = secrets.token_bytes(16)
        salted = hashlib.pbkdf2_hmac(digest, password.encode(), salt, _ITERATIONS)
        self._upsertion: tuple[object, ...] = (name, number, _ITERATIONS, salt, salted, {})

    def build(self, request_struct_class: type[_ScramRequest_v0]) -> _ScramRequest_v0:
        return request_struct_class([], [self._upsertion], {})


async def set_scram_password(broker: str, name: str, password: str, mechanism: str) -> None:
    """Gives a user another password, at once for all who connect from now on."""
    answer = await _asked(broker, _ScramRequest(name, password, mechanism))
    assert [result[1] for result in answer.results] == [0], answer


async def allow_to_write(broker: str, name: str, prefix: str) -> None:
    """An ACL that lets a user write to all topics whose names begin so."""
    await _allow(broker, name, prefix, _WRITE)


async def allow_to_read(broker: str, name: str, prefix: str) -> None:
    """An ACL that lets a user read all topics whose names begin so."""
    await _allow(broker, name, prefix, _READ)


async def _allow(broker: str, name: str, prefix: str, operation: int) -> None:
    answer = await _asked(broker, CreateAclsRequest(_TOPIC, prefix, _PREFIXED, f"User:{name}", "*", operation, _ALLOW))
    assert [result[0] for result in answer.creation_responses] == [0], answer


async def _asked(broker: str, request: Request[Any]) -> Any:
    async with admin_of(broker) as admin:
        return await admin._send_request(request)
