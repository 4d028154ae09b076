"""Management requests of the JetStream API: streams, consumers and single messages.

Each function raises `JetStreamError`: `NotFound` when the stream, consumer or message does not exist, `NotAllowed`
without the permission, `ServerUnavailable` without an answer.
"""

from datetime import datetime
from typing import Any, Final

import msgspec

from messaging.client.connection import NatsConnection
from messaging.client.errors import GONE, NotFound, RejectedByServer

NANOSECONDS: Final = 1_000_000_000
_BEYOND: Final = 1_000_000_000
"""An offset after the last subject of any stream: the reply has their number only."""
Config = dict[str, Any]


class StreamState(msgspec.Struct, frozen=True):
    """The content of a stream. `subjects`: messages of each subject, when `stream_info` was asked for them."""

    messages: int
    bytes: int
    first_seq: int
    last_seq: int
    first_ts: datetime
    num_subjects: int = 0
    subjects: dict[str, int] = {}


class StreamInfo(msgspec.Struct, frozen=True):
    """A stream: configuration, content, and the server's time."""

    config: Config
    state: StreamState
    ts: datetime
    total: int = 0
    created: str = ""

    @property
    def oldest_age_s(self) -> float:
        """Age of the oldest message by the server's clock; 0 when the stream is empty."""
        return max(0.0, (self.ts - self.state.first_ts).total_seconds()) if self.state.messages else 0.0


class AckFloor(msgspec.Struct, frozen=True):
    """The sequence up to which a consumer knows every message as acknowledged."""

    stream_seq: int


class ConsumerInfo(msgspec.Struct, frozen=True):
    """A consumer: configuration, and how many messages and requests wait."""

    config: Config
    created: str
    num_pending: int
    num_ack_pending: int
    num_waiting: int
    ack_floor: AckFloor


async def account_info(connection: NatsConnection) -> dict[str, Any]:
    """Return the limits and the usage of this account."""
    return await connection.api("INFO")


async def stream_info(connection: NatsConnection, stream: str, *, subjects: str | None = None) -> StreamInfo:
    """Return a stream's configuration and state.

    Args:
        subjects: Pattern of the subjects to count in `state.subjects`. The server reports 100,000 subjects in one
            reply, so a longer list takes several requests; the rest of the result is of the first reply.
    """
    request = None if subjects is None else {"subjects_filter": subjects}
    info = msgspec.convert(await connection.api(f"STREAM.INFO.{stream}", request), StreamInfo)
    counts = info.state.subjects
    while len(counts) < info.total:
        page = msgspec.convert(
            await connection.api(f"STREAM.INFO.{stream}", {"subjects_filter": subjects, "offset": len(counts)}),
            StreamInfo,
        )
        if not page.state.subjects.keys() - counts.keys():
            break
        counts |= page.state.subjects
    return info


async def count_subjects(connection: NatsConnection, stream: str, pattern: str) -> int:
    """Return how many subjects of a stream match, without their names."""
    request = {"subjects_filter": pattern, "offset": _BEYOND}
    return msgspec.convert(await connection.api(f"STREAM.INFO.{stream}", request), StreamInfo).total


async def find_stream(connection: NatsConnection, stream: str) -> StreamInfo | None:
    """Return a stream's configuration and state, or None when it does not exist."""
    try:
        return await stream_info(connection, stream)
    except NotFound:
        return None


async def create_stream(connection: NatsConnection, config: Config) -> None:
    """Create the stream that `config` describes."""
    await connection.api(f"STREAM.CREATE.{config['name']}", config)


async def update_stream(connection: NatsConnection, config: Config) -> None:
    """Replace the configuration of a stream."""
    await connection.api(f"STREAM.UPDATE.{config['name']}", config)


async def purge_subject(connection: NatsConnection, stream: str, subject: str, *, before: int) -> None:
    """Delete the messages of `subject` with a sequence lower than `before`."""
    await connection.api(f"STREAM.PURGE.{stream}", {"filter": subject, "seq": before})


async def purge_pattern(connection: NatsConnection, stream: str, pattern: str) -> int:
    """Delete all messages whose subject matches, and return their number.

    Only for streams without consumers: a purge can make a consumer skip messages of other subjects (nats-server issue
    5727).
    """
    reply = await connection.api(f"STREAM.PURGE.{stream}", {"filter": pattern})
    return int(reply["purged"])


async def delete_message(connection: NatsConnection, stream: str, sequence: int) -> bool:
    """Delete one message without overwriting its bytes. Returns False when the stream no longer has it."""
    try:
        await connection.api(f"STREAM.MSG.DELETE.{stream}", {"seq": sequence, "no_erase": True})
    except RejectedByServer as error:
        if error.err_code not in GONE:
            raise
        return False
    return True


async def consumer_info(connection: NatsConnection, stream: str, consumer: str) -> ConsumerInfo:
    """Return a consumer's configuration and state."""
    return msgspec.convert(await connection.api(f"CONSUMER.INFO.{stream}.{consumer}"), ConsumerInfo)


async def create_consumer(connection: NatsConnection, stream: str, config: Config) -> ConsumerInfo:
    """Create a durable consumer, or update the one that has this name."""
    name = f"{stream}.{config['durable_name']}.{config['filter_subject']}"
    reply = await connection.api(f"CONSUMER.CREATE.{name}", {"stream_name": stream, "config": config})
    return msgspec.convert(reply, ConsumerInfo)


async def consumer_names(connection: NatsConnection, stream: str) -> list[str]:
    """Return the names of all consumers of a stream."""
    names: list[str] = []
    while True:
        reply = await connection.api(f"CONSUMER.NAMES.{stream}", {"offset": len(names)})
        page: list[str] = reply.get("consumers") or []
        names += page
        if not page or len(names) >= reply["total"]:
            return names


async def delete_consumer(connection: NatsConnection, stream: str, consumer: str) -> None:
    """Delete a consumer. Raises `NotFound`."""
    await connection.api(f"CONSUMER.DELETE.{stream}.{consumer}")
