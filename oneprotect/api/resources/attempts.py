"""Attempts over HTTP: read from the stream that records them, newest first."""

from typing import Annotated, Final

from msgspec import Meta, Struct

from consumers.attempts import search
from consumers.attempts.search import AttemptFilter
from oneprotect.api.operations.operation import READERS, ApiResponse, OperationGroup, ResponseDoc
from oneprotect.api.operations.request import ApiRequest
from oneprotect.api.operations.visibility import expand_public_codes, to_public
from oneprotect.api.web.pagination import (
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    Page,
    Timestamp,
    decode_position,
    encode_position,
    require_time_range,
)
from schemas.codes import Code, Outcome
from schemas.events import AttemptResult
from schemas.ids import DeliveryId, DestinationId

OPERATIONS: Final = OperationGroup("deliveries")


class AttemptPage(Page[AttemptResult], frozen=True):
    """Attempts, newest first. A short or empty page may have a `next`; continue with it."""


class AttemptQuery(Struct, frozen=True, kw_only=True):
    """A filter of attempts. Every given condition must hold; one value of `outcome` and of `code` is enough."""

    destination: DestinationId | None = None
    delivery: DeliveryId | None = None
    outcome: tuple[Outcome, ...] = ()
    code: tuple[Code, ...] = ()
    since: Annotated[Timestamp, Meta(description="The earliest time of recording, inclusive.")] | None = None
    until: Annotated[Timestamp, Meta(description="The latest time of recording, exclusive.")] | None = None
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


@OPERATIONS.add(
    "GET",
    "/v1/tenants/{tenant}/attempts",
    {200: ResponseDoc("A page of attempts.", AttemptPage, {"items": [EXAMPLE], "next": "NDgyMTM"})},
    roles=READERS,
    query=AttemptQuery,
    reads_many=True,
)
async def list_attempts(request: ApiRequest) -> ApiResponse:
    """List attempts.

    The newest attempts come first. They are kept for 30 days. One request searches a few thousand attempts. A page may
    therefore be short or empty and still have a `next`.
    """
    query = request.query(AttemptQuery)
    require_time_range(query.since, query.until)
    found = await search.read_page(
        request.parts.connection,
        AttemptFilter(
            tenant=request.tenant,
            destination=query.destination,
            delivery=query.delivery,
            outcomes=frozenset(query.outcome),
            codes=expand_public_codes(query.code, public=request.is_public),
            since=query.since,
            until=query.until,
        ),
        limit=query.limit,
        before=decode_position(query.cursor),
    )
    items = [to_public(one.event.data, public=request.is_public) for one in found.items]
    return ApiResponse(body=Page(items, encode_position(found.cursor)))
