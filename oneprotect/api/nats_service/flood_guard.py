"""Pauses for tenants that flood the service.

All requests reach a process through one connection, in their order. So even refusing a request costs the other tenants
time, and a client sends more requests in a second than a process can refuse. During a pause the process is subscribed
to the subjects of the other tenants only, as far as it knows them. Then the NATS server itself refuses the requests of
the flooding tenant.
"""

import asyncio
import collections
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import structlog

from schemas import subjects

REFUSED_PER_S: Final = 1000
"""Refused requests of a tenant within a second that cause a pause."""
REFUSED_BYTES_PER_S: Final = 8 * 1024 * 1024
"""Bytes of refused requests that do the same: a few that are too large by mistake cause no pause."""
PAUSE_S: Final = 2.0
"""The first pause. Each further one lasts twice as long, up to `MAX_PAUSE_S`, until `FORGIVEN_AFTER_S` without any."""
MAX_PAUSE_S: Final = 32.0
FORGIVEN_AFTER_S: Final = 60.0
MAX_TENANTS: Final = 4096
"""Tenants that are served during a pause: those that used the service last, and then others that are known."""
RETRY_S: Final = 0.5
EARLY_S: Final = 0.002
"""By so much a timer may end too early. The subscription would be renewed for the rest."""

_log = structlog.get_logger(__name__)


class FloodGuard:
    """The pauses of one process."""

    def __init__(
        self, receive_on: Callable[[Sequence[str]], Awaitable[None]], known_tenants: Callable[[], Iterable[str]]
    ) -> None:
        """Create a guard.

        Args:
            receive_on: Subscribes to these subjects instead of the former ones.
            known_tenants: Returns tenants that may use the service, although they have not done so yet.
        """
        self._receive_on = receive_on
        self._known_tenants = known_tenants
        self._seen: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._refused: collections.Counter[str] = collections.Counter()
        self._counted_since = 0.0
        self._last: collections.OrderedDict[str, tuple[float, float]] = collections.OrderedDict()
        """Length and end of each tenant's last pause."""
        self._paused: dict[str, float] = {}
        """The end of each tenant's pause."""
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def is_paused(self, tenant: str) -> bool:
        """Return whether the tenant is paused. Its requests that still arrive get no response."""
        return tenant in self._paused

    def note(self, tenant: str) -> None:
        """Note a request of the tenant."""
        self._seen[tenant] = None
        self._seen.move_to_end(tenant)
        if len(self._seen) > MAX_TENANTS:
            self._seen.popitem(last=False)

    def note_refusal(self, tenant: str, size: int) -> None:
        """Note that a request of the tenant was refused because of its size, its form, or too many others."""
        now = asyncio.get_running_loop().time()
        if now > self._counted_since + 1:
            self._counted_since = now
            self._refused.clear()
        self._refused[tenant] += 1 + size * REFUSED_PER_S // REFUSED_BYTES_PER_S
        if self._refused[tenant] > REFUSED_PER_S and tenant not in self._paused:
            self._begin_pause(tenant, now)

    def _begin_pause(self, tenant: str, now: float) -> None:
        length_s, end = self._last.pop(tenant, (0.0, 0.0))
        length_s = min(length_s * 2, MAX_PAUSE_S) if length_s and now < end + FORGIVEN_AFTER_S else PAUSE_S
        _log.warning("service.tenant_paused", tenant=tenant, pause_s=length_s)
        self._paused[tenant] = now + length_s
        self._last[tenant] = (length_s, now + length_s)
        if len(self._last) > MAX_TENANTS:
            self._last.popitem(last=False)
        self._changed.set()
        if self._task is None:
            self._task = asyncio.create_task(self._pause(), name="flood guard")

    async def stop(self) -> None:
        """End all pauses without a further subscription."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _pause(self) -> None:
        try:
            while not await self._subscribe() or self._paused:
                now = asyncio.get_running_loop().time()
                until = min(self._paused.values(), default=now + RETRY_S)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), max(0.0, until - now))
                now = asyncio.get_running_loop().time() + EARLY_S
                self._paused = {name: until for name, until in self._paused.items() if until > now}
        finally:
            self._task = None

    async def _subscribe(self) -> bool:
        """Subscribe to the tenants that are not paused. Returns whether that worked."""
        self._changed.clear()
        try:
            await self._receive_on(self._served() if self._paused else [subjects.deliveries("*")])
        except Exception as error:  # noqa: BLE001 - a paused tenant must be served again, whatever happened
            _log.warning("service.not_subscribed", error=str(error), next_try_s=RETRY_S)
            return False
        return True

    def _served(self) -> list[str]:
        tenants = dict.fromkeys(itertools.chain(reversed(self._seen), self._known_tenants()))
        served = (subjects.deliveries(name) for name in tenants if name not in self._paused)
        return list(itertools.islice(served, MAX_TENANTS))
