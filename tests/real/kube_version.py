"""Which Kubernetes the tests are about: another one where `KUBE_VERSION` says so (`make kube-versions`)."""

from __future__ import annotations

import os
from typing import Final

VERSION: Final = os.environ.get("KUBE_VERSION", "1.34.4")
"""A release of k8s.io/kubernetes."""
MINOR: Final = VERSION.rpartition(".")[0]
"""Such as `1.34`."""
HAS_NATIVE_SIDECARS: Final = tuple(map(int, MINOR.split("."))) >= (1, 29)
