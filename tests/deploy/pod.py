"""What a pod's container would find: the kubelet's part, played on a temporary folder.

Volumes are laid out as the kubelet does it (files are symbolic links into a dated folder that is swapped as a whole),
with contents for the Secrets and ConfigMaps that operators bring. So a rendered configuration can be read by the
sidecar's own loader, and a path that no volume mounts is found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

Manifests = Sequence[Mapping[str, Any]]

SALT: Final = "a salt of more than sixteen bytes"

Secrets = Mapping[str, str]
"""What stands under a Secret's key, for the keys where it matters."""
NO_SECRETS: Final[Secrets] = {}


def of_kind(manifests: Manifests, kind: str) -> list[Mapping[str, Any]]:
    """All of one kind."""
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def pod_spec(manifests: Manifests) -> dict[str, Any]:
    """The spec of the one Deployment's pods, or of the one Pod."""
    (found,) = of_kind(manifests, "Deployment") + of_kind(manifests, "Pod")
    spec: dict[str, Any] = found["spec"]["template"]["spec"] if found["kind"] == "Deployment" else found["spec"]
    return spec


def sidecar_container(manifests: Manifests) -> dict[str, Any]:
    """The sidecar's container: beside an application an init container, in a gateway the only one."""
    spec = pod_spec(manifests)
    (found,) = spec.get("initContainers", spec["containers"])
    return dict(found)


def application_container(manifests: Manifests) -> dict[str, Any]:
    """The application's container."""
    (found,) = pod_spec(manifests)["containers"]
    return dict(found)


def config_tree(manifests: Manifests) -> dict[str, Any]:
    """The sidecar's configuration as YAML reads it."""
    (found,) = (one for one in of_kind(manifests, "ConfigMap") if "config.yaml" in one["data"])
    tree: dict[str, Any] = yaml.safe_load(found["data"]["config.yaml"])
    return tree


def environment(manifests: Manifests, secrets: Secrets = NO_SECRETS) -> dict[str, str]:
    """The variables of the sidecar's container; what comes from a Secret is made up where it is not given."""
    found: dict[str, str] = {}
    for entry in sidecar_container(manifests).get("env", []):
        if "value" in entry:
            found[entry["name"]] = entry["value"]
            continue
        key = entry["valueFrom"]["secretKeyRef"]["key"]
        found[entry["name"]] = secrets.get(key, f"from-{key}")
    return found


def config_file(manifests: Manifests, root: Path, secrets: Secrets = NO_SECRETS) -> Path:
    """Lays out the sidecar's volumes under `root`; the path of its configuration, with its own paths led there."""
    volumes = {volume["name"]: volume for volume in pod_spec(manifests)["volumes"]}
    container = sidecar_container(manifests)
    for mount in container["volumeMounts"]:
        folder = root / mount["mountPath"].lstrip("/")
        if "emptyDir" in volumes[mount["name"]]:
            folder.mkdir(parents=True)
            continue
        _lay_out(folder, _files(volumes[mount["name"]], manifests, secrets))
    path: Path = root / container["args"][container["args"].index("--config") + 1].lstrip("/")
    text = path.read_text()
    for mount in container["volumeMounts"]:
        text = text.replace(f" {mount['mountPath']}", f" {root}{mount['mountPath']}")
    path.write_text(text)
    return path


def _files(volume: Mapping[str, Any], manifests: Manifests, secrets: Secrets) -> dict[str, str]:
    if "configMap" in volume:
        return _config_map(volume["configMap"]["name"], manifests)
    found: dict[str, str] = {}
    for source in volume["projected"]["sources"]:
        ((kind, described),) = source.items()
        if kind == "serviceAccountToken":
            found[described["path"]] = "a projected token"
        else:
            found |= {item["path"]: secrets.get(item["key"]) or _made_up(item["key"]) for item in described["items"]}
    return found


def _made_up(key: str) -> str:
    if key != "key.pem":
        return SALT
    made = Ed25519PrivateKey.generate()
    return made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _config_map(name: str, manifests: Manifests) -> dict[str, str]:
    for manifest in of_kind(manifests, "ConfigMap"):
        if manifest["metadata"]["name"] == name:
            return dict(manifest["data"])
    return {"brought.cedar": "permit (principal, action, resource);\n"}


def _lay_out(folder: Path, files: Mapping[str, str]) -> None:
    dated = folder / "..2026_01_01_00_00_00.1"
    for path, text in files.items():
        (dated / path).parent.mkdir(parents=True, exist_ok=True)
        (dated / path).write_text(text)
    (folder / "..data").symlink_to(dated.name)
    for top in {path.split("/", maxsplit=1)[0] for path in files}:
        (folder / top).symlink_to(f"..data/{top}")
