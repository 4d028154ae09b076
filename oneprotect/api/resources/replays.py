"""Replays over HTTP: retained deliveries are requested again, in the background."""

from collections import Counter
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from consumers.replay.source import DryRunSummary
from consumers.retention.retained import RetainedDelivery
from messaging.lease import LeaseHolder
from oneprotect.api.operations.operation import MANAGERS, READERS, ApiResponse, OperationGroup, ResponseDoc
from oneprotect.api.operations.request import ApiRequest
from oneprotect.api.operations.visibility import expand_public_codes, to_public_code
from oneprotect.api.web.pagination import (
    Page,
    PageQuery,
    Timestamp,
    decode_cursor,
    encode_cursor,
    require_time_range,
)
from schemas.codes import Code
from schemas.configuration import KeptOutcome, Replay, ReplayFilter, ReplayState
from schemas.ids import DeliveryId, DestinationId, EventType
from schemas.validation import ValidationError

OPERATIONS: Final = OperationGroup("replays")
LIST: Final = "/v1/tenants/{tenant}/replays"
ONE: Final = LIST + "/{id}"


class Criteria(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A filter of retained deliveries. Every given condition must hold; an empty list is no condition."""

    destination: DestinationId | None = None
    since: Annotated[Timestamp, Meta(description="The earliest time of retention, inclusive.")] | None = None
    until: Annotated[Timestamp, Meta(description="The latest time of retention, exclusive.")] | None = None
    codes: Annotated[tuple[Code, ...], Meta(max_length=64)] = ()
    event_types: Annotated[tuple[EventType, ...], Meta(max_length=256)] = ()
    ids: Annotated[tuple[DeliveryId, ...], Meta(max_length=1000)] = ()
    outcomes: Annotated[
        tuple[KeptOutcome, ...],
        Meta(max_length=3, description="`failed` and `skipped` (both if empty), or only `delivered`."),
    ] = ()

    def to_filter(self, *, public: bool) -> ReplayFilter:
        """Return the filter in canonical order, which finds an unfinished replay again. Raises `ValidationError`."""
        require_time_range(self.since, self.until, "filter.until")
        if "delivered" in self.outcomes and len(set(self.outcomes)) > 1:
            raise ValidationError("filter.outcomes", "expected `delivered` without other outcomes")
        return ReplayFilter(
            destination=self.destination,
            since=self.since and self.since.astimezone(UTC),
            until=self.until and self.until.astimezone(UTC),
            codes=tuple(sorted(code.value for code in expand_public_codes(self.codes, public=public))),
            event_types=tuple(sorted(set(self.event_types))),
            ids=tuple(sorted(set(self.ids))),
            outcomes=tuple(sorted(set(self.outcomes))),
        )


class NewReplay(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for a replay of the deliveries that match the filter and have not been attempted since."""

    filter: Criteria = Criteria()
    dry_run: Annotated[bool, Meta(description="Only count the deliveries, and return a sample.")] = False
    rate_per_s: (
        Annotated[float, Meta(ge=0.001, le=1_000_000, description="The maximum number of deliveries per second.")]
        | None
    ) = None


class Count(Struct, frozen=True):
    """The number of deliveries to one destination with one code."""

    destination: str
    code: str
    count: int


class Sample(Struct, frozen=True, kw_only=True):
    """A matching delivery. `superseded`: the replay would skip it."""

    id: str
    destination: str
    event_type: str
    code: str
    attempt: int
    kept_at: datetime
    superseded: bool


class DryRun(Struct, frozen=True, kw_only=True):
    """The effect of a replay. `superseded`: deliveries to skip, as they were attempted since or are scheduled."""

    count: int
    superseded: int
    by: tuple[Count, ...]
    sample: tuple[Sample, ...]


class ReplayView(Struct, frozen=True, kw_only=True):
    """A replay and its progress. `active`: a process is working on it now."""

    id: str
    tenant: str
    state: ReplayState
    active: bool
    filter: ReplayFilter
    by: str
    started_at: datetime
    ended_at: datetime | None
    cancelled_by: str | None
    replayed: int
    skipped: int
    total: int | None
    rate_per_s: float | None


class ReplayPage(Page[ReplayView], frozen=True):
    """Replays, newest first."""


EXAMPLE: Final = {
    "id": "rpl-01jde3v7q0m8z5t2r4x6y8w0ab",
    "tenant": "acme",
    "state": "running",
    "active": True,
    "filter": {"destination": "orders", "codes": ["http.5xx"]},
    "by": "token:4fz8m2k0q7xw1a9c",
    "started_at": "2026-11-23T20:00:00Z",
    "ended_at": None,
    "cancelled_by": None,
    "replayed": 120,
    "skipped": 3,
    "total": 400,
    "rate_per_s": 50.0,
}
_ONE: Final = {200: ResponseDoc("The replay and its progress.", ReplayView, EXAMPLE)}


@OPERATIONS.add(
    "POST",
    LIST,
    {
        200: ResponseDoc(
            "With `dry_run`: the effect of the replay.",
            DryRun,
            {
                "count": 400,
                "superseded": 3,
                "by": [{"destination": "orders", "code": "http.5xx", "count": 400}],
                "sample": [],
            },
        ),
        202: ResponseDoc("The replay has started.", ReplayView, EXAMPLE, {"Location": "The path of the replay."}),
    },
    roles=MANAGERS,
    body=NewReplay,
    body_example={"filter": {"destination": "orders", "codes": ["http.5xx"]}, "dry_run": True, "rate_per_s": 50},
    problems=(409,),
)
async def create_replay(request: ApiRequest) -> ApiResponse:
    """Replay failed or skipped deliveries.

    The deliveries are requested again with the same ids, and their attempts continue to count. Deliveries that have
    been attempted since, or are scheduled, are skipped.

    A tenant runs one replay at a time; another one waits. A request with the filter of an unfinished replay resumes
    that replay.
    """
    new = await request.body(NewReplay)
    chosen = new.filter.to_filter(public=request.is_public)
    if new.dry_run:
        return ApiResponse(body=_dry_run(await request.dry_run(chosen), public=request.is_public))
    replay, row = await request.parts.replay_runner.begin(
        request.tenant, chosen, by=request.by, address=request.address, rate_per_s=new.rate_per_s
    )
    return ApiResponse(
        status=202,
        body=_view(request, replay, row, LeaseHolder(replay=replay, by=request.by, run="")),
        headers={"location": f"/v1/tenants/{request.tenant}/replays/{replay}"},
    )


@OPERATIONS.add(
    "GET",
    LIST,
    {200: ResponseDoc("A page of replays, newest first.", ReplayPage, {"items": [EXAMPLE], "next": None})},
    roles=READERS,
    query=PageQuery,
    reads_many=True,
)
async def list_replays(request: ApiRequest) -> ApiResponse:
    """List replays."""
    query = request.query(PageQuery)
    before = None if query.cursor is None else decode_cursor(query.cursor, str)
    service = request.parts.replay_service
    rows, has_more = await service.list_page(request.tenant, limit=query.limit, before=before)
    running = await service.find_running(request.tenant)
    items = [_view(request, replay, row, running) for replay, row in rows.items()]
    return ApiResponse(body=Page(items, encode_cursor(list(rows)[-1]) if has_more else None))


@OPERATIONS.add("GET", ONE, _ONE, roles=READERS, problems=(404,))
async def get_replay(request: ApiRequest) -> ApiResponse:
    """Get a replay and its progress."""
    row = await request.parts.replay_service.get(request.tenant, request.id)
    return ApiResponse(
        body=_view(request, request.id, row, await request.parts.replay_service.find_running(request.tenant))
    )


@OPERATIONS.add("DELETE", ONE, _ONE, roles=MANAGERS, problems=(404, 409))
async def cancel_replay(request: ApiRequest) -> ApiResponse:
    """Cancel a replay.

    Deliveries that the replay has already requested are not cancelled.
    """
    row = await request.parts.replay_service.cancel(request.tenant, request.id, by=request.by, address=request.address)
    return ApiResponse(body=_view(request, request.id, row, None))


def _view(request: ApiRequest, replay: str, row: Replay, running: LeaseHolder | None) -> ReplayView:
    return ReplayView(
        id=replay,
        tenant=request.tenant,
        state=row.state,
        active=row.state is ReplayState.RUNNING and running is not None and running.replay == replay,
        filter=to_public_filter(row.filter, public=request.is_public),
        by=row.by,
        started_at=row.started_at,
        ended_at=row.ended_at,
        cancelled_by=row.cancelled_by,
        replayed=row.replayed,
        skipped=row.skipped,
        total=row.total,
        rate_per_s=row.rate_per_s,
    )


def to_public_filter(chosen: ReplayFilter, *, public: bool) -> ReplayFilter:
    """Return the filter with its codes in public form if `public`."""
    if not public:
        return chosen
    codes = tuple(sorted({to_public_code(code, public=True) for code in chosen.codes}))
    return msgspec.structs.replace(chosen, codes=codes)


def to_public_counts(summary: DryRunSummary, *, public: bool) -> list[Count]:
    """Return the numbers of deliveries by destination and code, the codes in public form if `public`."""
    counts: Counter[tuple[str, str]] = Counter()
    for (destination, code), count in summary.counts.items():
        counts[destination, to_public_code(code, public=public)] += count
    return [Count(destination, code, count) for (destination, code), count in sorted(counts.items()) if count]


def _dry_run(summary: DryRunSummary, *, public: bool) -> DryRun:
    return DryRun(
        count=summary.total,
        superseded=summary.superseded,
        by=tuple(to_public_counts(summary, public=public)),
        sample=tuple(_sample(retained, public=public) for retained in summary.samples),
    )


def _sample(retained: RetainedDelivery, *, public: bool) -> Sample:
    return Sample(
        id=retained.id,
        destination=retained.destination,
        event_type=retained.event_type,
        code=to_public_code(retained.code, public=public),
        attempt=retained.attempt,
        kept_at=retained.stored_at,
        superseded=retained.superseded,
    )
