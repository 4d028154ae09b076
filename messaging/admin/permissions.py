"""Who may do what at the server: the subjects that each role needs, and no others.

Everything is named: a wildcard stands only where tenants, destinations and deliveries come and go. Each role hears
answers below an inbox of its own, as answers are not for others' ears.
"""

from typing import Final

import msgspec

from schemas import streams, subjects
from schemas.streams import BucketConfig, ConsumerConfig, StreamConfig


class NatsRole(msgspec.Struct, frozen=True, kw_only=True):
    """A user's permissions: what it may publish to and subscribe to. Anything else is refused."""

    name: str
    does: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]

    @property
    def inbox_prefix(self) -> str:
        """ONEPROTECT_NATS_INBOX_PREFIX of whoever has this role."""
        return inbox_prefix(self.name)


def inbox_prefix(role: str) -> str:
    """Where a role hears answers."""
    return f"_INBOX_{role}"


def _known(*streams: StreamConfig) -> tuple[str, ...]:
    """How streams are configured, and how much they hold: no content."""
    return tuple(f"$JS.API.STREAM.INFO.{stream.name}" for stream in streams)


def _read(*streams: StreamConfig) -> tuple[str, ...]:
    names = [stream.name for stream in streams]
    return tuple(f"$JS.API.DIRECT.GET.{name}{below}" for name in names for below in ("", ".>"))


def _looked_up(*buckets: BucketConfig) -> tuple[str, ...]:
    return tuple(f"$JS.API.DIRECT.GET.KV_{bucket.name}{below}" for bucket in buckets for below in ("", ".>"))


def _written(*buckets: BucketConfig) -> tuple[str, ...]:
    return tuple(f"$KV.{bucket.name}.>" for bucket in buckets)


def _published(*streams: StreamConfig) -> tuple[str, ...]:
    return tuple(subject for stream in streams for subject in stream.subjects)


def _consumed(consumer: ConsumerConfig) -> tuple[str, ...]:
    name = f"{consumer.stream}.{consumer.name}"
    return (f"$JS.API.CONSUMER.INFO.{name}", f"$JS.API.CONSUMER.MSG.NEXT.{name}", f"$JS.ACK.{name}.>")


def _stood_in_line(stream: StreamConfig) -> tuple[str, ...]:
    """A consumer for each destination that has a line, made on demand."""
    return (
        *(f"$JS.API.CONSUMER.CREATE.{stream.name}.*.{subject}" for subject in stream.subjects),
        f"$JS.API.CONSUMER.INFO.{stream.name}.*",
        f"$JS.API.CONSUMER.MSG.NEXT.{stream.name}.*",
        f"$JS.ACK.{stream.name}.>",
    )


def _moved(*streams: StreamConfig) -> tuple[str, ...]:
    """What stands here is read, and removed when it stands somewhere else."""
    return (*_read(*streams), *(f"$JS.API.STREAM.PURGE.{stream.name}" for stream in streams))


def _applied() -> tuple[str, ...]:
    names = [stream.name for stream in streams.STREAMS] + [f"KV_{bucket.name}" for bucket in streams.BUCKETS]
    made = [f"$JS.API.STREAM.{verb}.{name}" for name in names for verb in ("INFO", "CREATE", "UPDATE")]
    for consumer in streams.ALL_CONSUMERS:
        made.append(f"$JS.API.CONSUMER.INFO.{consumer.stream}.{consumer.name}")
        made.append(f"$JS.API.CONSUMER.CREATE.{consumer.stream}.{consumer.name}.{consumer.filter_subject}")
    return tuple(made)


_JETSTREAM: Final = ("$JS.API.INFO",)
_REQUESTED: Final = (*streams.WORK.subjects, *streams.OVERFLOW.subjects)
_ANNOUNCED: Final = tuple(f"{subjects.announced(bucket.name)}.>" for bucket in streams.BUCKETS if bucket.announced)
_CONFIGURED: Final = (
    streams.DESTINATIONS,
    streams.CREDENTIALS,
    streams.CREDENTIAL_STATUS,  # a credential that was changed has no status until a consumer has looked
    streams.TOKENS,
    streams.REPLAYS,
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
    does="takes requests, keeps configuration, shows what happened, replays; can't take work or record a result",
    publish=(
        *_JETSTREAM,
        *_known(*streams.STREAMS),
        *_REQUESTED,
        f"$JS.API.STREAM.MSG.DELETE.{streams.OVERFLOW.name}",  # what it has moved to the work stream
        *_published(streams.EVENTS),
        *_written(*_CONFIGURED),
        *_looked_up(*_SEEN, streams.TOKENS, streams.REPLAYS),
        *_read(*(stream for stream in streams.STREAMS if stream is not streams.QUARANTINE)),
        subjects.CONTROL,
    ),
    subscribe=(f"{inbox_prefix('api')}.>", *_ANNOUNCED, *streams.ATTEMPTS.subjects),
)

CONSUMER: Final = NatsRole(
    name="consumer",
    does="takes work and records what came of it; of the configuration it can only disable a destination",
    publish=(
        *_JETSTREAM,
        *_known(*streams.STREAMS),
        *(subject for consumer in streams.ALL_CONSUMERS for subject in _consumed(consumer)),
        *_moved(streams.WORK, streams.OVERFLOW),
        *_stood_in_line(streams.ORDERED),
        subjects.line("*", "*", "*"),
        *_published(
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
        *_written(
            streams.DESTINATIONS,
            streams.CREDENTIAL_STATUS,
            streams.HEALTH,
            streams.ACTIVITY,
            streams.RATES,
            streams.LEASES,
        ),
        *_looked_up(*_SEEN, streams.RATES, streams.REPLAYS, streams.LEASES),
        *_read(streams.ATTEMPTS, streams.RETRIES),
        f"{inbox_prefix('api')}.>",  # answers to what is asked over `oneprotect.control`
        f"{inbox_prefix('operator')}.>",
    ),
    subscribe=(f"{inbox_prefix('consumer')}.>", *_ANNOUNCED, subjects.CONTROL),
)

OPERATOR: Final = NatsRole(
    name="operator",
    does="the command line: all that the API may, and creating streams, and releasing from quarantine",
    publish=tuple(
        dict.fromkeys(
            (
                *API.publish,
                *_applied(),
                subjects.due("*", "*"),
                *_read(streams.QUARANTINE),
                *_looked_up(*streams.BUCKETS),
            )
        )
    ),
    subscribe=(f"{inbox_prefix('operator')}.>", *API.subscribe[1:]),
)

ROLES: Final = (API, CONSUMER, OPERATOR)


def producer(tenant: str) -> NatsRole:
    """A producer that publishes over NATS: its own tenant's requests, and nothing else. `tenant` is valid."""
    name = f"producer_{tenant}"
    return NatsRole(
        name=name,
        does=f"asks for deliveries of the tenant {tenant}",
        publish=(subjects.requested(tenant, "*"), subjects.overflow(tenant, "*")),
        subscribe=(f"{inbox_prefix(name)}.>",),
    )
