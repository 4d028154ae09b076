"""The clock of the server that fires schedules.

A schedule is due by the server's clock, so its time is computed from that clock: a consumer whose own clock is wrong by
an hour schedules at the right time all the same. Between two measurements, this process's monotonic clock counts on.
"""

import time
from datetime import UTC, datetime

from messaging.client.connection import NatsConnection
from messaging.management import NANOSECONDS, StreamInfo, stream_info
from schemas import streams


class ServerClock:
    """The time of the leader of the retries. Until it is measured, the time of this machine."""

    def __init__(self, connection: NatsConnection) -> None:
        self._connection = connection
        self._zero_s: float | None = None
        """The server's time at which the monotonic clock was zero."""

    async def measure(self) -> StreamInfo:
        """Ask the server for its time, and return the state of the stream of retries. Raises `JetStreamError`."""
        began_s = time.monotonic()
        info = await stream_info(self._connection, streams.RETRIES.name)
        self._zero_s = info.ts.timestamp() - began_s  # rather late than early: `Retry-After` is the earliest time
        return info

    @property
    def is_measured(self) -> bool:
        """True after a measurement."""
        return self._zero_s is not None

    def now(self) -> datetime:
        """Return the server's time."""
        return datetime.fromtimestamp(self._now_s(), UTC)

    def now_ns(self) -> int:
        """Return the server's time as Unix nanoseconds."""
        return int(self._now_s() * NANOSECONDS)

    def _now_s(self) -> float:
        return time.time() if self._zero_s is None else self._zero_s + time.monotonic()
