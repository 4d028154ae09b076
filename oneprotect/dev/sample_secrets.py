"""The sample tenant's signing secrets, as manifests for the local provider (contract, sections 5 and 6)."""

import base64
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from schemas.ids import Purpose

KEY: Final = "signing"
"""Key of the secret in the manifest's `data`: the last part of the ref."""

_KEY_BYTES: Final = 32


def write_sample_secrets(directory: Path, *, namespace: str, tenant: str, names: Iterable[str]) -> dict[str, str]:
    """Write `directory/namespace/<name>.json` for each name, with a new random key, readable by this user only.

    Existing manifests are replaced atomically. Returns the secret of each name (`whsec_` and base64), for the receiver
    that verifies with it. Raises `OSError`.
    """
    folder = directory / namespace
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    written: dict[str, str] = {}
    for name in names:
        secret = "whsec_" + base64.b64encode(os.urandom(_KEY_BYTES)).decode()
        manifest = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {"oneprotect.io/tenant": tenant, "oneprotect.io/purpose": Purpose.WEBHOOK_SIGNING},
            },
            "type": "Opaque",
            "data": {KEY: base64.b64encode(secret.encode()).decode()},
        }
        _replace(folder / f"{name}.json", msgspec.json.encode(manifest))
        written[name] = secret
    return written


def _replace(path: Path, content: bytes) -> None:
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    new.replace(path)
