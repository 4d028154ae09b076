"""A connection to NATS: publish, subscribe, and send requests."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from typing import Any, Final, Protocol

import msgspec
import nats.errors
import structlog

from messaging.client.client import (
    MAX_PENDING_BYTES,
    ClientCallbacks,
    PersistentClient,
    ServerAccess,
    close_client,
    describe_error,
    open_client,
)
from messaging.client.errors import (
    NO_MESSAGE,
    JetStreamError,
    NoSuchMessage,
    NotFound,
    RejectedByServer,
    ServerTooOld,
    ServerUnavailable,
    error_of,
)
from messaging.client.parser import Listener
from messaging.client.permission_violations import PermissionViolation, PermissionViolations

MIN_SERVER_VERSION: Final = (2, 12)
API_TIMEOUT_S: Final = 5.0

_log = structlog.get_logger(__name__)


class IncomingMessage(Protocol):
    """A received message. `headers` is None when there are none."""

    subject: str
    reply: str
    data: bytes
    headers: dict[str, str] | None


class Subscription(Protocol):
    """A subscription."""

    async def unsubscribe(self) -> None:
        """End the subscription and drop messages that are not yet received."""
        ...

    async def drain(self) -> None:
        """End the subscription after all pending messages are received."""
        ...


OnIncoming = Callable[[IncomingMessage], Awaitable[None]]


class _ApiError(msgspec.Struct):
    code: int
    err_code: int = 0
    description: str = ""


class _ApiReply(msgspec.Struct):
    error: _ApiError | None = None


_decode_reply = msgspec.json.Decoder(_ApiReply).decode


class NatsConnection:
    """A connection that reconnects by itself, and then runs the `on_reconnect` callbacks."""

    def __init__(self, client: PersistentClient, *, inbox_prefix: str) -> None:
        self._client = client
        self.send_reply: Final = client.send_reply
        self.post: Final = client.post
        self.permissions: Final = PermissionViolations(inbox_prefix)
        self._on_reconnect: list[Callable[[], Awaitable[None]]] = []
        self._on_server_change: list[Callable[[], Awaitable[None]]] = []
        self._server = client.server_id
        self.reconnects = 0
        """Number of reconnects."""

    @property
    def is_connected(self) -> bool:
        """True while the connection is up."""
        return self._client.is_connected

    @property
    def reads(self) -> int:
        """Number of reads that had something: it grows as long as the server is heard."""
        return self._client.reads

    @property
    def max_message_bytes(self) -> int:
        """Limit of the connected server for one message, headers included."""
        return self._client.max_message_bytes

    def yield_while_reading(self) -> None:
        """Let other tasks run between two reads, even while more has arrived than can be handled."""
        self._client.yield_while_reading()

    @property
    def is_backed_up(self) -> bool:
        """True while the server reads less than this process writes."""
        return self._client.pending_data_size > MAX_PENDING_BYTES

    def on_reconnect(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Call `callback` after each reconnect: requests on the old connection are lost."""
        self._on_reconnect.append(callback)

    def on_server_change(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Call `callback` after each reconnect to another server, or to one that was restarted."""
        self._on_server_change.append(callback)

    async def reconnected(self) -> None:
        """Run the callbacks after a reconnect. The client library calls this method."""
        self.reconnects += 1
        _log.info("nats.reconnected")
        self.permissions.forget()
        before, self._server = self._server, self._client.server_id
        for callback in self._on_reconnect + (self._on_server_change if self._server != before else []):
            await callback()

    async def publish(
        self, subject: str, payload: bytes = b"", *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Send, and wait while the write buffer is over its limit; for callers that await no acknowledgement."""
        self.post(subject, payload, reply=reply, headers=headers)
        with _translated():
            await self._client.drain_writes()

    async def subscribe(self, subject: str, callback: OnIncoming, *, group: str = "") -> Subscription:
        """Call `callback` for each message, or for each of its share of the messages with a `group`.

        The client drops no message, so the caller must limit the messages that it requests.
        """
        client: Any = self._client  # its own signatures are only partly typed
        with _translated():
            subscription: Subscription = await client.subscribe(
                subject, queue=group, cb=callback, pending_msgs_limit=0, pending_bytes_limit=0
            )
        return subscription

    async def listen(self, subject: str, listener: Listener, *, group: str = "") -> Subscription:
        """Call `listener`, a plain function, with the parts of each message. Exceptions are logged."""
        with _translated():
            subscription: Subscription = await self._client.listen(subject, listener, group=group)
        return subscription

    async def drain(self, subscriptions: Sequence[Subscription]) -> None:
        """End subscriptions, after everything that the server has already sent to them was received."""
        await self.end_interest(subscriptions)
        if self.is_connected:
            await self.flush()
        await self.forget(subscriptions)

    async def end_interest(self, subscriptions: Sequence[Subscription]) -> None:
        """Make the server send nothing more to subscriptions, which still receive what was sent before."""
        with contextlib.suppress(nats.errors.Error):
            for subscription in subscriptions:
                untyped: Any = subscription
                await self._client.unsubscribe(untyped._id)

    async def forget(self, subscriptions: Sequence[Subscription]) -> None:
        """End subscriptions, and ignore what still arrives for them."""
        for subscription in subscriptions:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    def new_inbox(self) -> str:
        """Return a new subject for replies."""
        return self._client.new_inbox()

    async def flush(self) -> None:
        """Wait until the server has received everything that was sent so far."""
        with contextlib.suppress(nats.errors.Error):
            # The first ping overtakes buffered messages. They are sent before the second one.
            await self._client.flush(timeout=int(API_TIMEOUT_S))
            await self._client.flush(timeout=int(API_TIMEOUT_S))

    async def ask(self, subject: str, payload: bytes = b"", *, timeout_s: float = API_TIMEOUT_S) -> IncomingMessage:
        """Send a request and return the reply. Raises `NotAllowed` or `ServerUnavailable`."""
        cancellations = _cancellations()
        try:
            async with self.permissions.guard(subject):
                reply = await self._client.request(subject, payload, timeout=timeout_s)
                if _cancellations() > cancellations:
                    # The client library uses `asyncio.wait_for`, which before Python 3.12 drops a cancellation
                    # that arrives together with the reply: the caller would wait forever at its shutdown.
                    raise asyncio.CancelledError
                return reply
        except nats.errors.NoRespondersError:
            problem: JetStreamError = ServerUnavailable(
                f"no responder on {subject}; check that JetStream is enabled, and run `oneprotect apply`"
            )
        except (nats.errors.Error, TimeoutError) as error:
            problem = ServerUnavailable(f"no reply from NATS ({type(error).__name__})")
        raise problem

    async def api(self, name: str, request: object = None) -> dict[str, Any]:
        """Send a request to the JetStream API, for example `STREAM.INFO.X`, and return the reply.

        Raises `NotFound`, `RejectedByServer` or `ServerUnavailable`. See `messaging.management` for typed requests.
        """
        payload = b"" if request is None else msgspec.json.encode(request)
        answer = await self.ask(f"$JS.API.{name}", payload)
        raise_for_error(_decode_reply(answer.data).error)
        decoded: dict[str, Any] = msgspec.json.decode(answer.data)
        return decoded

    def require_version(self) -> None:
        """Raise `ServerTooOld` unless the server supports message schedules."""
        version = self._client.connected_server_version
        if (version.major, version.minor) < MIN_SERVER_VERSION:
            needed = ".".join(map(str, MIN_SERVER_VERSION))
            raise ServerTooOld(
                f"nats-server {version.major}.{version.minor}.{version.patch} is too old: "
                "retries need message schedules; "
                f"upgrade the server to {needed} or newer"
            )

    async def close(self) -> None:
        """Send all buffered messages and close."""
        if self._client.is_connected:
            await self.flush()
        await close_client(self._client)


@contextlib.contextmanager
def _translated() -> Generator[None]:
    """Raise `ServerUnavailable` for an error of the client library."""
    try:
        yield
    except nats.errors.Error as error:
        problem = ServerUnavailable(f"there is no connection to NATS ({type(error).__name__})")
    else:
        return
    raise problem


def raise_for_error(error: _ApiError | None) -> None:
    """Raise the exception for an error in a reply of the JetStream API."""
    if error is None:
        return
    if error.code == 404:
        raise (NoSuchMessage if error.err_code == NO_MESSAGE else NotFound)(error.description)
    if not error.err_code and error.code not in (408, 500, 503):
        raise RejectedByServer(0, error.description)
    raise error_of(error.err_code, error.description)


@contextlib.asynccontextmanager
async def connect(
    access: ServerAccess | str, *, name: str, keep_trying_until: asyncio.Event | None = None
) -> AsyncGenerator[NatsConnection]:
    """Connect, and close on leaving. Raises `ServerUnavailable` at once when the server is unreachable.

    With `keep_trying_until`, retry with backoff until the connection is up or that event is set.
    """
    access = ServerAccess(url=access) if isinstance(access, str) else access
    connection: NatsConnection | None = None

    async def on_error(error: Exception) -> None:
        if connection is None:  # until then `open_client` reports errors
            return
        _log.warning("nats.error", error=describe_error(error))
        if violation := PermissionViolation.from_error(str(error)):
            connection.permissions.report(violation)

    async def on_disconnected() -> None:
        if connection is not None:
            _log.warning("nats.disconnected")

    async def on_reconnected() -> None:
        if connection is not None:
            await connection.reconnected()

    callbacks = ClientCallbacks(on_error=on_error, on_disconnected=on_disconnected, on_reconnected=on_reconnected)
    client = await open_client(access, name=name, callbacks=callbacks, keep_trying_until=keep_trying_until)
    opened = connection = NatsConnection(client, inbox_prefix=access.inbox_prefix)
    try:
        yield opened
    finally:
        connection = None  # from here on a disconnect is expected
        await opened.close()


def _cancellations() -> int:
    task = asyncio.current_task()
    return task.cancelling() if task else 0
