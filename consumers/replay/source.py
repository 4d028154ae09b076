"""The retained deliveries that a replay's filter matches, and which of them are superseded.

A delivery is superseded when it was attempted since it was retained, or is requested and not attempted yet. Replays
keep no index of requested deliveries; the streams are the source of truth. A request is in the overflow, the work
stream, the retries or an ordered queue until its attempt is recorded, which outlasts the retained delivery. A message
is stored in the next place before it leaves the one before, so a search in that order finds it. The leaders say how
far each search must reach, as a replica may lag. That holds for replays that overlap and for killed ones, and does not
depend on how long the server remembers a `Nats-Msg-Id`.

Memory is bounded by `PAGE_SIZE`, not by what is recorded: an index holds one number for each delivery of its page.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from consumers.attempts import leader_reads
from consumers.retention import retained
from consumers.retention.retained import BATCH, RetainedDelivery, RetainedRecord
from messaging import direct_get
from messaging.client.connection import NatsConnection
from schemas import streams, subjects
from schemas.configuration import ReplayFilter
from schemas.events import decode_request, decode_result
from schemas.headers import HEADER_ATTEMPT, HEADER_REPLAY

PAGE_SIZE: Final = 131_072
MAX_SAMPLES: Final = 10

_FEW_SUBJECTS: Final = 8
_CLOCK_SKEW: Final = timedelta(seconds=10)
"""Two streams may be led by two servers, whose clocks differ a little."""


class SupersededIndex:
    """The highest attempt of each delivery of a page that was made or requested."""

    __slots__ = ("_attempts", "_replay", "_requested")

    def __init__(self, deliveries: Iterable[RetainedDelivery], replay: str | None = None) -> None:
        """`replay`: the id whose own requests `is_requested_by_replay` recognizes."""
        self._attempts = dict.fromkeys((delivery.key for delivery in deliveries), 0)
        self._requested: set[str] = set()
        self._replay = replay

    def record_attempt(self, key: str, attempt: int, replay: str | None) -> None:
        """Record an attempt of the delivery `key` that was made or requested, by `replay` or by none."""
        highest = self._attempts.get(key)
        if highest is None:
            return
        if attempt > highest:
            self._attempts[key] = attempt
        if replay is not None and replay == self._replay:
            self._requested.add(key)

    def is_superseded(self, delivery: RetainedDelivery) -> bool:
        """Return True if an attempt later than the last one of `delivery` was made or requested."""
        return self._attempts.get(delivery.key, 0) > delivery.attempt

    def is_requested_by_replay(self, delivery: RetainedDelivery) -> bool:
        """Return True if this replay itself requested a later attempt."""
        return delivery.key in self._requested


class SupersededPage(msgspec.Struct, frozen=True):
    """Retained deliveries that follow one another in the stream, and which of them are superseded."""

    deliveries: Sequence[RetainedDelivery]
    index: SupersededIndex

    def marked_deliveries(self) -> Iterable[RetainedDelivery]:
        """Return the deliveries with `superseded` set."""
        return (
            msgspec.structs.replace(delivery, superseded=True) if self.index.is_superseded(delivery) else delivery
            for delivery in self.deliveries
        )


class RetainedDeliverySource:
    """The deliveries of a tenant that `chosen` matches, oldest first, for the replay with id `replay`."""

    def __init__(
        self, connection: NatsConnection, tenant: str, chosen: ReplayFilter, *, replay: str | None = None
    ) -> None:
        self._connection = connection
        self._tenant = tenant
        self._chosen = chosen
        self._replay = replay

    async def find_pages(
        self, *, after: int = 0, until: int | None = None, page_size: int = PAGE_SIZE
    ) -> AsyncIterator[SupersededPage]:
        """Return the deliveries after stream sequence `after`, up to and including `until`, in pages.

        Raises `JetStreamError`.
        """
        page: list[RetainedDelivery] = []
        async for found in self.scan(after=after, until=until):
            page.append(found.delivery)
            if len(page) >= page_size and found.delivery.is_last_in_batch:
                yield await find_superseded(self._connection, self._tenant, page, self._replay)
                page = []
        if page:
            yield await find_superseded(self._connection, self._tenant, page, self._replay)

    def read_page(self, page: SupersededPage) -> AsyncIterator[RetainedRecord]:
        """Read the deliveries of `page` with their payloads, in order."""
        return self.scan(after=page.deliveries[0].sequence - 1, until=page.deliveries[-1].sequence)

    def scan(self, *, after: int = 0, until: int | None = None) -> AsyncIterator[RetainedRecord]:
        """Return the deliveries after stream sequence `after`, superseded or not."""
        return retained.scan(self._connection, self._tenant, self._chosen, after=after, until=until)

    async def count(self, *, after: int = 0, until: int | None = None) -> int:
        """Return how many deliveries `scan` returns."""
        count = 0
        async for _ in self.scan(after=after, until=until):
            count += 1
        return count


class DryRunSummary:
    """Counts of what a replay would do, and the first few deliveries."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        """Deliveries that would be replayed, by destination and code."""
        self.superseded = 0
        """Deliveries that would be skipped."""
        self.samples: list[RetainedDelivery] = []

    @property
    def total(self) -> int:
        """Deliveries that would be replayed."""
        return self.counts.total()

    async def add_pages(self, pages: AsyncIterator[SupersededPage]) -> None:
        """Count every delivery of `pages`."""
        async for page in pages:
            for delivery in page.marked_deliveries():
                self.counts[delivery.destination, delivery.code] += not delivery.superseded
                self.superseded += delivery.superseded
                if len(self.samples) < MAX_SAMPLES:
                    self.samples.append(delivery)


async def find_superseded(
    connection: NatsConnection, tenant: str, deliveries: Sequence[RetainedDelivery], replay: str | None = None
) -> SupersededPage:
    """Search the streams for later attempts of `deliveries`, all of one tenant. Raises `JetStreamError`."""
    index = SupersededIndex(deliveries, replay)
    if not deliveries:
        return SupersededPage(deliveries, index)
    since = min(delivery.stored_at for delivery in deliveries) - _CLOCK_SKEW
    names = {delivery.destination for delivery in deliveries}
    narrow = names if len(names) <= _FEW_SUBJECTS else {"*"}
    searched = [
        # The order matters: a message is stored in the next place before it leaves the one before.
        *((streams.OVERFLOW, subjects.overflow(tenant, name)) for name in narrow),
        *((streams.WORK, subjects.requested(tenant, name)) for name in narrow),
        # Schedules and due retries in one search, as a schedule may fire meanwhile.
        (streams.RETRIES, subjects.of_tenant(tenant)),
        (streams.ORDERED, subjects.ordered(tenant, "*")),
    ]
    for stream, subject in searched:
        async for record in _scan(connection, stream.name, subject, since):
            _record_request(index, record)
    for subject in _attempt_subjects(tenant, deliveries):
        async for record in _scan(connection, streams.ATTEMPTS.name, subject, since):
            _record_result(index, record)
    return SupersededPage(deliveries, index)


async def _scan(
    connection: NatsConnection, stream: str, subject: str, since: datetime
) -> AsyncIterator[direct_get.StoredMessage]:
    """Yield what the leader has on a subject since a time, when this is called."""
    last = await leader_reads.get_last(connection, stream, subject)
    if last is not None and last.stored_at >= since:
        async for record in leader_reads.scan(connection, stream, subject, last.sequence, since=since, batch=BATCH):
            yield record


def _attempt_subjects(tenant: str, deliveries: Sequence[RetainedDelivery]) -> Iterable[str]:
    exact: set[str] = set()
    for delivery in deliveries:
        exact.add(subjects.attempted(tenant, delivery.destination, delivery.id))
        if len(exact) > _FEW_SUBJECTS:
            return (subjects.attempted(tenant, "*", "*"),)
    return exact


def _record_request(index: SupersededIndex, record: direct_get.StoredMessage) -> None:
    attempt = record.headers.get(HEADER_ATTEMPT, "1")
    if attempt in ("1", ""):  # a first attempt supersedes nothing; nearly all requests are first attempts
        return
    try:
        request = decode_request(record.data)
        key = f"{request.data.destination}.{request.id}"
        index.record_attempt(key, int(attempt), record.headers.get(HEADER_REPLAY))
    except ValueError:
        return


def _record_result(index: SupersededIndex, record: direct_get.StoredMessage) -> None:
    try:
        result = decode_result(record.data).data
    except msgspec.DecodeError:
        return
    index.record_attempt(f"{result.destination}.{result.delivery}", result.attempt, result.replay)
