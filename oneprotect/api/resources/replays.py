"""Replays over HTTP: kept deliveries are requested once more, in the background."""

from collections import Counter
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from consumers.replay.source import DryRunSummary
from consumers.retention.retained import RetainedDelivery
from messaging.lease import LeaseHolder
from oneprotect.api.operations.operation import KEEPERS, READERS, ApiOperation, ApiResponse, ResponseDoc
from oneprotect.api.operations.public_codes import expand_public_codes
from oneprotect.api.operations.request import ApiRequest
from oneprotect.api.web.pagination import Page, PageQuery, decode_cursor, encode_cursor
from schemas.codes import Code
from schemas.configuration import KeptOutcome, Replay, ReplayFilter, ReplayState
from schemas.ids import DeliveryId, DestinationId, EventType
from schemas.validation import ValidationError

LIST: Final = "/v1/tenants/{tenant}/replays"
ONE: Final = LIST + "/{id}"

Time = Annotated[datetime, Meta(tz=True)]


class Criteria(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which kept deliveries. Every given condition must hold; an empty list is no condition."""

    destination: DestinationId | None = None
    since: Annotated[Time, Meta(description="Kept from then on.")] | None = None
    until: Annotated[Time, Meta(description="Kept before then.")] | None = None
    codes: Annotated[tuple[Code, ...], Meta(max_length=64)] = ()
    event_types: Annotated[tuple[EventType, ...], Meta(max_length=256)] = ()
    ids: Annotated[tuple[DeliveryId, ...], Meta(max_length=1000)] = ()
    outcomes: Annotated[
        tuple[KeptOutcome, ...],
        Meta(max_length=3, description="How they ended: `failed`, `skipped`, both if none; or `delivered`, by itself."),
    ] = ()

    def chosen(self, *, public: bool) -> ReplayFilter:
        """The filter, in one order whatever theirs, so that an unfinished replay is found again. Raises `ValidationError`."""
        if self.since and self.until and self.since >= self.until:
            raise ValidationError("filter.until", "expected a time after `since`")
        if "delivered" in self.outcomes and len(set(self.outcomes)) > 1:
            raise ValidationError("filter.outcomes", "expected `delivered` by itself: these are kept elsewhere")
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
    """What to replay: everything that is kept and was not attempted again since, as far as the filter takes it."""

    filter: Criteria = Criteria()
    dry_run: Annotated[bool, Meta(description="Only count, and show a sample.")] = False
    rate_per_s: Annotated[float, Meta(ge=0.001, le=1_000_000, description="Deliveries a second, at most.")] | None = (
        None
    )


class Count(Struct, frozen=True):
    """How many would be replayed to one destination, that had failed with one code."""

    destination: str
    code: str
    count: int


class Sample(Struct, frozen=True, kw_only=True):
    """One of the deliveries that a filter takes. `superseded`: it would be left alone."""

    id: str
    destination: str
    event_type: str
    code: str
    attempt: int
    kept_at: datetime
    superseded: bool


class DryRun(Struct, frozen=True, kw_only=True):
    """What a replay would do. `superseded`: left alone, as they were attempted again since or wait for that."""

    count: int
    superseded: int
    by: tuple[Count, ...]
    sample: tuple[Sample, ...]


class ReplayView(Struct, frozen=True, kw_only=True):
    """A replay and how far it has come. `active`: a process works on it right now."""

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


async def create_replay(call: ApiRequest) -> ApiResponse:
    """Start one, or count what it would do."""
    asked = await call.body(NewReplay)
    public = not call.principal.is_operator
    chosen = asked.filter.chosen(public=public)
    if asked.dry_run:
        preview = DryRunSummary()
        await preview.add_pages(call.parts.replayer.find_pages(call.tenant, chosen))
        return ApiResponse(body=_dry_run(preview, public=public))
    replay, row = await call.parts.replays.begin(
        call.tenant, chosen, by=call.by, address=call.address, rate_per_s=asked.rate_per_s
    )
    return ApiResponse(
        status=202,
        body=_view(call, replay, row, LeaseHolder(replay=replay, by=call.by, run="")),
        headers={"location": f"/v1/tenants/{call.tenant}/replays/{replay}"},
    )


async def list_replays(call: ApiRequest) -> ApiResponse:
    """The tenant's, newest first."""
    query = call.query(PageQuery)
    before = None if query.cursor is None else decode_cursor(query.cursor, str)
    rows = reversed((await call.parts.replayer.list(call.tenant)).items())
    rest = [(replay, row) for replay, row in rows if before is None or replay < before]
    running = await call.parts.replayer.find_running(call.tenant)
    page = rest[: query.limit]
    items = [_view(call, replay, row, running) for replay, row in page]
    return ApiResponse(body=Page(items, encode_cursor(page[-1][0]) if len(rest) > len(page) else None))


async def get_replay(call: ApiRequest) -> ApiResponse:
    """One of them."""
    row = await call.parts.replayer.get(call.tenant, call.id)
    return ApiResponse(body=_view(call, call.id, row, await call.parts.replayer.find_running(call.tenant)))


async def cancel_replay(call: ApiRequest) -> ApiResponse:
    """Stop it."""
    row = await call.parts.replayer.cancel(call.tenant, call.id, by=call.by, address=call.address)
    return ApiResponse(body=_view(call, call.id, row, None))


def _view(call: ApiRequest, replay: str, row: Replay, running: LeaseHolder | None) -> ReplayView:
    return ReplayView(
        id=replay,
        tenant=call.tenant,
        state=row.state,
        active=row.state is ReplayState.RUNNING and running is not None and running.replay == replay,
        filter=row.filter if call.principal.is_operator else _public(row.filter),
        by=row.by,
        started_at=row.started_at,
        ended_at=row.ended_at,
        cancelled_by=row.cancelled_by,
        replayed=row.replayed,
        skipped=row.skipped,
        total=row.total,
        rate_per_s=row.rate_per_s,
    )


def _public(chosen: ReplayFilter) -> ReplayFilter:
    codes = tuple(sorted({_told(code, public=True) for code in chosen.codes}))
    return msgspec.structs.replace(chosen, codes=codes)


def _told(code: str, *, public: bool) -> str:
    return Code(code).public.value if public and code in set(Code) else code


def _dry_run(preview: DryRunSummary, *, public: bool) -> DryRun:
    counts: Counter[tuple[str, str]] = Counter()
    for (destination, code), count in preview.counts.items():
        counts[destination, _told(code, public=public)] += count
    return DryRun(
        count=preview.total,
        superseded=preview.superseded,
        by=tuple(Count(destination, code, count) for (destination, code), count in sorted(counts.items()) if count),
        sample=tuple(_sample(kept, public=public) for kept in preview.samples),
    )


def _sample(kept: RetainedDelivery, *, public: bool) -> Sample:
    return Sample(
        id=kept.id,
        destination=kept.destination,
        event_type=kept.event_type,
        code=_told(kept.code, public=public),
        attempt=kept.attempt,
        kept_at=kept.stored_at,
        superseded=kept.superseded,
    )


_ONE: Final = ResponseDoc(what="The replay, as it is now.", body=ReplayView, example=EXAMPLE)

OPERATIONS: Final = (
    ApiOperation(
        method="POST",
        path=LIST,
        name="createReplay",
        summary="Replay deliveries that failed or were skipped",
        description="They are requested once more, with the same ids, and their attempts count on. What has been "
        "attempted again since, or waits for that, is left alone. One replay of a tenant runs at a time, another "
        "waits for it. Asked for again with the same filter, an unfinished one goes on.",
        tag="replays",
        roles=KEEPERS,
        handle=create_replay,
        body=NewReplay,
        body_example={"filter": {"destination": "orders", "codes": ["http.5xx"]}, "dry_run": True, "rate_per_s": 50},
        says={
            200: ResponseDoc(
                what="With `dry_run`: what it would do.",
                body=DryRun,
                example={
                    "count": 400,
                    "superseded": 3,
                    "by": [{"destination": "orders", "code": "http.5xx", "count": 400}],
                    "sample": [],
                },
            ),
            202: ResponseDoc(
                what="It has begun.", body=ReplayView, example=EXAMPLE, headers={"Location": "Where to look at it."}
            ),
        },
    ),
    ApiOperation(
        method="GET",
        path=LIST,
        name="listReplays",
        summary="List replays",
        tag="replays",
        roles=READERS,
        handle=list_replays,
        query=PageQuery,
        says={
            200: ResponseDoc(what="A page, newest first.", body=ReplayPage, example={"items": [EXAMPLE], "next": None})
        },
    ),
    ApiOperation(
        method="GET",
        path=ONE,
        name="getReplay",
        summary="Show a replay and its progress",
        tag="replays",
        roles=READERS,
        handle=get_replay,
        says={200: _ONE},
        problems=(404,),
    ),
    ApiOperation(
        method="DELETE",
        path=ONE,
        name="cancelReplay",
        summary="Cancel a replay",
        description="What it has requested so far stays requested.",
        tag="replays",
        roles=KEEPERS,
        handle=cancel_replay,
        says={200: _ONE},
        problems=(404, 409),
    ),
)
