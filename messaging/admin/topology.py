"""Streams, consumers and buckets at the server, created and updated as `schemas.streams` defines them.

A bucket is a stream with a naming rule, so buckets and streams share one implementation.
"""

import contextlib
from collections.abc import Generator
from typing import Any, Final, Literal

import msgspec

from messaging import management
from messaging.client.connection import NatsConnection
from messaging.client.errors import NO_SPACE, NotFound, ServerUnavailable
from messaging.kv import KvBucket
from messaging.management import NANOSECONDS, Config
from messaging.publisher import JetStreamPublisher
from schemas import streams, subjects

_DAY_S: Final = 86_400
_MAX_ACK_PENDING: Final = 1_000_000
"""More than all workers hold together: each holds some ten thousands at most."""
_MAX_WAITING: Final = 2_048


class TopologyChange(msgspec.Struct, frozen=True):
    """A change of one object by `apply`, or with `check` a pending one. `fields`: old and new value by name."""

    kind: Literal["stream", "bucket", "consumer"]
    name: str
    action: Literal["create", "update", "none"]
    fields: dict[str, tuple[Any, Any]] = {}
    note: str = ""


class StreamLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of the streams that hold records. The server reserves them, and removes the oldest beyond them.

    `remembered_s`: how long named ids are remembered; 0 leaves their bucket unused.
    """

    archive_days: int = 30
    """0 disables the archive."""
    archive_bytes: int = 2 * 1024**3
    attempts_bytes: int = 6 * 1024**3
    events_bytes: int = 1024**3
    quarantine_bytes: int = 512 * 1024**2
    remembered_s: float = _DAY_S

    def max_bytes(self, stream: streams.StreamConfig) -> int | None:
        """Return the size of a stream, or None for a stream whose messages wait, which must refuse instead."""
        return {
            streams.DELIVERED.name: self.archive_bytes if self.archive_days else 0,
            streams.ATTEMPTS.name: self.attempts_bytes,
            streams.EVENTS.name: self.events_bytes,
            streams.QUARANTINE.name: self.quarantine_bytes,
        }.get(stream.name)

    @property
    def reserved_bytes(self) -> int:
        """Bytes that the server reserves for one replica of each."""
        return sum(self.max_bytes(stream) or 0 for stream in streams.STREAMS)


DEFAULT_LIMITS: Final = StreamLimits()


async def apply(
    connection: NatsConnection,
    *,
    replicas: int,
    work_per_destination: int,
    ack_wait_s: float,
    limits: StreamLimits = DEFAULT_LIMITS,
    check: bool = False,
) -> list[TopologyChange]:
    """Create or update everything; with `check` only compare. Raises `JetStreamError`, such as `ServerTooOld`."""
    connection.require_version()
    changes: list[TopologyChange] = []
    for stream in streams.STREAMS:
        if stream.archived and not limits.archive_days:
            changes.append(await _skip_archive(connection, stream))
            continue
        wanted = stream_config(stream, replicas=replicas, work_per_destination=work_per_destination, limits=limits)
        changes.append(await _apply_stream(connection, "stream", stream.name, wanted, check=check))
    for bucket in streams.BUCKETS:
        wanted = bucket_config(bucket, replicas=replicas, remembered_s=limits.remembered_s)
        change = await _apply_stream(connection, "bucket", bucket.name, wanted, check=check)
        changes.append(
            change if check or change.action == "create" else await _expire_markers(connection, bucket, change)
        )
    for consumer in streams.ALL_CONSUMERS:
        changes.append(await _apply_consumer(connection, consumer, ack_wait_s=ack_wait_s, check=check))
    return changes


def stream_config(
    stream: streams.StreamConfig, *, replicas: int, work_per_destination: int, limits: StreamLimits = DEFAULT_LIMITS
) -> Config:
    """Return the configuration of a stream, in the fields of the JetStream API."""
    config: Config = {
        "name": stream.name,
        "description": stream.description,
        "subjects": list(stream.subjects),
        "retention": stream.retention,
        "storage": "file",
        "num_replicas": replicas,
        "max_age": int(stream.max_age_s * NANOSECONDS),
        "duplicate_window": int(stream.duplicate_window_s * NANOSECONDS),
        "discard": "new" if stream.capped_per_subject else "old",
        "max_msg_size": stream.max_message_bytes,
        "allow_direct": True,
    }
    if stream.capped_per_subject:
        config |= {"discard_new_per_subject": True, "max_msgs_per_subject": work_per_destination}
    if max_bytes := limits.max_bytes(stream):
        config["max_bytes"] = max_bytes
    if stream.archived:
        config |= {"max_age": limits.archive_days * _DAY_S * NANOSECONDS, "compression": "s2"}
    if stream.batches:
        config["allow_atomic"] = True
    if stream.max_consumers:
        config["max_consumers"] = stream.max_consumers
    if stream.schedules:
        config |= {"allow_msg_schedules": True, "allow_msg_ttl": True}
    return config


def bucket_config(bucket: streams.BucketConfig, *, replicas: int, remembered_s: float = _DAY_S) -> Config:
    """Return the configuration of a bucket's stream, as any key-value client expects it (ADR-8)."""
    config: Config = {
        "name": f"KV_{bucket.name}",
        "description": bucket.description,
        "subjects": [f"$KV.{bucket.name}.>"],
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        "max_age": int((remembered_s or _DAY_S if bucket.remembers else bucket.max_age_s) * NANOSECONDS),
        "max_msgs_per_subject": 1,
        "discard": "new",
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_msg_ttl": True,
    }
    if bucket.announced:
        config["republish"] = {"src": f"$KV.{bucket.name}.>", "dest": subjects.announced(bucket.name) + ".>"}
    return config


def consumer_config(consumer: streams.ConsumerConfig, *, ack_wait_s: float) -> Config:
    """Return the configuration of a durable consumer, in the fields of the JetStream API."""
    return ({"deliver_policy": "new"} if consumer.from_now else {}) | {
        "durable_name": consumer.name,
        "filter_subject": consumer.filter_subject,
        "ack_policy": "explicit",
        "ack_wait": int(ack_wait_s * NANOSECONDS),
        "max_deliver": -1,
        "max_ack_pending": _MAX_ACK_PENDING,
        "max_waiting": _MAX_WAITING,
    }


async def _apply_stream(
    connection: NatsConnection, kind: Literal["stream", "bucket"], name: str, wanted: Config, *, check: bool
) -> TopologyChange:
    current = await management.find_stream(connection, wanted["name"])
    fields = {} if current is None else _differences(current.config, wanted)
    if current is not None and not fields:
        return TopologyChange(kind, name, "none")
    if not check:
        with _explain_lack_of_space(wanted):
            if current is None:
                await management.create_stream(connection, wanted)
            else:
                await management.update_stream(connection, current.config | wanted)
    return TopologyChange(kind, name, "create" if current is None else "update", fields)


@contextlib.contextmanager
def _explain_lack_of_space(wanted: Config) -> Generator[None]:
    try:
        yield
    except ServerUnavailable as error:
        if f"({NO_SPACE})" not in str(error):
            raise
        problem = (
            f"{wanted['name']} reserves {wanted.get('max_bytes', 0):,} bytes, more than is left: {error}; raise "
            "`max_file_store` of the servers and `max_file` of the account, or lower ONEPROTECT_ATTEMPTS_MAX_BYTES, "
            "ONEPROTECT_ARCHIVE_MAX_BYTES, ONEPROTECT_EVENTS_MAX_BYTES or ONEPROTECT_QUARANTINE_MAX_BYTES"
        )
    else:
        return
    raise ServerUnavailable(problem)


async def _expire_markers(
    connection: NatsConnection, bucket: streams.BucketConfig, change: TopologyChange
) -> TopologyChange:
    """Let the markers expire that older versions left in a bucket for ever, as each counts like a row."""
    if bucket.max_age_s:
        return change
    async with JetStreamPublisher(connection) as publisher:
        count = await KvBucket(connection, publisher, bucket).expire_markers()
    return msgspec.structs.replace(change, note=f"{count} old markers of deleted keys expire soon") if count else change


async def _skip_archive(connection: NatsConnection, stream: streams.StreamConfig) -> TopologyChange:
    info = await management.find_stream(connection, stream.name)
    note = "not created: ONEPROTECT_ARCHIVE_DAYS is 0"
    if info is not None:
        count = info.state.messages
        note = f"ONEPROTECT_ARCHIVE_DAYS is 0: nothing is added; its {count} messages stay until they age out"
    return TopologyChange("stream", stream.name, "none", note=note)


async def _apply_consumer(
    connection: NatsConnection, consumer: streams.ConsumerConfig, *, ack_wait_s: float, check: bool
) -> TopologyChange:
    wanted = consumer_config(consumer, ack_wait_s=ack_wait_s)
    name = f"{consumer.stream}/{consumer.name}"
    try:
        current = (await management.consumer_info(connection, consumer.stream, consumer.name)).config
    except NotFound:
        if not check:
            await management.create_consumer(connection, consumer.stream, wanted)
        return TopologyChange("consumer", name, "create")
    fields = _differences(current, wanted)
    if not fields:
        return TopologyChange("consumer", name, "none")
    if not check:
        await management.create_consumer(connection, consumer.stream, current | wanted)
    return TopologyChange("consumer", name, "update", fields)


def _differences(current: Config, wanted: Config) -> dict[str, tuple[Any, Any]]:
    # The server omits fields that are false, zero or empty.
    return {
        key: (current.get(key), value) for key, value in wanted.items() if (current.get(key) or None) != (value or None)
    }
