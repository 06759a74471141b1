"""How the sidecar connects to Kafka: one set of options for whatever it sends or reads."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError
from cachetools import TTLCache

from sidecar.config import Kafka
from sidecar.ops.logs import register_secret

ANSWER_SECONDS: Final = 5.0
_SAY_AGAIN_SECONDS: Final = 60.0

_T = TypeVar("_T")

_log = structlog.get_logger(__name__)


class _NotTooOften(logging.Filter):
    """aiokafka repeats itself several times a second while a broker or a topic is away; once a minute will do."""

    def __init__(self) -> None:
        super().__init__()
        self._said: TTLCache[str, bool] = TTLCache(100, _SAY_AGAIN_SECONDS)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this was not said of late."""
        message = record.getMessage()
        if message in self._said:
            return False
        self._said[message] = True
        return True


class _Hearing(logging.Filter):
    """Remembers the errors that aiokafka's client tells its log and nobody else: why it could not connect."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets everything through."""
        causes = _causes.get(None)
        if causes is not None and isinstance(record.args, tuple):
            causes[:] = [*causes, *(each for each in record.args if isinstance(each, BaseException))][-1:]
        return True


_causes: ContextVar[list[BaseException] | None] = ContextVar("causes")
logging.getLogger("aiokafka").addFilter(_Hearing())  # the logger of aiokafka/client.py


@contextmanager
def hearing_causes(into: list[BaseException]) -> Iterator[None]:
    """Whatever is begun inside leaves the last error of its connections in this list, for as long as it runs."""
    token = _causes.set(into)
    try:
        yield
    finally:
        _causes.reset(token)


for _part in ("", ".cluster", ".conn", ".producer.sender", ".consumer.fetcher", ".consumer.consumer"):
    logging.getLogger(f"aiokafka{_part}").addFilter(_NotTooOften())


def connection(config: Kafka) -> dict[str, Any]:
    """The options of aiokafka's clients, with credentials and certificates as they are now.

    Raises:
        OSError: a file that cannot be read; as `ssl.SSLError` one that is no certificate.
    """
    return {
        "bootstrap_servers": config.bootstrap_servers,
        "client_id": "openbao-sidecar",
        "security_protocol": config.security_protocol,
        "sasl_mechanism": config.sasl_mechanism or "PLAIN",
        "sasl_plain_username": config.username,
        "sasl_plain_password": _password(config),
        "ssl_context": _ssl_context(config),
    }


def _password(config: Kafka) -> str | None:
    if config.password_file is None:
        return None
    return register_secret(config.password_file.read_text().rstrip("\r\n"), config.password_file)


def _ssl_context(config: Kafka) -> ssl.SSLContext | None:
    """Verifies the broker's certificate and name; there is no switch that turns that off."""
    if config.security_protocol not in ("SSL", "SASL_SSL"):
        return None
    context = ssl.create_default_context(cafile=config.ca_file)
    if config.cert_file is not None:
        context.load_cert_chain(config.cert_file, config.key_file)
    return context


async def answered(call: Coroutine[Any, Any, _T], seconds: float = ANSWER_SECONDS) -> _T:
    """The result of a call, within a time limit that holds: without a broker some of aiokafka's calls swallow their
    cancellation and go on for ever, and are left to themselves.

    Raises:
        TimeoutError: no answer in so many seconds.
        KafkaError: aiokafka cancelled its own call, as it does where a connection ends; the caller goes on.
    """
    task = asyncio.ensure_future(call)
    try:
        await asyncio.wait([task], timeout=seconds)
    finally:
        if not task.done():
            task.add_done_callback(_look_away)
            task.cancel()
    if not task.done():
        raise TimeoutError("no answer in time")
    if task.cancelled():
        raise KafkaError("the client gave up a call")
    return task.result()


async def end(part: AIOKafkaConsumer | AIOKafkaProducer, seconds: float = ANSWER_SECONDS) -> None:
    """Stops a part of aiokafka, whatever comes of its own clean-up. Where a request is still under way that ends half
    way: its client would live on unseen, and connect again for ever."""
    client: Any = part._client if isinstance(part, AIOKafkaConsumer) else part.client  # noqa: SLF001 - no public one
    try:
        await answered(part.stop(), seconds)
    except Exception as error:  # noqa: BLE001 - without a broker it may fail in many ways
        _log.debug("kafka's client did not stop in order", reason=type(error).__name__)
        with suppress(Exception):
            await answered(client.close(), seconds)


def _look_away(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()
