"""One connection to NATS: publish, subscribe, ask, and hear at once what this user is not allowed to do."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final, Protocol

import msgspec
import nats.errors
import structlog

from messaging.client.client import ClientCallbacks, PersistentClient, ServerAccess, close_client, named, open_client
from messaging.client.errors import (
    JetStreamError,
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
    """A message as it arrives: `headers` is None when it has none."""

    subject: str
    reply: str
    data: bytes
    headers: dict[str, str] | None


class Subscription(Protocol):
    """What can be ended again."""

    async def unsubscribe(self) -> None:
        """End it; what is on its way is dropped."""
        ...

    async def drain(self) -> None:
        """End it, after what is on its way has been received."""
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
    """A connection that comes back by itself. `on_reconnect` callbacks run each time it has."""

    def __init__(self, client: PersistentClient, *, inbox_prefix: str) -> None:
        self._client = client
        self.answer: Final = client.answer
        self.post: Final = client.post
        self.denials: Final = PermissionViolations(inbox_prefix)
        self._on_reconnect: list[Callable[[], Awaitable[None]]] = []
        self.reconnects = 0
        """How often it has come back."""

    @property
    def is_connected(self) -> bool:
        """Whether the server can be talked to right now."""
        return self._client.is_connected

    def on_reconnect(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Call `callback` after each reconnect: what was asked of the old connection is gone."""
        self._on_reconnect.append(callback)

    async def reconnected(self) -> None:
        """Tell everybody who asked to know. The client library calls this."""
        self.reconnects += 1
        _log.info("nats.reconnected")
        self.denials.forget()
        for callback in self._on_reconnect:
            await callback()

    async def publish(
        self, subject: str, payload: bytes = b"", *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """`post`, and wait while a lot is still to be written: for who sends without hearing what became of it."""
        self.post(subject, payload, reply=reply, headers=headers)
        await self._client.catch_up()

    async def subscribe(self, subject: str, callback: OnIncoming, *, group: str = "") -> Subscription:
        """Call `callback` for each message; of a `group`, one member gets it.

        Never drops one: whoever subscribes bounds what it asks for.
        """
        client: Any = self._client  # its own signatures are only partly typed
        subscription: Subscription = await client.subscribe(
            subject, queue=group, cb=callback, pending_msgs_limit=0, pending_bytes_limit=0
        )
        return subscription

    async def listen(self, subject: str, listener: Listener) -> Subscription:
        """Call `listener`, a plain function, with the parts of each message: the quick way, for who hears much.

        What it raises is logged.
        """
        subscription: Subscription = await self._client.listen(subject, listener)
        return subscription

    def new_inbox(self) -> str:
        """A subject of our own for answers."""
        return self._client.new_inbox()

    async def flush(self) -> None:
        """Wait until the server has seen everything that was sent so far."""
        with contextlib.suppress(nats.errors.Error):
            # The library's ping overtakes what it still buffers; by the first answer that has been sent, too.
            await self._client.flush(timeout=int(API_TIMEOUT_S))
            await self._client.flush(timeout=int(API_TIMEOUT_S))

    async def ask(self, subject: str, payload: bytes = b"", *, timeout_s: float = API_TIMEOUT_S) -> IncomingMessage:
        """Send a request and return its answer. Raises `NotAllowed` or `ServerUnavailable`."""
        try:
            async with self.permissions.guard(subject):
                return await self._client.request(subject, payload, timeout=timeout_s)
        except nats.errors.NoRespondersError:
            problem: JetStreamError = ServerUnavailable(
                f"nobody answers on {subject}: is JetStream enabled, and `apply` run?"
            )
        except (nats.errors.Error, TimeoutError) as error:
            problem = ServerUnavailable(f"no answer from NATS ({type(error).__name__})")
        raise problem

    async def api(self, name: str, request: object = None) -> dict[str, Any]:
        """Ask the JetStream API, for example `STREAM.INFO.X`. Raises `NotFound`, `RejectedByServer` or `ServerUnavailable`."""
        payload = b"" if request is None else msgspec.json.encode(request)
        answer = await self.ask(f"$JS.API.{name}", payload)
        raise_for_error(_decode_reply(answer.data).error)
        decoded: dict[str, Any] = msgspec.json.decode(answer.data)
        return decoded

    def require_version(self) -> None:
        """Raise `ServerTooOld` unless the server can carry our retry schedules."""
        version = self._client.connected_server_version
        if (version.major, version.minor) < MIN_SERVER_VERSION:
            needed = ".".join(map(str, MIN_SERVER_VERSION))
            raise ServerTooOld(
                f"nats-server {version.major}.{version.minor}.{version.patch} is too old: {needed} or newer is needed, "
                "because retries are message schedules of the server. Upgrade the server."
            )

    async def close(self) -> None:
        """Send what is buffered and close."""
        if self._client.is_connected:
            await self.flush()
        await close_client(self._client)


def raise_for_error(error: _ApiError | None) -> None:
    """Raise what an error in an answer of the JetStream API means."""
    if error is None:
        return
    if error.code == 404:
        raise NotFound(error.description)
    if not error.err_code and error.code not in (408, 500, 503):
        raise RejectedByServer(0, error.description)
    raise error_of(error.err_code, error.description)


@contextlib.asynccontextmanager
async def connect(
    access: ServerAccess | str, *, name: str, keep_trying_until: asyncio.Event | None = None
) -> AsyncGenerator[NatsConnection]:
    """Connect, and close on leaving. Raises `ServerUnavailable` at once when there is no server.

    A service passes `keep_trying_until`: then it is tried with backoff, and said so, until there is one or that is set.
    """
    access = ServerAccess(url=access) if isinstance(access, str) else access
    connection: NatsConnection | None = None

    async def on_error(error: Exception) -> None:
        if connection is None:  # before that, `dial` says it once, and better
            return
        _log.warning("nats.error", error=named(error))
        if denial := PermissionViolation.from_error(str(error)):
            connection.permissions.hear(denial)

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
        connection = None  # from here on a disconnect is what we want
        await opened.close()
