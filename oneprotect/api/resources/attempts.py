"""Attempts over HTTP: straight from the stream they are recorded in, newest first."""

from datetime import datetime
from typing import Annotated, Final

from msgspec import Meta, Struct

from consumers.attempts import search
from consumers.attempts.search import AttemptFilter
from oneprotect.api.operations.operation import READERS, ApiOperation, ApiResponse, ResponseDoc
from oneprotect.api.operations.public_codes import expand_public_codes, to_public
from oneprotect.api.operations.request import ApiRequest
from oneprotect.api.web.pagination import DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, encode_cursor
from schemas.codes import Code, Outcome
from schemas.events import AttemptResult
from schemas.ids import DeliveryId, DestinationId
from schemas.validation import ValidationError

LIST: Final = "/v1/tenants/{tenant}/attempts"

Time = Annotated[datetime, Meta(tz=True)]


class AttemptPage(Page[AttemptResult], frozen=True):
    """Attempts, newest first. A page may be short, or empty, and still have a `next`: go on with that."""


class _CursorPosition(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a cursor stands for: go on before this place in the stream."""

    before: Annotated[int, Meta(ge=1, le=2**63 - 1)]


class AttemptQuery(Struct, frozen=True, kw_only=True):
    """Which attempts. Every given condition must hold; of `outcome` and `code` one is enough."""

    destination: DestinationId | None = None
    delivery: DeliveryId | None = None
    outcome: tuple[Outcome, ...] = ()
    code: tuple[Code, ...] = ()
    since: Annotated[Time, Meta(description="Recorded from then on.")] | None = None
    until: Annotated[Time, Meta(description="Recorded before then.")] | None = None
    limit: Limit = DEFAULT_LIMIT
    cursor: Cursor | None = None


EXAMPLE: Final = {
    "delivery": "dlv_01JDE3V7Q0M8Z5T2R4X6Y8W0AB",
    "destination": "orders",
    "event_type": "invoice.paid",
    "attempt": 1,
    "outcome": "delivered",
    "code": "http.2xx",
    "started_at": "2026-11-23T20:00:00.123456Z",
    "duration_ms": 12.5,
    "worker": "consumer-7d9c-1-a1b2",
    "http_status": 204,
    "retry_after_s": None,
    "next_attempt_at": None,
    "request_bytes": 118,
    "response_bytes": 0,
    "signed_with": ["current"],
    "secret_version": "0c3f0b0e-8a55-4a38-9a5e-6f1f5e0f7a11/48213",
    "replay": None,
    "url_host": "example.com",
    "response_body": None,
}


async def list_attempts(call: ApiRequest) -> ApiResponse:
    """Those that fit."""
    query = call.query(AttemptQuery)
    if query.since and query.until and query.since >= query.until:
        raise ValidationError("until", "expected a time after `since`")
    public = not call.principal.is_operator
    found = await search.read_page(
        call.parts.connection,
        AttemptFilter(
            tenant=call.tenant,
            destination=query.destination,
            delivery=query.delivery,
            outcomes=frozenset(query.outcome),
            codes=expand_public_codes(query.code, public=public),
            since=query.since,
            until=query.until,
        ),
        limit=query.limit,
        before=None if query.cursor is None else decode_cursor(query.cursor, _CursorPosition).before,
    )
    items = [to_public(one.event.data, public=public) for one in found.items]
    return ApiResponse(body=Page(items, None if found.cursor is None else encode_cursor(_CursorPosition(found.cursor))))


OPERATIONS: Final = (
    ApiOperation(
        method="GET",
        path=LIST,
        name="listAttempts",
        summary="List attempts",
        description="Newest first, kept for 30 days. One request looks through some thousands of attempts at most: a "
        "page may be short, or empty, and still say where to go on.",
        tag="deliveries",
        roles=READERS,
        handle=list_attempts,
        query=AttemptQuery,
        says={
            200: ResponseDoc(
                what="A page of attempts.", body=AttemptPage, example={"items": [EXAMPLE], "next": "NDgyMTM"}
            )
        },
    ),
)
