"""Kubernetes' own schemas, without a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import kubernetes_validate  # type: ignore[import-untyped]  # the package ships no types
import pytest

from tests.real.helm import KUBERNETES

OF_OTHERS: Final = ("monitoring.coreos.com/", "cert-manager.io/")
"""Groups that are not Kubernetes' own, so that its schemas do not know them."""


def assert_valid(manifest: Mapping[str, Any]) -> None:
    """Fails where a manifest is not valid; unknown fields are refused."""
    if manifest["apiVersion"].startswith(OF_OTHERS):
        return
    try:
        kubernetes_validate.validate(manifest, KUBERNETES.rpartition(".")[0], strict=True)
    except kubernetes_validate.ValidationError as error:
        pytest.fail(f"{manifest['kind']} {'.'.join(map(str, error.path))}: {error.message}")
