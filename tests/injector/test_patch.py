"""What becomes of a pod: the sidecar first, the application led to it, all else as it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.deploy.schemas import assert_valid
from tests.injector.making import (
    Tree,
    annotated,
    answered,
    injected,
    patched,
    pod,
    rules,
    setting,
    sidecar_of,
    variables,
    why_not,
)

HERE = "http://127.0.0.1:8200"
SOCKET = "unix:///run/openbao-sidecar/sidecar.sock"
INIT: Tree = {"initContainers": [{"name": "migrate", "image": "app:1", "env": [{"name": "A", "value": "1"}]}]}


def test_a_pod_gets_its_sidecar_first_as_an_init_container_that_stays() -> None:
    after = injected(pod(INIT))
    assert [one["name"] for one in after["spec"]["initContainers"]] == ["openbao-sidecar", "migrate"]
    sidecar = sidecar_of(after)
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["startupProbe"]["httpGet"] == {"path": "/readyz", "port": 9102, "scheme": "HTTP"}
    assert after["metadata"]["annotations"]["openbao-sidecar.io/status"] == "injected"
    assert_valid(after)


def test_every_container_is_led_to_it_init_containers_too() -> None:
    spec = INIT | {"containers": [{"name": "web", "image": "w"}, {"name": "log", "image": "l"}]}
    after = injected(pod(spec))
    for container in (*after["spec"]["initContainers"][1:], *after["spec"]["containers"]):
        found = variables(container)
        assert (found["VAULT_ADDR"], found["BAO_ADDR"]) == (HERE, HERE)
        assert "VAULT_AGENT_ADDR" not in found


def test_only_the_chosen_containers_are_led_to_it() -> None:
    after = injected(pod(INIT, containers="app"))
    assert "VAULT_ADDR" in variables(after["spec"]["containers"][0])
    assert "VAULT_ADDR" not in variables(after["spec"]["initContainers"][1])


def test_the_agents_address_is_set_where_asked() -> None:
    after = injected(pod(vault_agent_addr="true"))
    assert variables(after["spec"]["containers"][0])["VAULT_AGENT_ADDR"] == HERE


def test_the_pod_is_the_caller_by_its_own_token_unless_it_says_no() -> None:
    after = injected(pod())
    assert setting(sidecar_of(after), "IDENTITY__POD") == {"enabled": True, "token_file": "/run/sidecar/token/pod"}
    (volume,) = (one for one in after["spec"]["volumes"] if one["name"] == "openbao-sidecar-token")
    tokens = [one["serviceAccountToken"] for one in volume["projected"]["sources"]]
    assert [(one["audience"], one["path"]) for one in tokens] == [("openbao", "token"), ("crud.secrets", "pod")]
    after = injected(pod(pod_identity="false"))
    assert setting(sidecar_of(after), "IDENTITY__POD") == {"enabled": False}


def test_only_the_sidecar_mounts_what_is_its_own() -> None:
    after = injected(pod(INIT))
    for container in (*after["spec"]["initContainers"][1:], *after["spec"]["containers"]):
        assert not container.get("volumeMounts")
    mounted = {one["name"] for one in sidecar_of(after)["volumeMounts"]}
    assert mounted == {one["name"] for one in after["spec"]["volumes"]}


def test_what_a_configmap_must_not_decide_is_set_above_it() -> None:
    sidecar = sidecar_of(injected(pod()))
    assert setting(sidecar, "ENVIRONMENT") == "prod"
    assert setting(sidecar, "LISTEN") == {"address": "127.0.0.1:8200"}
    assert setting(sidecar, "TENANT") == {
        "id": "acme",
        "allowed_mounts": ["secret", "team/kv"],
        "salt_file": "/run/sidecar/secrets/salt",
    }
    upstream = setting(sidecar, "UPSTREAM")
    assert upstream["address"] == "https://openbao.openbao.svc:8200"
    assert upstream["tls"] == {"ca_file": "/etc/sidecar/trust/openbao.crt"}
    assert upstream["auth"] == {
        "mode": "broker",
        "method": "kubernetes",
        "role": "app",
        "jwt_file": "/run/sidecar/token/token",
    }


def test_pinned_sections_are_set_above_the_configmap_too() -> None:
    pinned = {"scopes": {"enforce": True}, "identity": {"binding": "required", "audience": "crud.secrets"}}
    sidecar = sidecar_of(injected(pod(), rules(pinned=pinned)))
    assert setting(sidecar, "SCOPES") == {"enforce": True}
    assert setting(sidecar, "IDENTITY")["pod"]["enabled"] is True
    assert "SIDECAR__IDENTITY__POD" not in variables(sidecar)


def test_kubernetes_expands_no_reference_in_what_is_set() -> None:
    sidecar = sidecar_of(injected(pod(), rules(pinned={"scopes": {"x": "$(HOME)"}})))
    assert variables(sidecar)["SIDECAR__SCOPES"] == '{"x":"$$(HOME)"}'


def test_annotations_narrow_tenant_mounts_role_and_config() -> None:
    after = injected(pod(allowed_mounts="team/kv", role="batch", config="sidecar-quiet"))
    sidecar = sidecar_of(after)
    assert setting(sidecar, "TENANT")["allowed_mounts"] == ["team/kv"]
    assert setting(sidecar, "UPSTREAM")["auth"]["role"] == "batch"
    assert after["spec"]["volumes"][0]["configMap"]["name"] == "sidecar-quiet"
    other = sidecar_of(injected(pod(tenant_id="umbrella")))
    assert setting(other, "TENANT")["allowed_mounts"] == ["kv"]
    assert setting(other, "UPSTREAM")["auth"]["role"] == "other"


# -- addresses that are there already --------------------------------------------------------------------------------
def with_env(*entries: Tree) -> Tree:
    return {"containers": [{"name": "app", "image": "app:1", "env": list(entries)}]}


ELSEWHERE: Tree = {"name": "VAULT_ADDR", "value": "https://vault.example"}


@pytest.mark.parametrize("name", ["VAULT_ADDR", "BAO_ADDR", "VAULT_AGENT_ADDR", "BAO_AGENT_ADDR"])
def test_an_address_that_is_there_is_kept_with_a_warning(name: str) -> None:
    tree = pod(with_env(ELSEWHERE | {"name": name}))
    response = answered(tree)
    assert patched(tree, response)["spec"]["containers"] == tree["spec"]["containers"]
    (warning,) = response["warnings"]
    assert "app" in warning
    assert name in warning


def test_an_address_that_is_there_is_replaced_where_asked() -> None:
    entries = [{"name": "A", "value": "$(VAULT_ADDR)/x"}, ELSEWHERE, {"name": "BAO_ADDR", "valueFrom": {"x": {}}}]
    tree = pod(with_env(*entries), override_vault_addr="true")
    response = answered(tree)
    assert "warnings" not in response
    env = patched(tree, response)["spec"]["containers"][0]["env"]
    assert env == [entries[0], {"name": "VAULT_ADDR", "value": HERE}, {"name": "BAO_ADDR", "value": HERE}]


def test_of_an_address_that_stands_twice_the_last_counts() -> None:
    entries = [{"name": "VAULT_ADDR", "value": HERE}, ELSEWHERE]
    assert answered(pod(with_env(*entries)))["warnings"]
    env = injected(pod(with_env(*entries), override_vault_addr="true"))["spec"]["containers"][0]["env"]
    assert ELSEWHERE not in env


def test_what_is_set_stands_before_what_may_refer_to_it() -> None:
    after = injected(pod(with_env({"name": "URL", "value": "$(VAULT_ADDR)/v1"})))
    assert [one["name"] for one in after["spec"]["containers"][0]["env"]] == ["VAULT_ADDR", "BAO_ADDR", "URL"]


# -- Unix socket -----------------------------------------------------------------------------------------------------
def test_by_unix_socket_only_the_chosen_containers_see_it() -> None:
    spec = {"containers": [{"name": "app", "image": "a"}, {"name": "other", "image": "o"}]}
    after = injected(pod(spec, listen="unix", containers="app"))
    app, other = after["spec"]["containers"]
    assert variables(app)["VAULT_ADDR"] == SOCKET
    assert app["volumeMounts"] == [
        {"name": "openbao-sidecar-socket", "mountPath": "/run/openbao-sidecar", "readOnly": True}
    ]
    assert other == spec["containers"][1]
    assert setting(sidecar_of(after), "LISTEN") == {"address": SOCKET}
    assert after["spec"]["securityContext"]["supplementalGroups"] == [65532]
    assert_valid(after)


def test_the_sockets_group_is_added_to_those_that_are_there() -> None:
    after = injected(pod({"securityContext": {"fsGroup": 5, "supplementalGroups": [7]}}, listen="unix"))
    assert after["spec"]["securityContext"] == {"fsGroup": 5, "supplementalGroups": [7, 65532]}


def test_a_folder_in_the_sockets_place_is_refused() -> None:
    mount = {"name": "data", "mountPath": "/run/openbao-sidecar"}
    spec = {"containers": [{"name": "app", "image": "a", "volumeMounts": [mount]}], "volumes": [{"name": "data"}]}
    assert "/run/openbao-sidecar" in why_not(pod(spec, listen="unix"))


# -- spool, resources, time to stop ----------------------------------------------------------------------------------
def test_the_spool_is_an_empty_folder_or_a_claim() -> None:
    def spool(tree: Tree) -> Any:
        return next(one for one in tree["spec"]["volumes"] if one["name"] == "openbao-sidecar-spool")

    assert spool(injected(pod()))["emptyDir"] == {"sizeLimit": "384Mi"}
    assert spool(injected(pod(spool_volume="audit-0")))["persistentVolumeClaim"] == {"claimName": "audit-0"}


CLAIM: Tree = {"name": "audit", "persistentVolumeClaim": {"claimName": "audit-web-0"}}


def with_mounts(*mounts: Tree) -> Tree:
    return {"containers": [{"name": "app", "image": "a", "volumeMounts": list(mounts)}], "volumes": [CLAIM]}


def test_a_stateful_sets_own_claim_is_found_behind_its_volume() -> None:
    spool = injected(pod({"volumes": [CLAIM]}, spool_volume="audit"))["spec"]["volumes"][-1]
    assert spool == {"name": "openbao-sidecar-spool", "persistentVolumeClaim": {"claimName": "audit-web-0"}}


@pytest.mark.parametrize("named", ["audit", "audit-web-0"])
def test_a_claim_that_the_application_has_is_not_the_spools(named: str) -> None:
    mounted = with_mounts({"name": "audit", "mountPath": "/mine"})
    assert "spool-volume" in why_not(pod(mounted, spool_volume=named))
    there = injected(pod({"volumes": [CLAIM]}, spool_volume=named))
    there["spec"]["containers"][0]["volumeMounts"] = [{"name": "audit", "mountPath": "/mine"}]
    assert "spool-volume" in why_not(there)
    del there["spec"]["containers"][0]["volumeMounts"]
    there["spec"]["containers"][0]["volumeDevices"] = [{"name": "audit", "devicePath": "/dev/x"}]
    assert "spool-volume" in why_not(there, phase="validate")


def test_a_claim_that_is_made_for_the_application_is_not_the_spools_either() -> None:
    """Of an ephemeral volume it has the names of pod and volume."""
    made = with_mounts({"name": "mine", "mountPath": "/mine"})
    made["volumes"] = [{"name": "mine", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]
    assert "spool-volume" in why_not(pod(made, spool_volume="app-mine"))
    assert sidecar_of(injected(pod(made, spool_volume="app-yours")))
    there = injected(pod(made, spool_volume="app-2-mine"))  # its name was not known yet
    there["metadata"]["name"] = "app-2"
    assert "spool-volume" in why_not(there, phase="validate")


def test_who_would_ask_a_proxy_for_loopback_is_told() -> None:
    proxy: Tree = {"name": "HTTP_PROXY", "value": "http://proxy:3128"}
    assert "NO_PROXY" in answered(pod(with_env(proxy)))["warnings"][0]
    spared = {"name": "no_proxy", "value": "localhost,127.0.0.1"}
    assert "warnings" not in answered(pod(with_env(proxy, spared)))
    assert "warnings" not in answered(pod(with_env(proxy), listen="unix"))


@pytest.mark.parametrize(
    ("asked", "requests", "limits"),
    [
        ({}, {"cpu": "50m", "memory": "128Mi"}, {"memory": "256Mi"}),
        ({"cpu_limit": "20m"}, {"cpu": "20m", "memory": "128Mi"}, {"cpu": "20m", "memory": "256Mi"}),
        ({"memory_request": "1Gi"}, {"cpu": "50m", "memory": "1Gi"}, {"memory": "1Gi"}),
        ({"memory_limit": "100Mi"}, {"cpu": "50m", "memory": "100Mi"}, {"memory": "100Mi"}),
    ],
)
def test_resources_are_those_of_the_annotations_and_fit(asked: Tree, requests: Tree, limits: Tree) -> None:
    assert sidecar_of(injected(pod(**asked)))["resources"] == {"requests": requests, "limits": limits}


def test_a_request_above_its_limit_is_refused() -> None:
    assert "cpu-request" in why_not(pod(cpu_request="2", cpu_limit="1500m"))


GUARANTEED: Tree = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": 1, "memory": "1024Mi"}}


def test_who_loses_the_class_guaranteed_is_told() -> None:
    spec = {"containers": [{"name": "app", "image": "a", "resources": GUARANTEED}]}
    assert "Guaranteed" in answered(pod(spec))["warnings"][0]
    wishes = {"cpu_limit": "50m", "memory_limit": "128Mi"}
    assert "warnings" not in answered(pod(spec, **wishes))


def test_what_a_pod_has_as_a_whole_grows_by_the_sidecars() -> None:
    resources = {"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "1Gi"}}
    after = injected(pod({"resources": resources}))
    assert after["spec"]["resources"] == {
        "requests": {"cpu": "1050m"},
        "limits": {"cpu": "2050m", "memory": str(1280 * 1024 * 1024)},
    }


def test_the_pod_is_given_time_for_the_sidecar_beyond_its_own() -> None:
    assert injected(pod())["spec"]["terminationGracePeriodSeconds"] == 60
    assert injected(pod({"terminationGracePeriodSeconds": 100}))["spec"]["terminationGracePeriodSeconds"] == 130


def test_a_classic_sidecar_stops_after_the_application() -> None:
    tree = pod({"terminationGracePeriodSeconds": 45})
    after = injected(tree, rules(native=False))
    assert [one["name"] for one in after["spec"]["containers"]] == ["app", "openbao-sidecar"]
    command = sidecar_of(after, native=False)["lifecycle"]["preStop"]["exec"]["command"]
    assert command[-1] == "import time; time.sleep(45)"
    assert after["spec"]["terminationGracePeriodSeconds"] == 75
    assert_valid(after)


def test_log_level_and_pull_secrets() -> None:
    after = injected(pod(log_level="debug"), rules(image_pull_secrets=["regcred"]))
    assert setting(sidecar_of(after), "OPS__LOG_LEVEL") == "debug"
    assert after["spec"]["imagePullSecrets"] == [{"name": "regcred"}]


# -- again -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("wishes", [{}, {"listen": "unix", "spool_volume": "c"}, {"vault_agent_addr": "true"}])
def test_a_pod_that_has_its_sidecar_is_left_as_it_is(native: bool, wishes: dict[str, str]) -> None:
    by = rules(native=native)
    once = injected(pod(INIT, **wishes), by)
    response = answered(once, by)
    assert response["allowed"]
    assert "patch" not in response
    assert answered(once, by, "validate")["allowed"]


def test_a_container_that_came_later_is_led_to_it_when_asked_again() -> None:
    once = injected(pod())
    once["spec"]["containers"].append({"name": "late", "image": "l"})
    again = injected(once)
    assert variables(again["spec"]["containers"][1])["VAULT_ADDR"] == HERE
    assert again["spec"]["initContainers"] == once["spec"]["initContainers"]
    assert again["spec"]["terminationGracePeriodSeconds"] == 60


def test_what_kubernetes_itself_adds_makes_it_no_other() -> None:
    once = injected(pod())
    sidecar = once["spec"]["initContainers"][0]
    sidecar |= {"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}
    sidecar["resources"]["limits"]["cpu"] = "1"  # a LimitRange
    account = {"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
    sidecar["volumeMounts"].append(account | {"readOnly": True})
    field = {"apiVersion": "v1", "fieldPath": "metadata.namespace"}
    sources = [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": field}]}},
    ]
    once["spec"]["volumes"].append({"name": "kube-api-access-x", "projected": {"sources": sources}})
    assert "patch" not in answered(once)
    forged = "metadata.annotations['authority']"
    for source in (
        {"downwardAPI": {"items": [{"path": "ca.crt", "fieldRef": field | {"fieldPath": forged}}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": field | {"fieldPath": forged}}]}},
        {"downwardAPI": {"items": [{"path": "ca.crt", "fieldRef": field}]}},
        {"serviceAccountToken": {"path": "ca.crt"}},
        {"configMap": {"name": "kube-root-ca.crt"}},
        {"configMap": {"name": "of-my-own", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"secret": {"name": "of-my-own"}},
    ):
        once["spec"]["volumes"][-1]["projected"]["sources"] = [*sources, source]
        assert "volumeMounts" in why_not(once), source
    once["spec"]["volumes"][-1] = {"name": "kube-api-access-x", "emptyDir": {}}
    assert "volumeMounts" in why_not(once)


def test_nobody_is_led_into_the_sidecar_because_it_is_the_only_container() -> None:
    """`kubectl exec` without a container's name, on a cluster without native sidecars."""
    by = rules(native=False)
    alone = injected(pod(), by)
    del alone["spec"]["containers"][0]
    assert "spec.containers" in why_not(alone, by)


def test_what_other_webhooks_may_add_is_named_in_the_configuration() -> None:
    once = injected(pod())
    once["spec"]["initContainers"][0]["env"].append({"name": "AWS_ROLE_ARN", "value": "x"})
    assert "env" in why_not(once)
    assert answered(once, rules(tolerated={"env": ["AWS_ROLE_ARN"]}))["allowed"]


Forged = Any


def another_image(tree: Tree) -> None:
    tree["spec"]["initContainers"][0]["image"] = "evil:1"


def another_command(tree: Tree) -> None:
    tree["spec"]["initContainers"][0]["command"] = ["/bin/sh"]


def another_variable(tree: Tree) -> None:
    tree["spec"]["initContainers"][0]["env"].append({"name": "LD_PRELOAD", "value": "/x.so"})


def a_tenant_of_its_own(tree: Tree) -> None:
    tree["spec"]["initContainers"][0]["env"][3]["value"] = '{"id":"other"}'


def another_user(tree: Tree) -> None:
    tree["spec"]["initContainers"][0]["securityContext"]["runAsUser"] = 0


def a_file_hidden(tree: Tree) -> None:
    """The kubelet mounts an empty file where a container says its last words."""
    tree["spec"]["initContainers"][0]["terminationMessagePath"] = "/etc/sidecar/policies/forbid.cedar"


def no_volume(tree: Tree) -> None:
    del tree["spec"]["volumes"][-1]


def another_volume(tree: Tree) -> None:
    tree["spec"]["volumes"][0]["configMap"]["name"] = "of-my-own"


def one_volume_more(tree: Tree) -> None:
    tree["spec"]["volumes"].append({"name": "openbao-sidecar-more", "emptyDir": {}})


def mounted_by_the_application(tree: Tree) -> None:
    tree["spec"]["containers"][0]["volumeMounts"] = [{"name": "openbao-sidecar-token", "mountPath": "/t"}]


def another_place(tree: Tree) -> None:
    tree["spec"]["containers"].append(tree["spec"]["initContainers"].pop(0))


def twice(tree: Tree) -> None:
    tree["spec"]["initContainers"].append(copy.deepcopy(tree["spec"]["initContainers"][0]))


FORGERIES = [
    another_image,
    another_command,
    another_variable,
    a_tenant_of_its_own,
    another_user,
    a_file_hidden,
    no_volume,
    another_volume,
    one_volume_more,
    mounted_by_the_application,
    another_place,
    twice,
]


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda one: one.__name__)
@pytest.mark.parametrize("phase", ["mutate", "validate"])
def test_what_only_looks_like_the_sidecar_is_refused(forge: Any, phase: Any) -> None:
    tree = injected(pod())
    forge(tree)
    assert "openbao-sidecar" in why_not(tree, phase=phase)


def test_a_pod_that_says_it_is_injected_and_is_not_is_injected() -> None:
    after = injected(pod(status="injected"))
    assert sidecar_of(after)
    assert "status" in why_not(pod(inject=None, status="injected"))
    assert "missing" in why_not(pod(status="injected"), phase="validate")


def test_the_annotations_of_a_required_namespace_may_be_missing() -> None:
    tree = pod(inject=None)
    del tree["metadata"]["annotations"]
    tree["metadata"]["namespace"] = "strict"
    assert injected(tree, namespace="strict")["metadata"]["annotations"] == annotated(status="injected")
