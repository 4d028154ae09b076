"""Metrics of the backlog, read from NATS every few seconds: streams, consumers, schedules, storage and replays.

Every consumer reports the same figures, because a few requests cost the server less than an election would. A query
takes their maximum, never their sum.
"""

import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import Final

import structlog

from consumers.replay.index import ReplayIndex
from messaging import management
from messaging.client.connection import NatsConnection
from messaging.client.errors import JetStreamError
from messaging.kv import KvBucket
from messaging.periodic import pause
from schemas import streams
from telemetry.metrics import definitions
from telemetry.metrics.definitions import MetricDefinition
from telemetry.metrics.registry import Labels, MetricSample

INTERVAL_S: Final = 10.0
SLOW_PART_ROUNDS: Final = 6
"""Rounds between two readings of what takes the server longer to answer."""
MAX_AGE_S: Final = 150.0
"""Older figures are not reported: a gap says more than a stale number."""

_log = structlog.get_logger(__name__)


class StreamMetrics:
    """Reads figures from NATS, and keeps the last ones as readings."""

    def __init__(self, connection: NatsConnection, replays: KvBucket, *, interval_s: float = INTERVAL_S) -> None:
        self._connection = connection
        self._replays = ReplayIndex(replays)
        self._interval_s = interval_s
        self._known: dict[tuple[str, Labels], tuple[MetricDefinition, float, float]] = {}
        self._read_at: float | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Read until `stop` is set."""
        await self._replays.start()
        self._connection.on_reconnect(self._replays.forget)
        quick, slow = (self._streams, self._consumers), (self._account, self._count_replays)
        for number in itertools.count():
            for part in quick if number % SLOW_PART_ROUNDS else (*quick, *slow):
                name = part.__name__.strip("_")
                try:
                    await part()
                except JetStreamError as error:
                    _log.debug("stream_metrics.unavailable", part=name, error=str(error))
                except Exception as error:  # noqa: BLE001 - metrics must not stop deliveries
                    _log.warning("stream_metrics.failed", part=name, error=type(error).__name__)
            if await pause(self._interval_s, stop):
                return

    def __call__(self) -> Iterator[MetricSample]:
        """Yield the readings, as a source for `MetricRegistry.add_source`."""
        now = time.monotonic()
        if self._read_at is not None:
            yield definitions.SAMPLE_AGE, (), now - self._read_at
        for (_, labels), (metric, value, at) in self._known.items():
            if now - at < MAX_AGE_S:
                yield metric, labels, value

    def _set(self, metric: MetricDefinition, value: float, labels: Labels = ()) -> None:
        self._known[metric.name, labels] = (metric, value, time.monotonic())

    async def _streams(self) -> None:
        for stream in streams.STREAMS:
            info = await management.find_stream(self._connection, stream.name)
            if info is None:  # the archive is optional
                continue
            labels = (("stream", stream.name),)
            self._set(definitions.STREAM_MESSAGES, info.state.messages, labels)
            self._set(definitions.STREAM_BYTES, info.state.bytes, labels)
            self._set(definitions.STREAM_SUBJECTS, info.state.num_subjects, labels)
            self._set(definitions.STREAM_OLDEST, info.oldest_age_s, labels)
        self._read_at = time.monotonic()

    async def _consumers(self) -> None:
        for consumer in streams.CONSUMERS:
            info = await management.consumer_info(self._connection, consumer.stream, consumer.name)
            labels = (("stream", consumer.stream),)
            self._set(definitions.PENDING, info.num_pending, labels)
            self._set(definitions.ACK_PENDING, info.num_ack_pending, labels)
            self._set(definitions.WAITING, info.num_waiting, labels)
            if consumer is streams.DUE_CONSUMER:
                due = info.num_pending + info.num_ack_pending
                stream = self._known.get((definitions.STREAM_MESSAGES.name, labels))
                if stream is not None:
                    self._set(definitions.SCHEDULED, max(0, stream[1] - due))

    async def _account(self) -> None:
        info = await management.account_info(self._connection)
        self._set(definitions.STORAGE, info["storage"])
        if (limit := info["limits"]["max_storage"]) > 0:
            self._set(definitions.STORAGE_LIMIT, limit)

    async def _count_replays(self) -> None:
        running = [summary for _, _, summary in await self._replays.all_unfinished()]
        self._set(definitions.REPLAYS, len(running))
        self._set(definitions.REPLAY_ASKED, sum(replay.replayed for replay in running))
        self._set(definitions.REPLAY_LEFT, sum(replay.left for replay in running))
