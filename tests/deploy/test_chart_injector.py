"""The chart's injector: what it is told, what it may, and what its sidecars then have."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.config import Config
from sidecar.config import load as load_sidecar
from sidecar.injector.admit import Rules
from sidecar.injector.app import DRAIN_SECONDS
from sidecar.injector.config import InjectorConfig, load
from sidecar.injector.names import UNTOUCHED_NAMESPACES
from sidecar.injector.review import SUBRESOURCES
from tests.deploy.pod import config_file, environment, of_kind
from tests.deploy.schemas import assert_valid
from tests.deploy.values import CHART, INJECTOR, INJECTORS, values
from tests.injector.making import injected, pod, sidecar_of
from tests.real.helm import BUILD_TIMEOUT, Helm, HelmRefused
from tests.real.injector import HAS_A_SAY

pytestmark = [pytest.mark.real, pytest.mark.timeout(BUILD_TIMEOUT)]

NAMESPACE = "bao-injector"


@functools.cache
def rendered(helm: Helm, case: str) -> list[dict[str, Any]]:
    """The manifests of a case; nobody changes them."""
    return helm.template(CHART, values(INJECTORS[case]), "--namespace", NAMESPACE)


def one(manifests: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The only one of a kind."""
    (found,) = of_kind(manifests, kind)
    return dict(found)


def loaded(manifests: list[dict[str, Any]], root: Path) -> InjectorConfig:
    """The rendered configuration, read by the injector."""
    file = root / "config.yaml"
    file.write_text(one(manifests, "ConfigMap")["data"]["config.yaml"])
    return load(file)


# -- every case ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", INJECTORS)
def test_every_manifest_is_valid_kubernetes_and_lint_has_nothing_to_say(helm: Helm, case: str) -> None:
    for manifest in rendered(helm, case):
        assert_valid(manifest)
    assert "1 chart(s) linted, 0 chart(s) failed" in helm.lint(CHART, values(INJECTORS[case]))


@pytest.mark.parametrize("case", INJECTORS)
def test_its_sidecars_take_what_they_are_told(helm: Helm, case: str, tmp_path: Path) -> None:
    """The whole way: the injector reads the rendered configuration, changes a pod, and the sidecar of that pod reads
    what it finds there."""
    config = loaded(rendered(helm, case), tmp_path)
    (namespace, allowed), *_ = config.namespaces.items()
    asked = pod()
    asked["metadata"]["namespace"] = namespace
    made = injected(asked, Rules(config, NAMESPACE, True), namespace=namespace)
    assert all(entry.get("value") != "" for entry in sidecar_of(made)["env"]), "the API server drops empty ones"
    sidecar = _sidecar(made, tmp_path / "pod")
    tenant = allowed.tenants[0]
    assert (sidecar.tenant.id, sidecar.tenant.allowed_mounts) == (tenant.id, tenant.allowed_mounts)
    assert sidecar.upstream.auth.role == tenant.roles[0]
    assert sidecar.identity.pod.enabled
    assert sidecar.environment.value == "prod"
    assert sidecar.anti_replay.dpop_nonce == "required"
    if case == "injector with all that sidecars may be told":
        assert sidecar.authorization.authzen.timeout_ms == 300
        assert sidecar.authorization.authzen.client_cert_file is not None
        assert sidecar.audit.kafka.username == "from-username"
        assert sidecar.audit.kafka.sasl_mechanism == "SCRAM-SHA-512"
        assert sidecar.identity.issuers[0].token_file is not None
        assert sidecar.ops.trace_ratio == 0.5
        assert sidecar.ops.token_file is not None
        assert sidecar.upstream.timeout_seconds == 10
        assert sidecar.mounts is not None


def _sidecar(made: dict[str, Any], root: Path) -> Config:
    """What the sidecar reads; where all is pinned, its namespace's ConfigMap has nothing to say."""
    theirs = {"kind": "ConfigMap", "metadata": {"name": "sidecar-config"}, "data": {"config.yaml": "{}\n"}}
    manifests = [made, theirs]
    file = config_file(manifests, root)
    found = {name: text.replace("$$(", "$(") for name, text in environment(manifests).items()}
    return load_sidecar(
        file, {name: re.sub(r"(?:^|(?<=\"))/(?=(?:etc|run|var)/)", f"{root}/", text) for name, text in found.items()}
    )


# -- it fails closed ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", INJECTORS)
def test_what_is_registered_is_what_the_injectors_page_asks_for(helm: Helm, case: str) -> None:
    manifests = rendered(helm, case)
    service = one(manifests, "Service")
    for kind, path in (("MutatingWebhookConfiguration", "/mutate"), ("ValidatingWebhookConfiguration", "/validate")):
        (webhook,) = one(manifests, kind)["webhooks"]
        assert webhook["failurePolicy"] == "Fail"
        assert webhook["sideEffects"] == "None"
        assert webhook["matchPolicy"] == "Equivalent"
        assert webhook["admissionReviewVersions"] == ["v1"]
        assert 1 <= webhook["timeoutSeconds"] <= 30
        assert "objectSelector" not in webhook, "a pod must not be able to leave by its labels"
        assert webhook["namespaceSelector"]["matchLabels"] == {"openbao-sidecar.io/injection": "enabled"}
        (left_out,) = webhook["namespaceSelector"]["matchExpressions"]
        assert (left_out["key"], left_out["operator"]) == ("kubernetes.io/metadata.name", "NotIn")
        assert set(left_out["values"]) == UNTOUCHED_NAMESPACES | {NAMESPACE}
        client = webhook["clientConfig"]
        assert "caBundle" not in client
        assert client["service"] == {
            "name": service["metadata"]["name"],
            "namespace": NAMESPACE,
            "path": path,
            "port": 443,
        }
        asked = {
            (operation, resource)
            for rule in webhook["rules"]
            for operation in rule["operations"]
            for resource in rule["resources"]
        }
        entering = {("CONNECT", f"pods/{how}") for how in ("exec", "attach", "portforward")}
        if INJECTORS[case].get("injector.allowPortForward"):
            entering.remove(("CONNECT", "pods/portforward"))
        changing = {("UPDATE", "pods"), ("UPDATE", "pods/ephemeralcontainers")}
        assert asked == {("CREATE", "pods")} | (entering | changing if path == "/validate" else set())
        conditions = [one["expression"].split() for one in webhook.get("matchConditions", ())]
        assert conditions == ([HAS_A_SAY.split()] if path == "/validate" else [])
        assert webhook.get("reinvocationPolicy") == ("IfNeeded" if path == "/mutate" else None)


def test_all_that_the_injector_has_a_say_in_is_registered(helm: Helm) -> None:
    """But a change of resources, of which it lets in every one."""
    (webhook,) = one(rendered(helm, "injector"), "ValidatingWebhookConfiguration")["webhooks"]
    asked = {resource.partition("/")[2] for rule in webhook["rules"] for resource in rule["resources"]}
    assert asked == SUBRESOURCES - {"resize"}


def test_two_releases_of_one_name_do_not_share_what_belongs_to_the_cluster(helm: Helm) -> None:
    names = [
        {
            each["metadata"]["name"]
            for each in helm.template(CHART, values(INJECTOR), "--namespace", namespace)
            if "namespace" not in each["metadata"]
        }
        for namespace in ("one", "two")
    ]
    assert names[0]
    assert not names[0] & names[1]


def test_replicas_are_apart_and_an_ending_one_serves_until_it_is_known(helm: Helm) -> None:
    manifests = rendered(helm, "injector")
    deployment = one(manifests, "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    selected = deployment["spec"]["selector"]["matchLabels"]
    assert all(each["labelSelector"]["matchLabels"] == selected for each in spec["topologySpreadConstraints"])
    assert one(manifests, "PodDisruptionBudget")["spec"] == {"maxUnavailable": 1, "selector": {"matchLabels": selected}}
    linger = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] >= linger + DRAIN_SECONDS + 5


# -- what it may -------------------------------------------------------------------------------------------------------
def test_it_may_change_one_secret_and_its_own_registrations_and_nothing_else(helm: Helm) -> None:
    manifests = rendered(helm, "injector")
    role, cluster = one(manifests, "Role"), one(manifests, "ClusterRole")
    assert role["rules"] == [
        {
            "apiGroups": [""],
            "resources": ["secrets"],
            "resourceNames": [one(manifests, "Secret")["metadata"]["name"]],
            "verbs": ["get", "update"],
        }
    ]
    assert cluster["rules"] == [
        {
            "apiGroups": ["admissionregistration.k8s.io"],
            "resources": ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"],
            "resourceNames": [one(manifests, "MutatingWebhookConfiguration")["metadata"]["name"]],
            "verbs": ["get", "patch"],
        }
    ]
    account = {
        "kind": "ServiceAccount",
        "name": one(manifests, "ServiceAccount")["metadata"]["name"],
        "namespace": NAMESPACE,
    }
    assert one(manifests, "RoleBinding")["subjects"] == one(manifests, "ClusterRoleBinding")["subjects"] == [account]
    assert "data" not in one(manifests, "Secret"), "applied again it would lose what it holds"


def test_with_cert_manager_it_may_nothing_and_has_no_token(helm: Helm) -> None:
    manifests = rendered(helm, "injector with cert-manager")
    assert not [each for each in manifests if "rbac" in each["apiVersion"]]
    assert one(manifests, "Deployment")["spec"]["template"]["spec"]["automountServiceAccountToken"] is False
    assert one(manifests, "NetworkPolicy")["spec"]["egress"] == []
    secret = one(manifests, "Deployment")["spec"]["template"]["spec"]["volumes"][1]["secret"]["secretName"]
    (certificate,) = (each for each in of_kind(manifests, "Certificate") if not each["spec"].get("isCA"))
    assert certificate["spec"]["secretName"] == secret
    name = one(manifests, "Service")["metadata"]["name"]
    assert certificate["spec"]["dnsNames"] == [f"{name}.{NAMESPACE}.svc"]
    for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
        annotations = one(manifests, kind)["metadata"]["annotations"]
        assert annotations == {"cert-manager.io/inject-ca-from": f"{NAMESPACE}/{certificate['metadata']['name']}"}


def test_who_may_call_and_whom_it_calls(helm: Helm) -> None:
    policy = one(rendered(helm, "injector that tells its callers apart"), "NetworkPolicy")["spec"]
    blocks = [{"ipBlock": {"cidr": "10.1.0.0/24"}}, {"ipBlock": {"cidr": "fd00:1::/64"}}]
    assert policy["ingress"][0] == {"from": blocks, "ports": [{"port": 8443, "protocol": "TCP"}]}
    assert policy["egress"][0]["to"] == blocks
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    listen = yaml.safe_load(
        one(rendered(helm, "injector that tells its callers apart"), "ConfigMap")["data"]["config.yaml"]
    )["listen"]
    assert listen["tls"] == {"client_ca_file": "/run/clients/ca.crt", "client_cert": "required"}


def test_only_sidecars_come_to_openbao(helm: Helm) -> None:
    manifests = rendered(helm, "injector with all that sidecars may be told")
    (policy,) = (each for each in of_kind(manifests, "NetworkPolicy") if each["metadata"]["namespace"] == "openbao")
    labels = {"app.kubernetes.io/name": "openbao"}
    assert policy["spec"]["podSelector"]["matchLabels"] == labels
    own, others = policy["spec"]["ingress"]
    assert own == {"from": [{"podSelector": {"matchLabels": labels}}]}
    assert others == {
        "from": [
            {"namespaceSelector": {"matchLabels": {"openbao-sidecar.io/injection": "enabled"}}},
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "operators"}}},
        ],
        "ports": [{"port": 8200, "protocol": "TCP"}],
    }


# -- what is refused -------------------------------------------------------------------------------------------------
NAMED = {"configs": ["c"], "policiesConfigMap": "p"}


@pytest.mark.parametrize(
    "changes",
    [
        {"injector.namespaces": {}},
        {"injector.namespaces": {NAMESPACE: NAMED}},
        {"injector.namespaces": {"a": {"configs": ["c"]}}},
        {"injector.namespaces": {"a": NAMED | {"tenants": [{"id": "x"}, {"id": "x"}]}}},
        {"ops.tenant.id": ""},
        {"ops.tenant.allowedMounts": []},
        {"ops.tenant.allowedMounts": ["secret/"]},
        {"ops.tenant.saltSecret.name": ""},
        {"ops.upstream.auth.role": ""},
        {"ops.upstream.auth.role": "app$(X)"},
        {"ops.upstream.auth.method": "approle"},
        {"ops.upstream.auth.audience": "crud.secrets"},
        {"ops.identity.pod.enabled": True},
        {"ops.extraConfig": {"upstream": {"auth": {"lease_role": "x"}}}},
        {"ops.extraConfig": {"listen": {"tls": {"client_crl_file": "/run/sidecar/secrets/extra/x"}}}},
        {"policies": {"a.cedar": "permit (principal, action, resource);"}},
        {"example.enabled": True},
        {"sidecar.drainSeconds": 601},
    ],
    ids=str,
)
def test_what_weakens_or_contradicts_is_refused(helm: Helm, changes: dict[str, Any]) -> None:
    with pytest.raises(HelmRefused) as refused:
        helm.template(CHART, values(INJECTOR | changes), "--namespace", NAMESPACE)
    assert "1 problem(s) in the values" in str(refused.value)
    assert " → " in str(refused.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"injector.failurePolicy": "Ignore"},
        {"injector.timeoutSeconds": 31},
        {"injector.replicas": 0},
        {"injector.namespaces": {"kube-system": NAMED}},
        {"injector.namespaces": {"*": NAMED}},
        {"injector.namespaces": {"a\nb": NAMED}},
        {"injector.namespaces": {"a": NAMED | {"tenants": []}}},
        {"injector.namespaces": {"a": NAMED | {"configs": []}}},
        {"injector.namespaces": {"a": NAMED | {"tenants": [{"allowedMounts": []}]}}},
        {"injector.namespaces": {"a": NAMED | {"tenants": [{"allowedMounts": ["*"]}]}}},
        {"injector.namespaces": {"a": NAMED | {"tenants": [{"allowedMounts": ["a/../b"]}]}}},
        {"injector.namespaces": {"a": NAMED | {"tenants": [{"roles": ["{{ x }}"]}]}}},
        {"injector.namespaces": {"a": NAMED | {"privileged": True}}},
        {"injector.tolerated": {"env": ["SIDECAR__IDENTITY__REQUIRED"]}},
        {"injector.tolerated": {"env": ["LD_PRELOAD"]}},
        {"injector.tolerated": {"mountPaths": ["/etc/sidecar/policies"]}},
        {"injector.tolerated": {"mountPaths": ["/usr/bin"]}},
        {"injector.tolerated": {"mountPaths": ["/var/lib/sidecar/audit"]}},
        {"injector.apiServerCidrs": ["0.0.0.0/0"]},
        {"networkPolicy.openbao": {"namespace": "openbao", "podLabels": None}},
    ],
    ids=str,
)
def test_what_would_open_it_is_refused_by_the_schema(helm: Helm, changes: dict[str, Any]) -> None:
    with pytest.raises(HelmRefused, match="don't meet the specifications of the schema"):
        helm.template(CHART, values(INJECTOR | changes), "--namespace", NAMESPACE)
