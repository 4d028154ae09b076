"""The way out: one POST to one destination, whose every ending is a value.

`HttpSender` is made on aiohttp. Nothing of aiohttp's exceptions leaves this file: their texts and reprs hold the URL
and all headers, signatures among them. `code_of` is the one place where they are turned into codes.

The status line decides. Once it has come, nothing that happens to the body changes the outcome, because a receiver that
has answered must not get the same POST again: the body is read as far as it helps to use the connection again, and a
connection that is not done with its answer is closed.
"""

import asyncio
import errno
import re
import ssl
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final, Protocol

import aiohttp
import structlog
from aiohttp.abc import AbstractResolver
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from msgspec import Struct
from yarl import URL

from consumers.egress import EgressBlocked, EgressPolicy, GuardedResolver
from consumers.exchange import Request, UncleanConnection
from schemas.codes import Code

CAPTURED_BYTES: Final = 3 * 1024
"""More than is shown, so that a secret across the end of what is shown is seen whole, and masked."""
MAX_BODY_BYTES: Final = 64 * 1024
MAX_LINE_BYTES: Final = 8190
MAX_RETRY_AFTER_S: Final = 86_400.0
BODY_GRACE_S: Final = 2.0
"""How long a body may go on after its status, within the deadline: it only decides whether the connection is kept."""
KEEP_ALIVE_S: Final = 60.0
DNS_CACHE_S: Final = 10

_BROKEN: Final = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)
_LOCAL_ERRNOS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_SECONDS = re.compile(r"[0-9]{1,32}(?:\.[0-9]{1,32})?")

_log = structlog.get_logger(__name__)


class Reply(Struct, frozen=True, gc=False):
    """How a POST ended. `http_status` is there whenever the receiver sent one; `response_bytes` counts the body read.

    `body` is its beginning, at most `CAPTURED_BYTES`, and empty unless asked for.
    """

    code: Code
    http_status: int | None = None
    retry_after_s: float | None = None
    response_bytes: int = 0
    body: bytes = b""


class Sender(Protocol):
    """Sends a body to a URL. Expected failures are replies; only cancellation is raised."""

    async def send(
        self, url: str, *, headers: Mapping[str, str], body: bytes, timeout_s: float, capture: bool = False
    ) -> Reply:
        """POST `body` as it is, with `headers`. Resolving, connecting, writing and reading share the `timeout_s`."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class HttpSender:
    """Sends over HTTP/1.1 to where the policy allows. Build it inside a running event loop.

    `ca_file`: certificates to trust beside the system's. `connections` and `connections_per_host`: at most so many at a
    time, 0 for no limit but the runtime's own on what is in flight; an attempt that waits for a connection does so
    inside its deadline. `resolver`: another source of addresses; the policy still checks each one before connecting.
    """

    __slots__ = ("_policy", "_resolver", "_session")

    def __init__(
        self,
        policy: EgressPolicy,
        *,
        ca_file: Path | None = None,
        connections: int = 0,
        connections_per_host: int = 0,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._policy = policy
        self._resolver = resolver or GuardedResolver(policy)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=_tls_context(ca_file),
                resolver=self._resolver,
                socket_factory=policy.guard_socket,
                ttl_dns_cache=DNS_CACHE_S,
                keepalive_timeout=KEEP_ALIVE_S,
                limit=connections,
                limit_per_host=connections_per_host,
            ),
            request_class=Request,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=MAX_BODY_BYTES // 2,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
        )

    async def send(
        self, url: str, *, headers: Mapping[str, str], body: bytes, timeout_s: float, capture: bool = False
    ) -> Reply:
        """See `Sender.send`. No redirect is followed, no cookie kept, no body decompressed, no proxy used."""
        try:
            target = self._policy.check_url(url).parsed
            async with asyncio.timeout(timeout_s) as deadline:
                response = await self._post(target, headers, body)
        except Exception as error:  # noqa: BLE001  none may leave this file, whatever it is: see above
            return Reply(code_of(error))
        status = response.status
        if status < 200:
            response.close()
            return Reply(Code.NET_RESET)
        retry_after = None if status < 300 else response.headers.get("Retry-After")
        size, beginning = await _read_body(response, deadline.when(), capture=capture)
        return Reply(
            Code.of_http_status(status),
            status,
            None if retry_after is None else retry_after_s(retry_after, datetime.now(UTC)),
            size,
            beginning,
        )

    async def _post(self, target: URL, headers: Mapping[str, str], body: bytes) -> aiohttp.ClientResponse:
        while True:
            try:
                return await self._session.request("POST", target, headers=headers, data=body, allow_redirects=False)
            except UncleanConnection:
                continue

    async def aclose(self) -> None:
        """Close all connections. What is still being sent ends as `net.reset`."""
        await self._session.close()
        await self._resolver.close()


def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Verification is on and stays on."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    return context


async def _read_body(response: aiohttp.ClientResponse, deadline_s: float | None, *, capture: bool) -> tuple[int, bytes]:
    """Size and beginning of the body, as far as it came. The connection is kept if it came to its end, else closed."""
    content = response.content
    if content.is_eof() and not capture:
        return content.total_bytes, b""
    until_s = asyncio.get_running_loop().time() + BODY_GRACE_S
    beginning = bytearray()
    try:
        async with asyncio.timeout_at(until_s if deadline_s is None else min(until_s, deadline_s)):
            while content.total_bytes <= MAX_BODY_BYTES and (part := await content.readany()):
                if capture:
                    beginning += part[: CAPTURED_BYTES - len(beginning)]
    except Exception:  # noqa: BLE001, S110  whatever it is, the status has come
        pass
    finally:
        response.close()
    return content.total_bytes, bytes(beginning)


def retry_after_s(value: str, now: datetime) -> float | None:
    """Read a `Retry-After` header: seconds, or an HTTP date (RFC 9110, section 10.2.3). Garbage is None.

    At least 0 and at most a day.
    """
    if _SECONDS.fullmatch(value):
        return min(float(value), MAX_RETRY_AFTER_S)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - now).total_seconds(), 0.0), MAX_RETRY_AFTER_S)


def code_of(error: BaseException) -> Code:
    """Why there was no reply, from whatever the HTTP client raised.

    A malformed answer is `net.reset`: as with a broken connection, the receiver may or may not have taken the delivery.
    A connection that breaks in the handshake is `net.tls`, and a fault of this machine, such as no file left to open,
    is `internal`.
    """
    errors = list(_behind(error))
    if any(isinstance(one, EgressBlocked | aiohttp.InvalidURL) for one in errors):
        return Code.NET_BLOCKED
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Code.NET_DNS
    if any(isinstance(one, ssl.SSLError) for one in errors):
        return Code.NET_TLS
    if any(isinstance(one, TimeoutError) for one in errors):
        return Code.NET_TIMEOUT
    if any(_is_too_large(one) for one in errors):
        return Code.NET_RESPONSE_TOO_LARGE
    return _connection_code(error, {one.errno for one in errors if isinstance(one, OSError)})


def _connection_code(error: BaseException, errnos: set[int | None]) -> Code:
    if errnos & _LOCAL_ERRNOS or not isinstance(error, aiohttp.ClientError):
        _log.error("the HTTP client failed", error=type(error).__qualname__)
        return Code.INTERNAL
    if not isinstance(error, aiohttp.ClientConnectorError):
        return Code.NET_RESET
    # Between connecting and sending there is only the handshake to break.
    return Code.NET_TLS if isinstance(error.os_error, _BROKEN) else Code.NET_REFUSED


def _is_too_large(error: BaseException) -> bool:
    return isinstance(error, LineTooLong) or (
        isinstance(error, HttpProcessingError) and error.message.startswith("Too many headers")
    )


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that it was made of."""
    while error is not None:
        yield error
        error = getattr(error, "os_error", None) or error.__cause__
