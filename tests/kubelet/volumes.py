"""A pod's volumes as folders of this machine, and how they change while the pod runs.

What comes from the API server is laid out as the kubelet's atomic writer does it: the files stand in a dated folder,
`..data` leads there, and a change swaps that link, so that a reader sees all of the old or all of the new.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

OPEN: Final = 0o777
_TOKEN_MODE: Final = 0o600
_USUAL_MODE: Final = 0o644


class Cluster(Protocol):
    """Where what a pod names is kept: the API server."""

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One call of the API."""

    def token(
        self,
        account: str,
        namespace: str = "default",
        *,
        audiences: Sequence[str] = (),
        seconds: int = 3600,
        pod: Mapping[str, Any] | None = None,
    ) -> str:
        """A token of an account, for an audience, bound to a pod."""


@dataclass(frozen=True, slots=True)
class File:
    """What is in a file of a volume, and who may read it."""

    content: bytes
    mode: int = _USUAL_MODE
    owner: int | None = None


def swap(folder: Path, files: Mapping[str, File]) -> None:
    """Lays out a volume's files, or all of them anew, as one change."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(old.name.rpartition(".")[2]) for old in folder.glob("..2*")), default=0)
    dated = folder / f"..2026_01_01_00_00_00.{number}"
    for path, file in files.items():
        target = dated / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.content)
        target.chmod(file.mode)
        if file.owner is not None:
            os.chown(target, file.owner, -1)
    dated.mkdir(exist_ok=True)  # of a volume without files
    link, data = folder / "..data_tmp", folder / "..data"
    before = data.resolve() if data.is_symlink() else None
    link.symlink_to(dated.name)
    link.replace(data)
    names = {path.split("/", maxsplit=1)[0] for path in files}
    for name in names:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    for gone in folder.iterdir():
        if gone.is_symlink() and not gone.name.startswith("..") and gone.name not in names:
            gone.unlink()
    if before is not None:
        shutil.rmtree(before)


@dataclass(slots=True)
class Volumes:
    """The volumes of one pod below `folder`. `disks` are sizes (as tmpfs takes them) of emptyDirs with a disk of their
    own, which can be filled."""

    cluster: Cluster
    pod: Mapping[str, Any]
    folder: Path
    disks: Mapping[str, str] = field(default_factory=dict)
    _mounted: list[Path] = field(default_factory=list)

    def set_up(self) -> None:
        """Before the first container."""
        for volume in self.pod["spec"].get("volumes", ()):
            self._set_up(volume)

    def refresh(self) -> None:
        """What comes from the API server, as it is now. The kubelet does this about once a minute."""
        for volume in self.pod["spec"].get("volumes", ()):
            if (files := self._files(volume)) is not None:
                swap(self.path(volume["name"]), files)

    def tear_down(self) -> None:
        """After the last container."""
        while self._mounted:
            subprocess.run(["umount", str(self._mounted.pop())], check=True)

    def path(self, name: str) -> Path:
        """Where a volume is."""
        return self.folder / name

    # -- of each kind ------------------------------------------------------------------------------------------------
    def _set_up(self, volume: Mapping[str, Any]) -> None:
        path = self.path(volume["name"])
        files = self._files(volume)
        if files is not None:
            swap(path, files)
            return
        assert "emptyDir" in volume or "persistentVolumeClaim" in volume, f"no such volume is known here: {volume}"
        path.mkdir(parents=True)
        if size := self.disks.get(volume["name"]):
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path)], check=True)
            self._mounted.append(path)
        group = self.pod["spec"].get("securityContext", {}).get("fsGroup")
        if group is not None:
            os.chown(path, -1, group)
        path.chmod(OPEN | (0o2000 if group is not None else 0))

    def _files(self, volume: Mapping[str, Any]) -> dict[str, File] | None:
        """None for what does not come from the API server."""
        if "configMap" in volume:
            return self._of_config_map(volume["configMap"])
        if "secret" in volume:
            return self._of_secret(volume["secret"] | {"name": volume["secret"]["secretName"]})
        if "downwardAPI" in volume:
            return self._of_fields(volume["downwardAPI"])
        if "projected" not in volume:
            return None
        found: dict[str, File] = {}
        kinds = {
            "configMap": self._of_config_map,
            "secret": self._of_secret,
            "downwardAPI": self._of_fields,
            "serviceAccountToken": self._of_account,
        }
        mode = volume["projected"].get("defaultMode")
        for source in volume["projected"]["sources"]:
            ((kind, described),) = source.items()
            found |= kinds[kind]({"defaultMode": mode} | described if mode is not None else described)
        return found

    def _of_config_map(self, source: Mapping[str, Any]) -> dict[str, File]:
        found = self._object("configmaps", source)
        data = {key: text.encode() for key, text in found.get("data", {}).items()}
        data |= {key: base64.b64decode(text) for key, text in found.get("binaryData", {}).items()}
        return _chosen(data, source)

    def _of_secret(self, source: Mapping[str, Any]) -> dict[str, File]:
        found = self._object("secrets", source)
        return _chosen({key: base64.b64decode(text) for key, text in found.get("data", {}).items()}, source)

    def _of_fields(self, source: Mapping[str, Any]) -> dict[str, File]:
        mode = source.get("defaultMode", _USUAL_MODE)
        return {
            item["path"]: File(field_of(self.pod, item["fieldRef"]["fieldPath"]).encode(), item.get("mode", mode))
            for item in source["items"]
        }

    def _of_account(self, source: Mapping[str, Any]) -> dict[str, File]:
        metadata, spec = self.pod["metadata"], self.pod["spec"]
        token = self.cluster.token(
            spec.get("serviceAccountName") or "default",
            metadata["namespace"],
            audiences=[source["audience"]] if source.get("audience") else [],
            seconds=source.get("expirationSeconds", 3600),
            pod=metadata,
        )
        # Of a pod whose containers have one user, that user's; else everybody's who is given the volume.
        users = {user_of(spec, container) for container in containers_of(spec)}
        if "fsGroup" in spec.get("securityContext", {}) or len(users) > 1:
            return {source["path"]: File(token.encode(), _USUAL_MODE)}
        return {source["path"]: File(token.encode(), _TOKEN_MODE, users.pop())}

    def _object(self, kind: str, source: Mapping[str, Any]) -> Any:
        return self.cluster.call(
            "GET", f"/api/v1/namespaces/{self.pod['metadata']['namespace']}/{kind}/{source['name']}"
        )


def _chosen(data: Mapping[str, bytes], source: Mapping[str, Any]) -> dict[str, File]:
    mode = source.get("defaultMode", _USUAL_MODE)
    if "items" not in source:
        return {key: File(content, mode) for key, content in data.items()}
    return {item["path"]: File(data[item["key"]], item.get("mode", mode)) for item in source["items"]}


def field_of(pod: Mapping[str, Any], path: str) -> str:
    """A field of the pod, as the downward API gives it."""
    if path.endswith("']"):  # metadata.labels['app'], metadata.annotations['…']
        head, _, key = path[:-2].partition("['")
        return str(_at(pod, head).get(key, ""))
    found = _at(pod, path)
    assert isinstance(found, str), f"{path} is no text"
    return found


def _at(pod: Mapping[str, Any], path: str) -> Any:
    found: Any = pod
    for name in path.split("."):
        found = found[name]
    return found


def containers_of(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """All of a pod's containers, those of its start first."""
    return [*spec.get("initContainers", ()), *spec["containers"]]


def user_of(spec: Mapping[str, Any], container: Mapping[str, Any]) -> int:
    """Whose processes a container runs: what an image says of it is not known here."""
    user = container.get("securityContext", {}).get("runAsUser", spec.get("securityContext", {}).get("runAsUser", 0))
    assert isinstance(user, int)
    return user
