"""The reference of events, subjects, streams and headers, `docs/reference/events.md`, generated from `schemas`."""

from collections.abc import Iterable
from typing import Final, cast, get_args

from msgspec.structs import fields

from schemas import headers, streams
from schemas.events import CloudEvent, OperationalEvent
from schemas.headers import (
    HEADER_ATTEMPT,
    HEADER_CHECKED,
    HEADER_CLAIM,
    HEADER_CODE,
    HEADER_CONTENT_TYPE,
    HEADER_DEFERRALS,
    HEADER_DUE,
    HEADER_FIRST_ATTEMPT_AT,
    HEADER_MSG_ID,
    HEADER_ORIGIN,
    HEADER_ORIGINAL,
    HEADER_OUTCOME,
    HEADER_REASON,
    HEADER_REPLAY,
    HEADER_REPLAY_FROM,
    HEADER_SCHEDULE,
    HEADER_SCHEDULE_NEXT,
    HEADER_SCHEDULE_TARGET,
    HEADER_SCHEDULER,
    HEADER_SECRET_WAITS,
    HEADER_SINCE,
    HEADER_TRACE,
)
from schemas.streams import StreamConfig

_HEAD: Final = """\
# Events and subjects

Events are CloudEvents 1.0 documents in structured mode on NATS JetStream.
The schemas are in [schemas/](../../schemas): JSON Schema for every event, and AsyncAPI for all channels.
`oneprotect schemas --output DIR` writes them.

This page is generated: `make generate`.

## Request a delivery

Producers send requests to the API, over HTTP or as a NATS request to `oneprotect.api.v1.<tenant>.deliveries`:
[Publish from your service](../how-to/publish.md).

## Publish directly

Every user that may publish in the product's NATS account is trusted by all tenants. A trusted publisher may store
requests without the API. It publishes one document to `oneprotect.delivery.requested.<tenant>.<destination>`:

```json
{"specversion": "1.0", "id": "dlv_01JDE3V7Q0M8Z5T2R4X6Y8W0AB", "source": "/billing",
 "type": "oneprotect.delivery.requested.v1", "time": "2026-11-23T20:00:00Z",
 "datacontenttype": "application/json", "tenant": "acme",
 "data": {"destination": "orders", "event_type": "invoice.paid", "payload": {"total": 42}}}
```

| field | rule |
|---|---|
| `id` | `[A-Za-z0-9_-]{1,64}`. The receiver's `webhook-id`, equal over all retries and replays. |
| `tenant`, `data.destination` | Equal to the subject's tokens, otherwise the message is quarantined. |
| `data.event_type` | Names joined by dots, at most 128 characters. |
| `data.payload` | Any JSON value. Its bytes are the body of the webhook, unchanged. |
| `data.payload_base64` | Any other body, in place of `payload`. Requires `data.content_type`. |
| `data.content_type` | The receiver's `content-type`; `application/json` by default. |

Set these headers:

| header | value |
|---|---|
| `Nats-Msg-Id` | `<tenant>.<destination>.<id>`. A repeated id is not delivered again: see below. |
| `content-type` | `application/cloudevents+json` |
| `traceparent` | Optional. The parent of the delivery's spans. |

- A consumer compares the id with those of `ONEPROTECT_IDEMPOTENCY_WINDOW_S`, unless the header is
  missing. A repeat is acknowledged and not sent. With another body it is quarantined, also when the API has
  stored a delivery with the id before a consumer has come to the message.
- `duplicate` in an acknowledgement says that JetStream has had the `Nats-Msg-Id` within 10 minutes, from a publisher
  or the API, not that this message is stored. Use a new id for what was quarantined or has another body.
- Let no `source` begin with `/oneprotect/`: consumers take such a message for one of the API.
- Wait for JetStream's acknowledgement. Publish the same message again until it arrives.
- JetStream refuses a message with error 10077 when the destination has `ONEPROTECT_WORK_PER_DESTINATION` due
  deliveries. Publish that message, headers included, to `oneprotect.delivery.overflow.<tenant>.<destination>`.
- A payload has at most `ONEPROTECT_MAX_PAYLOAD_BYTES` bytes, a message at most 960 KiB with its headers.
"""

_LIFETIMES: Final = {0.0: "until removed", streams.ATTEMPTS.max_age_s: "30 days"}

_HEADERS: Final = {
    HEADER_CHECKED: "The API has made or checked the id. Consumers look up all other ids.",
    HEADER_CLAIM: "The API's claim on the id, and the time until which it is certainly not taken over.",
    HEADER_ATTEMPT: "Number of the attempt, from 1.",
    HEADER_FIRST_ATTEMPT_AT: "Start of the first attempt.",
    HEADER_REPLAY: "Replay that requested the delivery.",
    HEADER_REPLAY_FROM: "Attempt number that the replay began with. The retry schedule starts there again.",
    HEADER_SECRET_WAITS: "Waits for the secret. They use no attempt.",
    HEADER_DEFERRALS: "Deferrals because the circuit breaker was open. They use no attempt.",
    HEADER_DUE: "Time at which the retry was to be due, in Unix seconds.",
    HEADER_SINCE: "Time from which results of this delivery may be on record.",
    HEADER_ORIGINAL: "Stream and sequence of the message that this is a copy of. The copy waits for its end.",
    HEADER_CODE: "Code of the last attempt.",
    HEADER_OUTCOME: "Outcome of the delivery.",
    HEADER_REASON: "Reason for the quarantine: field and rule.",
    HEADER_ORIGIN: "Subject that a quarantined message came from.",
    HEADER_CONTENT_TYPE: "Content type of the message.",
    HEADER_TRACE: "Trace context of the producer.",
    HEADER_MSG_ID: "Key of the duplicate check. Retries add `.a<attempt>`, replays `.r<replay>.<attempt>`.",
    HEADER_SCHEDULE: "Time of a schedule (ADR-51).",
    HEADER_SCHEDULE_TARGET: "Subject on which the schedule fires.",
    HEADER_SCHEDULER: "On a due message that a consumer made due: the subject of its schedule.",
    HEADER_SCHEDULE_NEXT: "On such a message: `purge`. The server removes the schedule with it.",
}

_EVENTS: Final = """
## Operational events

Published to `oneprotect.event.<kind>.<tenant>.<name>` in `ONEPROTECT_EVENTS`.
A tenant receives them as deliveries when a destination's `event_types` name them, as in `oneprotect.destination.*`.

- `*` never matches events below `oneprotect.`.
- Only `oneprotect.config.*` and `oneprotect.quarantine.*` match the audit trail.
- A destination never receives events about itself.

| type | meaning | schema |
|---|---|---|
"""


def page() -> str:
    """Return the page, in Markdown. Raises `KeyError` for a header without a description."""
    stream_rows = (
        f"| `{stream.name}` | {_codes(stream.subjects)} | {stream.retention} | {_lifetime(stream)} "
        f"| {_cell(stream.description)} |"
        for stream in streams.STREAMS
    )
    consumers = (f"| `{one.stream}` | `{one.name}` | `{one.filter_subject}` |" for one in streams.ALL_CONSUMERS)
    buckets = (f"| `{bucket.name}` | {_cell(bucket.description)} |" for bucket in streams.BUCKETS)
    names = [cast("str", getattr(headers, name)) for name in vars(headers) if name.startswith("HEADER_")]
    events = (_event(event) for event in get_args(OperationalEvent))
    return (
        _HEAD + "\n## Streams\n\n`oneprotect apply` creates the streams. All use file storage.\n"
        "`ONEPROTECT_NATS_REPLICAS` sets their replicas.\n"
        "`<bucket>` is the first hexadecimal digit of the SHA-256 of the delivery id.\n\n"
        + _table(("stream", "subjects", "retention", "kept", "holds"), stream_rows)
        + "\nDurable pull consumers, shared by all consumer processes:\n\n"
        + _table(("stream", "consumer", "filter"), consumers)
        + "\n## Buckets\n\nKey-value buckets with keys `<tenant>.<id>`. None holds a secret value.\n\n"
        + _table(("bucket", "holds"), buckets)
        + "\n## Headers\n\nThe state of a delivery travels in headers. Bodies are never rewritten.\n\n"
        + _table(("header", "meaning"), (f"| `{name}` | {_HEADERS[name]} |" for name in names))
        + _EVENTS
        + "".join(f"{line}\n" for line in events)
    )


def _table(head: tuple[str, ...], rows: Iterable[str]) -> str:
    return "\n".join((f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows)) + "\n"


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _lifetime(stream: StreamConfig) -> str:
    return "`ONEPROTECT_ARCHIVE_DAYS`" if stream.archived else _LIFETIMES[stream.max_age_s]


def _event(event: type[CloudEvent]) -> str:
    kind = str(next(field.default for field in fields(event) if field.name == "type"))
    file = kind.removeprefix("oneprotect.") + ".json"
    meaning = (event.__doc__ or "").partition("\n\n")[0]
    return f"| `{kind}` | {_cell(meaning)} | [{file}](../../schemas/{file}) |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
