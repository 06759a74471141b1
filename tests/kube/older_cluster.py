"""`make kube-versions`: chart and injector before an API server that knows no native sidecars.

Run by name with a `KUBE_VERSION` below 1.29. `make test` does not: it would be one more API server to build.
"""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.attack.test_kube import changed, posted, refusal, running
from tests.deploy.schemas import OF_OTHERS, assert_valid
from tests.deploy.test_chart_applied import NAMESPACE, OPENBAO, pods, rendered
from tests.deploy.values import BUILT, CHART, GATEWAYS, INJECTORS, values
from tests.injector.difference import assert_only_added
from tests.injector.making import Tree, annotated, pod, sidecar_of
from tests.injector.shapes import SHAPES
from tests.injector.test_real_cluster import PUBLIC, again, plain, refused, tried
from tests.kube.place import Place
from tests.kube.test_injected_pod import classic_ends_after_the_application, injector, place
from tests.real.helm import BUILD_TIMEOUT as HELM_TIMEOUT
from tests.real.helm import Helm, HelmRefused
from tests.real.injector import Cluster, InjectorProcess
from tests.real.kube import BUILD_TIMEOUT, KubeApi
from tests.real.kube_version import HAS_NATIVE_SIDECARS

__all__ = ["injector", "place", "plain", "running"]  # fixtures
pytestmark = [pytest.mark.real, pytest.mark.timeout(BUILD_TIMEOUT + HELM_TIMEOUT)]

POSSIBLE: Final = SHAPES | PUBLIC
INSTALLED: Final = {f"beside applications, {name}": case for name, case in BUILT.items()} | GATEWAYS | INJECTORS


def test_the_cluster_is_an_older_one() -> None:
    assert not HAS_NATIVE_SIDECARS, "set KUBE_VERSION, or run `make kube-versions`"


# -- the chart -------------------------------------------------------------------------------------------------------
def test_all_of_the_chart_but_its_example_is_taken(helm: Helm, kube: KubeApi) -> None:
    for name in (NAMESPACE, OPENBAO):
        kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    for changes in INSTALLED.values():
        if changes.get("injector.nativeSidecars") == "always":
            continue
        manifests = rendered(helm, values(changes, example=False))
        for manifest in (one for one in manifests + pods(manifests) if not one["apiVersion"].startswith(OF_OTHERS)):
            assert_valid(manifest)
            kube.apply(manifest, dry_run=True)


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("example.enabled", {}),
        ("injector.nativeSidecars", INJECTORS["injector"] | {"injector.nativeSidecars": "always"}),
    ],
)
def test_what_needs_native_sidecars_is_refused(helm: Helm, key: str, changes: dict[str, Any]) -> None:
    with pytest.raises(HelmRefused, match=f"{key}: Kubernetes v1"):
        helm.template(CHART, values(changes))


# -- the injector ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", POSSIBLE.values(), ids=POSSIBLE.keys())
def test_a_pod_gets_a_classic_sidecar_unless_it_would_never_end(cluster: Cluster, plain: str, shape: Tree) -> None:
    wanted = pod(shape)
    if shape.get("restartPolicy", "Always") != "Always":
        assert "restartPolicy" in refused(cluster, wanted)
        return
    before, after = tried(cluster, wanted, plain), tried(cluster, wanted)
    assert_only_added(before["spec"], after["spec"])
    assert "restartPolicy" not in sidecar_of(after, native=False)
    assert tried(cluster, again(after))["spec"] == after["spec"]


def test_without_the_injector_running_pods_are_cared_for_and_none_is_made(cluster: Cluster, running: Tree) -> None:
    """The registration's conditions are read as by a newer cluster."""
    cluster.injector.stop()
    try:
        harmless = {"metadata": {"labels": {"a": "b"}, "annotations": {"cni.example/ip": "10.1.1.1"}}}
        assert changed(cluster, running, harmless)["kind"] == "Pod"
        for change in (annotated(tenant_id="umbrella"), annotated(status=None)):
            assert "openbao-sidecar.io" in refusal(changed(cluster, running, {"metadata": {"annotations": change}}))
        assert "openbao-sidecar.io" in refusal(posted(cluster, pod()))
    finally:
        cluster.injector.start()


@pytest.mark.parametrize("hooked", [True, False], ids=["as it is", "without its hook"])
def test_an_injected_pod_runs(place: Place, injector: InjectorProcess, hooked: bool) -> None:
    classic_ends_after_the_application(place, hooked=hooked)
