"""Secret refs: `k8s://NAMESPACE/SECRET/KEY`, or `k8s://SECRET/KEY` with a central namespace (contract, section 2)."""

import re
from typing import Final

from provider.errors import SecretRefForbidden, SecretRefInvalid

MAX_LENGTH: Final = 512
RESERVED_SUFFIXES: Final = (".previous", ".next")

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_REF = re.compile(
    rf"k8s://(?:(?P<namespace>{_LABEL})/)?(?P<name>{_LABEL}(?:\.{_LABEL})*)/(?P<key>[-._a-zA-Z0-9]{{1,253}})",
    re.ASCII,
)


class SecretRef:
    """Which key of which Secret. `str()` is the canonical three-part form; `repr()` shows nothing of it."""

    __slots__ = ("key", "name", "namespace")

    def __init__(self, *, namespace: str, name: str, key: str) -> None:
        self.namespace = namespace
        self.name = name
        self.key = key

    @classmethod
    def parse(cls, text: str, *, central_namespace: str | None = None) -> "SecretRef":
        """Parse a ref. Raises `SecretRefInvalid`, which never repeats it: people paste the secret itself here."""
        found = _REF.fullmatch(text) if len(text) <= MAX_LENGTH else None
        namespace = found and (found["namespace"] or central_namespace)
        if not found or not namespace or len(found["name"]) > 253:
            raise SecretRefInvalid
        if found["key"] in (".", "..") or found["key"].endswith(RESERVED_SUFFIXES):
            raise SecretRefInvalid
        return cls(namespace=namespace, name=found["name"], key=found["key"])

    def require_namespace(self, allowed: frozenset[str]) -> None:
        """Raise `SecretRefForbidden` unless the namespace is one of `allowed`. There is no "any"."""
        if self.namespace not in allowed:
            raise SecretRefForbidden

    def __str__(self) -> str:
        return f"k8s://{self.namespace}/{self.name}/{self.key}"

    def __repr__(self) -> str:
        return "SecretRef(...)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretRef) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash((self.namespace, self.name, self.key))
