"""Secret manifests, as the API server returns them and as a developer writes them."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KEY = b"whsec_" + base64.b64encode(bytes(range(1, 33)))
OTHER_KEY = b"whsec_" + base64.b64encode(bytes(range(101, 133)))
ED25519_KEY = (
    b"whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="  # published
)
ED25519_PUBLIC_KEY = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
TENANT_LABEL = "oneprotect.io/tenant"
PURPOSE_LABEL = "oneprotect.io/purpose"
EXPIRES_AT = "oneprotect.io/previous-expires-at"

Manifest = dict[str, Any]


def manifest(
    *,
    namespace: str = "webhooks",
    name: str = "acme-signing",
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    data: Mapping[str, bytes] | None = None,
    **fields: object,
) -> Manifest:
    """Return a Secret of tenant `acme` with `KEY` under `signing`, unless the arguments change it."""
    given = {"signing": KEY} if data is None else data
    return {
        "kind": "Secret",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": "6d1f3a52-0000-4000-8000-000000000001",
            "resourceVersion": "41",
            "creationTimestamp": "2026-11-01T00:00:00Z",
            "labels": {TENANT_LABEL: "acme", PURPOSE_LABEL: "webhook-signing"} if labels is None else dict(labels),
            "annotations": dict(annotations or {}),
            "managedFields": [{"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:data": {".": {}}}}],
        },
        "data": {key: base64.b64encode(value).decode() for key, value in given.items()},
        "type": "Opaque",
        **fields,
    }


def encoded(document: Manifest) -> bytes:
    """The manifest as JSON."""
    return json.dumps(document).encode()


def write(directory: Path, document: Manifest) -> Path:
    """Write the manifest where the local provider looks for it."""
    namespace, name = str(document["metadata"]["namespace"]), str(document["metadata"]["name"])
    path = directory / namespace / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(document))
    return path
