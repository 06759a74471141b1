"""What all tests share: each real part is started by one module of `tests/real/`, which brings its own fixtures."""

from __future__ import annotations

from hypothesis import settings

pytest_plugins = [
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
