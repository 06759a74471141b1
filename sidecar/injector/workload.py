"""A pod as the API server sends it, looked at through a closed door: what is not of the form that Kubernetes gives it
is `Malformed`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sidecar.injector.refusal import Malformed

MIRROR: Final = "kubernetes.io/config.mirror"


@dataclass(frozen=True, slots=True)
class Container:
    """One container and where it stands: `/spec/initContainers/0`."""

    place: str
    name: str
    tree: Mapping[str, Any]
    init: bool = False
    ephemeral: bool = False

    @property
    def env(self) -> Sequence[Mapping[str, Any]]:
        """Its variables, in order."""
        return _maps(self.tree, "env", self.place)

    @property
    def mounts(self) -> Sequence[Mapping[str, Any]]:
        """Its volume mounts."""
        return _maps(self.tree, "volumeMounts", self.place)

    @property
    def devices(self) -> Sequence[Mapping[str, Any]]:
        """Its volumes without a file system."""
        return _maps(self.tree, "volumeDevices", self.place)

    @property
    def ports(self) -> Sequence[Mapping[str, Any]]:
        """The ports that it declares."""
        return _maps(self.tree, "ports", self.place)

    @property
    def security(self) -> Mapping[str, Any]:
        """Its security context."""
        return _map(self.tree, "securityContext", self.place)


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod's metadata and spec. `name` is empty where it is yet to be generated."""

    name: str
    annotations: Mapping[str, str]
    labels: Mapping[str, str]
    spec: Mapping[str, Any]
    containers: tuple[Container, ...]
    init_containers: tuple[Container, ...]
    ephemeral_containers: tuple[Container, ...]
    volumes: tuple[Mapping[str, Any], ...]

    @property
    def everywhere(self) -> tuple[Container, ...]:
        """All of its containers, of every kind."""
        return (*self.init_containers, *self.containers, *self.ephemeral_containers)

    @property
    def security(self) -> Mapping[str, Any]:
        """Its security context, which holds for each container that says nothing else."""
        return _map(self.spec, "securityContext", "/spec")

    @property
    def groups(self) -> Sequence[Any]:
        """Its supplemental groups."""
        return _list(self.security, "supplementalGroups", "/spec/securityContext")

    @property
    def pull_secrets(self) -> Sequence[Mapping[str, Any]]:
        """References to the Secrets that its images are pulled with."""
        return _maps(self.spec, "imagePullSecrets", "/spec")

    @property
    def is_mirror(self) -> bool:
        """Whether it only shows a static pod, which a node's kubelet runs from a file."""
        return MIRROR in self.annotations


def parse_pod(tree: Any) -> Pod:
    """Raises Malformed."""
    if not isinstance(tree, dict) or tree.get("kind", "Pod") != "Pod" or tree.get("apiVersion", "v1") != "v1":
        raise Malformed("the object is not a v1 Pod")
    metadata = _map(tree, "metadata", "")
    spec = _map(tree, "spec", "")
    volumes = tuple(_maps(spec, "volumes", "/spec"))
    for volume in volumes:
        if not isinstance(volume.get("name"), str):
            raise Malformed("/spec/volumes: one has no name")
    name = metadata.get("name") or ""
    if not isinstance(name, str):
        raise Malformed("/metadata/name: is not a text")
    pod = Pod(
        name,
        _texts(metadata, "annotations"),
        _texts(metadata, "labels"),
        spec,
        _containers(spec, "containers"),
        _containers(spec, "initContainers", init=True),
        _containers(spec, "ephemeralContainers", ephemeral=True),
        volumes,
    )
    _look_at(pod.security, pod.groups, pod.pull_secrets)
    return pod


def _containers(
    spec: Mapping[str, Any], key: str, *, init: bool = False, ephemeral: bool = False
) -> tuple[Container, ...]:
    found = []
    for index, tree in enumerate(_maps(spec, key, "/spec")):
        name = tree.get("name")
        if not isinstance(name, str):
            raise Malformed(f"/spec/{key}/{index}: has no name")
        container = Container(f"/spec/{key}/{index}", name, tree, init, ephemeral)
        _look_at(container.env, container.mounts, container.devices, container.ports, container.security)
        found.append(container)
    return tuple(found)


def _look_at(*_parts: object) -> None:
    """Its arguments are of their form, or would have raised: so later nothing is met that is of another."""


def _map(tree: Mapping[str, Any], key: str, place: str) -> Mapping[str, Any]:
    value = tree.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Malformed(f"{place}/{key}: is not an object")
    return value


def _maps(tree: Mapping[str, Any], key: str, place: str) -> Sequence[Mapping[str, Any]]:
    value = _list(tree, key, place)
    if not all(isinstance(item, dict) for item in value):
        raise Malformed(f"{place}/{key}: is not a list of objects")
    return value


def _list(tree: Mapping[str, Any], key: str, place: str) -> Sequence[Any]:
    value = tree.get(key)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise Malformed(f"{place}/{key}: is not a list")
    return value


def _texts(tree: Mapping[str, Any], key: str) -> Mapping[str, str]:
    value = _map(tree, key, "/metadata")
    if not all(isinstance(text, str) for text in value.values()):
        raise Malformed(f"/metadata/{key}: holds something that is not text")
    return value
