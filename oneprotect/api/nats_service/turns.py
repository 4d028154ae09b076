"""Requests that wait for their turn: tenants take turns, so that the flood of one delays no other."""

import collections
from typing import Final, Generic, TypeVar

T = TypeVar("T")

IN_PROGRESS: Final = 128
"""Requests in progress in one process."""
IN_PROGRESS_PER_TENANT: Final = 16
BYTES_IN_PROGRESS_PER_TENANT: Final = 128 * 1024
"""A tenant may exceed them with one request: the time that a request takes from others grows with its size."""
WAITING_PER_TENANT: Final = 4096
WAITING_BYTES_PER_TENANT: Final = 8 * 1024 * 1024
WAITING_BYTES: Final = 64 * 1024 * 1024
"""Bytes that wait in one process. A tenant without a waiting request may exceed them with one."""


class _Line(Generic[T]):
    """The requests of a tenant: those that wait, with their sizes, and the number of those in progress."""

    __slots__ = ("bytes", "running", "running_bytes", "waiting")

    def __init__(self) -> None:
        self.waiting: collections.deque[tuple[T, int]] = collections.deque()
        self.bytes = 0
        self.running = self.running_bytes = 0

    @property
    def may_start(self) -> bool:
        """True if the next request may start when its turn comes."""
        if not self.waiting or self.running >= IN_PROGRESS_PER_TENANT:
            return False
        return not self.running or self.running_bytes + self.waiting[0][1] <= BYTES_IN_PROGRESS_PER_TENANT


class TenantTurns(Generic[T]):
    """The requests of each tenant, and the order in which they start."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line[T]] = {}
        self._order: collections.OrderedDict[str, None] = collections.OrderedDict()
        """Tenants that may start a request."""
        self._bytes = self._running = 0

    def add(self, tenant: str, request: T, size: int) -> bool:
        """Add a request of `size` bytes; return False when too much waits already."""
        line = self._lines.get(tenant)
        if line is None:
            line = self._lines[tenant] = _Line()
        elif line.waiting and (
            len(line.waiting) >= WAITING_PER_TENANT
            or line.bytes + size > WAITING_BYTES_PER_TENANT
            or self._bytes + size > WAITING_BYTES
        ):
            return False
        line.waiting.append((request, size))
        line.bytes += size
        self._bytes += size
        self._update(tenant, line)
        return True

    def start(self) -> tuple[str, T, int] | None:
        """Remove and return the request whose turn it is, with its tenant and size. Call `end` when it has ended."""
        if not self._order or self._running >= IN_PROGRESS:
            return None
        tenant, _ = self._order.popitem(last=False)
        line = self._lines[tenant]
        request, size = line.waiting.popleft()
        line.bytes -= size
        self._bytes -= size
        line.running += 1
        line.running_bytes += size
        self._running += 1
        self._update(tenant, line)
        return tenant, request, size

    def end(self, tenant: str, size: int) -> None:
        """Free the place of a request of `size` bytes that has ended."""
        line = self._lines[tenant]
        line.running -= 1
        line.running_bytes -= size
        self._running -= 1
        self._update(tenant, line)
        if not line.running and not line.waiting:
            del self._lines[tenant]

    def _update(self, tenant: str, line: _Line[T]) -> None:
        if line.may_start:
            self._order.setdefault(tenant)
