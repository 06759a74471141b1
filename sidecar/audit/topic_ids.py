"""Which topic stands behind a name: the id that Kafka gave it when it was made (KIP-516, Metadata from version 10 on).

aiokafka asks for Metadata up to version 5, where a topic that was deleted and made anew looks like the one before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Array,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

_NONE: Final = (0, 0)
_TAGS: Final = ("tags", TaggedFields)
_ID: Final = (("id_high", Int64), ("id_low", Int64))
_TEXT: Final = CompactString("utf-8")
_INTS: Final[Array] = CompactArray(Int32)


class _MetadataResponse_v12(Response):  # type: ignore[misc] # noqa: N801 - its base is untyped; aiokafka's naming
    API_KEY = 3
    API_VERSION = 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", CompactArray(("node_id", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT), _TAGS)),
        ("cluster_id", _TEXT),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", _TEXT),
                *_ID,
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", _INTS),
                        ("isr", _INTS),
                        ("offline_replicas", _INTS),
                        _TAGS,
                    ),
                ),
                ("authorized_operations", Int32),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _MetadataRequest_v12(RequestStruct):  # type: ignore[misc] # noqa: N801
    API_KEY = 3
    API_VERSION = 12
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _MetadataResponse_v12
    SCHEMA = Schema(
        ("topics", CompactArray(*_ID, ("name", _TEXT), _TAGS)),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        _TAGS,
    )


class TopicIdsRequest(Request[_MetadataRequest_v12]):  # type: ignore[misc]
    """Asks for the ids of these topics. A broker before Kafka 3.1 does not know the version: NotImplementedError."""

    API_KEY = 3

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)

    def build(self, request_struct_class: type[_MetadataRequest_v12]) -> _MetadataRequest_v12:
        """The message itself."""
        return request_struct_class([(*_NONE, name, {}) for name in self._names], False, False, {})


def topic_ids(answer: Response) -> dict[str, str]:
    """The ids of those topics that are there, in hex."""
    found = {}
    for error, name, high, low, *_ in answer.get_item("topics") or ():
        if not error and name and (high, low) != _NONE:
            found[name] = f"{high % 2**64:016x}{low % 2**64:016x}"
    return found
