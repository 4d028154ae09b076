"""Results as a caller may see them. Codes that reveal the state of Secrets are for operators only."""

from collections.abc import Iterable

import msgspec

from schemas.codes import Code
from schemas.configuration import CredentialView
from schemas.events import AttemptResult


def to_public(result: AttemptResult, *, public: bool) -> AttemptResult:
    """Return the attempt with its public code if `public`."""
    return msgspec.structs.replace(result, code=result.code.public) if public else result


def to_public_code(code: str, *, public: bool) -> str:
    """Return the public form of `code` if `public`; an unknown code stays as it is."""
    return Code(code).public.value if public and code in set(Code) else code


def to_public_credential(view: CredentialView, *, public: bool) -> CredentialView:
    """Return the credential with its public status if `public`."""
    return msgspec.structs.replace(view, status=view.status.public) if public else view


def expand_public_codes(codes: Iterable[Code], *, public: bool) -> frozenset[Code]:
    """Return the codes to search for: if `public`, all codes with the public forms of `codes`."""
    wanted = frozenset(codes)
    if not public:
        return wanted
    forms = {code.public for code in wanted}
    return frozenset(code for code in Code if code.public in forms)
