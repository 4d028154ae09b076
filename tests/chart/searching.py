"""Lookups in manifests."""

from collections.abc import Iterable, Iterator
from typing import Any, cast

from tools.manifests import Manifest

WORKLOADS = ("Deployment", "Job")


def of_kind(manifests: Iterable[Manifest], *kinds: str) -> list[Manifest]:
    """Those of some kinds."""
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def one(manifests: Iterable[Manifest], kind: str, name: str, namespace: str | None = None) -> Manifest:
    """Return the only object of that kind and name, in the namespace if given."""
    found = [
        manifest
        for manifest in of_kind(manifests, kind)
        if manifest["metadata"]["name"] == name and namespace in (None, manifest["metadata"].get("namespace"))
    ]
    assert len(found) == 1, (kind, name, len(found))
    return found[0]


def pod_of(manifest: Manifest) -> dict[str, Any]:
    """The specification of a workload's pods."""
    spec: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return spec


def environment(manifest: Manifest) -> dict[str, str]:
    """The variables of a workload's only container."""
    (container,) = pod_of(manifest)["containers"]
    return {variable["name"]: variable["value"] for variable in container["env"]}


def values_in(document: object) -> Iterator[tuple[str, object]]:
    """Yield every key with its value, at any depth."""
    if isinstance(document, dict):
        for key, value in cast("dict[str, object]", document).items():
            yield key, value
            yield from values_in(value)
    elif isinstance(document, list):
        for value in cast("list[object]", document):
            yield from values_in(value)
