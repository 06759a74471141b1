"""Pods as a real API server lets them in, with its own defaulting, validation and admission around the injector."""

from __future__ import annotations

import pytest

from tests.injector.conftest import Cluster
from tests.injector.making import NAMESPACE, pod, sidecar_of
from tests.real.kube import BUILD_TIMEOUT

pytestmark = [pytest.mark.real, pytest.mark.timeout(BUILD_TIMEOUT)]


def test_a_pod_comes_back_with_its_sidecar(cluster: Cluster) -> None:
    made = cluster.kube.call("POST", f"/api/v1/namespaces/{NAMESPACE}/pods", pod())
    assert sidecar_of(made)["restartPolicy"] == "Always"
