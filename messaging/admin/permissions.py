"""Permissions of each NATS user: the subjects that its role needs, and no others.

Subjects are listed by name; wildcards cover only tenants, destinations and deliveries. Each role of the product's
account has an inbox prefix of its own, so that no role can read the replies to another.

Permissions cover the subject of a message and not its reply subject, to which the server itself writes
acknowledgements. So every user of the product's account is trusted. Other producers have accounts of their own.
"""

from typing import Any, Final

import msgspec

from messaging.service import control_subjects
from schemas import streams, subjects
from schemas.streams import BucketConfig, ConsumerConfig, StreamConfig


class NatsRole(msgspec.Struct, frozen=True, kw_only=True):
    """A user's permissions: the subjects to publish and to subscribe to. The server rejects all others.

    The first subscription is the user's inbox. `responds` allows one response to each request that the user receives.
    """

    name: str
    purpose: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    responds: bool = False

    @property
    def inbox_prefix(self) -> str:
        """The value of ONEPROTECT_NATS_INBOX_PREFIX for this role."""
        return self.subscribe[0].removesuffix(".>")

    def permissions(self) -> dict[str, Any]:
        """Return the permissions as the server's configuration has them."""
        allowed = {"publish": {"allow": self.publish}, "subscribe": {"allow": self.subscribe}}
        return {**allowed, "allow_responses": True} if self.responds else allowed


def inbox_prefix(role: str) -> str:
    """Return the prefix of the subjects on which a role receives replies."""
    return f"_INBOX_{role}"


def _inspect(*streams: StreamConfig) -> tuple[str, ...]:
    """Return the requests for configuration and state, without content."""
    return tuple(f"$JS.API.STREAM.INFO.{stream.name}" for stream in streams)


def _read(*streams: StreamConfig) -> tuple[str, ...]:
    names = [stream.name for stream in streams]
    return tuple(f"$JS.API.DIRECT.GET.{name}{below}" for name in names for below in ("", ".>"))


def _decide(*streams: StreamConfig) -> tuple[str, ...]:
    """Return the requests for reads that decide something, which the leader answers or confirms."""
    return (*_read(*streams), *(f"$JS.API.STREAM.MSG.GET.{stream.name}" for stream in streams))


def _read_buckets(*buckets: BucketConfig) -> tuple[str, ...]:
    """Return the requests for rows, and for the keys of a list that is longer than one reply."""
    requests = ("DIRECT.GET.KV_{}", "DIRECT.GET.KV_{}.>", "STREAM.INFO.KV_{}")
    return tuple(f"$JS.API.{request.format(bucket.name)}" for bucket in buckets for request in requests)


def _write_buckets(*buckets: BucketConfig) -> tuple[str, ...]:
    return tuple(f"$KV.{bucket.name}.>" for bucket in buckets)


def _publish(*streams: StreamConfig) -> tuple[str, ...]:
    return tuple(subject for stream in streams for subject in stream.subjects)


def _consume(consumer: ConsumerConfig) -> tuple[str, ...]:
    name = f"{consumer.stream}.{consumer.name}"
    return (f"$JS.API.CONSUMER.INFO.{name}", f"$JS.API.CONSUMER.MSG.NEXT.{name}", f"$JS.ACK.{name}.>")


def _consume_ordered(stream: StreamConfig) -> tuple[str, ...]:
    """Return the requests for the consumers of ordered queues, which workers create on demand."""
    return (
        *(f"$JS.API.CONSUMER.CREATE.{stream.name}.*.{subject}" for subject in stream.subjects),
        f"$JS.API.CONSUMER.INFO.{stream.name}.*",
        f"$JS.API.CONSUMER.MSG.NEXT.{stream.name}.*",
        f"$JS.ACK.{stream.name}.>",
    )


def _follow(*streams: StreamConfig) -> tuple[str, ...]:
    """Return the requests for reading a stream from its beginning, through a consumer that is not durable."""
    verbs = ("CREATE", "MSG.NEXT")
    return tuple(f"$JS.API.CONSUMER.{verb}.{stream.name}.*" for stream in streams for verb in verbs)


def _move() -> tuple[str, ...]:
    """Return the requests for moving messages to another stream: read and delete. See `management.purge_pattern`."""
    moved = (streams.WORK, streams.OVERFLOW)
    delete = (f"$JS.API.STREAM.MSG.DELETE.{stream.name}" for stream in moved)
    # Version 0.1.0 purges the overflow. Its consumers run beside newer ones during an upgrade, and after a rollback.
    return (*_read(*moved), *delete, f"$JS.API.STREAM.PURGE.{streams.OVERFLOW.name}")


def _remove_tenants() -> tuple[str, ...]:
    """Return the requests for removing a tenant. No stream with consumers is purged: see `management.purge_pattern`."""
    consumed = (streams.WORK, streams.OVERFLOW, streams.ORDERED, streams.RETRIES, streams.EVENTS)
    purged = [stream.name for stream in streams.STREAMS if stream not in consumed]
    purged += [f"KV_{bucket.name}" for bucket in streams.TENANT_BUCKETS]
    return (
        *(f"$JS.API.STREAM.MSG.DELETE.{stream.name}" for stream in consumed),
        *(f"$JS.API.STREAM.PURGE.{name}" for name in purged),
        f"$JS.API.CONSUMER.NAMES.{streams.ORDERED.name}",
        f"$JS.API.CONSUMER.DELETE.{streams.ORDERED.name}.*",
        *_write_buckets(*(bucket for bucket in streams.TENANT_BUCKETS if bucket.announced)),
    )


def _apply() -> tuple[str, ...]:
    names = [stream.name for stream in streams.STREAMS] + [f"KV_{bucket.name}" for bucket in streams.BUCKETS]
    allowed = [f"$JS.API.STREAM.{verb}.{name}" for name in names for verb in ("INFO", "CREATE", "UPDATE")]
    for consumer in streams.ALL_CONSUMERS:
        allowed.append(f"$JS.API.CONSUMER.INFO.{consumer.stream}.{consumer.name}")
        allowed.append(f"$JS.API.CONSUMER.CREATE.{consumer.stream}.{consumer.name}.{consumer.filter_subject}")
    return tuple(allowed)


_JETSTREAM: Final = ("$JS.API.INFO", subjects.SERVERS)
_REQUESTED: Final = (*streams.WORK.subjects, *streams.OVERFLOW.subjects)
_ANNOUNCED: Final = tuple(f"{subjects.announced(bucket.name)}.>" for bucket in streams.BUCKETS if bucket.announced)
_FOLLOWED: Final = (*_ANNOUNCED, *streams.ATTEMPTS.subjects)
_CONFIGURED: Final = (
    streams.DESTINATIONS,
    streams.CREDENTIALS,
    streams.CREDENTIAL_STATUS,  # the API deletes the status of a changed credential
    streams.TOKENS,
    streams.REPLAYS,
    streams.NAMED_IDS,
)
_SEEN: Final = (
    streams.DESTINATIONS,
    streams.CREDENTIALS,
    streams.CREDENTIAL_STATUS,
    streams.HEALTH,
    streams.ACTIVITY,
)

API: Final = NatsRole(
    name="api",
    purpose="accepts requests, stores configuration, shows results, replays; cannot receive work or record a result",
    publish=(
        *_JETSTREAM,
        *_inspect(*streams.STREAMS),
        *_REQUESTED,
        *streams.ORDERED.subjects,  # what overtakes nothing
        f"$JS.API.STREAM.MSG.DELETE.{streams.OVERFLOW.name}",  # after moving it to the work stream
        *_publish(streams.EVENTS),
        *_write_buckets(*_CONFIGURED),
        *_read_buckets(*_SEEN, streams.TOKENS, streams.REPLAYS, streams.NAMED_IDS, streams.REMOVALS),
        *_read(streams.FAILED, streams.DELIVERED, streams.EVENTS),
        *_decide(streams.OVERFLOW, streams.WORK, streams.RETRIES, streams.ORDERED, streams.ATTEMPTS),  # replays
        *_follow(streams.FAILED, streams.DELIVERED),  # the bytes of each tenant
        f"$JS.API.STREAM.PURGE.{streams.DELIVERED.name}",  # the oldest of a tenant beyond its share
        subjects.CONTROL,
    ),
    subscribe=(
        f"{inbox_prefix('api')}.>",
        *_FOLLOWED,
        subjects.deliveries("*"),
        *control_subjects(subjects.SERVICE, "*"),
    ),
    responds=True,  # to producers, on reply subjects that the server maps to their accounts
)

CONSUMER: Final = NatsRole(
    name="consumer",
    purpose="receives work and records results; of the configuration it can only disable a destination",
    publish=(
        *_JETSTREAM,
        *_inspect(*streams.STREAMS),
        *(subject for consumer in streams.ALL_CONSUMERS for subject in _consume(consumer)),
        *_move(),
        *_consume_ordered(streams.ORDERED),
        subjects.line("*", "*", "*"),
        *_publish(
            streams.WORK,
            streams.OVERFLOW,
            streams.ORDERED,
            streams.ATTEMPTS,
            streams.FAILED,
            streams.DELIVERED,
            streams.QUARANTINE,
            streams.EVENTS,
        ),
        subjects.scheduled("*", "*", "*"),
        subjects.due("*", "*"),  # overdue schedules, and those that a secret held back
        *_write_buckets(
            streams.DESTINATIONS,
            streams.CREDENTIAL_STATUS,
            streams.HEALTH,
            streams.ACTIVITY,
            streams.RATES,
            streams.LEASES,
            streams.SUSPECTS,
            streams.NAMED_IDS,
        ),
        *_read_buckets(*_SEEN, streams.RATES, streams.REPLAYS, streams.LEASES, streams.SUSPECTS, streams.NAMED_IDS),
        *_decide(streams.ATTEMPTS, streams.ORDERED, streams.RETRIES, streams.FAILED),
        f"$JS.API.STREAM.MSG.GET.{streams.WORK.name}",  # the original of a shed copy, and what was moved
        f"{inbox_prefix('api')}.>",  # replies to requests on `oneprotect.control`
        f"{inbox_prefix('operator')}.>",
    ),
    subscribe=(f"{inbox_prefix('consumer')}.>", *_ANNOUNCED, subjects.CONTROL),
)

OPERATOR: Final = NatsRole(
    name="operator",
    purpose="the command line: what the API may do, creating streams, releasing from quarantine, removing tenants",
    publish=tuple(
        dict.fromkeys(
            (
                *API.publish,
                *_apply(),
                *_remove_tenants(),
                subjects.due("*", "*"),
                *_read(streams.QUARANTINE),
                *_read_buckets(*streams.BUCKETS),
            )
        )
    ),
    subscribe=(f"{inbox_prefix('operator')}.>", *_FOLLOWED),
)

ROLES: Final = (API, CONSUMER, OPERATOR)


def producer(tenant: str) -> NatsRole:
    """Return the role of the producers of one valid tenant, in the tenant's own account.

    No other tenant uses that account, so clients keep their usual inbox prefix.
    """
    return NatsRole(
        name=f"producer_{tenant}",
        purpose=f"requests deliveries of the tenant {tenant} from the API",
        publish=(subjects.deliveries(tenant),),
        subscribe=("_INBOX.>",),
    )


def publisher(tenant: str) -> NatsRole:
    """Return the role of a trusted publisher of one valid tenant, in the product's account."""
    name = f"publisher_{tenant}"
    return NatsRole(
        name=name,
        purpose=f"stores requests of the tenant {tenant} directly; trusted by all tenants",
        publish=(subjects.requested(tenant, "*"), subjects.overflow(tenant, "*")),
        subscribe=(f"{inbox_prefix(name)}.>",),
    )
