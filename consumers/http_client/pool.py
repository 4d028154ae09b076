"""Idle connections of each tenant: the last one used is reused first. Of too many, the oldest are closed."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from consumers.http_client.connection import ConnectionKey, HttpConnection

MAX_IDLE: Final = 1024
KEEP_ALIVE_S: Final = 60.0


class ConnectionPool:
    """Keeps idle connections, until they are acquired, expire after a minute, or are closed by the receiver."""

    __slots__ = ("_idle", "_is_closed", "_max_idle", "_open", "_order", "keep_alive_s")

    def __init__(self, *, max_idle: int = MAX_IDLE, keep_alive_s: float = KEEP_ALIVE_S) -> None:
        self.keep_alive_s = keep_alive_s
        self._max_idle = max_idle
        self._idle: defaultdict[ConnectionKey, list[HttpConnection]] = defaultdict(list)
        self._order: dict[HttpConnection, None] = {}
        """Idle connections, the longest idle first."""
        self._open: set[HttpConnection] = set()
        self._is_closed = False

    def add(self, connection: HttpConnection) -> None:
        """Add a new connection that is in use."""
        self._open.add(connection)

    def acquire(self, keys: Sequence[ConnectionKey]) -> HttpConnection | None:
        """Return an idle connection that is still usable, preferably to the first of `keys`; None without one."""
        for key in keys:
            idle = self._idle.get(key)
            while idle:
                connection = idle.pop()
                del self._order[connection]
                if connection.is_reusable():
                    return connection
                connection.abort()
        return None

    def release(self, connection: HttpConnection) -> None:
        """See `ConnectionOwner.release`."""
        self._idle[connection.key].append(connection)
        self._order[connection] = None
        if len(self._order) > self._max_idle or self._is_closed:
            oldest = next(iter(self._order))
            self._withdraw(oldest)
            oldest.abort()

    def remove(self, connection: HttpConnection) -> None:
        """See `ConnectionOwner.remove`."""
        self._open.discard(connection)
        self._withdraw(connection)

    def close(self) -> None:
        """Close all connections, including those in use."""
        self._is_closed = True
        for connection in list(self._open):
            connection.abort()

    def _withdraw(self, connection: HttpConnection) -> None:
        idle = self._idle.get(connection.key)
        if idle is None:
            return
        if connection in self._order:
            del self._order[connection]
            idle.remove(connection)
        if not idle:
            del self._idle[connection.key]
