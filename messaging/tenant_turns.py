"""Turns of tenants to use what a process has little of: a tenant that wants it often delays another by one turn."""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from typing import Final

_UNLIMITED: Final = 1 << 62


class TooManyWaiting(Exception):
    """A tenant that waits for as many turns as it may."""


class Turn:
    """A turn that waits, runs, or has ended."""

    __slots__ = ("on_start", "size", "state", "tenant")

    WAITING: Final = 0
    RUNNING: Final = 1
    ENDED: Final = 2

    def __init__(self, tenant: str, size: int, on_start: "Callable[[Turn], None] | None") -> None:
        self.tenant = tenant
        self.size = size
        self.on_start = on_start
        self.state = Turn.WAITING


class _Line:
    """The turns of a tenant: those that wait, in order, and the number and bytes of those that run."""

    __slots__ = ("running", "running_bytes", "waiting", "waiting_bytes")

    def __init__(self) -> None:
        self.waiting: dict[Turn, None] = {}
        self.waiting_bytes = self.running = self.running_bytes = 0


class FairTurns:
    """Turns of tenants: `slots` run at a time, and the tenants alternate.

    A turn may have a size. A tenant exceeds its bytes with one turn at most, so that every size has its turn.
    """

    def __init__(
        self,
        slots: int = _UNLIMITED,
        *,
        per_tenant: int = _UNLIMITED,
        max_waiting: int = _UNLIMITED,
        max_bytes: int = _UNLIMITED,
        free_bytes: int = 0,
        bytes_per_tenant: int = _UNLIMITED,
        max_waiting_bytes: int = _UNLIMITED,
        waiting_bytes_per_tenant: int = _UNLIMITED,
    ) -> None:
        """Set the limits. A tenant without a waiting turn may exceed the waiting bytes with one.

        Args:
            per_tenant: Turns of one tenant at a time.
            max_waiting: Turns that one tenant may wait for.
            max_bytes: Bytes of all turns at a time.
            free_bytes: A tenant without a turn may exceed `max_bytes` with one of this size.
        """
        self._slots: Final = slots
        self._per_tenant: Final = per_tenant
        self._max_waiting: Final = max_waiting
        self._max_bytes: Final = max_bytes
        self._free_bytes: Final = free_bytes
        self._bytes_per_tenant: Final = bytes_per_tenant
        self._max_waiting_bytes: Final = max_waiting_bytes
        self._waiting_bytes_per_tenant: Final = waiting_bytes_per_tenant
        self._running = self._running_bytes = self._waiting_bytes = 0
        self._lines: dict[str, _Line] = {}
        self._order: OrderedDict[str, None] = OrderedDict()
        """Tenants whose next turn their own limits allow."""

    def ask(self, tenant: str, on_start: Callable[[Turn], None] | None = None, *, size: int = 0) -> Turn:
        """Return a turn that runs at once or waits. Raises `TooManyWaiting`.

        Args:
            on_start: Called when the turn starts, also at once. The caller must call `end`, whether it started or not.
        """
        turn = Turn(tenant, size, on_start)
        line = self._lines.get(tenant)
        if line is None:
            line = self._lines[tenant] = _Line()
        if not line.waiting and self._allows(line, size) and self._has_room(line, size, waits=False):
            self._start(line, turn)
            return turn
        if line.waiting and (
            len(line.waiting) >= self._max_waiting
            or line.waiting_bytes + size > self._waiting_bytes_per_tenant
            or self._waiting_bytes + size > self._max_waiting_bytes
        ):
            raise TooManyWaiting
        line.waiting[turn] = None
        line.waiting_bytes += size
        self._waiting_bytes += size
        self._queue(tenant, line)
        return turn

    def end(self, turn: Turn) -> None:
        """End a turn, or leave the queue. A turn that has ended stays so."""
        state, turn.state = turn.state, Turn.ENDED
        if state == Turn.ENDED:
            return
        line = self._lines[turn.tenant]
        if state == Turn.RUNNING:
            self._running -= 1
            self._running_bytes -= turn.size
            line.running -= 1
            line.running_bytes -= turn.size
        else:
            self._leave(line, turn)
        self._queue(turn.tenant, line)
        if not (line.running or line.waiting):
            del self._lines[turn.tenant]
        self._start_waiting()

    @contextlib.asynccontextmanager
    async def turn(self, tenant: str, *, size: int = 0) -> AsyncGenerator[Callable[[], None]]:
        """Wait for a turn of the tenant. Yields a function that ends the turn early. Raises `TooManyWaiting`."""
        turn = await self.wait(tenant, size=size)
        try:
            yield lambda: self.end(turn)
        finally:
            self.end(turn)

    async def wait(self, tenant: str, *, size: int = 0, within_s: float | None = None) -> Turn:
        """Wait for a turn of the tenant, which the caller ends. Raises `TooManyWaiting` or `TimeoutError`."""
        turn = self.ask(tenant, size=size)
        if turn.state == Turn.WAITING:
            started: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def on_start(_: Turn) -> None:
                if not started.done():
                    started.set_result(None)

            turn.on_start = on_start
            try:
                async with asyncio.timeout(within_s):
                    await started
            except BaseException:
                self.end(turn)
                raise
        return turn

    def _allows(self, line: _Line, size: int) -> bool:
        """Return whether the tenant's own limits allow a turn."""
        if not line.running:
            return True
        return line.running < self._per_tenant and line.running_bytes + size <= self._bytes_per_tenant

    def _has_room(self, line: _Line, size: int, *, waits: bool) -> bool:
        """Return whether the limits of all tenants allow a turn. One that did not wait does not overtake others."""
        if self._running >= self._slots:
            return False
        if not line.running and size <= self._free_bytes:
            return True
        if self._order and not waits:
            return False
        return not self._running or self._running_bytes + size <= self._max_bytes

    def _start(self, line: _Line, turn: Turn) -> None:
        turn.state = Turn.RUNNING
        self._running += 1
        self._running_bytes += turn.size
        line.running += 1
        line.running_bytes += turn.size
        if turn.on_start is not None:
            turn.on_start(turn)

    def _start_waiting(self) -> None:
        while self._order:
            tenant = next(iter(self._order))
            line = self._lines[tenant]
            turn = next(iter(line.waiting))
            if not self._has_room(line, turn.size, waits=True):
                return
            del self._order[tenant]
            self._leave(line, turn)
            self._start(line, turn)
            self._queue(tenant, line)

    def _queue(self, tenant: str, line: _Line) -> None:
        """Let the tenant's next turn start when its time comes, if the tenant's own limits allow it."""
        if line.waiting and self._allows(line, next(iter(line.waiting)).size):
            self._order.setdefault(tenant)
        else:
            self._order.pop(tenant, None)

    def _leave(self, line: _Line, turn: Turn) -> None:
        del line.waiting[turn]
        line.waiting_bytes -= turn.size
        self._waiting_bytes -= turn.size
