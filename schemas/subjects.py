"""Every subject, stream, durable consumer, bucket and header name, defined once (contract, section 3)."""

import hashlib
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

ROOT: Final = "oneprotect"
_HEX: Final = "0123456789abcdef"

HEADER_ATTEMPT: Final = "Oneprotect-Attempt"
HEADER_FIRST_ATTEMPT_AT: Final = "Oneprotect-First-Attempt-At"
HEADER_REPLAY: Final = "Oneprotect-Replay"
HEADER_REPLAY_FROM: Final = "Oneprotect-Replay-From"
"""The attempt number that a replay began with: its retry schedule starts afresh there."""
HEADER_SECRET_WAITS: Final = "Oneprotect-Secret-Waits"
"""How often this attempt has waited for its secret; such waits use up none of the receiver's attempts."""
HEADER_DEFERRALS: Final = "Oneprotect-Deferrals"
"""How often this attempt has waited because its destination was given a rest; such waits are no attempts either."""
HEADER_SINCE: Final = "Oneprotect-Since"
"""Results of this delivery may be on record since then, although this message is newer: it is looked for them first."""
HEADER_CODE: Final = "Oneprotect-Code"
HEADER_OUTCOME: Final = "Oneprotect-Outcome"
HEADER_REASON: Final = "Oneprotect-Reason"
HEADER_ORIGIN: Final = "Oneprotect-Origin-Subject"
HEADER_TRACE: Final = "traceparent"
HEADER_MSG_ID: Final = "Nats-Msg-Id"
HEADER_SCHEDULE: Final = "Nats-Schedule"
HEADER_SCHEDULE_TARGET: Final = "Nats-Schedule-Target"


class StreamConfig(Struct, frozen=True, kw_only=True):
    """A stream as this version needs it. Storage is always on file; replicas come from the settings."""

    name: str
    subjects: tuple[str, ...]
    description: str
    retention: Literal["workqueue", "limits"] = "limits"
    max_age_s: Annotated[float, Meta(description="0 keeps for ever.")] = 0
    duplicate_window_s: float = 120
    capped_per_subject: Annotated[bool, Meta(description="Refuse (10077) beyond ONEPROTECT_WORK_PER_DESTINATION.")] = (
        False
    )
    max_message_bytes: Annotated[int, Meta(description="-1: whatever the server takes.")] = -1
    archived: Annotated[bool, Meta(description="Kept as long, and as much of it, as the settings say.")] = False
    max_consumers: Annotated[int, Meta(description="0: the server's own bound.")] = 0
    schedules: Annotated[bool, Meta(description="Message schedules (ADR-51), nats-server 2.12 or newer.")] = False
    batches: Annotated[bool, Meta(description="All or nothing: atomic batches (ADR-50), as of nats-server 2.12.")] = (
        False
    )


class ConsumerConfig(Struct, frozen=True, kw_only=True):
    """A durable pull consumer that all workers share."""

    stream: str
    name: str
    filter_subject: str
    from_now: Annotated[bool, Meta(description="It begins with what is stored after it was made.")] = False


class BucketConfig(Struct, frozen=True, kw_only=True):
    """A key-value bucket with keys `<tenant>.<id>`."""

    name: str
    description: str
    announced: Annotated[bool, Meta(description="Stored values are published again on `announced(bucket)`.")] = False


_DAY_S = 86_400.0
_KEPT_S = 30 * _DAY_S

MAX_MESSAGE_BYTES: Final = 960 * 1024
"""What a producer may publish, headers and all: below the server's usual 1 MiB by what we add on the way."""

WORK: Final = StreamConfig(
    name="ONEPROTECT_WORK",
    subjects=("oneprotect.delivery.requested.*.*",),
    description="Deliveries due now; bounded per destination.",
    retention="workqueue",
    duplicate_window_s=600,
    capped_per_subject=True,
    max_message_bytes=MAX_MESSAGE_BYTES,
    batches=True,
)
OVERFLOW: Final = StreamConfig(
    name="ONEPROTECT_OVERFLOW",
    subjects=("oneprotect.delivery.overflow.*.*",),
    description="What the work stream refused; fed back as its destination drains.",
    retention="workqueue",
    duplicate_window_s=600,
    max_message_bytes=MAX_MESSAGE_BYTES,
    batches=True,
)
ORDERED: Final = StreamConfig(
    name="ONEPROTECT_ORDERED",
    subjects=("oneprotect.delivery.ordered.*.*",),
    description="The lines of destinations that take their deliveries in order.",
    retention="workqueue",
    duplicate_window_s=600,
    max_consumers=10_000,
)
RETRIES: Final = StreamConfig(
    name="ONEPROTECT_RETRIES",
    subjects=("oneprotect.delivery.scheduled.*.*.*", "oneprotect.delivery.due.*.*"),
    description="Attempts that wait for their time, and where they fire.",
    retention="workqueue",
    duplicate_window_s=600,
    schedules=True,
)
ATTEMPTS: Final = StreamConfig(
    name="ONEPROTECT_ATTEMPTS",
    subjects=("oneprotect.delivery.attempted.*.*.*",),
    description="One redacted result per attempt.",
    max_age_s=_KEPT_S,
    duplicate_window_s=600,
)
FAILED: Final = StreamConfig(
    name="ONEPROTECT_FAILED",
    subjects=("oneprotect.delivery.failed.*.*.*",),
    description="Deliveries given up on or skipped, whole, replayable.",
    max_age_s=_KEPT_S,
    duplicate_window_s=600,
)
DELIVERED: Final = StreamConfig(
    name="ONEPROTECT_DELIVERED",
    subjects=("oneprotect.delivery.delivered.*.*",),
    description="Deliveries that were taken, whole, replayable; several to a message.",
    archived=True,
)
QUARANTINE: Final = StreamConfig(
    name="ONEPROTECT_QUARANTINE",
    subjects=("oneprotect.delivery.quarantined.>",),
    description="What could not be understood, as it came.",
    max_age_s=_KEPT_S,
    duplicate_window_s=600,
)
EVENTS: Final = StreamConfig(
    name="ONEPROTECT_EVENTS",
    subjects=("oneprotect.event.>",),
    description="Operational events and the audit trail.",
    max_age_s=_KEPT_S,
)
STREAMS: Final = (WORK, OVERFLOW, ORDERED, RETRIES, ATTEMPTS, FAILED, DELIVERED, QUARANTINE, EVENTS)

WORK_CONSUMER: Final = ConsumerConfig(
    stream=WORK.name, name="delivery", filter_subject="oneprotect.delivery.requested.*.*"
)
DUE_CONSUMER: Final = ConsumerConfig(stream=RETRIES.name, name="delivery", filter_subject="oneprotect.delivery.due.*.*")
CONSUMERS: Final = (WORK_CONSUMER, DUE_CONSUMER)
"""Those that bring deliveries."""
TELLING_CONSUMER: Final = ConsumerConfig(
    stream=EVENTS.name, name="telling", filter_subject="oneprotect.event.>", from_now=True
)
"""The one that brings operational events, to be told to tenants that asked for them."""
ALL_CONSUMERS: Final = (*CONSUMERS, TELLING_CONSUMER)

DESTINATIONS: Final = BucketConfig(name="oneprotect_destinations", description="Destinations.", announced=True)
CREDENTIALS: Final = BucketConfig(
    name="oneprotect_credentials", description="Credentials: refs, no values.", announced=True
)
CREDENTIAL_STATUS: Final = BucketConfig(
    name="oneprotect_credential_status", description="What consumers found.", announced=True
)
HEALTH: Final = BucketConfig(name="oneprotect_health", description="How destinations answer.", announced=True)
ACTIVITY: Final = BucketConfig(name="oneprotect_activity", description="How attempts went, hour by hour.")
RATES: Final = BucketConfig(name="oneprotect_rates", description="Until when destinations' rates are spoken for.")
LEASES: Final = BucketConfig(name="oneprotect_leases", description="Which consumer moves what waits for a destination.")
TOKENS: Final = BucketConfig(name="oneprotect_tokens", description="API tokens: hashes, no tokens.", announced=True)
REPLAYS: Final = BucketConfig(name="oneprotect_replays", description="Replays and their progress.")
BUCKETS: Final = (DESTINATIONS, CREDENTIALS, CREDENTIAL_STATUS, HEALTH, ACTIVITY, RATES, LEASES, TOKENS, REPLAYS)


def requested(tenant: str, destination: str) -> str:
    """Where a delivery request is published."""
    return f"oneprotect.delivery.requested.{tenant}.{destination}"


def overflow(tenant: str, destination: str) -> str:
    """Where it is published when the first one is refused with error 10077."""
    return f"oneprotect.delivery.overflow.{tenant}.{destination}"


def ordered(tenant: str, destination: str) -> str:
    """Where a destination with `ordering: fifo` has its line. Consumers alone publish here."""
    return f"oneprotect.delivery.ordered.{tenant}.{destination}"


def scheduled(tenant: str, destination: str, delivery: str) -> str:
    """Where a delivery's next attempt waits: one schedule each, so that a newer one replaces it."""
    return f"oneprotect.delivery.scheduled.{tenant}.{destination}.{delivery}"


def destination_scheduled(subject: str) -> str:
    """The destination in what `scheduled` returns."""
    return subject.split(".")[4]


def due(tenant: str, destination: str) -> str:
    """Where a schedule fires."""
    return f"oneprotect.delivery.due.{tenant}.{destination}"


def attempted(tenant: str, destination: str, delivery: str) -> str:
    """Where the results of a delivery's attempts are kept."""
    return f"oneprotect.delivery.attempted.{tenant}.{destination}.{bucket_of(delivery)}"


def failed(tenant: str, destination: str, delivery: str) -> str:
    """Where a delivery that was given up on is kept."""
    return f"oneprotect.delivery.failed.{tenant}.{destination}.{bucket_of(delivery)}"


def delivered(tenant: str, destination: str) -> str:
    """Where deliveries that were taken are kept: in packs, see `consumers.retention.archive`."""
    return f"oneprotect.delivery.delivered.{tenant}.{destination}"


def bucket_of(delivery: str) -> str:
    """Return the first hex digit of the SHA-256 of a delivery id: which of sixteen subjects holds its results."""
    return _HEX[hashlib.sha256(delivery.encode()).digest()[0] >> 4]


def quarantined(origin: str) -> str:
    """Where a message from the subject `origin` is kept when it could not be understood."""
    return "oneprotect.delivery.quarantined." + origin.removeprefix("oneprotect.delivery.")


def operational(kind: str, tenant: str, name: str) -> str:
    """Where an operational event is published, for example `destination.disabled`."""
    return f"oneprotect.event.{kind}.{tenant}.{name}"


def announced(bucket: str) -> str:
    """The core NATS subject tree on which a bucket's stored values are published again."""
    return f"oneprotect.kv.{bucket}"


def tenant_and_destination(subject: str) -> tuple[str, str]:
    """The two tokens after `oneprotect.delivery.<kind>`. Raises `ValueError` when there are others than two."""
    _, _, _, tenant, destination = subject.split(".")
    return tenant, destination


def lane_of(subject: str) -> str:
    """What follows `oneprotect.delivery.<kind>`: `<tenant>.<destination>`. The subject itself if it is another one."""
    tokens = subject.split(".", 3)
    return tokens[3] if subject.startswith("oneprotect.delivery.") and len(tokens) == 4 else subject


REFRESH: Final = "oneprotect.control.secrets.refresh"
"""Heard by every consumer: a `schemas.control_messages.RefreshSecrets`. Each forgets the secrets meant, and answers."""

CHECK: Final = "oneprotect.control.credentials.check"
"""Heard by one consumer: a `schemas.control_messages.Check`. It checks the credential now and answers with its state."""


def line(tenant: str, destination: str, word: Literal["more", "now", "*"]) -> str:
    """Heard by whoever has a destination's line: there is `more` to move into it, or its head need not wait (`now`).

    With `SECRET_IS_THERE` as its payload, `now` is said to a head that waits for its secret, and to no other.
    """
    return f"oneprotect.control.line.{tenant}.{destination}.{word}"


SECRET_IS_THERE: Final = b"secret"


def msg_id(tenant: str, destination: str, delivery: str) -> str:
    """`Nats-Msg-Id` of a request: the duplicate check spans a stream, so a bare id would let tenants collide."""
    return f"{tenant}.{destination}.{delivery}"
