"""Pods, reviews and an injector's configuration for the tests, and what a patch makes of a pod."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sidecar.injector.admit import Phase, Rules
from sidecar.injector.config import InjectorConfig
from sidecar.injector.names import PREFIX
from sidecar.injector.review import parse_review
from sidecar.injector.server import answer_review

Tree = dict[str, Any]

NAMESPACE: Final = "team-a"
OWN_NAMESPACE: Final = "openbao-sidecar"
AUDIENCE: Final = "openbao"


def config(**sidecar: Any) -> InjectorConfig:
    """A namespace with two tenants, two roles, two ConfigMaps; one in which every pod has a sidecar."""
    tenants = [
        {
            "id": "acme",
            "allowed_mounts": ["secret", "team/kv"],
            "roles": ["app", "batch"],
            "salt_secret": {"name": "acme-salt"},
        },
        {"id": "umbrella", "allowed_mounts": ["kv"], "roles": ["other"], "salt_secret": {"name": "umbrella-salt"}},
    ]
    namespace = {
        "tenants": tenants,
        "configs": ["sidecar-config", "sidecar-quiet"],
        "policies_config_map": "sidecar-policies",
    }
    upstream = {"address": "https://openbao.openbao.svc:8200", "ca_config_map": "openbao-ca"}
    return InjectorConfig.model_validate(
        {
            "listen": {"tls": {"cert_file": "tls.crt", "key_file": "tls.key"}},
            "namespace": OWN_NAMESPACE,
            "sidecar": {"image": "registry.example/openbao-sidecar:1", "upstream": upstream, **sidecar},
            "namespaces": {NAMESPACE: namespace, "strict": namespace | {"required": True}},
        }
    )


def rules(*, native: bool = True, **sidecar: Any) -> Rules:
    """What a running injector decides by."""
    return Rules(config(**sidecar), OWN_NAMESPACE, native)


def annotated(**values: str | None) -> dict[str, Any]:
    """`tenant_id="x"` as the annotation it stands for."""
    return {f"{PREFIX}{key.replace('_', '-')}": text for key, text in values.items()}


def pod(spec: Mapping[str, Any] | None = None, /, *, inject: str | None = "true", **wishes: str) -> Tree:
    """A pod of one container, less or more as `spec` says."""
    if inject is not None:
        wishes["inject"] = inject
    tree: Tree = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "app", "namespace": NAMESPACE, "annotations": annotated(**wishes)},
        "spec": {"containers": [{"name": "app", "image": "app:1"}], **copy.deepcopy(dict(spec or {}))},
    }
    return tree


def review(
    tree: Any,
    *,
    operation: str = "CREATE",
    subresource: str = "",
    namespace: str = NAMESPACE,
    old: Any = None,
    **more: Any,
) -> Tree:
    """An AdmissionReview as the API server sends it."""
    entering = {"exec": "PodExecOptions", "attach": "PodAttachOptions", "portforward": "PodPortForwardOptions"}
    kind = entering.get(subresource, "Pod")
    request: Tree = {
        "uid": "5b1c9e5c-0000-4000-8000-000000000000",
        "kind": {"group": "", "version": "v1", "kind": kind},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "operation": operation,
        "namespace": namespace,
        "object": tree,
        "oldObject": old,
        "dryRun": False,
        "userInfo": {"username": "someone"},
    }
    if subresource:
        request["subResource"] = subresource
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request | more}


def answered(tree: Any, by: Rules | None = None, phase: Phase = "mutate", **asked: Any) -> Tree:
    """The response to a review of this pod."""
    raw = json.dumps(review(tree, **asked)).encode()
    response: Tree = answer_review(parse_review(raw), by or rules(), phase)["response"]
    return response


def injected(tree: Tree, by: Rules | None = None, **asked: Any) -> Tree:
    """The pod as it becomes."""
    response = answered(tree, by, **asked)
    assert response["allowed"], response["status"]["message"]
    return patched(tree, response)


def why_not(tree: Any, by: Rules | None = None, **asked: Any) -> str:
    """Why it is denied."""
    response = answered(tree, by, **asked)
    assert not response["allowed"], "it was let in"
    assert "patch" not in response
    return str(response["status"]["message"])


def sidecar_of(tree: Mapping[str, Any], *, native: bool = True) -> Tree:
    """The sidecar's container."""
    spec = tree["spec"]
    (found,) = (one for one in spec["initContainers" if native else "containers"] if one["name"] == "openbao-sidecar")
    return dict(found)


def variables(container: Mapping[str, Any]) -> dict[str, Any]:
    """Its variables, the last of each name."""
    return {entry["name"]: entry.get("value") for entry in container.get("env", [])}


def setting(container: Mapping[str, Any], key: str) -> Any:
    """One of the sidecar's variables as the kubelet hands it on, read."""
    text = variables(container)[f"SIDECAR__{key}"].replace("$$(", "$(")
    return json.loads(text) if text[:1] in "[{" else text


def as_in_the_pod(container: Tree, root: Path) -> dict[str, str]:
    """The variables of the sidecar as the kubelet sets them, with its files under `root`."""
    for path in (
        "run/sidecar/secrets/salt",
        "run/sidecar/token/token",
        "run/sidecar/token/pod",
        "etc/sidecar/trust/openbao.crt",
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("a salt of more than sixteen bytes")
    return {
        name: text.replace("$$(", "$(").replace('"/run/', f'"{root}/run/').replace('"/etc/', f'"{root}/etc/')
        for name, text in variables(container).items()
        if text is not None
    }


# -- RFC 6902, as far as it is used ----------------------------------------------------------------------------------
def patched(tree: Tree, response: Mapping[str, Any]) -> Tree:
    """What the API server makes of an answer."""
    assert ("patch" in response) == ("patchType" in response)
    if "patch" not in response:
        return copy.deepcopy(tree)
    assert response["patchType"] == "JSONPatch"
    return apply(tree, json.loads(base64.b64decode(response["patch"], validate=True)))


def apply(tree: Tree, patch: Sequence[Mapping[str, Any]]) -> Tree:
    """Applies a JSON patch; a path that leads nowhere is an error."""
    result = copy.deepcopy(tree)
    for change in patch:
        *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in change["path"].split("/")[1:]]
        holder: Any = result
        for part in parents:
            holder = holder[int(part)] if isinstance(holder, list) else holder[part]
        value = copy.deepcopy(change["value"])
        if isinstance(holder, dict):
            assert change["op"] == "add", "a member is only ever added"
            holder[last] = value
        elif change["op"] == "add":
            index = len(holder) if last == "-" else int(last)
            assert index <= len(holder)
            holder.insert(index, value)
        else:
            assert change["op"] == "replace"
            holder[int(last)] = value
    return result
