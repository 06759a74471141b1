"""The plain manifests are what the chart makes: a change of a template is seen in the files that it changes."""

from __future__ import annotations

import pytest

from tests.deploy.manifests import differing
from tests.real.helm import BUILD_TIMEOUT, Helm

pytestmark = [pytest.mark.real, pytest.mark.timeout(BUILD_TIMEOUT)]


def test_the_plain_manifests_are_what_the_chart_makes(helm: Helm) -> None:
    assert [*differing(helm)] == [], "run `make manifests` and look at the difference"
