"""Lists in pages. A cursor says where the next page begins; what is in it is nobody's business but ours."""

import base64
from collections.abc import Callable, Sequence
from typing import Annotated, Final, Generic, TypeVar

import msgspec
from msgspec import Meta, Struct

from schemas.validation import ValidationError

DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 500

T = TypeVar("T")

Limit = Annotated[int, Meta(ge=1, le=MAX_LIMIT, description="At most so many on a page.")]
Cursor = Annotated[str, Meta(min_length=1, max_length=512, description="Where to go on: `next` of the page before.")]


class PageQuery(Struct, frozen=True, kw_only=True):
    """Which page."""

    limit: Limit = DEFAULT_LIMIT
    cursor: Cursor | None = None


class Page(Struct, Generic[T], frozen=True):
    """Some of a list. `next` is the cursor of what comes after it, or null at the end."""

    items: Sequence[T]
    next: str | None = None


def encode_cursor(value: object) -> str:
    """A cursor that stands for `value`."""
    return base64.urlsafe_b64encode(msgspec.json.encode(value)).decode().rstrip("=")


def decode_cursor(text: str, kind: type[T]) -> T:
    """What a cursor of ours stands for. Raises `ValidationError` for any other text."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(raw, type=kind)
    except (ValueError, msgspec.DecodeError):
        pass
    raise ValidationError("cursor", "not the `next` of a page of this list")


def page_of(items: Sequence[T], query: PageQuery, *, key: Callable[[T], str]) -> Page[T]:
    """A page of a list that is at hand whole, sorted by `key`. Raises `ValidationError`."""
    after = None if query.cursor is None else decode_cursor(query.cursor, str)
    rest = [item for item in items if after is None or key(item) > after]
    page = rest[: query.limit]
    return Page(page, encode_cursor(key(page[-1])) if len(rest) > len(page) else None)
