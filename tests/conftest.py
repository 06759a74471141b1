"""What all tests share: each real part is started by one module of `tests/real/`, which brings its own fixtures."""

from __future__ import annotations

import pytest
from hypothesis import settings

pytest_plugins = [
    "tests.real.helm",
    "tests.real.kafka",
    "tests.real.kube",
    "tests.real.injector",
    "tests.real.openbao",
    "tests.real.database",
    "tests.real.replay_server",
    "tests.real.sidecar",
]

# How long an example takes is the machine's matter, not the code's.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the Secrets API is held against its description, and which requests are made up for it."""
    parser.addoption("--fuzz-seed", default="20261128", help="schemathesis: the seed")
    parser.addoption("--fuzz-examples", default="6", help="schemathesis: examples of each operation")
