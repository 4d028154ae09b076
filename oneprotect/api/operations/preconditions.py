"""Optimistic concurrency with `ETag`, `If-Match` and `If-None-Match` (RFC 9110, section 13).

An entity tag is the revision of the stored value, in quotes.
"""

import re
from typing import Final

from oneprotect.api.operations.request import ApiRequest
from oneprotect.configuration.service import Precondition, always
from schemas.validation import ValidationError

HEADERS: Final = {
    "If-Match": "Change the resource only if it has one of these entity tags. `*` matches any existing resource. "
    "Otherwise the response is 412.",
    "If-None-Match": "With `*`, create the resource only if it does not exist. Otherwise the response is 412.",
}

_TAG = r'(?:W/)?"[\x21\x23-\x7e]*"'
_TAGS: Final = re.compile(rf"{_TAG}(?:[ \t]*,[ \t]*{_TAG})*")
_REVISION: Final = re.compile(r'(?<!W/)"([1-9][0-9]{0,18})"')


def format_entity_tag(revision: int) -> str:
    """Return the value of `ETag` for a revision."""
    return f'"{revision}"'


def read_precondition(request: ApiRequest) -> Precondition:
    """Return the precondition of the request's headers. Raises `ValidationError`."""
    match, none_match = request.header("if-match"), request.header("if-none-match")
    if match is not None and none_match is not None:
        raise ValidationError("If-None-Match", "not allowed together with `If-Match`")
    if none_match is not None:
        if none_match != "*":
            raise ValidationError("If-None-Match", "expected `*`: create the resource only if it does not exist")
        return lambda revision: revision == 0
    if match is None:
        return always
    if match == "*":
        return lambda revision: revision != 0
    if len(match) > 1024 or not _TAGS.fullmatch(match):
        raise ValidationError("If-Match", "expected `*`, or entity tags in quotes as in `ETag`")
    revisions = {int(found) for found in _REVISION.findall(match)}
    return lambda revision: revision in revisions
