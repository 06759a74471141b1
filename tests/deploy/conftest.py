"""Helm for the tests of the chart, built where this machine does not have it yet."""

from __future__ import annotations

import pytest
from _pytest.capture import CaptureManager

from tests.real.go_tools import cached_go_tool
from tests.real.helm import HELM, Helm


@pytest.fixture(scope="session")
def helm(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """The real Helm. The first time on a machine it is built, and that is seen."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    assert isinstance(capture, CaptureManager)
    with capture.global_and_fixture_disabled():
        binary = cached_go_tool(HELM)
    return Helm(binary, tmp_path_factory.mktemp("helm"))
