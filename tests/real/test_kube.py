"""The API server of the tests is the real one: it issues tokens, and says of tokens what they are."""

from __future__ import annotations

import pytest

from tests.real.kube import BUILD_TIMEOUT, KubeApi
from tests.real.kube_version import VERSION

pytestmark = [pytest.mark.real, pytest.mark.timeout(BUILD_TIMEOUT)]


def test_it_is_the_version_that_was_built(kube: KubeApi) -> None:
    assert kube.call("GET", "/version")["gitVersion"] == f"v{VERSION}"


def test_it_issues_tokens_for_an_audience_and_reviews_them(kube: KubeApi) -> None:
    kube.service_account("reviewed")
    token = kube.token("reviewed", audiences=["openbao"])
    status = kube.review(token, audiences=["openbao"])
    assert status["authenticated"] is True
    assert status["user"]["username"] == "system:serviceaccount:default:reviewed"
    assert kube.review(token).get("authenticated") is not True  # not its own audience
    header, payload, signature = token.split(".")
    assert kube.review(f"{header}.{payload}.{signature[::-1]}", audiences=["openbao"]).get("authenticated") is not True
