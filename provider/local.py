"""Local provider for developers: Secret manifests in `DIR/NAMESPACE/SECRET.json`.

Checks and errors equal those of the Kubernetes provider.
"""

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
from provider.signing_secret import SigningSecret
from provider.snapshot import SecretSnapshot
from schemas.ids import Purpose

_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})
_FORBIDDEN: Final = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP})


@final
class LocalSecretProvider:
    """Provider that reads Secret manifests below a directory. Every call reads the file.

    It reads on the event loop: a thread that is interrupted while it runs Python code stops the loop for longer.
    """

    __slots__ = ("_directory", "_namespaces_allowed")

    def __init__(self, directory: Path, namespaces_allowed: frozenset[str]) -> None:
        self._directory = directory
        self._namespaces_allowed = namespaces_allowed

    async def resolve(self, ref: SecretRef, *, tenant: str, purpose: Purpose) -> SigningSecret:
        """Implement `SecretProvider.resolve`."""
        return (await self.read(ref)).require_secret(ref.key, tenant=tenant, purpose=purpose)

    async def read(self, ref: SecretRef) -> SecretSnapshot:
        """Implement `SnapshotReader.read`."""
        ref.require_namespace(self._namespaces_allowed)
        found = self._find_snapshot(ref)
        if isinstance(found, SecretSnapshot):
            return found
        raise found

    async def aclose(self) -> None:
        """Do nothing: no connection is open."""

    def _find_snapshot(self, ref: SecretRef) -> SecretSnapshot | type[SecretError]:
        try:
            with _open_below(self._directory, f"{ref.namespace}/{ref.name}.json") as file:
                status = os.fstat(file)
                if not stat.S_ISREG(status.st_mode):
                    return SecretDenied
                body = _read_bounded(file)
        except OSError as error:
            return _translate_error(error)
        if len(body) > MAX_BYTES:
            return SecretUnavailable
        # Nothing derived from the value: a version must not reveal that two values differ.
        written = f"{status.st_mtime_ns}-{status.st_size}"
        return read_manifest(body, ref, uid="local", resource_version=written)


@contextmanager
def _open_below(directory: Path, name: str) -> Generator[int]:
    """Open a file below `directory`; links must not lead outside. Raises `OSError`."""
    root = os.path.realpath(directory, strict=True)
    path = os.path.realpath(f"{root}/{name}", strict=True)
    if not Path(path).is_relative_to(root):
        raise PermissionError(errno.EACCES, "outside the directory")
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)


def _read_bounded(file: int) -> bytes:
    """Return the content, at most one byte more than allowed."""
    body = bytearray()
    while len(body) <= MAX_BYTES and (chunk := os.read(file, MAX_BYTES + 1 - len(body))):
        body += chunk
    return bytes(body)


def _translate_error(error: OSError) -> type[SecretError]:
    # Exceptions of the file system name paths, so they end here.
    if error.errno in _ABSENT:
        return SecretNotFound
    return SecretDenied if error.errno in _FORBIDDEN else SecretUnavailable
