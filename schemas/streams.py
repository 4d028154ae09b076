"""Streams, durable consumers and key-value buckets (contract, section 3)."""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct


class StreamConfig(Struct, frozen=True, kw_only=True):
    """A stream. Storage is always on file; the settings define the replicas."""

    name: str
    subjects: tuple[str, ...]
    description: str
    retention: Literal["workqueue", "limits"] = "limits"
    max_age_s: Annotated[float, Meta(description="0: no limit.")] = 0
    duplicate_window_s: float = 120
    capped_per_subject: Annotated[bool, Meta(description="Reject (10077) beyond ONEPROTECT_WORK_PER_DESTINATION.")] = (
        False
    )
    max_message_bytes: Annotated[int, Meta(description="-1: the limit of the server.")] = -1
    archived: Annotated[bool, Meta(description="The settings limit age and size.")] = False
    max_consumers: Annotated[int, Meta(description="0: the limit of the server.")] = 0
    schedules: Annotated[bool, Meta(description="Message schedules (ADR-51), nats-server 2.12 or newer.")] = False
    batches: Annotated[bool, Meta(description="Atomic batches (ADR-50), nats-server 2.12 or newer.")] = False


class ConsumerConfig(Struct, frozen=True, kw_only=True):
    """A durable pull consumer that all workers share."""

    stream: str
    name: str
    filter_subject: str
    from_now: Annotated[bool, Meta(description="Deliver only messages stored after its creation.")] = False


class BucketConfig(Struct, frozen=True, kw_only=True):
    """A key-value bucket with keys `<tenant>.<id>`."""

    name: str
    description: str
    announced: Annotated[bool, Meta(description="The server announces stored values on `subjects.announced`.")] = False
    max_age_s: Annotated[
        float, Meta(description="The server removes a row this long after its last write. 0: never.")
    ] = 0
    remembers: Annotated[bool, Meta(description="ONEPROTECT_IDEMPOTENCY_WINDOW_S replaces that time.")] = False


_DAY_S = 86_400.0
_KEPT_S = 30 * _DAY_S

MAX_MESSAGE_BYTES: Final = 960 * 1024
"""Largest message of a producer, headers included: 1 MiB, the usual limit, less the headers that are added later."""

WORK: Final = StreamConfig(
    name="ONEPROTECT_WORK",
    subjects=("oneprotect.delivery.requested.*.*",),
    description="Deliveries due now; limited per destination.",
    retention="workqueue",
    duplicate_window_s=600,
    capped_per_subject=True,
    max_message_bytes=MAX_MESSAGE_BYTES,
    batches=True,
)
OVERFLOW: Final = StreamConfig(
    name="ONEPROTECT_OVERFLOW",
    subjects=("oneprotect.delivery.overflow.*.*",),
    description="Requests beyond that limit; moved back as the destination drains.",
    retention="workqueue",
    duplicate_window_s=600,
    max_message_bytes=MAX_MESSAGE_BYTES,
    batches=True,
)
ORDERED: Final = StreamConfig(
    name="ONEPROTECT_ORDERED",
    subjects=("oneprotect.delivery.ordered.*.*",),
    description="Ordered queues of destinations with `ordering: fifo`.",
    retention="workqueue",
    duplicate_window_s=600,
    max_consumers=10_000,
)
RETRIES: Final = StreamConfig(
    name="ONEPROTECT_RETRIES",
    subjects=("oneprotect.delivery.scheduled.*.*.*", "oneprotect.delivery.due.*.*"),
    description="Scheduled attempts, and the attempts that became due.",
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
    description="Failed and skipped deliveries, complete and replayable.",
    max_age_s=_KEPT_S,
    duplicate_window_s=600,
)
DELIVERED: Final = StreamConfig(
    name="ONEPROTECT_DELIVERED",
    subjects=("oneprotect.delivery.delivered.*.*",),
    description="Archive of delivered deliveries, complete and replayable; several in a message.",
    archived=True,
)
QUARANTINE: Final = StreamConfig(
    name="ONEPROTECT_QUARANTINE",
    subjects=("oneprotect.delivery.quarantined.>",),
    description="Messages that could not be decoded, unchanged.",
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
"""The consumers of deliveries."""
TELLING_CONSUMER: Final = ConsumerConfig(
    stream=EVENTS.name, name="telling", filter_subject="oneprotect.event.>", from_now=True
)
"""The consumer of operational events, which are delivered to subscribed tenants."""
ALL_CONSUMERS: Final = (*CONSUMERS, TELLING_CONSUMER)

DESTINATIONS: Final = BucketConfig(name="oneprotect_destinations", description="Destinations.", announced=True)
CREDENTIALS: Final = BucketConfig(
    name="oneprotect_credentials", description="Credentials: refs, no secret values.", announced=True
)
CREDENTIAL_STATUS: Final = BucketConfig(
    name="oneprotect_credential_status", description="Results of credential checks.", announced=True, max_age_s=_KEPT_S
)
HEALTH: Final = BucketConfig(
    name="oneprotect_health", description="Health of destinations.", announced=True, max_age_s=_KEPT_S
)
ACTIVITY: Final = BucketConfig(
    name="oneprotect_activity", description="Attempts of destinations by hour.", max_age_s=2 * _DAY_S
)
RATES: Final = BucketConfig(
    name="oneprotect_rates", description="Rate reservations of destinations.", max_age_s=_KEPT_S
)
LEASES: Final = BucketConfig(name="oneprotect_leases", description="Leases of consumers on destinations.")
TOKENS: Final = BucketConfig(name="oneprotect_tokens", description="API tokens: digests, no tokens.", announced=True)
SUSPECTS: Final = BucketConfig(
    name="oneprotect_suspects",
    description="Messages that were being handled when a consumer died.",
    announced=True,
    max_age_s=_DAY_S,
)
REPLAYS: Final = BucketConfig(
    name="oneprotect_replays", description="Replays and their progress.", announced=True, max_age_s=_KEPT_S
)
NAMED_IDS: Final = BucketConfig(
    name="oneprotect_named_ids",
    description="Delivery ids that producers named, with digests of their bodies.",
    max_age_s=_DAY_S,
    remembers=True,
)
REMOVALS: Final = BucketConfig(
    name="oneprotect_removals", description="Tenants that are being removed.", announced=True
)
BUCKETS: Final = (
    DESTINATIONS,
    CREDENTIALS,
    CREDENTIAL_STATUS,
    HEALTH,
    ACTIVITY,
    RATES,
    LEASES,
    TOKENS,
    SUSPECTS,
    REPLAYS,
    NAMED_IDS,
    REMOVALS,
)
TENANT_BUCKETS: Final = tuple(bucket for bucket in BUCKETS if bucket is not SUSPECTS)
"""Buckets whose keys begin with a tenant."""


def ordered_consumer(tenant: str, destination: str) -> str:
    """Return the name of the consumer of an ordered queue, or with `destination` empty the prefix of a tenant's."""
    return f"line_{tenant}_{destination}"
