"""Results as a caller may see them. Codes that reveal the state of Secrets are for operators only."""

from collections.abc import Iterable

import msgspec

from schemas.codes import Code, CredentialStatus
from schemas.configuration import CredentialView
from schemas.events import AttemptResult


def to_public(result: AttemptResult, *, public: bool) -> AttemptResult:
    """Return the attempt with its public code if `public`."""
    return msgspec.structs.replace(result, code=result.code.public) if public else result


def to_public_code(code: str, *, public: bool) -> str:
    """Return the public form of `code` if `public`; an unknown code stays as it is."""
    return Code(code).public.value if public and code in set(Code) else code


def to_public_credential(view: CredentialView, *, public: bool) -> CredentialView:
    """Return the credential with its public status if `public`.

    A hidden status has no time either: an earlier time than usual would reveal that the hidden status changed.
    """
    if not public:
        return view
    status = view.status.public
    checked_at = None if status is CredentialStatus.UNAVAILABLE else view.checked_at
    return msgspec.structs.replace(view, status=status, checked_at=checked_at)


def expand_public_codes(codes: Iterable[Code], *, public: bool) -> frozenset[Code]:
    """Return the codes to search for: if `public`, all codes with the public forms of `codes`."""
    wanted = frozenset(codes)
    if not public:
        return wanted
    forms = {code.public for code in wanted}
    return frozenset(code for code in Code if code.public in forms)
