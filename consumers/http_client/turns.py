"""Turns of tenants to read what their receivers sent: a tenant's slow read delays the tenant's own next reads."""

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final

SLICE_S: Final = 0.002
"""Reads take turns after this time."""
REST: Final = 3
"""After a slow read that broke a limit, the tenant's next one waits this many times as long."""
MAX_REST_S: Final = 0.2


class ReadTurns:
    """Reads at once, until a tenant's read was slow: the next ones of this tenant wait for the next iteration."""

    __slots__ = ("_lines", "_loop", "_used_s")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lines: dict[str, deque[Callable[[], bool]]] = {}
        """The reads that wait, of the tenants that have had their turn."""
        self._used_s = 0.0

    def take(self, tenant: str, read: Callable[[], bool]) -> bool:
        """Read now and return True, or let `read` wait for the tenant's turn. It returns False for a broken limit."""
        line = self._lines.get(tenant)
        if line is None:
            self._read(tenant, read)
            return True
        line.append(read)
        return False

    def _read(self, tenant: str, read: Callable[[], bool]) -> bool:
        """Read, and return True if the tenant may read again in this iteration."""
        begun = monotonic()
        is_fine = read()
        took_s = monotonic() - begun
        self._used_s += took_s
        if self._used_s < SLICE_S:
            return True
        self._used_s = 0.0
        self._lines.setdefault(tenant, deque())
        self._loop.call_later(0 if is_fine else min(took_s * REST, MAX_REST_S), self._read_waiting, tenant)
        return False

    def _read_waiting(self, tenant: str) -> None:
        line = self._lines[tenant]
        while line:
            try:
                if not self._read(tenant, line.popleft()):
                    return
            except BaseException:
                self._loop.call_soon(self._read_waiting, tenant)
                raise
        del self._lines[tenant]
