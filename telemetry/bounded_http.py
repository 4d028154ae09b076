"""An HTTP/1.1 connection of uvicorn with limits on size and time, and limits on the number of connections.

Every state of a connection ends: connecting, a request's head, the rest of a body after the response, and a peer that
does not read. The application limits the time of a body that it reads. When a limit on the number is reached, the
connection that has waited longest for a request is closed, so that a new client is served.
"""

import asyncio
import ipaddress
import re
import resource
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

HEAD_BYTES: Final = 32 * 1024
"""The maximum size of request line and headers."""
HEAD_TIMEOUT_S: Final = 10.0
"""The maximum time from the first byte of a request to the end of its headers, and from connecting to that byte."""
LEFTOVER_TIMEOUT_S: Final = 2.0
"""The time to read and drop the rest of a body whose request was already answered, so that the client reads why."""
KEEP_ALIVE_S: Final = 75
"""Longer than the idle timeout of most load balancers, so that they close idle connections first."""
STALL_TIMEOUT_S: Final = 30.0
"""The time in which a client must read more of a response, before the connection is reset."""
MAX_PIPELINED: Final = 16
"""Requests of a connection that wait for the response to an earlier one."""
SWEEP_INTERVAL_S: Final = 5.0
_SPARE_FILES: Final = 128
"""Open files that are left for NATS, logs and other uses."""
_HOST: Final = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")
"""The characters of a `Host` header (RFC 9110, section 7.2)."""


def network_of(address: str) -> str:
    """Return the client of an address: for IPv6 its /64 network, as the owner can use any address of it."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    except ValueError:
        return address


class ConnectionLimits:
    """The connections of a server: at most `total`, and at most `per_client` from the network of one client."""

    def __init__(self, *, total: int, per_client: int, proxies: Sequence[str] = ()) -> None:
        """`proxies`: networks of load balancers, whose connections belong to many clients."""
        self._total = max(1, min(total, _raise_file_limit(total + _SPARE_FILES) - _SPARE_FILES))
        self._per_client = per_client
        self._proxies = [ipaddress.ip_network(proxy) for proxy in proxies]
        self._open: dict[BoundedProtocol, str] = {}
        self._counts: Counter[str] = Counter()
        self._waiting: dict[BoundedProtocol, None] = {}
        """Connections without a request in progress; the one that has waited longest comes first."""
        self._waiting_of: defaultdict[str, dict[BoundedProtocol, None]] = defaultdict(dict)
        self._sweeping: asyncio.TimerHandle | None = None

    def add(self, connection: "BoundedProtocol", address: str) -> None:
        """Add a connection; close another one if there are too many."""
        client = self._open[connection] = network_of(address)
        self._counts[client] += 1
        self.mark(connection, waiting=True)
        if self._sweeping is None:
            self._sweeping = connection.loop.call_later(SWEEP_INTERVAL_S, self._sweep)
        if self._counts[client] > self._per_client and not self._is_proxy(address):
            next(iter(self._waiting_of[client])).drop()
        elif len(self._open) > self._total:
            next(iter(self._waiting)).drop()

    def remove(self, connection: "BoundedProtocol") -> None:
        """Remove a closed connection."""
        self.mark(connection, waiting=False)
        client = self._open.pop(connection)
        self._counts[client] -= 1
        if not self._counts[client]:
            del self._counts[client], self._waiting_of[client]

    def mark(self, connection: "BoundedProtocol", *, waiting: bool) -> None:
        """Record that a connection begins to wait for a request, or has received the head of one."""
        for waiting_ones in (self._waiting, self._waiting_of[self._open[connection]]):
            waiting_ones.pop(connection, None)
            if waiting:
                waiting_ones[connection] = None

    def reset_all(self) -> None:
        """Reset every connection, also those whose clients read nothing."""
        for connection in list(self._open):
            connection.transport.abort()

    def _is_proxy(self, address: str) -> bool:
        return any(ipaddress.ip_address(address) in proxy for proxy in self._proxies)

    def _sweep(self) -> None:
        self._sweeping = None
        for connection in list(self._open):
            connection.reset_if_stalled()
        if self._open:
            loop = next(iter(self._open)).loop
            self._sweeping = loop.call_later(SWEEP_INTERVAL_S, self._sweep)


class BoundedProtocol(HttpToolsProtocol):
    """A connection. A slow, large or malformed head gets a response, and closes the connection."""

    def __init__(self, *arguments: Any, limits: ConnectionLimits, **named: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(*arguments, **named)
        self._limits = limits
        self._deadline: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = True
        self._stalled_at: float | None = None

    def refusal(self, status: int, kind: str, detail: str) -> tuple[str, bytes]:  # noqa: ARG002 - for subclasses
        """Return media type and body of the response to a bad request. `kind` is for programs."""
        return "text/plain; charset=utf-8", f"{detail}\n".encode()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for a head."""
        super().connection_made(transport)
        self._await_head()
        self._limits.add(self, self.client[0] if self.client else "")

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop to wait for a head."""
        self._limits.remove(self)
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the data; reject a head that is too large."""
        if self._in_head:
            if self._deadline is None:
                self._await_head()
            self._head_bytes += len(data)
        super().data_received(data)
        # A body in the same data is not counted: by now its head is complete.
        if self._in_head and self._head_bytes > HEAD_BYTES:
            self._reject_large_head()

    def on_headers_complete(self) -> None:
        """Start to receive the body."""
        self._stop_waiting()
        self._limits.mark(self, waiting=False)
        self._in_head = False
        self._head_bytes = 0
        # A head that arrives in one piece was complete before its bytes were counted.
        if len(self.url) + sum([len(name) + len(value) for name, value in self.headers]) > HEAD_BYTES:
            self._reject_large_head()
            return
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1 or not all(map(_HOST.fullmatch, hosts)):
            self.send_400_response("invalid host")
            return
        super().on_headers_complete()
        if len(self.pipeline) > MAX_PIPELINED:
            self.transport.abort()

    def on_message_complete(self) -> None:
        """Expect the head of the next request."""
        super().on_message_complete()
        self._in_head = True
        if not self._is_responding:  # uvicorn's own timer ended with the first byte after the response
            self._wait(KEEP_ALIVE_S, self.transport.close)

    def on_response_complete(self) -> None:
        """Limit the time for the rest of the body."""
        super().on_response_complete()
        if not self._is_responding:
            self._limits.mark(self, waiting=True)
            if not self._in_head:
                self._wait(LEFTOVER_TIMEOUT_S, self.transport.close)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """Reject malformed HTTP."""
        self._reject(400, "bad-request", "The request is not valid HTTP/1.1.")

    def _reject_large_head(self) -> None:
        self._reject(431, "head-too-large", f"Request line and headers exceed {HEAD_BYTES} bytes.")

    def drop(self) -> None:
        """Close the connection in favor of another one."""
        self._reject(503, "too-many-connections", "There are too many connections. Retry later.", reset=True)

    def reset_if_stalled(self) -> None:
        """Reset the connection if its peer has read nothing for `STALL_TIMEOUT_S`. Called regularly."""
        if not (self.flow.write_paused or self.transport.is_closing()):
            self._stalled_at = None
        elif self._stalled_at is None:
            self._stalled_at = self.loop.time()
        elif self.loop.time() - self._stalled_at > STALL_TIMEOUT_S:
            self.transport.abort()

    @property
    def _is_responding(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)  # None before the first request, despite its type
        return cycle is not None and not cycle.response_complete

    def _await_head(self) -> None:
        self._wait(HEAD_TIMEOUT_S, self._on_head_timeout)

    def _wait(self, timeout_s: float, on_timeout: Any) -> None:  # noqa: ANN401 - a callback without arguments
        self._stop_waiting()
        self._deadline = self.loop.call_later(timeout_s, on_timeout)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_head_timeout(self) -> None:
        self._deadline = None
        self._reject(408, "too-slow", f"The headers did not arrive within {HEAD_TIMEOUT_S:g} seconds.")

    def _reject(self, status: int, kind: str, detail: str, *, reset: bool = False) -> None:
        self._stop_waiting()
        if not self.transport.is_closing():
            if not self._is_responding:  # never into the middle of another response
                media_type, body = self.refusal(status, kind, detail)
                head = (
                    f"content-type: {media_type}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
                    "cache-control: no-store\r\nx-content-type-options: nosniff\r\n\r\n"
                )
                self.transport.write(STATUS_LINE[status] + head.encode() + body)
            self.transport.close()
        if reset and self.transport.get_write_buffer_size():
            self.transport.abort()


def _raise_file_limit(wanted: int) -> int:
    """Raise the limit on open files as far as needed and allowed, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    possible = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
    return possible
