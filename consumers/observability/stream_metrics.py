"""The backlog, asked of NATS every few seconds: streams, consumers, schedules, storage, replays.

Every consumer asks, since a handful of questions every ten seconds costs the server nothing and no leader has to be
found for it. All of them tell the same figures, so whoever reads takes the maximum, never the sum.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncGenerator, Iterator
from datetime import datetime
from typing import Annotated, Any, Final, cast

import msgspec
import structlog
from msgspec import Meta

from consumers.replay.store import ReplayStore
from messaging import direct_get, management
from messaging.client.connection import NatsConnection
from messaging.client.errors import JetStreamError
from messaging.kv import KvBucket
from messaging.periodic import pause
from schemas import subjects
from schemas.configuration import ReplayState
from telemetry.metrics import definitions
from telemetry.metrics.definitions import MetricDefinition
from telemetry.metrics.registry import Labels, MetricSample

INTERVAL_S: Final = 10.0
SELDOM: Final = 6
"""Every so many rounds what takes a longer answer is asked for, too."""
TOLD_S: Final = 150.0
"""Older than this, a figure is not told any more: a gap says more than a number that was true once."""
OVERDUE_S: Final = 60.0
SCHEDULES_READ: Final = 64

_AT: Final = "@at "
_Time = Annotated[datetime, Meta(tz=True)]
_log = structlog.get_logger(__name__)


class StreamMetrics:
    """Asks, and keeps the last answers as readings."""

    def __init__(self, connection: NatsConnection, replays: KvBucket, *, interval_s: float = INTERVAL_S) -> None:
        self._connection = connection
        self._replays = ReplayStore(replays)
        self._interval_s = interval_s
        self._known: dict[tuple[str, Labels], tuple[MetricDefinition, float, float]] = {}
        self._asked_at: float | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Ask until `stop` is set."""
        often, seldom = (self._streams, self._consumers), (self._account, self._overdue, self._count_replays)
        for number in itertools.count():
            for part in often if number % SELDOM else (*often, *seldom):
                try:
                    await part()
                except JetStreamError as error:
                    _log.debug("backlog.unknown", what=part.__name__.strip("_"), error=str(error))
                except Exception as error:  # noqa: BLE001 - figures are no reason to stop delivering
                    _log.warning("backlog.unreadable", what=part.__name__.strip("_"), error=type(error).__name__)
            if await pause(self._interval_s, stop):
                return

    def __call__(self) -> Iterator[MetricSample]:
        """A source for `MetricRegistry.watch`."""
        now = time.monotonic()
        if self._asked_at is not None:
            yield definitions.SAMPLE_AGE, (), now - self._asked_at
        for (_, labels), (metric, value, at) in self._known.items():
            if now - at < TOLD_S:
                yield metric, labels, value

    def _tell(self, metric: MetricDefinition, value: float, labels: Labels = ()) -> None:
        self._known[metric.name, labels] = (metric, value, time.monotonic())

    async def _streams(self) -> None:
        for stream in subjects.STREAMS:
            info = await management.find_stream(self._connection, stream.name)
            if info is None:  # the archive is optional
                continue
            labels = (("stream", stream.name),)
            self._tell(definitions.STREAM_MESSAGES, info.state.messages, labels)
            self._tell(definitions.STREAM_BYTES, info.state.bytes, labels)
            self._tell(definitions.STREAM_SUBJECTS, info.state.num_subjects, labels)
            self._tell(definitions.STREAM_OLDEST, info.oldest_age_s, labels)
        self._asked_at = time.monotonic()

    async def _consumers(self) -> None:
        for consumer in subjects.CONSUMERS:
            info = await management.consumer_info(self._connection, consumer.stream, consumer.name)
            labels = (("stream", consumer.stream),)
            self._tell(definitions.PENDING, info.num_pending, labels)
            self._tell(definitions.ACK_PENDING, info.num_ack_pending, labels)
            self._tell(definitions.WAITING, info.num_waiting, labels)
            if consumer is subjects.DUE_CONSUMER:
                due = info.num_pending + info.num_ack_pending
                stream = self._known.get((definitions.STREAM_MESSAGES.name, labels))
                if stream is not None:  # the server may not have said so yet
                    self._tell(definitions.SCHEDULED, max(0, stream[1] - due))

    async def _account(self) -> None:
        info = await management.account_info(self._connection)
        self._tell(definitions.STORAGE, info["storage"])
        if (limit := info["limits"]["max_storage"]) > 0:
            self._tell(definitions.STORAGE_LIMIT, limit)

    async def _overdue(self) -> None:
        """The oldest schedules: that is where those stay that the server has forgotten."""
        pattern = subjects.scheduled("*", "*", "*")
        scan = cast(
            "AsyncGenerator[direct_get.StoredMessage, Any]",
            direct_get.scan(self._connection, subjects.RETRIES.name, pattern, batch=SCHEDULES_READ),
        )
        info = await management.stream_info(self._connection, subjects.RETRIES.name)
        now, late, seen = info.ts, 0, 0  # the clock that fires them
        async with contextlib.aclosing(scan) as records:
            async for record in records:
                late += _is_overdue(record.headers, now)
                seen += 1
                if seen == SCHEDULES_READ:
                    break
        self._tell(definitions.OVERDUE, late)

    async def _count_replays(self) -> None:
        rows = [row.replay for row in await self._replays.list("*")]
        running = [row for row in rows if row.state is ReplayState.RUNNING]
        self._tell(definitions.REPLAYS, len(running))
        self._tell(definitions.REPLAY_ASKED, sum(row.replayed for row in running))
        self._tell(definitions.REPLAY_LEFT, sum(max(0, row.until_sequence - row.cursor) for row in running))


def _is_overdue(headers: dict[str, str], now: datetime) -> bool:
    try:
        at = msgspec.convert(headers.get(subjects.HEADER_SCHEDULE, "").removeprefix(_AT), _Time)
    except msgspec.ValidationError:
        return False
    return (now - at).total_seconds() > OVERDUE_S
