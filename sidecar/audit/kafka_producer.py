"""How the audit's Kafka producer is made, and what its errors are called."""

from __future__ import annotations

from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaConnectionError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
)

from sidecar.config import Kafka
from sidecar.kafka_connection import connection


class TopicMissingError(Exception):
    """A topic is not there."""


class RecordTooLargeError(Exception):
    """A single record is larger than its topic takes."""


class UnacknowledgedError(Exception):
    """The broker did not answer for a long time."""


_OURS: Final[dict[type[Exception], str]] = {
    TopicMissingError: "topic_missing",
    RecordTooLargeError: "record_too_large",
    UnacknowledgedError: "no_answer",
}


def problem_of(error: Exception, username: str | None) -> tuple[str, str]:
    """The metric's `reason` (of a closed set) and what is said of an error."""
    if isinstance(error, KafkaConnectionError):
        return "no_broker", "no broker can be reached"
    if isinstance(error, (TopicAuthorizationFailedError, ClusterAuthorizationFailedError)):
        return "not_authorized", f"the broker does not let {username or 'us'} write ({type(error).__name__})"
    for kind, reason in _OURS.items():
        if isinstance(error, kind):
            return reason, str(error)
    if isinstance(error, (OSError, SaslAuthenticationFailed)):  # a file that cannot be read; ssl.SSLError is one too
        return "credentials", f"{type(error).__name__}: {error}"
    return "other", f"{type(error).__name__}: {error}"


def credentials_state(config: Kafka) -> tuple[tuple[int, int, int], ...]:
    """Changes whenever one of the credentials' files does. A file that is not there counts as another state."""
    states = []
    for path in (config.password_file, config.ca_file, config.cert_file, config.key_file):
        if path is None:
            continue
        try:
            found = path.stat()
            states.append((found.st_mtime_ns, found.st_ino, found.st_size))
        except OSError:
            states.append((0, 0, 0))
    return tuple(states)


def new_producer(config: Kafka, *, max_bytes: int, request_timeout_ms: int, retry_backoff_ms: int) -> AIOKafkaProducer:
    """A producer with credentials and certificates as they are now. Raises OSError where they cannot be read."""
    return AIOKafkaProducer(
        acks="all",
        enable_idempotence=True,
        compression_type=None if config.compression == "none" else config.compression,
        max_batch_size=max_bytes,
        max_request_size=max_bytes,
        request_timeout_ms=request_timeout_ms,
        retry_backoff_ms=retry_backoff_ms,
        **connection(config),
    )
