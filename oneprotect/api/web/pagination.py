"""Query parameters of lists: pages, cursors and time ranges."""

import base64
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Annotated, Final, Generic, Protocol, TypeVar

import msgspec
from msgspec import Meta, Struct

from schemas.validation import ValidationError

DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 500

T = TypeVar("T")

Limit = Annotated[int, Meta(ge=1, le=MAX_LIMIT, description="The maximum number of items on the page.")]
Cursor = Annotated[
    str, Meta(min_length=1, max_length=512, description="Start after the previous page: the value of its `next`.")
]
Timestamp = Annotated[datetime, Meta(tz=True)]


class PageQuery(Struct, frozen=True, kw_only=True):
    """The query parameters of a paged list."""

    limit: Limit = DEFAULT_LIMIT
    cursor: Cursor | None = None


class Page(Struct, Generic[T], frozen=True):
    """Part of a list. `next` is the cursor of the next page, or null at the end."""

    items: Sequence[T]
    next: str | None = None


class StreamPosition(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The content of a cursor into a stream: continue before this sequence number."""

    before: Annotated[int, Meta(ge=1, le=2**63 - 1)]


def encode_cursor(value: object) -> str:
    """Return a cursor that holds `value`."""
    return base64.urlsafe_b64encode(msgspec.json.encode(value)).decode().rstrip("=")


def decode_cursor(text: str, kind: type[T]) -> T:
    """Return the content of a cursor. Raises `ValidationError` for any other text."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(raw, type=kind)
    except (ValueError, msgspec.DecodeError):
        pass
    raise ValidationError("cursor", "expected the `next` of a previous page of this list")


def encode_position(before: int | None) -> str | None:
    """Return a cursor that continues before a sequence number; None stays None."""
    return None if before is None else encode_cursor(StreamPosition(before))


def decode_position(cursor: str | None) -> int | None:
    """Return the sequence number of a cursor; None stays None. Raises `ValidationError`."""
    return None if cursor is None else decode_cursor(cursor, StreamPosition).before


class _Listed(Protocol):
    @property
    def id(self) -> str: ...


Listed = TypeVar("Listed", bound=_Listed)


ReadListPage = Callable[..., Awaitable[tuple[list[Listed], bool]]]
"""Reads the items after the id `after`: at most `limit`, and whether there are more."""


async def read_list_page(query: PageQuery, read: ReadListPage[Listed]) -> Page[Listed]:
    """Return a page of a list of items with ids. Raises `ValidationError`."""
    after = None if query.cursor is None else decode_cursor(query.cursor, str)
    items, has_more = await read(limit=query.limit, after=after)
    return Page(items, encode_cursor(items[-1].id) if has_more else None)


def require_time_range(since: datetime | None, until: datetime | None, field: str = "until") -> None:
    """Raise `ValidationError` for `field` unless `since` is before `until`."""
    if since and until and since >= until:
        raise ValidationError(field, "expected a time after `since`")
