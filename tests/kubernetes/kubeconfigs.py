"""Kubeconfig files, written as JSON, which is valid YAML."""

import base64
import json
from pathlib import Path
from typing import Any


def kubeconfig(url: str, ca: bytes, user: dict[str, Any], **cluster: object) -> dict[str, Any]:
    """A document with one context, `test`."""
    trusted = base64.b64encode(ca).decode()
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": url, "certificate-authority-data": trusted, **cluster}}],
        "users": [{"name": "u", "user": user}],
    }


def written(path: Path, document: dict[str, Any] | str) -> Path:
    """Write the document, or any text in its place."""
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path
