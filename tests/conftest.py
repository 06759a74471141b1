"""What all tests share: each real part is started by one module of `tests/real/`, which brings its own fixtures."""

from __future__ import annotations

pytest_plugins = ["tests.real.kafka", "tests.real.openbao", "tests.real.sidecar"]
