"""The way out: one POST to one destination, whose every ending is a value.

The status line decides. Once it has come, nothing that happens to the body changes the outcome, because a receiver that
has answered must not get the same POST again: the body is read as far as it helps to use the connection again, and a
connection that is not done with its answer is closed. For the same reason a request is never sent twice from here.

`http1` reads and writes, `pool` keeps connections, `connecting` opens them and `resolving` finds out where to.
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Protocol

import structlog
from msgspec import Struct

from consumers.egress.policy import AddrInfo, EgressBlocked, EgressPolicy, ValidatedUrl
from consumers.http_client.connection import ConnectionKey, HttpConnection
from consumers.http_client.connector import HttpConnector
from consumers.http_client.dialer import HttpProxy
from consumers.http_client.errors import SendError
from consumers.http_client.pool import KEEP_ALIVE_S, MAX_IDLE, ConnectionPool
from consumers.http_client.resolver import DnsCache, NameResolver, PolicyCheckedResolver
from consumers.http_client.response import WebhookResponse
from schemas.codes import Code

_HEADERS = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [^\x00-\x08\x0a-\x1f\x7f]*\r\n)*")

_log = structlog.get_logger(__name__)


class PreparedRequest(Struct):
    """Where deliveries to a destination go, and how their requests begin: the same for each of them."""

    target: ValidatedUrl
    head: bytes
    places: tuple[ConnectionKey, ...] = ()
    """Those of the addresses that the target is known to have."""
    until: float = 0.0
    """When, in the loop's time, they have to be looked up again: never for a target that is an address."""


class WebhookSender(Protocol):
    """Sends a body to a URL. Expected failures are replies; only cancellation is raised."""

    async def send(
        self, url: str, *, headers: Mapping[str, str], body: bytes, timeout_s: float, capture: bool = False
    ) -> WebhookResponse:
        """POST `body` as it is, with `headers`. Resolving, connecting, writing and reading share the `timeout_s`."""
        ...

    def prepare(self, url: str, headers: Mapping[str, str]) -> PreparedRequest | None:
        """What can be prepared of deliveries to `url` with these headers; None if none may be sent."""
        ...

    def start(
        self,
        way: PreparedRequest,
        *,
        lines: str,
        body: bytes,
        timeout_s: float,
        capture: bool,
        on_reply: Callable[[WebhookResponse], None],
    ) -> Callable[[], None] | None:
        """`send` without a coroutine, on a connection that is free; None, and nothing is done, if there is none.

        `lines`: further headers, each with its line end. `on_reply` is called once, unless what is returned is.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class HttpWebhookSender:
    """Sends over HTTP/1.1 to where the policy allows. Build it inside a running event loop.

    `ca_file`: certificates to trust beside the system's. `max_idle`: connections kept for later, each for
    `keep_alive_s`; how many are in use is up to the caller. `resolver`: another source of addresses; the policy still
    checks each one before connecting. `proxy`: all connections go through it, to addresses checked here.
    """

    __slots__ = ("_addresses", "_connector", "_is_closed", "_loop", "_policy", "_pool")

    def __init__(
        self,
        policy: EgressPolicy,
        *,
        ca_file: Path | None = None,
        max_idle: int = MAX_IDLE,
        keep_alive_s: float = KEEP_ALIVE_S,
        resolver: NameResolver | None = None,
        proxy: HttpProxy | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._policy = policy
        self._pool = ConnectionPool(max_idle=max_idle, keep_alive_s=keep_alive_s)
        self._addresses = DnsCache(resolver or PolicyCheckedResolver(policy))
        self._connector = HttpConnector(policy, self._pool, ca_file=ca_file, proxy=proxy)
        self._is_closed = False

    async def send(
        self, url: str, *, headers: Mapping[str, str], body: bytes, timeout_s: float, capture: bool = False
    ) -> WebhookResponse:
        """See `WebhookSender.send`. No redirect is followed, no cookie kept, no body decompressed."""
        now = self._loop.time()
        exchange = _HttpExchange(self._loop, now + timeout_s, capture=capture)
        try:
            target = self._policy.check_url(url)
            exchange.request = _request(target, headers, body)
            connection = self._idle_connection(target, now)
            if connection is not None:
                exchange.begin(connection)
            else:
                await self._send_on_new_connection(target, exchange)
            return await exchange.ended
        except Exception as error:  # noqa: BLE001  the edge: none may leave this file, as its text may quote anything
            return WebhookResponse(_code_of(error))
        finally:
            exchange.release()

    def prepare(self, url: str, headers: Mapping[str, str]) -> PreparedRequest | None:
        """See `WebhookSender.way`."""
        try:
            target = self._policy.check_url(url)
            head = target.head + _lines(headers)
        except (EgressBlocked, SendError):
            return None
        if target.address is not None:
            return PreparedRequest(target, head, (_place(target, target.address),), inf)
        return PreparedRequest(target, head)

    def start(
        self,
        way: PreparedRequest,
        *,
        lines: str,
        body: bytes,
        timeout_s: float,
        capture: bool,
        on_reply: Callable[[WebhookResponse], None],
    ) -> Callable[[], None] | None:
        """See `WebhookSender.begin`."""
        now = self._loop.time()
        if now >= way.until:
            self._look_up(way, now)
        for place in way.places:
            connection = self._pool.acquire(place, now)
            if connection is not None:
                request = b"%b%bcontent-length: %d\r\n\r\n%b" % (way.head, lines.encode(), len(body), body)
                connection.send_request(request, now + timeout_s, on_reply, capture=capture)
                return connection.drop
        return None

    def _look_up(self, way: PreparedRequest, now: float) -> None:
        target = way.target
        known = self._addresses.peek((target.host, target.port), now)
        if known is None or isinstance(known.answer, Code):
            way.places, way.until = (), 0.0
        else:
            way.places, way.until = tuple([_place(target, address) for address in known.answer]), known.until

    def _idle_connection(self, target: ValidatedUrl, now: float) -> HttpConnection | None:
        """A free connection to an address that `target` is known to have."""
        if target.address is not None:
            return self._free(target, (target.address,), now)
        known = self._addresses.peek((target.host, target.port), now)
        return None if known is None or isinstance(known.answer, Code) else self._free(target, known.answer, now)

    def _free(self, target: ValidatedUrl, addresses: Sequence[AddrInfo], now: float) -> HttpConnection | None:
        for address in addresses:
            if (connection := self._pool.acquire(_place(target, address), now)) is not None:
                return connection
        return None

    async def _send_on_new_connection(self, target: ValidatedUrl, exchange: "_HttpExchange") -> None:
        """Begin on a new connection, or on one that has become free while the name was resolved."""
        if self._is_closed:
            raise SendError(Code.INTERNAL)
        async with asyncio.timeout_at(exchange.deadline):
            addresses: Sequence[AddrInfo] = (
                await self._addresses.resolve((target.host, target.port))
                if target.address is None
                else (target.address,)
            )
            connection = self._free(target, addresses, self._loop.time())
            if connection is not None:
                exchange.begin(connection)
            else:
                await self._connector.open(target, addresses, exchange.begin)

    async def aclose(self) -> None:
        """Close all connections. What is still being sent ends as `net.reset`."""
        self._is_closed = True
        self._pool.close()
        await self._addresses.close()
        await asyncio.sleep(0)


class _HttpExchange:
    """One request on its way."""

    __slots__ = ("_capture", "_connection", "deadline", "ended", "request")

    def __init__(self, loop: asyncio.AbstractEventLoop, deadline: float, *, capture: bool) -> None:
        self.deadline = deadline
        self.request = b""
        self.ended: asyncio.Future[WebhookResponse] = loop.create_future()
        self._capture = capture
        self._connection: HttpConnection | None = None

    def begin(self, connection: HttpConnection) -> None:
        """Send the request on `connection`."""
        self._connection = connection
        connection.send_request(self.request, self.deadline, self._end, capture=self._capture)

    def release(self) -> None:
        """Whatever has become of it, nobody waits for its end any more."""
        if self._connection is not None:
            self._connection.drop()

    def _end(self, reply: WebhookResponse) -> None:
        self._connection = None
        if not self.ended.done():
            self.ended.set_result(reply)


def _place(target: ValidatedUrl, address: AddrInfo) -> ConnectionKey:
    return target.scheme, target.host, target.port, str(address[4][0])


def _request(target: ValidatedUrl, headers: Mapping[str, str], body: bytes) -> bytes:
    return b"%b%bcontent-length: %d\r\n\r\n%b" % (target.head, _lines(headers), len(body), body)


def _lines(headers: Mapping[str, str]) -> bytes:
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode()
    if lines.count(b"\n") != len(headers) or not _HEADERS.fullmatch(lines):
        raise SendError(Code.INTERNAL)
    return lines


def _code_of(error: Exception) -> Code:
    match error:
        case EgressBlocked():
            return Code.NET_BLOCKED
        case TimeoutError():
            return Code.NET_TIMEOUT
        case SendError():
            code = error.code
        case _:
            code = Code.INTERNAL
    if code is Code.INTERNAL:
        _log.error("sending failed", error=type(error).__qualname__)
    return code
