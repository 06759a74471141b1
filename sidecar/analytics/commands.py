"""What `sidecar audit cat --kafka` does, as a plain function that writes to a stream and returns the exit code."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import Final, TextIO

from aiokafka.errors import KafkaError

from sidecar.analytics.consumer import Consumer, TopicUnreadableError
from sidecar.audit.commands import UnprintableError, print_read, unprinted
from sidecar.audit.kafka_producer import CredentialsUnreadableError, problem_of
from sidecar.config import Kafka
from sidecar.kafka_connection import hearing_causes

_AGAIN_SECONDS: Final = 1.0


def cat(kafka: Kafka, out: TextIO, errors: TextIO, *, follow: bool = False) -> int:
    """Prints the records of the audit's topic as JSON lines, each once, those of one instance in their order; with
    `follow` goes on as they come, over any absence of Kafka.

    Exit 1 where a message is no record, or where not all could be read or printed.
    """
    library = logging.getLogger("aiokafka")
    library.propagate = False  # what it has to say is said here, once
    library.addHandler(nowhere := logging.NullHandler())
    try:
        return asyncio.run(_cat(Consumer(kafka), kafka.username, out, errors, follow=follow))
    except KeyboardInterrupt:
        return 0 if follow else 1
    finally:
        library.removeHandler(nowhere)
        library.propagate = True


async def _cat(consumer: Consumer, username: str | None, out: TextIO, errors: TextIO, *, follow: bool) -> int:
    faulty, said = False, ""
    while True:
        causes: list[BaseException] = []
        try:
            with hearing_causes(causes):
                async with aclosing(consumer.read(follow=follow)) as messages:
                    async for delivered in messages:
                        said = ""
                        faulty = print_read(delivered, out, errors) or faulty
            print_read(None, out, errors)
            return 1 if faulty else 0
        except UnprintableError as error:
            return unprinted(error, out, errors) or int(faulty)
        except (TopicUnreadableError, CredentialsUnreadableError, KafkaError, OSError) as error:
            problem = _problem(error, causes, username)
        if problem != said:
            errors.write(f"{consumer.topic}: {problem}\n")
            said = problem
        if not follow:
            return 1
        await asyncio.sleep(_AGAIN_SECONDS)


def _problem(error: Exception, causes: list[BaseException], username: str | None) -> str:
    if isinstance(error, TopicUnreadableError):
        return str(error)
    cause = causes[-1] if causes and isinstance(error, KafkaError | TimeoutError) else error
    return problem_of(cause, username, "read")[1]
