"""Host names resolved to addresses that deliveries may go to, with a short cache."""

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, Protocol

from msgspec import Struct

from consumers.egress.policy import AddrInfo, ConnectionBlocked, EgressPolicy
from consumers.http_client.response import SendError
from schemas.codes import Code

DNS_THREADS: Final = 32
RESOLVED_TTL_S: Final = 10.0
"""Lifetime of a name's addresses in the cache."""
FAILED_TTL_S: Final = 1.0
"""Lifetime of a failure: a name without addresses, or with a blocked one."""
MAX_NAMES: Final = 4096


class NameResolver(Protocol):
    """A source of addresses. The connector checks each address again."""

    async def resolve(self, host: str, port: int) -> Sequence[AddrInfo]:
        """Return all addresses of `host`, the preferred first. Raises `ConnectionBlocked` or `OSError`."""
        ...

    async def close(self) -> None:
        """Release its resources."""
        ...


class PolicyCheckedResolver:
    """Resolves host names, and refuses one as a whole if any of its addresses is denied.

    A name is resolved as fully qualified, with a dot at its end, so that a cluster's search domains never complete it.
    The resolver has its own threads: with the loop's few, one dead name server would delay every other name.
    """

    def __init__(
        self, policy: EgressPolicy, *, getaddrinfo: Callable[..., Sequence[AddrInfo]] = socket.getaddrinfo
    ) -> None:
        self._policy = policy
        self._getaddrinfo = getaddrinfo
        self._threads = ThreadPoolExecutor(DNS_THREADS, thread_name_prefix="resolver")

    async def resolve(self, host: str, port: int) -> list[AddrInfo]:
        """Return all addresses of `host`. Raises `ConnectionBlocked`, or an `OSError` if the name has none."""
        name = host if host == "localhost" else f"{host}."
        flags = socket.AI_ADDRCONFIG
        ask = partial(self._getaddrinfo, name, port, socket.AF_UNSPEC, socket.SOCK_STREAM, flags=flags)
        answers = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        if not answers:
            raise socket.gaierror(socket.EAI_NONAME)
        return self._policy.guard_answers(host, answers)

    async def close(self) -> None:
        """Stop the threads, without waiting for those that wait for a name server."""
        self._threads.shutdown(wait=False, cancel_futures=True)


Name = tuple[str, int]
"""A host name and a port."""


class ResolvedName(Struct, frozen=True):
    """A name's addresses, or the code of the failure, and the loop's time until which they are valid."""

    answer: tuple[AddrInfo, ...] | Code
    until: float


class DnsCache:
    """A cache of names. A name is resolved once at a time, however many callers wait for it."""

    def __init__(self, resolver: NameResolver) -> None:
        self._resolver = resolver
        self._loop = asyncio.get_running_loop()
        self._known: OrderedDict[Name, ResolvedName] = OrderedDict()
        self._asking: dict[Name, asyncio.Task[tuple[AddrInfo, ...] | Code]] = {}

    def peek(self, name: Name, now: float) -> ResolvedName | None:
        """Return the cached addresses or failure of a name, if they are still valid."""
        known = self._known.get(name)
        return known if known is not None and known.until > now else None

    async def resolve(self, name: Name) -> tuple[AddrInfo, ...]:
        """Return the addresses of a name. Raises `SendError`."""
        known = self.peek(name, self._loop.time())
        if known is not None:
            answer = known.answer
        else:
            asking = self._asking.get(name)
            if asking is None:
                asking = self._asking[name] = asyncio.create_task(self._ask(name))
                asking.add_done_callback(lambda _: self._asking.pop(name, None))
            answer = await asyncio.shield(asking)
        if isinstance(answer, Code):
            raise SendError(answer)
        return answer

    async def close(self) -> None:
        """Cancel every lookup, and close the resolver."""
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await self._resolver.close()

    async def _ask(self, name: Name) -> tuple[AddrInfo, ...] | Code:
        answer = await self._answer(name)
        kept_s = FAILED_TTL_S if isinstance(answer, Code) else RESOLVED_TTL_S
        self._known[name] = ResolvedName(answer, self._loop.time() + kept_s)
        self._known.move_to_end(name)
        if len(self._known) > MAX_NAMES:
            self._known.popitem(last=False)
        return answer

    async def _answer(self, name: Name) -> tuple[AddrInfo, ...] | Code:
        try:
            return tuple(await self._resolver.resolve(*name))
        except ConnectionBlocked:
            return Code.NET_BLOCKED
        except (OSError, UnicodeError):
            return Code.NET_DNS
