"""Kept deliveries as they are shown at the command line."""

import base64
from collections.abc import Sequence
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
from oneprotect.cli.views.attempt import attempt_line
from schemas import subjects
from schemas.configuration import ReplayFilter
from schemas.events import AttemptResult, decode_request, decode_result

MOST_SHOWN: Final = 1000
"""A delivery is kept once for each time it was given up on."""

_BEFORE_FIRST: Final = timedelta(minutes=1)


class RetainedDeliveryView(msgspec.Struct, frozen=True, kw_only=True):
    """A kept delivery: what was asked for, how it stands, and the results of its attempts."""

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


async def list_kept(
    connection: NatsConnection,
    tenant: str,
    chosen: ReplayFilter,
    *,
    only_open: bool,
    limit: int,
    before: int | None,
    as_json: bool,
) -> None:
    """List what `chosen` takes, the newest first. Raises `JetStreamError`."""
    find = _newest_open if only_open else read_newest
    found = [one.delivery for one in await find(connection, tenant, chosen, limit=limit, before=before)]
    following = found[-1].sequence if len(found) == limit else None
    if as_json:
        fields = ("id", "destination", "event_type", "outcome", "code", "attempt", "stored_at", "sequence")
        rows = [{field: getattr(kept, field) for field in fields} for kept in found]
        write_json({"tenant": tenant, "failed": rows, "next": following})
        return
    write_table(
        ("kept at", "destination", "id", "event type", "outcome", "code", "attempts"),
        [
            (kept.stored_at, kept.destination, kept.id, kept.event_type, kept.outcome, kept.code, kept.attempt)
            for kept in found
        ],
        empty="Nothing that fits is kept.",
    )
    if following:
        print_notice(f"there may be more: go on with --before {following}")


async def show_kept(
    connection: NatsConnection, tenant: str, chosen: ReplayFilter, *, with_payload: bool, as_json: bool
) -> None:
    """Show all that is kept of one delivery. Raises `CliError` when there is nothing, and `JetStreamError`."""
    found = await read_newest(connection, tenant, chosen, limit=MOST_SHOWN)
    if not found:
        raise CliError("nothing is kept of a delivery of this id; see `oneprotect failed list` and `attempts --id`")
    page = await find_superseded(connection, tenant, [one.delivery for one in found])
    stories = [
        await _story(connection, one, superseded=page.index.is_superseded(one.delivery), with_payload=with_payload)
        for one in found
    ]
    if as_json:
        write_json(stories)
        return
    for number, story in enumerate(stories):
        if number:
            write_line("")
        _show(story)


async def _newest_open(
    connection: NatsConnection, tenant: str, chosen: ReplayFilter, *, limit: int, before: int | None = None
) -> list[RetainedRecord]:
    """The newest of which no later attempt was made or asked for."""
    still_open: list[RetainedRecord] = []
    while len(still_open) < limit:
        part = await read_newest(connection, tenant, chosen, limit=limit, before=before)
        page = await find_superseded(connection, tenant, [one.delivery for one in part])
        still_open += [one for one in part if not page.index.is_superseded(one.delivery)]
        if len(part) < limit:
            break
        before = part[-1].delivery.sequence
    return still_open[:limit]


async def _story(
    connection: NatsConnection, found: RetainedRecord, *, superseded: bool, with_payload: bool
) -> RetainedDeliveryView:
    kept, asked = found.delivery, decode_request(found.message.data)
    progress = RetryState.from_headers(found.message.headers)
    body = asked.data.body()
    return RetainedDeliveryView(
        id=kept.id,
        tenant=kept.tenant,
        destination=kept.destination,
        event_type=kept.event_type,
        source=asked.source,
        requested_at=asked.time,
        content_type=asked.data.body_content_type,
        bytes=len(body),
        kept_at=kept.stored_at,
        sequence=kept.sequence,
        outcome=kept.outcome,
        code=kept.code,
        attempt=kept.attempt,
        replay=progress.replay,
        superseded=superseded,
        attempts=await _attempts(connection, found, since=progress.first_attempt_at),
        **(_payload(body) if with_payload else {}),
    )


async def _attempts(
    connection: NatsConnection, found: RetainedRecord, *, since: datetime | None
) -> list[AttemptResult]:
    kept = found.delivery
    subject = subjects.attempted(kept.tenant, kept.destination, kept.id)
    since = since and since - _BEFORE_FIRST
    attempts: list[AttemptResult] = []
    async for record in direct_get.scan(connection, subjects.ATTEMPTS.name, subject, since=since):
        try:
            result = decode_result(record.data).data
        except msgspec.DecodeError:
            continue
        if result.delivery == kept.id:
            attempts.append(result)
    return attempts


def _payload(body: bytes) -> dict[str, str]:
    try:
        return {"payload": body.decode()}
    except UnicodeDecodeError:
        return {"payload_base64": base64.b64encode(body).decode()}


def _show(story: RetainedDeliveryView) -> None:
    fields: list[tuple[str, Any]] = [
        ("delivery", story.id),
        ("destination", f"{story.tenant}/{story.destination}"),
        ("event type", story.event_type),
        ("asked for", f"{story.requested_at:%Y-%m-%d %H:%M:%S} by {story.source}"),
        ("payload", f"{story.bytes} bytes of {story.content_type}"),
        ("kept at", story.kept_at),
        ("reason", _reason(story)),
        ("replay", story.replay),
        ("attempted since", "yes, or it waits for that" if story.superseded else "no: a replay would take it"),
    ]
    write_fields(fields)
    write_line(_how_many(story.attempts))
    for result in story.attempts:
        write_line(attempt_line(result))
    if story.payload is not None or story.payload_base64 is not None:
        write_line(story.payload or story.payload_base64 or "")


def _reason(story: RetainedDeliveryView) -> str:
    last = next((result for result in story.attempts if result.attempt == story.attempt), None)
    status = f" (HTTP {last.http_status})" if last and last.http_status else ""
    return f"{story.outcome} with {story.code}{status} at attempt {story.attempt}"


def _how_many(attempts: Sequence[AttemptResult]) -> str:
    return f"\n{len(attempts)} attempts on record:" if attempts else "\nNo attempt is on record."
