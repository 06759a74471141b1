"""What the chart makes of values, rendered by the real Helm."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.app import DRAIN_SECONDS
from sidecar.config import Config, Environment, load, split_address
from sidecar.decision.cedar import CedarPdp
from tests.deploy.how_to import code_block
from tests.deploy.pod import (
    application_container,
    config_file,
    config_tree,
    environment,
    of_kind,
    pod_spec,
    sidecar_container,
)
from tests.deploy.schemas import assert_valid
from tests.deploy.values import BUILT, CASES, CHART, values
from tests.real.helm import BUILD_TIMEOUT, Helm, HelmRefused

pytestmark = [pytest.mark.real, pytest.mark.timeout(BUILD_TIMEOUT)]


@functools.cache
def rendered(helm: Helm, case: str) -> list[dict[str, Any]]:
    """The manifests of a case; nobody changes them."""
    return helm.template(CHART, values(CASES[case]))


def loaded(manifests: list[dict[str, Any]], root: Path) -> Config:
    """The rendered configuration, read by the sidecar from where the pod would have it."""
    return load(config_file(manifests, root), environment(manifests))


# -- every case ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", CASES)
def test_every_manifest_is_valid_kubernetes(helm: Helm, case: str) -> None:
    manifests = rendered(helm, case)
    assert len(manifests) >= 2
    for manifest in manifests:
        assert_valid(manifest)
        assert manifest["metadata"]["namespace"] == "default"


@pytest.mark.parametrize("case", CASES)
def test_lint_has_nothing_to_say(helm: Helm, case: str) -> None:
    assert "1 chart(s) linted, 0 chart(s) failed" in helm.lint(CHART, values(CASES[case]))


@pytest.mark.parametrize("case", BUILT)
def test_the_sidecar_takes_the_rendered_configuration(helm: Helm, case: str, tmp_path: Path) -> None:
    config = loaded(rendered(helm, case), tmp_path)
    assert config.tenant.id == "acme"
    assert config.listen.address == "127.0.0.1:8200"


@pytest.mark.parametrize("case", CASES)
def test_all_that_the_sidecar_mounts_is_out_of_the_applications_reach(helm: Helm, case: str) -> None:
    manifests = rendered(helm, case)
    application, sidecar, spec = application_container(manifests), sidecar_container(manifests), pod_spec(manifests)
    assert "volumeMounts" not in application
    assert {mount["name"] for mount in sidecar["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    assert {entry["name"] for entry in application["env"]} == {"VAULT_ADDR", "BAO_ADDR"}
    assert spec["automountServiceAccountToken"] is False
    assert "shareProcessNamespace" not in spec
    assert "hostNetwork" not in spec
    assert application["securityContext"]["runAsUser"] != sidecar["securityContext"]["runAsUser"]


@pytest.mark.parametrize("case", CASES)
def test_both_containers_meet_the_restricted_pod_security_standard(helm: Helm, case: str) -> None:
    manifests = rendered(helm, case)
    for container in (application_container(manifests), sidecar_container(manifests)):
        context = container["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    allowed = {"configMap", "projected", "emptyDir", "name"}
    assert all(set(volume) <= allowed for volume in pod_spec(manifests)["volumes"])


# -- defaults ------------------------------------------------------------------------------------------------------
def test_what_is_not_said_is_safe(helm: Helm, tmp_path: Path) -> None:
    config = loaded(rendered(helm, "least"), tmp_path)
    assert config.environment is Environment.PROD
    assert config.identity.required
    assert config.identity.binding == "required"
    assert config.identity.audience == "crud.secrets"
    assert config.authorization.enabled
    assert config.anti_replay.dpop_nonce == "required"
    assert (config.audit.durability, config.audit.on_failure) == ("fsync", "deny")


def test_without_a_policy_everything_is_denied(helm: Helm, tmp_path: Path) -> None:
    manifests = rendered(helm, "least")
    config = loaded(manifests, tmp_path)
    (policies,) = (one for one in of_kind(manifests, "ConfigMap") if "deny.cedar" in one["data"])
    assert "forbid (principal, action, resource);" in policies["data"]["deny.cedar"]
    assert CedarPdp(config.authorization.cedar).warnings == ()


def test_policies_are_read_through_the_links_that_a_mounted_config_map_is_made_of(helm: Helm, tmp_path: Path) -> None:
    config = loaded(rendered(helm, "given policies"), tmp_path)
    assert config.authorization.cedar.policies is not None
    assert (config.authorization.cedar.policies / "app.cedar").is_symlink()
    assert CedarPdp(config.authorization.cedar)


def test_without_the_example_there_is_no_workload(helm: Helm) -> None:
    kinds = {manifest["kind"] for manifest in helm.template(CHART, values(example=False))}
    assert kinds == {"ConfigMap", "ServiceAccount"}


def test_the_how_tos_values_are_taken_by_the_chart_and_by_the_sidecar(helm: Helm, tmp_path: Path) -> None:
    manifests = helm.template(CHART, yaml.safe_load(code_block("yaml")))
    config = loaded(manifests, tmp_path)
    assert config.tenant.id == "acme"
    assert CedarPdp(config.authorization.cedar).warnings == ()
    assert sidecar_container(manifests)["image"] == "registry.example/openbao-sidecar:0.1.0"


# -- the pod -------------------------------------------------------------------------------------------------------
def test_the_application_needs_nothing_but_an_address_on_loopback(helm: Helm) -> None:
    manifests = rendered(helm, "least")
    given = {entry["name"]: entry["value"] for entry in application_container(manifests)["env"]}
    assert given == {"VAULT_ADDR": "http://127.0.0.1:8200", "BAO_ADDR": "http://127.0.0.1:8200"}
    assert config_tree(manifests)["listen"]["address"] == "127.0.0.1:8200"


def test_the_sidecar_starts_before_the_application_and_is_given_time_after_it(helm: Helm) -> None:
    manifests = helm.template(CHART, values({"example.graceSeconds": 45}))
    sidecar = sidecar_container(manifests)
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["startupProbe"]["httpGet"]["path"] == "/readyz"
    assert pod_spec(manifests)["terminationGracePeriodSeconds"] >= 45 + DRAIN_SECONDS + 5


def test_probes_reach_the_address_that_the_operations_listener_has(helm: Helm, tmp_path: Path) -> None:
    manifests = rendered(helm, "least")
    host, port = split_address(loaded(manifests, tmp_path).ops.address)
    sidecar = sidecar_container(manifests)
    assert host == "0.0.0.0"  # the kubelet comes to the pod's address, never to its loopback
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert sidecar[probe]["httpGet"]["port"] == port
        assert "host" not in sidecar[probe]["httpGet"]


def test_only_prometheus_may_connect_to_the_pods(helm: Helm) -> None:
    manifests = helm.template(CHART, values({"monitoring.namespace": "observability"}))
    (policy,) = of_kind(manifests, "NetworkPolicy")
    (deployment,) = of_kind(manifests, "Deployment")
    selected = policy["spec"]["podSelector"]["matchLabels"]
    assert selected.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    (rule,) = policy["spec"]["ingress"]
    assert rule == {
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "observability"}}}],
        "ports": [{"port": 9102, "protocol": "TCP"}],
    }


def test_without_metrics_nobody_may_connect_to_the_pods(helm: Helm) -> None:
    manifests = helm.template(CHART, values({"ops.metrics.enabled": False}))
    (policy,) = of_kind(manifests, "NetworkPolicy")
    assert policy["spec"]["ingress"] == []


def test_the_service_monitor_finds_the_service_and_the_service_the_pods(helm: Helm) -> None:
    manifests = rendered(helm, "service monitor")
    (monitor,), (service,) = of_kind(manifests, "ServiceMonitor"), of_kind(manifests, "Service")
    (deployment,) = of_kind(manifests, "Deployment")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    (endpoint,), (port,) = monitor["spec"]["endpoints"], service["spec"]["ports"]
    assert (endpoint["port"], endpoint["path"], port["targetPort"]) == (port["name"], "/metrics", 9102)
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


@pytest.mark.parametrize("case", ["kubernetes login", "jwt login"])
def test_the_projected_token_has_an_audience_of_its_own_and_one_reader(helm: Helm, case: str) -> None:
    manifests = helm.template(CHART, values(CASES[case] | {"ops.upstream.auth.audience": "bao.acme"}))
    (volume,) = (one for one in pod_spec(manifests)["volumes"] if one["name"] == "sidecar-token")
    ((source,),) = (volume["projected"]["sources"],)
    assert source["serviceAccountToken"]["audience"] == "bao.acme"
    auth = config_tree(manifests)["upstream"]["auth"]
    assert (auth["role"], auth["jwt_file"]) == ("app", "/run/sidecar/token/token")


def test_a_login_that_needs_no_projected_token_gets_none(helm: Helm) -> None:
    assert "serviceAccountToken" not in str(rendered(helm, "least"))


def test_checkpoints_and_the_way_to_kafka_are_set_by_values(helm: Helm, tmp_path: Path) -> None:
    assert loaded(rendered(helm, "least"), tmp_path).audit.checkpoint.key_file is None
    manifests = rendered(helm, "checkpoints")
    checkpoint = loaded(manifests, tmp_path / "checkpoints").audit.checkpoint
    assert (checkpoint.every_records, checkpoint.every_seconds) == (50, 1.5)
    assert str(checkpoint.key_file).endswith("/run/sidecar/secrets/audit/key.pem")
    (secrets,) = [one for one in pod_spec(manifests)["volumes"] if one["name"] == "sidecar-secrets"]
    mounted = {"name": "audit-key", "items": [{"key": "key.pem", "path": "audit/key.pem"}]}
    assert {"secret": mounted} in secrets["projected"]["sources"]
    kafka = loaded(rendered(helm, "kafka"), tmp_path / "kafka").audit.kafka
    assert (kafka.compression, kafka.max_records_per_second) == ("zstd", 500)


def test_the_spools_volume_holds_more_than_the_journal_takes(helm: Helm) -> None:
    for spool in (1, 256, 1_048_576):
        manifests = helm.template(CHART, values({"ops.audit.maxSpoolMib": spool}))
        (volume,) = (one for one in pod_spec(manifests)["volumes"] if "emptyDir" in one)
        assert int(volume["emptyDir"]["sizeLimit"].removesuffix("Mi")) >= spool + 64


def test_a_changed_configuration_or_policy_rolls_the_pods(helm: Helm) -> None:
    def annotations(changes: dict[str, Any]) -> str:
        (deployment,) = of_kind(helm.template(CHART, values(changes)), "Deployment")
        return str(deployment["spec"]["template"]["metadata"]["annotations"])

    seen = {
        annotations({}),
        annotations({"ops.grants.defaultMaxUses": 2}),
        annotations({"policies": {"a.cedar": "permit (principal, action, resource);"}}),
    }
    assert len(seen) == 3


def test_no_secret_stands_in_what_is_rendered(helm: Helm) -> None:
    for case in CASES:
        manifests = rendered(helm, case)
        assert not of_kind(manifests, "Secret")
        tree = config_tree(manifests)
        assert "salt" not in tree["tenant"]
        assert "token" not in tree["upstream"]["auth"]


@pytest.mark.parametrize("release", ["openbao-sidecar", "a", "x" * 53, "team-openbao-sidecar-7"])
def test_names_stay_within_what_kubernetes_takes(helm: Helm, release: str) -> None:
    for manifest in helm.template(CHART, values({"ops.metrics.serviceMonitor": True}), release=release):
        assert len(manifest["metadata"]["name"]) <= 63
        assert_valid(manifest)


def test_as_a_part_of_another_chart_it_takes_helms_global_values(helm: Helm) -> None:
    assert helm.template(CHART, values({"global": {"region": "eu"}}))
    with pytest.raises(HelmRefused):
        helm.template(CHART, values({"globl": {"region": "eu"}}))


@pytest.mark.parametrize(
    ("case", "auth"),
    [
        ("exchange", {"mode": "exchange", "role": "app", "method": "approle", "secret_id_file": True}),
        ("exchange at kubernetes", {"mode": "exchange", "role": "app", "method": "kubernetes", "jwt_file": True}),
        ("exchange without a login of its own", {"mode": "exchange", "mount": "team/jwt"}),
        ("passthrough", {"mode": "passthrough", "method": "approle", "secret_id_file": True}),
        ("passthrough without a login of its own", {"mode": "passthrough"}),
    ],
)
def test_beside_exchange_and_passthrough_there_is_a_login_of_its_own_unless_mounts_are_named(
    helm: Helm, case: str, auth: dict[str, Any], tmp_path: Path
) -> None:
    manifests = rendered(helm, case)
    given = config_tree(manifests)["upstream"]["auth"]
    assert {key: True if key.endswith("_file") else value for key, value in given.items()} == auth
    assert loaded(manifests, tmp_path).upstream.has_own_login is (len(auth) > 2)
    assert ("openbao-sidecar-login" in str(manifests)) is ("secret_id_file" in auth)
