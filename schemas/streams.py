"""Streams, durable consumers and key-value buckets (contract, section 3)."""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct


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
