"""Secrets from a directory, for developers: `DIR/NAMESPACE/SECRET.json`, each a Secret manifest.

The same checks and the same errors as with Kubernetes, so what works here works there.
"""

import asyncio
import errno
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, final

from provider.errors import SecretDenied, SecretError, SecretNotFound, SecretUnavailable
from provider.secret_manifest import MAX_BYTES, read_manifest
from provider.secret_ref import SecretRef
from provider.signing_keys import SigningSecret
from provider.snapshot import SecretSnapshot
from schemas.ids import Purpose

_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})
_FORBIDDEN: Final = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP})


@final
class LocalSecretProvider:
    """Reads Secret manifests below `directory`, from the namespaces that are allowed. Every call reads the file."""

    __slots__ = ("_directory", "_namespaces_allowed")

    def __init__(self, directory: Path, namespaces_allowed: frozenset[str]) -> None:
        self._directory = directory
        self._namespaces_allowed = namespaces_allowed

    async def resolve(self, ref: SecretRef, *, tenant: str, purpose: Purpose) -> SigningSecret:
        """See `SecretProvider.resolve`."""
        return (await self.read(ref)).select(ref.key, tenant=tenant, purpose=purpose)

    async def read(self, ref: SecretRef) -> SecretSnapshot:
        """Read the Secret that `ref` names, whichever key of it. Raises a `SecretError`."""
        ref.require_namespace(self._namespaces_allowed)
        found = await asyncio.to_thread(self._find, ref)
        if isinstance(found, SecretSnapshot):
            return found
        raise found

    async def aclose(self) -> None:
        """Nothing to let go of."""

    def _find(self, ref: SecretRef) -> SecretSnapshot | type[SecretError]:
        """Where the file system's exceptions, which name paths, end."""
        try:
            with _opened(self._directory, f"{ref.namespace}/{ref.name}.json") as file:
                status = os.fstat(file)
                if not stat.S_ISREG(status.st_mode):
                    return SecretDenied
                body = _bounded(file)
        except OSError as error:
            return _meaning(error)
        if len(body) > MAX_BYTES:
            return SecretUnavailable
        # Nothing derived from the value: who sees versions must not be able to tell two values apart by it.
        written = f"{status.st_mtime_ns}-{status.st_size}"
        return read_manifest(body, ref, uid="local", resource_version=written)


@contextmanager
def _opened(directory: Path, name: str) -> Generator[int]:
    """Open a file below `directory`, wherever links lead to, as long as they stay inside. Raises `OSError`."""
    inside = os.path.realpath(directory, strict=True)
    path = os.path.realpath(f"{inside}/{name}", strict=True)
    if not Path(path).is_relative_to(inside):
        raise PermissionError(errno.EACCES, "outside the directory")
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)


def _bounded(file: int) -> bytes:
    """The file's content, or one byte more than is allowed."""
    body = bytearray()
    while len(body) <= MAX_BYTES and (chunk := os.read(file, MAX_BYTES + 1 - len(body))):
        body += chunk
    return bytes(body)


def _meaning(error: OSError) -> type[SecretError]:
    if error.errno in _ABSENT:
        return SecretNotFound
    return SecretDenied if error.errno in _FORBIDDEN else SecretUnavailable
