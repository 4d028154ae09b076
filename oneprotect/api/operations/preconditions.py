"""`ETag`, `If-Match` and `If-None-Match` (RFC 9110, section 13): nobody overwrites what they have not seen.

An entity tag here is the revision of what is kept, in quotes.
"""

import re
from typing import Final

from oneprotect.api.operations.request import ApiRequest
from oneprotect.configuration.service import Precondition, always
from schemas.validation import ValidationError

HEADERS: Final = {
    "If-Match": "Change only what has one of these entity tags (`*`: whatever there is); otherwise the answer is 412.",
    "If-None-Match": "With `*`: create only, and change nothing that is there; otherwise the answer is 412.",
}

_TAG = r'(?:W/)?"[\x21\x23-\x7e]*"'
_TAGS: Final = re.compile(rf"{_TAG}(?:[ \t]*,[ \t]*{_TAG})*")
_REVISION: Final = re.compile(r'(?<!W/)"([1-9][0-9]{0,18})"')


def entity_tag(revision: int) -> str:
    """As it stands in `ETag`."""
    return f'"{revision}"'


def read_precondition(call: ApiRequest) -> Precondition:
    """What the request's headers demand of what is there. Raises `ValidationError`."""
    match, none_match = call.header("if-match"), call.header("if-none-match")
    if match is not None and none_match is not None:
        raise ValidationError("If-None-Match", "not together with `If-Match`")
    if none_match is not None:
        if none_match != "*":
            raise ValidationError(
                "If-None-Match", "only `*` is understood here: create, and change nothing that is there"
            )
        return lambda revision: revision == 0
    if match is None:
        return always
    if match == "*":
        return lambda revision: revision != 0
    if len(match) > 1024 or not _TAGS.fullmatch(match):
        raise ValidationError("If-Match", "expected `*`, or entity tags in quotes, as `ETag` gives them")
    revisions = {int(found) for found in _REVISION.findall(match)}
    return lambda revision: revision in revisions
