"""A cluster with an injector, shared by the tests of one module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.injector.making import NAMESPACE, config
from tests.real.go_tools import cached_go_tool
from tests.real.injector import LABEL, InjectorProcess, namespace, register
from tests.real.kube import KUBE_APISERVER, KubeApi


class Cluster:
    """A real API server that gives pods their accounts' tokens, with a real injector beside it."""

    def __init__(self, kube: KubeApi, injector: InjectorProcess) -> None:
        self.kube = kube
        self.injector = injector

    def namespace(self, name: str, *, injected: bool = True) -> None:
        """A namespace with its default account."""
        namespace(self.kube, name, **({LABEL: "enabled"} if injected else {}))
        self.kube.service_account("default", name)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """An API server of its own: what it lets in depends on the injector."""
    capture: Any = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        binary = cached_go_tool(KUBE_APISERVER)
    with KubeApi(tmp_path_factory.mktemp("injected"), binary, service_accounts=True) as kube:
        configured = config().model_dump(mode="json")
        injector = InjectorProcess(
            tmp_path_factory.mktemp("injector"), kube, configured["sidecar"], configured["namespaces"]
        )
        register(kube, injector.port)
        injector.start()
        made = Cluster(kube, injector)
        made.namespace(NAMESPACE)
        try:
            yield made
        finally:
            injector.stop()
