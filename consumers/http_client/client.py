"""The HTTP client for webhooks: one POST to one destination, and every ending is a value.

The status line decides: a receiver that answered must not get the POST again, so nothing that happens to the body
changes the outcome. For the same reason no request is ever sent twice from here. The rest of a body is read only as
far as that helps to reuse the connection.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from math import inf
from pathlib import Path

import structlog
from msgspec import Struct

from consumers.dns.resolver import NameResolver, StubResolver
from consumers.egress.policy import EgressBlocked, EgressPolicy, ValidatedUrl
from consumers.http_client.connection import ConnectionKey, HttpConnection, OnReply
from consumers.http_client.connector import HttpConnector, connection_key
from consumers.http_client.dialer import direct_dialer
from consumers.http_client.pool import KEEP_ALIVE_S, MAX_IDLE, ConnectionPool
from consumers.http_client.proxy import HttpProxy, proxy_dialer
from consumers.http_client.resolver import DnsCache, address_finder
from consumers.http_client.response import SendError, WebhookResponse
from schemas.codes import Code

_HEADERS = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [^\x00-\x08\x0a-\x1f\x7f]*\r\n)*")
_OWN_HEADERS = {"host", "accept-encoding", "content-length"}
"""Headers of every request. None may come twice."""

_log = structlog.get_logger(__name__)


class PreparedRequest(Struct):
    """The beginning that all requests to one destination share."""

    target: ValidatedUrl | Code
    """Where the requests go, or the code of why none may be sent."""
    tenant: str
    head: bytes = b""
    keys: tuple[ConnectionKey, ...] = ()
    """Connections to the known addresses of the target."""
    until: float = inf
    """The loop's time at which the addresses must be resolved again."""


class HttpWebhookSender:
    """A sender over HTTP/1.1 to wherever the policy allows. Build it inside a running event loop.

    No redirect is followed, no cookie kept, no body decompressed.
    """

    __slots__ = ("_addresses", "_connector", "_is_closed", "_loop", "_opening", "_policy", "_pool")

    def __init__(
        self,
        policy: EgressPolicy,
        *,
        ca_file: Path | None = None,
        max_idle: int = MAX_IDLE,
        keep_alive_s: float = KEEP_ALIVE_S,
        resolver: NameResolver | None = None,
        search: bool = False,
        proxy: HttpProxy | None = None,
    ) -> None:
        """Create a sender without connections.

        Args:
            policy: Checks every URL, and every address before a connection.
            ca_file: Certificates to trust beside the system's.
            max_idle: Idle connections to keep. The caller bounds how many are in use.
            keep_alive_s: How long to keep an idle connection.
            resolver: The source of addresses. Default: the machine's name service.
            search: Let the machine's search domains complete the names of receivers.
            proxy: A proxy for all connections, to addresses that are checked here.
        """
        self._loop = asyncio.get_running_loop()
        self._policy = policy
        self._pool = ConnectionPool(max_idle=max_idle, keep_alive_s=keep_alive_s)
        resolver = resolver or StubResolver()
        self._addresses = DnsCache(address_finder(resolver, policy=policy, search=search))
        dial = direct_dialer(policy) if proxy is None else proxy_dialer(proxy, policy, resolver)
        self._connector = HttpConnector(policy, self._pool, dial, ca_file=ca_file)
        self._opening: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def prepare(self, tenant: str, url: str, headers: Mapping[str, str]) -> PreparedRequest:
        """Prepare a tenant's requests to `url` that start with `headers`.

        Raises nothing: sending reports what is wrong.
        """
        try:
            target = self._policy.check_url(url)
            head = target.head + _header_lines(headers)
        except EgressBlocked:
            return PreparedRequest(Code.NET_BLOCKED, tenant)
        except SendError as error:
            return PreparedRequest(error.code, tenant)
        if target.address is None:
            return PreparedRequest(target, tenant, head, until=0.0)
        return PreparedRequest(target, tenant, head, (connection_key(tenant, target, target.address),))

    def start(
        self,
        request: PreparedRequest,
        *,
        lines: str,
        body: bytes,
        timeout_s: float,
        capture: bool,
        on_reply: OnReply,
        may_begin: Callable[[], bool] = lambda: True,
    ) -> Callable[[], None]:
        """Send a POST, and call `on_reply` once with its end, later than this returns.

        Args:
            request: The beginning of the request.
            lines: Further header lines, each with its line end.
            body: The body, sent as it is.
            timeout_s: Limit for resolving, connecting, writing and reading together.
            capture: Keep the beginning of the response's body.
            on_reply: Called with the response, or with the code of why there is none.
            may_begin: Asked right before a POST is written that had to wait for its connection. Without its consent
                nothing is sent, and `on_reply` is called with `NOT_BEGUN`.

        Returns:
            A function that abandons the request. Call it only before `on_reply` is called.
        """
        now = self._loop.time()
        if now >= request.until:
            self._update_keys(request, now)
        deadline = now + timeout_s
        data = b"%b%bcontent-length: %d\r\n\r\n%b" % (request.head, lines.encode(), len(body), body)
        connection = self._pool.acquire(request.keys)
        if connection is not None:
            connection.send_request(data, deadline, on_reply, capture=capture)
            return connection.drop
        exchange = _OpeningExchange(data, deadline, on_reply, may_begin, capture=capture)
        exchange.task = task = self._loop.create_task(self._send_on_new_connection(request, exchange))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return exchange.cancel

    def _update_keys(self, request: PreparedRequest, now: float) -> None:
        """Read from memory where the target's name leads now."""
        target = request.target
        if isinstance(target, Code):
            return
        known = self._addresses.peek(request.tenant, (target.host, target.port), now)
        if known is None or isinstance(known.answer, Code):
            request.keys, request.until = (), 0.0
        else:
            request.keys, request.until = (
                tuple([connection_key(request.tenant, target, address) for address in known.answer]),
                known.until,
            )

    async def _send_on_new_connection(self, request: PreparedRequest, exchange: "_OpeningExchange") -> None:
        """Send on a new connection, or on one that has become free while the name was resolved."""
        try:
            async with asyncio.timeout_at(exchange.deadline):
                await self._open(request, exchange)
        except asyncio.CancelledError:
            exchange.end(WebhookResponse(Code.NET_RESET))
        except Exception as error:  # noqa: BLE001  its text may quote anything, so none may leave this file
            exchange.end(WebhookResponse(_code_of(error)))

    async def _open(self, request: PreparedRequest, exchange: "_OpeningExchange") -> None:
        target = request.target
        if isinstance(target, Code):
            raise SendError(target)
        if self._is_closed:
            raise SendError(Code.INTERNAL)
        addresses = (
            (target.address,)
            if target.address is not None
            else await self._addresses.resolve(request.tenant, (target.host, target.port))
        )
        connection = self._pool.acquire([connection_key(request.tenant, target, address) for address in addresses])
        if connection is not None:
            exchange.begin(connection)
        else:
            await self._connector.open(request.tenant, target, addresses, exchange.begin)

    def forget_tenant(self, tenant: str) -> None:
        """Forget the names that were resolved for a tenant."""
        self._addresses.forget(tenant)

    async def aclose(self) -> None:
        """Close all connections. Requests that are being sent end as `net.reset`."""
        self._is_closed = True
        self._pool.close()
        await self._addresses.close()
        opening = list(self._opening)
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        await asyncio.sleep(0)


class _OpeningExchange:
    """A request whose connection is still to be opened."""

    __slots__ = ("_capture", "_connection", "_data", "_is_over", "_may_begin", "_on_reply", "deadline", "task")

    task: asyncio.Task[None]

    def __init__(
        self, data: bytes, deadline: float, on_reply: OnReply, may_begin: Callable[[], bool], *, capture: bool
    ) -> None:
        self.deadline = deadline
        self._may_begin = may_begin
        self._data = data
        self._on_reply = on_reply
        self._capture = capture
        self._connection: HttpConnection | None = None
        self._is_over = False

    def begin(self, connection: HttpConnection) -> None:
        self._connection = connection
        connection.send_request(self._data, self.deadline, self.end, capture=self._capture, may_begin=self._may_begin)

    def end(self, reply: WebhookResponse) -> None:
        # The deadline of the connection and that of opening it are the same moment: the first to come counts.
        if not self._is_over:
            self._is_over = True
            self._on_reply(reply)

    def cancel(self) -> None:
        if not self._is_over:
            self._is_over = True
            self.task.cancel()
            if self._connection is not None:
                self._connection.drop()


def _header_lines(headers: Mapping[str, str]) -> bytes:
    names = {name.lower() for name in headers}
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode()
    if len(names - _OWN_HEADERS) < len(headers) or lines.count(b"\n") != len(headers) or not _HEADERS.fullmatch(lines):
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
