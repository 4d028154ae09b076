"""Secret refs: `k8s://NAMESPACE/SECRET/KEY`, or `k8s://SECRET/KEY` with a central namespace (contract, section 2)."""

import re
from typing import Final, final

from provider.errors import SecretRefForbidden, SecretRefInvalid

MAX_LENGTH: Final = 512
RESERVED_SUFFIXES: Final = (".previous", ".next")

NamespacedName = tuple[str, str]
"""Namespace and name of a Secret."""

_SCHEME = "k8s://"
_NAMESPACE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")


@final
class SecretRef:
    """Reference to one key of one Secret. `str()` is the canonical three-part form; `repr()` hides the ref.

    Every instance follows the grammar, so its parts are safe in a URL path and in a file path.
    """

    __slots__ = ("key", "name", "namespace", "namespaced_name")

    def __init__(self, *, namespace: str, name: str, key: str) -> None:
        """Hold the parts. Raises `SecretRefInvalid` when a part, or the whole, does not follow the grammar."""
        if not _is_ref(namespace, name, key):
            del namespace, name, key  # a traceback that shows locals must not find them
            raise SecretRefInvalid
        self.namespace: Final = namespace
        self.name: Final = name
        self.key: Final = key
        self.namespaced_name: Final[NamespacedName] = (namespace, name)

    @classmethod
    def parse(cls, text: str, *, central_namespace: str | None = None) -> "SecretRef":
        """Parse a ref; `central_namespace` completes a two-part ref.

        Raises `SecretRefInvalid`, which never repeats the text: people paste secrets here.
        """
        parts = text[len(_SCHEME) :].split("/") if text.startswith(_SCHEME) and len(text) <= MAX_LENGTH else []
        del text
        if len(parts) == 2 and central_namespace is not None:
            parts.insert(0, central_namespace)
        if len(parts) != 3 or not _is_ref(*parts):
            del parts
            raise SecretRefInvalid
        return cls(namespace=parts[0], name=parts[1], key=parts[2])

    def require_namespace(self, allowed: frozenset[str]) -> None:
        """Raise `SecretRefForbidden` unless `allowed` names the namespace. There is no wildcard."""
        if self.namespace not in allowed:
            raise SecretRefForbidden

    def __str__(self) -> str:
        return f"{_SCHEME}{self.namespace}/{self.name}/{self.key}"

    def __repr__(self) -> str:
        return "SecretRef(...)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretRef) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash((self.namespaced_name, self.key))


def _is_ref(namespace: str, name: str, key: str) -> bool:
    return bool(
        _NAMESPACE.fullmatch(namespace)
        and _NAME.fullmatch(name)
        and _KEY.fullmatch(key)
        and key not in (".", "..")
        and not key.endswith(RESERVED_SUFFIXES)
        and len(f"{_SCHEME}{namespace}/{name}/{key}") <= MAX_LENGTH
    )
