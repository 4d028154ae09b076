"""Turns of tenants to use what a process has little of: a tenant that wants it often delays another by one turn."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from typing import Final


class TooManyWaiting(Exception):
    """A tenant that waits for as many turns as it may."""


class FairTurns:
    """Turns of tenants: each takes one of `slots`, and the tenants alternate."""

    def __init__(self, slots: int, *, per_tenant: int | None = None, max_waiting: int | None = None) -> None:
        """`per_tenant`: turns of one tenant at a time. `max_waiting`: turns that one tenant may wait for."""
        self._free = slots
        self._per_tenant: Final = slots if per_tenant is None else per_tenant
        self._max_waiting: Final = max_waiting
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, dict[asyncio.Future[None], None]] = {}
        """The turns that each tenant waits for, the next tenant first."""

    @contextlib.asynccontextmanager
    async def turn(self, tenant: str) -> AsyncGenerator[Callable[[], None]]:
        """Wait for a turn of the tenant. Yields a function that ends the turn early. Raises `TooManyWaiting`."""
        await self._begin(tenant)
        is_over = False

        def end() -> None:
            nonlocal is_over
            if not is_over:
                is_over = True
                self._end(tenant)

        try:
            yield end
        finally:
            end()

    async def _begin(self, tenant: str) -> None:
        if self._free and self._running[tenant] < self._per_tenant:
            self._take(tenant)
            return
        if self._max_waiting is not None and len(self._waiting.get(tenant, ())) >= self._max_waiting:
            raise TooManyWaiting
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, {})[turn] = None
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._end(tenant)
            else:
                self._leave(tenant, turn)
            raise

    def _take(self, tenant: str) -> None:
        self._free -= 1
        self._running[tenant] += 1

    def _end(self, tenant: str) -> None:
        self._free += 1
        self._running[tenant] -= 1
        if not self._running[tenant]:
            del self._running[tenant]
        while self._free and (following := self._next_tenant()) is not None:
            turns = self._waiting.pop(following)
            turn = next(iter(turns))
            del turns[turn]
            if turns:
                self._waiting[following] = turns
            if not turn.done():
                self._take(following)
                turn.set_result(None)

    def _next_tenant(self) -> str | None:
        allowed = (tenant for tenant in self._waiting if self._running[tenant] < self._per_tenant)
        return next(allowed, None)

    def _leave(self, tenant: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(tenant)
        if turns is not None:
            turns.pop(turn, None)
            if not turns:
                del self._waiting[tenant]
