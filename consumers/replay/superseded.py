"""What came after a delivery was kept: has it been attempted again since, or asked for and not attempted yet?

There is no register of what replays have asked for that could differ from the truth: the streams say it. From the
moment that a request is stored until its delivery is settled for good, it is in the overflow, then in the work stream,
then perhaps among the retries or in a line, and from then on, longer than the kept delivery, its attempt is on record.
A message is stored in the next place before it leaves the one before, so looking in that order finds it.
Two replays that overlap, or one that was killed between a request and its cursor, therefore ask for nothing twice, and
that does not hang on how long the server remembers a `Nats-Msg-Id`.

Memory is bounded by what is looked for (`PAGE_SIZE`) and not by what is on record: of the attempts, however many
millions, one number for each delivery that is looked for is held.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Final

import msgspec

from consumers.retention.retained import BATCH, RetainedDelivery
from messaging import direct_get
from messaging.client.connection import NatsConnection
from schemas import subjects
from schemas.events import decode_request, decode_result

PAGE_SIZE: Final = 131_072
"""Kept deliveries that are looked for at a time: about 60 MB."""

_FEW_SUBJECTS: Final = 8
_SKEW: Final = timedelta(seconds=10)
"""Two streams may be led by two servers, whose clocks differ a little."""


class SupersededIndex:
    """The highest attempt of each delivery that was made or asked for, as far as it is later than the kept one."""

    __slots__ = ("_attempts", "_own", "_replay")

    def __init__(self, wanted: Iterable[RetainedDelivery], replay: str | None = None) -> None:
        """`replay`: whose own requests `is_own` tells from the others."""
        self._attempts = dict.fromkeys((kept.key for kept in wanted), 0)
        self._own: set[str] = set()
        self._replay = replay

    def record_attempt(self, key: str, attempt: int, replay: str | None) -> None:
        """An attempt of the delivery `key` was made or asked for, by `replay` or else by nobody's."""
        highest = self._attempts.get(key)
        if highest is None:
            return
        if attempt > highest:
            self._attempts[key] = attempt
        if replay is not None and replay == self._replay:
            self._own.add(key)

    def is_superseded(self, kept: RetainedDelivery) -> bool:
        """Whether there is an attempt later than the one after which `kept` was kept."""
        return self._attempts.get(kept.key, 0) > kept.attempt

    def is_requested_by_replay(self, kept: RetainedDelivery) -> bool:
        """Whether it was this very replay that asked for a later one."""
        return kept.key in self._own


class SupersededPage(msgspec.Struct, frozen=True):
    """Kept deliveries that follow one another in the stream, and what came after them."""

    deliveries: Sequence[RetainedDelivery]
    index: SupersededIndex

    def marked_deliveries(self) -> Iterable[RetainedDelivery]:
        """The same, each with `superseded` as it is."""
        return (
            msgspec.structs.replace(kept, superseded=True) if self.index.is_superseded(kept) else kept
            for kept in self.deliveries
        )


async def find_superseded(
    connection: NatsConnection, tenant: str, wanted: Sequence[RetainedDelivery], replay: str | None = None
) -> SupersededPage:
    """Find out what came after `wanted`, all of one tenant. Raises `JetStreamError`."""
    later = SupersededIndex(wanted, replay)
    if not wanted:
        return SupersededPage(wanted, later)
    since = min(kept.stored_at for kept in wanted) - _SKEW
    destinations = {kept.destination for kept in wanted}
    # The order matters: see above.
    for stream, kind in ((subjects.OVERFLOW, "overflow"), (subjects.WORK, "requested")):
        for destination in destinations if len(destinations) <= _FEW_SUBJECTS else ("*",):
            pattern = f"oneprotect.delivery.{kind}.{tenant}.{destination}"
            async for record in direct_get.scan(connection, stream.name, pattern, since=since, batch=BATCH):
                _note_request(later, record)
    # Both kinds in one go, as a delivery may change between them while we look.
    waiting = f"oneprotect.delivery.*.{tenant}.>"
    async for record in direct_get.scan(connection, subjects.RETRIES.name, waiting, since=since, batch=BATCH):
        _note_request(later, record)
    async for record in direct_get.scan(
        connection, subjects.ORDERED.name, subjects.ordered(tenant, "*"), since=since, batch=BATCH
    ):
        _note_request(later, record)
    for pattern in _attempted(tenant, wanted):
        async for record in direct_get.scan(connection, subjects.ATTEMPTS.name, pattern, since=since, batch=BATCH):
            _note_result(later, record)
    return SupersededPage(wanted, later)


def _attempted(tenant: str, wanted: Sequence[RetainedDelivery]) -> Iterable[str]:
    exact: set[str] = set()
    for kept in wanted:
        exact.add(subjects.attempted(tenant, kept.destination, kept.id))
        if len(exact) > _FEW_SUBJECTS:
            return (f"oneprotect.delivery.attempted.{tenant}.*.*",)
    return exact


def _note_request(later: SupersededIndex, record: direct_get.StoredMessage) -> None:
    attempt = record.headers.get(subjects.HEADER_ATTEMPT, "1")
    if attempt in ("1", ""):  # as it came from its producer: that supersedes nothing, and nearly all are so
        return
    try:
        asked = decode_request(record.data)
        later.record_attempt(
            f"{asked.data.destination}.{asked.id}", int(attempt), record.headers.get(subjects.HEADER_REPLAY)
        )
    except ValueError:
        return


def _note_result(later: SupersededIndex, record: direct_get.StoredMessage) -> None:
    try:
        result = decode_result(record.data).data
    except msgspec.DecodeError:
        return
    later.record_attempt(f"{result.destination}.{result.delivery}", result.attempt, result.replay)
