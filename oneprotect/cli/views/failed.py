"""Retained deliveries on a terminal or as JSON."""

import base64
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from consumers.model.request import RetryState
from consumers.replay.source import find_superseded
from consumers.retention.retained import RetainedRecord, read_newest
from messaging import direct_get
from messaging.client.connection import NatsConnection
from oneprotect.cli.support.errors import CliError
from oneprotect.cli.support.output import print_notice, write_fields, write_json, write_line, write_table
from oneprotect.cli.views.attempts import format_attempt
from schemas import streams, subjects
from schemas.configuration import ReplayFilter
from schemas.events import AttemptResult, decode_request, decode_result

MAX_RECORDS: Final = 1000
"""Records of one delivery that are shown. It is retained again each time it fails."""

_BEFORE_FIRST: Final = timedelta(minutes=1)


class RetainedDeliveryView(msgspec.Struct, frozen=True, kw_only=True):
    """A retained delivery: its request, its state, and the results of its attempts."""

    id: str
    tenant: str
    destination: str
    event_type: str
    source: str
    requested_at: datetime
    content_type: str
    bytes: int
    kept_at: datetime
    sequence: int
    outcome: str
    code: str
    attempt: int
    replay: str | None
    superseded: bool
    attempts: list[AttemptResult]
    payload: str | None = None
    payload_base64: str | None = None


async def list_retained(
    connection: NatsConnection,
    tenant: str,
    chosen: ReplayFilter,
    *,
    only_open: bool,
    limit: int,
    before: int | None,
    as_json: bool,
) -> None:
    """Write the retained deliveries that match `chosen`, newest first. Raises `JetStreamError`."""
    read = _read_newest_open if only_open else read_newest
    found = [record.delivery for record in await read(connection, tenant, chosen, limit=limit, before=before)]
    following = found[-1].sequence if len(found) == limit else None
    if as_json:
        fields = ("id", "destination", "event_type", "outcome", "code", "attempt", "stored_at", "sequence")
        rows = [{field: getattr(kept, field) for field in fields} for kept in found]
        write_json({"tenant": tenant, "failed": rows, "next": following})
        return
    write_table(
        ("retained at", "destination", "id", "event type", "outcome", "code", "attempts"),
        [
            (kept.stored_at, kept.destination, kept.id, kept.event_type, kept.outcome, kept.code, kept.attempt)
            for kept in found
        ],
        empty="No kept delivery matches. Check the names of the tenant and the destination.",
    )
    if following:
        print_notice(f"there may be more; continue with --before {following}")


async def show_retained(
    connection: NatsConnection, tenant: str, chosen: ReplayFilter, *, with_payload: bool, as_json: bool
) -> None:
    """Write every record of one delivery. Raises `CliError` when there is none, and `JetStreamError`."""
    found = await read_newest(connection, tenant, chosen, limit=MAX_RECORDS)
    if not found:
        raise CliError("no delivery with this id is retained; see `oneprotect failed list` and `attempts --id`")
    page = await find_superseded(connection, tenant, [record.delivery for record in found])
    views = [
        await _build_view(
            connection, record, superseded=page.index.is_superseded(record.delivery), with_payload=with_payload
        )
        for record in found
    ]
    if as_json:
        write_json(views)
        return
    for number, view in enumerate(views):
        if number:
            write_line("")
        _write_view(view)


async def _read_newest_open(
    connection: NatsConnection, tenant: str, chosen: ReplayFilter, *, limit: int, before: int | None = None
) -> list[RetainedRecord]:
    """Read the newest records without a later attempt or request."""
    still_open: list[RetainedRecord] = []
    while len(still_open) < limit:
        records = await read_newest(connection, tenant, chosen, limit=limit, before=before)
        page = await find_superseded(connection, tenant, [record.delivery for record in records])
        still_open += [record for record in records if not page.index.is_superseded(record.delivery)]
        if len(records) < limit:
            break
        before = records[-1].delivery.sequence
    return still_open[:limit]


async def _build_view(
    connection: NatsConnection, found: RetainedRecord, *, superseded: bool, with_payload: bool
) -> RetainedDeliveryView:
    kept, request = found.delivery, decode_request(found.message.data)
    state = RetryState.from_headers(found.message.headers)
    body = request.data.body()
    return RetainedDeliveryView(
        id=kept.id,
        tenant=kept.tenant,
        destination=kept.destination,
        event_type=kept.event_type,
        source=request.source,
        requested_at=request.time,
        content_type=request.data.body_content_type,
        bytes=len(body),
        kept_at=kept.stored_at,
        sequence=kept.sequence,
        outcome=kept.outcome,
        code=kept.code,
        attempt=kept.attempt,
        replay=state.replay,
        superseded=superseded,
        attempts=await _read_attempts(connection, found, since=state.first_attempt_at),
        **(_payload_field(body) if with_payload else {}),
    )


async def _read_attempts(
    connection: NatsConnection, found: RetainedRecord, *, since: datetime | None
) -> list[AttemptResult]:
    kept = found.delivery
    subject = subjects.attempted(kept.tenant, kept.destination, kept.id)
    since = since and since - _BEFORE_FIRST
    attempts: list[AttemptResult] = []
    async for record in direct_get.scan(connection, streams.ATTEMPTS.name, subject, since=since):
        try:
            result = decode_result(record.data).data
        except msgspec.DecodeError:
            continue
        if result.delivery == kept.id:
            attempts.append(result)
    return attempts


def _payload_field(body: bytes) -> dict[str, str]:
    try:
        return {"payload": body.decode()}
    except UnicodeDecodeError:
        return {"payload_base64": base64.b64encode(body).decode()}


def _write_view(view: RetainedDeliveryView) -> None:
    fields: list[tuple[str, Any]] = [
        ("delivery", view.id),
        ("destination", f"{view.tenant}/{view.destination}"),
        ("event type", view.event_type),
        ("requested at", f"{view.requested_at:%Y-%m-%d %H:%M:%S} by {view.source}"),
        ("payload", f"{view.bytes} bytes of {view.content_type}"),
        ("retained at", view.kept_at),
        ("reason", _reason(view)),
        ("replay", view.replay),
        ("attempted since", "yes, or scheduled" if view.superseded else "no: a replay sends it"),
    ]
    write_fields(fields)
    count = len(view.attempts)
    write_line(f"\n{count} stored {'attempt' if count == 1 else 'attempts'}:" if count else "\nNo attempt is stored.")
    for result in view.attempts:
        write_line(format_attempt(result))
    if view.payload is not None or view.payload_base64 is not None:
        write_line(view.payload or view.payload_base64 or "")


def _reason(view: RetainedDeliveryView) -> str:
    last = next((result for result in view.attempts if result.attempt == view.attempt), None)
    status = f" (HTTP {last.http_status})" if last and last.http_status else ""
    return f"{view.outcome} with {view.code}{status} at attempt {view.attempt}"
