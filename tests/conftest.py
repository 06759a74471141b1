"""What all tests share: each real part is started by one module of `tests/real/`, which brings its own fixtures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import structlog
from hypothesis import settings


def _configured(configure: Callable[..., None], **options: Any) -> None:
    configure(**options | {"cache_logger_on_first_use": False})


pytest_plugins = [
    "tests.real.processes",
    "tests.real.helm",
    "tests.real.kafka",
    "tests.real.kube",
    "tests.real.injector",
    "tests.real.openbao",
    "tests.real.database",
    "tests.real.replay_server",
    "tests.real.sidecar",
]

# A logger that one test's settings are kept in would not hear of the next test's.
structlog.configure = partial(_configured, structlog.configure)

# How long an example takes is the machine's matter, not the code's.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the Secrets API is held against its description, and which requests are made up for it."""
    parser.addoption("--fuzz-seed", default="20261128", help="schemathesis: the seed")
    parser.addoption("--fuzz-examples", default="6", help="schemathesis: examples of each operation")
