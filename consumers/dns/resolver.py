"""A stub resolver: it asks the machine's name servers for the addresses of host names (RFC 1034, section 5.3.1).

A lookup costs two sockets and no thread. A lookup that waits for a silent name server delays no other one.
"""

import asyncio
import itertools
import socket
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from msgspec import Struct

from consumers.dns.exchange import query_server
from consumers.dns.message import AAAA, NO_ERROR, NO_SUCH_NAME, A, AddressType, DnsAnswer
from consumers.dns.system_files import DnsConfig, NameServer, SystemNames, is_address

LOOKUP_TIMEOUT_S: Final = 10.0
"""Limit of a lookup with all its queries."""
SECOND_FAMILY_S: Final = 0.25
"""Time that the other address family has to answer once one has (RFC 8305, section 3, is stricter)."""
LOCAL_TTL_S: Final = 10.0
"""Lifetime of names that no server answered for."""
FAMILIES_KNOWN_S: Final = 10.0
MAX_NAME_LENGTH: Final = 253
_LOOPBACK: Final = ("127.0.0.1", "::1")
_FAR_AWAY: Final[dict[AddressType, str]] = {A: "192.0.2.1", AAAA: "2001:db8::1"}
"""Addresses for documentation: routes to them are the default routes."""


class ResolvedAddresses(Struct, frozen=True):
    """Addresses of a name, the preferred first, and their lifetime. No addresses: there is no such name."""

    addresses: tuple[str, ...]
    ttl_s: float


class NameServerFailure(OSError):
    """No name server answered usefully in time."""


class NameResolver(Protocol):
    """A source of addresses."""

    async def resolve(self, host: str, *, search: bool = False) -> ResolvedAddresses:
        """Return the addresses of `host`. Raises `OSError`, or `ValueError` for an invalid name."""
        ...


class StubResolver:
    """Resolves host names with the machine's hosts file and name servers.

    A name is complete: search domains extend it only on request, by the rules of `resolv.conf`.
    """

    def __init__(self, system: SystemNames | None = None) -> None:
        self._system = system or SystemNames()
        self._preferred: NameServer | None = None
        """The server that answered where another one had not. (The owner of a name can cause errors.)"""
        self._turns = itertools.count()
        self._usable: tuple[AddressType, ...] = ()
        self._usable_until = 0.0

    async def resolve(self, host: str, *, search: bool = False) -> ResolvedAddresses:
        """See `NameResolver.resolve`."""
        host = host.lower().rstrip(".")
        local = (host,) if is_address(host) else self._system.addresses(host)
        if not local and host == "localhost":
            local = _LOOPBACK
        if local:
            return ResolvedAddresses(_by_preference(local), LOCAL_TTL_S)
        config = self._system.config()
        failure: OSError | None = None
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                for name in _names_to_try(host, config) if search else (host,):
                    try:
                        found = await self._look_up(name, config)
                    except NameServerFailure as error:  # the other names may have addresses
                        failure = error
                    else:
                        if found.addresses:
                            return found
        except TimeoutError:
            raise NameServerFailure from None
        if failure is not None:
            raise failure
        return ResolvedAddresses((), LOCAL_TTL_S)

    async def _look_up(self, name: str, config: DnsConfig) -> ResolvedAddresses:
        """Query for the addresses of both families at once, and return what came in time."""
        queries = [asyncio.ensure_future(self._query(name, one, config)) for one in self._usable_families()]
        try:
            await _wait_for_addresses(queries)
            answers = [query.result() for query in queries if query.done() and query.exception() is None]
            failures = [failure for query in queries if query.done() and (failure := query.exception())]
        finally:
            for query in queries:
                query.cancel()
        addresses = tuple(address for answer in answers for address in answer.addresses)
        if failures and not addresses and not any(answer.code == NO_SUCH_NAME for answer in answers):
            raise failures[0]
        ttl_s = min((answer.ttl_s for answer in answers if answer.addresses), default=LOCAL_TTL_S)
        return ResolvedAddresses(_by_preference(addresses), ttl_s)

    async def _query(self, name: str, record_type: AddressType, config: DnsConfig) -> DnsAnswer:
        """Return the first useful answer. Raises `NameServerFailure`."""
        has_timed_out = False
        for server in self._servers_in_turn(config):
            try:
                answer = await query_server(server, name, record_type, timeout_s=config.timeout_s, tcp=config.tcp)
            except TimeoutError:
                has_timed_out = True
                continue
            if answer is not None and answer.code in (NO_ERROR, NO_SUCH_NAME):
                if has_timed_out:
                    self._preferred = server
                return answer
        raise NameServerFailure

    def _servers_in_turn(self, config: DnsConfig) -> Iterator[NameServer]:
        servers = config.servers
        first = (
            next(self._turns) if config.rotate else servers.index(self._preferred) if self._preferred in servers else 0
        )
        for _ in range(config.attempts):
            for position in range(len(servers)):
                yield servers[(first + position) % len(servers)]

    def _usable_families(self) -> tuple[AddressType, ...]:
        """Return the families with a default route, or both when none has one."""
        now = asyncio.get_running_loop().time()
        if now >= self._usable_until:
            usable: tuple[AddressType, ...] = tuple(one for one, address in _FAR_AWAY.items() if _has_route(address))
            self._usable, self._usable_until = usable or tuple(_FAR_AWAY), now + FAMILIES_KNOWN_S
        return self._usable


async def _wait_for_addresses(queries: Sequence[asyncio.Future[DnsAnswer]]) -> None:
    """Wait for all queries. Once one has brought addresses, the others have little time left."""
    pending = set(queries)
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if any(query.exception() is None and query.result().addresses for query in done):
            if pending:
                await asyncio.wait(pending, timeout=SECOND_FAMILY_S)
            return


def _names_to_try(host: str, config: DnsConfig) -> Iterator[str]:
    """Yield `host` with each search domain, and as it is: first when it has at least `ndots` dots."""
    is_first = host.count(".") >= config.ndots
    if is_first:
        yield host
    for domain in config.search:
        if len(host) + len(domain) < MAX_NAME_LENGTH:
            yield f"{host}.{domain}"
    if not is_first:
        yield host


def _by_preference(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """Return addresses with a route first, and of these IPv6 first (RFC 6724; the rest is the server's order)."""
    return tuple(sorted(addresses, key=lambda address: (not _has_route(address), ":" not in address)))


def _has_route(address: str) -> bool:
    """Return whether the machine has a route to an address. Sends nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((address, 9))
    except OSError:
        return False
    return True
