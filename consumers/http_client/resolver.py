"""Addresses that deliveries may go to: names resolved for one tenant at a time, with a short cache.

Tenants share no lookup and no cached name. A tenant's lookups in the air are bounded; further ones wait behind those of
the same tenant. A lookup ends with the last delivery that waits for it.
"""

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from msgspec import Struct

from consumers.dns.resolver import NameResolver
from consumers.egress.policy import AddrInfo, ConnectionBlocked, EgressPolicy
from consumers.http_client.response import SendError
from schemas.codes import Code

MIN_TTL_S: Final = 5.0
MAX_TTL_S: Final = 60.0
"""Bounds of the lifetime that a name's own servers ask for."""
FAILED_TTL_S: Final = 1.0
"""Lifetime of a failure: a name without addresses, or with a blocked one. It doubles while the name keeps failing."""
MAX_FAILED_TTL_S: Final = 30.0
MAX_LOOKUPS: Final = 16
"""Lookups of one tenant in the air."""
MAX_TENANT_NAMES: Final = 1024
MAX_NAMES: Final = 32_768
"""Beyond it, the tenant with the most names loses one."""

Name = tuple[str, int]
"""A host name and a port."""
FoundAddresses = tuple[tuple[AddrInfo, ...], float]
"""The addresses of a name, and their lifetime in seconds."""
FindAddresses = Callable[[Name], Awaitable[FoundAddresses]]
"""Resolves a name. Raises `ConnectionBlocked`, another `OSError`, or `ValueError`."""


class ResolvedName(Struct, frozen=True):
    """A name's addresses, or the code of the failure, and the loop's time until which they are valid."""

    answer: tuple[AddrInfo, ...] | Code
    until: float
    failures: int = 0


def address_finder(resolver: NameResolver, *, policy: EgressPolicy | None, search: bool) -> FindAddresses:
    """Return a function that resolves names, and refuses one as a whole if `policy` denies any of its addresses."""

    async def find(name: Name) -> FoundAddresses:
        host, port = name
        found = await resolver.resolve(host, search=search)
        if not found.addresses:
            raise socket.gaierror(socket.EAI_NONAME)
        answers = [_addr_info(address, port) for address in found.addresses]
        return tuple(answers if policy is None else policy.guard_answers(host, answers)), found.ttl_s

    return find


class DnsCache:
    """A cache of names for each tenant. A name is resolved once at a time, however many deliveries wait for it."""

    def __init__(self, find: FindAddresses) -> None:
        self._find = find
        self._loop = asyncio.get_running_loop()
        self._tenants: dict[str, _TenantNames] = {}
        self._size = 0

    def peek(self, tenant: str, name: Name, now: float) -> ResolvedName | None:
        """Return the cached addresses or failure of a name, if they are still valid."""
        names = self._tenants.get(tenant)
        known = names.known.get(name) if names else None
        return known if known is not None and known.until > now else None

    async def resolve(self, tenant: str, name: Name) -> tuple[AddrInfo, ...]:
        """Return the addresses of a name. Raises `SendError`."""
        known = self.peek(tenant, name, self._loop.time())
        answer = known.answer if known is not None else await self._join_lookup(tenant, name)
        if isinstance(answer, Code):
            raise SendError(answer)
        return answer

    def forget(self, tenant: str) -> None:
        """Forget a tenant's names. Its lookups end as before."""
        names = self._tenants.get(tenant)
        if names is not None:
            self._size -= len(names.known)
            names.known.clear()

    async def close(self) -> None:
        """Cancel every lookup."""
        lookups = [lookup.task for names in self._tenants.values() for lookup in names.lookups.values()]
        for task in lookups:
            task.cancel()
        await asyncio.gather(*lookups, return_exceptions=True)

    async def _join_lookup(self, tenant: str, name: Name) -> tuple[AddrInfo, ...] | Code:
        """Wait for the lookup of a name, and start it if it is the first. The last to leave cancels it."""
        names = self._tenants.get(tenant)
        if names is None:
            names = self._tenants[tenant] = _TenantNames(tenant)
        lookup = names.lookups.get(name)
        if lookup is None:
            lookup = names.lookups[name] = _Lookup(self._loop.create_task(self._look_up(names, name)))
        lookup.waiting += 1
        try:
            return await asyncio.shield(lookup.task)
        finally:
            lookup.waiting -= 1
            if not lookup.waiting:
                lookup.task.cancel()
                names.lookups.pop(name, None)

    async def _look_up(self, names: "_TenantNames", name: Name) -> tuple[AddrInfo, ...] | Code:
        async with names.slots:
            answer: tuple[AddrInfo, ...] | Code = Code.NET_DNS
            ttl_s = 0.0
            try:
                answer, ttl_s = await self._find(name)
            except ConnectionBlocked:
                answer = Code.NET_BLOCKED
            except (OSError, ValueError):
                pass
            finally:  # an abandoned lookup has failed, too: no delivery could wait for its answer
                self._remember(names, name, answer, ttl_s)
            return answer

    def _remember(self, names: "_TenantNames", name: Name, answer: tuple[AddrInfo, ...] | Code, ttl_s: float) -> None:
        before = names.known.pop(name, None)
        failures = 0
        if isinstance(answer, Code):
            failures = 1 + (before.failures if before else 0)
            kept_s = min(FAILED_TTL_S * 2 ** min(failures - 1, 10), MAX_FAILED_TTL_S)
        else:
            kept_s = min(max(ttl_s, MIN_TTL_S), MAX_TTL_S)
        names.known[name] = ResolvedName(answer, self._loop.time() + kept_s, failures)
        self._size += before is None
        if len(names.known) > MAX_TENANT_NAMES:
            self._evict_oldest(names)
        elif self._size > MAX_NAMES:
            self._evict_oldest(max(self._tenants.values(), key=lambda one: len(one.known)))

    def _evict_oldest(self, names: "_TenantNames") -> None:
        names.known.popitem(last=False)
        self._size -= 1
        if not names.known and not names.lookups:
            self._tenants.pop(names.tenant, None)


class _TenantNames:
    """The names of a tenant: those resolved, the oldest first, and those in the air or waiting for a slot."""

    __slots__ = ("known", "lookups", "slots", "tenant")

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.known: OrderedDict[Name, ResolvedName] = OrderedDict()
        self.lookups: dict[Name, _Lookup] = {}
        self.slots = asyncio.Semaphore(MAX_LOOKUPS)


class _Lookup:
    """A lookup, and the number of deliveries that wait for it."""

    __slots__ = ("task", "waiting")

    def __init__(self, task: "asyncio.Task[tuple[AddrInfo, ...] | Code]") -> None:
        self.task = task
        self.waiting = 0


def _addr_info(address: str, port: int) -> AddrInfo:
    if ":" in address:
        return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
