"""The audit's Kafka producer: one connection at a time, one acknowledged batch after the other, and what its errors
are called."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidTimestampError,
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.structs import RecordMetadata, TopicPartition

from sidecar.audit.messages import CHUNK_BYTES, Outgoing
from sidecar.audit.topic_ids import TopicIdsRequest, topic_ids
from sidecar.config import Kafka
from sidecar.kafka_connection import connection, end, hearing_causes
from sidecar.ops.metrics import AUDIT_KAFKA_ERRORS

_REQUEST_TIMEOUT_MS: Final = 10_000
_RETRY_BACKOFF_MS: Final = 500
_UNACKNOWLEDGED_SECONDS: Final = 5.0  # without an answer for so long, it is said
_ABANDON_SECONDS: Final = 60.0  # then a new producer, with credentials and certificates read anew
_LOOK_SECONDS: Final = 1.0
_BATCH_BYTES: Final = CHUNK_BYTES * 3 // 2  # of records; a chunk is one batch where the topic takes it
_MAX_BATCH_BYTES: Final = 900_000  # with keys and headers; a broker takes no more than 1 MiB by default
_NO_TIME: Final = -1  # Kafka's NO_TIMESTAMP
_TIMELESS_SECONDS: Final = 10.0  # after a time was refused, before one is told again
_MAX_CLUSTER_ID: Final = 100  # characters; Kafka's own have 22

_log = structlog.get_logger("audit.kafka")


class TopicMissingError(Exception):
    """A topic is not there."""


class CredentialsUnreadableError(Exception):
    """A password or certificate file cannot be read, or is none."""


class RecordTooLargeError(Exception):
    """A single record is larger than its topic takes."""


class SendOtherwiseError(Exception):
    """The broker found a batch too large, or its times wrong; a new connection sends smaller ones, or without times."""


class UnacknowledgedError(Exception):
    """The broker did not answer for a long time."""


_OURS: Final[dict[type[Exception], str]] = {
    CredentialsUnreadableError: "credentials",
    TopicMissingError: "topic_missing",
    RecordTooLargeError: "record_too_large",
    UnacknowledgedError: "no_answer",
}


def problem_of(error: BaseException, username: str | None, doing: str = "write") -> tuple[str, str]:
    """The metric's `reason` (of a closed set) and what is said of an error. Never a broker's own words: it knows our
    password."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "certificate", f"the broker's certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return "certificate", f"TLS with the broker fails: {error.reason}"
    if isinstance(error, SaslAuthenticationFailed):
        return "credentials", f"the broker does not take the password of {username}"
    if isinstance(error, (TopicAuthorizationFailedError, ClusterAuthorizationFailedError)):
        return "not_authorized", f"the broker does not let {username or 'us'} {doing} ({type(error).__name__})"
    if isinstance(error, (KafkaConnectionError, OSError)):  # a TimeoutError is one too
        return "no_broker", "no broker can be reached"
    for kind, reason in _OURS.items():
        if isinstance(error, kind):
            return reason, str(error)
    return "other", type(error).__name__


class Producer:
    """Idempotent, with `acks=all`. After any error `disconnect` it: the next `connect` makes another, with credentials
    and certificates as they are then. An idempotent producer that lost a batch cannot go on: its next sequence number
    would leave a gap."""

    def __init__(self, config: Kafka, key: bytes, say: Callable[[str], None]) -> None:
        """`key` of every message; `say` is told what is in the way while an answer is waited for."""
        self._config = config
        self._key = key
        self._say = say
        self._producer: AIOKafkaProducer | None = None
        self._batch_bytes = _BATCH_BYTES
        self._timeless_until = 0.0
        self._credentials: object = None
        self._credentials_at = 0.0
        self._causes: list[BaseException] = []
        self._sends_to: TopicPartition | None = None
        self._leader: int | None = None
        self.cluster = ""
        """The id that the cluster gave; empty where none was told yet."""

    async def connect(self) -> None:
        """Connects where there is no connection. Raises what hinders it."""
        await self._look_at_credentials()
        if self._producer is None:
            self._causes = []
            with hearing_causes(self._causes):
                self._producer = self._new()
                await asyncio.wait_for(self._producer.start(), _ABANDON_SECONDS)

    async def disconnect(self) -> None:
        """Gives up what is under way."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        # aiokafka stops only after it has delivered everything, which without a broker is never.
        producer._message_accumulator.fail_all(KafkaConnectionError())  # noqa: SLF001 - it has no other way to give up
        await end(producer, _REQUEST_TIMEOUT_MS / 1000)

    async def send(self, outgoing: Outgoing) -> tuple[RecordMetadata, int]:
        """Sends the next batch of what is left for one topic; returns where the first of it stands and how many these
        are, once every replica that must have them has them."""
        producer = self._producer
        if producer is None:
            raise KafkaConnectionError
        try:
            partitions = sorted(await producer.partitions_for(outgoing.topic))
        except UnknownTopicOrPartitionError as error:
            raise TopicMissingError(f"topic {outgoing.topic} is not there") from error
        partition = DefaultPartitioner()(self._key, partitions, partitions)
        if self._sends_to != (outgoing.topic, partition):
            self._sends_to = TopicPartition(outgoing.topic, partition)
            self._leader = producer.client.cluster.leader_for_partition(self._sends_to)
        timeless = asyncio.get_running_loop().time() < self._timeless_until
        batch, count, size = producer.create_batch(), 0, 0
        for message in outgoing.messages[outgoing.sent :]:
            value, millis = message.value, _NO_TIME if timeless else message.millis
            if count and size + len(value) > self._batch_bytes:
                break
            if batch.append(timestamp=millis, key=self._key, value=value, headers=message.headers) is None:
                break
            size += len(value)
            count += 1
        batch.close()
        try:
            acknowledged = await producer.send_batch(batch, outgoing.topic, partition=partition)
            return await self._acknowledgement(acknowledged), count
        except UnknownTopicOrPartitionError as error:
            raise TopicMissingError(f"topic {outgoing.topic} is not there") from error
        except (MessageSizeTooLargeError, RecordListTooLargeError) as error:
            if count == 1:
                seq = outgoing.messages[outgoing.sent].seq
                raise RecordTooLargeError(f"record {seq} is larger than {outgoing.topic} takes") from error
            self._batch_bytes = size // 2  # of what was sent, so that it is fewer each time
            raise SendOtherwiseError from error
        except InvalidTimestampError as error:
            # Our clock was, or is, ahead: from Kafka 4.0 on a broker takes no time more than an hour from now. Waiting
            # for that could take years.
            if timeless:
                raise
            self._timeless_until = asyncio.get_running_loop().time() + _TIMELESS_SECONDS
            AUDIT_KAFKA_ERRORS.labels("time_refused").inc()
            _log.warning("kafka refuses the time of a record; for a while they are sent without, but for their own ts")
            raise SendOtherwiseError from error

    async def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        """The ids of those of these topics that are there, as the broker tells them that was sent to last; none where
        it does not answer, or knows of no ids."""
        if self._producer is None or self._leader is None:
            return {}
        try:
            return topic_ids(await self._producer.client.send(self._leader, TopicIdsRequest(topics)))
        except (KafkaError, OSError, NotImplementedError):
            return {}

    def cause_of(self, error: Exception) -> BaseException:
        """Why there is no connection, as far as aiokafka says it: in its log alone."""
        if isinstance(error, (KafkaConnectionError, UnacknowledgedError)) and self._causes:
            return self._causes[-1]
        return error

    def _new(self) -> AIOKafkaProducer:
        try:
            options = connection(self._config)
        except OSError as error:  # ssl.SSLError is one too
            raise CredentialsUnreadableError(f"{type(error).__name__}: {error}") from error
        producer = AIOKafkaProducer(
            acks="all",
            enable_idempotence=True,
            compression_type=None if self._config.compression == "none" else self._config.compression,
            max_batch_size=_MAX_BATCH_BYTES,
            max_request_size=_MAX_BATCH_BYTES,
            request_timeout_ms=_REQUEST_TIMEOUT_MS,
            retry_backoff_ms=_RETRY_BACKOFF_MS,
            **options,
        )
        cluster = producer.client.cluster
        update = cluster.update_metadata

        def learn(metadata: Any) -> None:
            """aiokafka itself drops the cluster's id."""
            self.cluster = (getattr(metadata, "cluster_id", None) or "")[:_MAX_CLUSTER_ID]
            update(metadata)
            leader = None if self._sends_to is None else cluster.leader_for_partition(self._sends_to)
            if leader is not None and leader >= 0:
                if self._leader not in (None, leader):
                    _log.warning("the partition's leader has moved", broker=leader)
                    AUDIT_KAFKA_ERRORS.labels("leader_moved").inc()
                self._leader = leader

        cluster.update_metadata = learn
        return producer

    async def _look_at_credentials(self) -> None:
        """Connects anew where a password or a certificate was rotated, before the old one is refused."""
        now = asyncio.get_running_loop().time()
        if now < self._credentials_at:
            return
        self._credentials_at = now + _LOOK_SECONDS
        state = await asyncio.to_thread(_credentials_state, self._config)
        if self._producer is not None and state != self._credentials:
            _log.info("kafka's credentials have changed; connecting anew")
            await self.disconnect()
        self._credentials = state

    async def _acknowledgement(self, acknowledged: asyncio.Future[RecordMetadata]) -> RecordMetadata:
        """Waits for the broker. aiokafka itself tries for ever; after a while a new producer is the better try."""
        waited = 0.0
        while waited < _ABANDON_SECONDS:
            await asyncio.wait([acknowledged], timeout=_UNACKNOWLEDGED_SECONDS)
            if acknowledged.done():
                place = acknowledged.result()
                self._causes.clear()  # whatever was in the way of this connection is past
                return place
            waited += _UNACKNOWLEDGED_SECONDS
            why = f": {problem_of(self._causes[-1], self._config.username)[1]}" if self._causes else ""
            self._say(f"no acknowledgement for {waited:g} seconds{why}")
        acknowledged.cancel()
        raise UnacknowledgedError(f"no acknowledgement for {waited:g} seconds")


def _credentials_state(config: Kafka) -> tuple[tuple[int, int, int], ...]:
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
