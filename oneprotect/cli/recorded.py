"""The newest attempt results that fit, without reading all of them."""

import contextlib
from collections import deque
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any, Final, cast

import msgspec

from oneprotect.jetstream import read
from oneprotect.jetstream.connection import Connection
from schemas import subjects
from schemas.codes import Code, Outcome
from schemas.events import DeliveryAttempted, decode_result
from schemas.ids import bucket_of

FIRST_SPAN: Final = 1024
"""Stream sequences looked at first, from the end; each further look goes four times as far back."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which results to show. Every given condition must hold."""

    tenant: str | None = None
    destination: str | None = None
    delivery: str | None = None
    outcomes: frozenset[Outcome] = frozenset()
    codes: frozenset[Code] = frozenset()
    since: datetime | None = None
    until: datetime | None = None

    @property
    def subject(self) -> str:
        """The subjects that can hold them."""
        bucket = bucket_of(self.delivery) if self.delivery else "*"
        return f"oneprotect.delivery.attempted.{self.tenant or '*'}.{self.destination or '*'}.{bucket}"

    def takes(self, event: DeliveryAttempted) -> bool:
        """Whether `event` is one of them."""
        result = event.data
        return (
            (self.delivery is None or result.delivery == self.delivery)
            and (not self.outcomes or result.outcome in self.outcomes)
            and (not self.codes or result.code in self.codes)
            and (self.since is None or event.time >= self.since)
            and (self.until is None or event.time < self.until)
        )


async def newest(connection: Connection, wanted: Wanted, limit: int) -> list[DeliveryAttempted]:
    """The newest `limit` results, oldest first. Raises `JetStreamError`."""
    state = (await connection.api(f"STREAM.INFO.{subjects.ATTEMPTS.name}"))["state"]
    first, end = int(state["first_seq"]), int(state["last_seq"]) + 1
    found: deque[DeliveryAttempted] = deque(maxlen=limit)
    span = FIRST_SPAN
    while end > first and len(found) < limit:
        start = max(first, end - span)
        part, oldest_at = await _between(connection, wanted, start, end)
        found.extendleft(reversed(part[-(limit - len(found)) :]))
        if wanted.since and oldest_at and oldest_at < wanted.since:
            break
        end, span = start, span * 4
    return list(found)


async def _between(
    connection: Connection, wanted: Wanted, start: int, end: int
) -> tuple[list[DeliveryAttempted], datetime | None]:
    """Those that fit among the sequences from `start` to before `end`, and when the first of these was stored."""
    part: list[DeliveryAttempted] = []
    oldest_at: datetime | None = None
    records = read.scan(connection, subjects.ATTEMPTS.name, wanted.subject, first_sequence=start)
    async with contextlib.aclosing(cast("AsyncGenerator[read.Record, Any]", records)) as scan:
        async for record in scan:
            if record.sequence >= end:
                break
            oldest_at = oldest_at or record.stored_at
            with contextlib.suppress(msgspec.DecodeError):  # recorded by another version of this program
                event = decode_result(record.data)
                if wanted.takes(event):
                    part.append(event)
    return part, oldest_at
