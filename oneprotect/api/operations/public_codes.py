"""What whoever asks is told: codes that would tell a tenant about others' Secrets are told in their public form."""

from collections.abc import Iterable

import msgspec

from schemas.codes import Code
from schemas.events import AttemptResult


def to_public(result: AttemptResult, *, public: bool) -> AttemptResult:
    """An attempt as it is shown."""
    return msgspec.structs.replace(result, code=result.code.public) if public else result


def expand_public_codes(codes: Iterable[Code], *, public: bool) -> frozenset[Code]:
    """The codes to look for when somebody asks for `codes`: with one that is told in public, all that are told so."""
    asked = frozenset(codes)
    if not public:
        return asked
    told_as = {code.public for code in asked}
    return frozenset(code for code in Code if code.public in told_as)
