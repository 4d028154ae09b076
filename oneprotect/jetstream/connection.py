"""One connection to NATS: connect, publish, subscribe and ask. The only file that knows the client library."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client

from oneprotect.jetstream.errors import JetStreamError, NotFound, Refused, Unavailable, Unsupported

MIN_SERVER_VERSION: Final = (2, 12)
API_TIMEOUT_S: Final = 5.0

_MAX_PENDING_BYTES: Final = 16 * 1024 * 1024
_log = structlog.get_logger(__name__)


class Incoming(Protocol):
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


OnIncoming = Callable[[Incoming], Awaitable[None]]


class _ApiError(msgspec.Struct):
    code: int
    err_code: int = 0
    description: str = ""


class _ApiReply(msgspec.Struct):
    error: _ApiError | None = None


class _NoCredentials(Exception):
    """The file of credentials is of no use."""


_decode_reply = msgspec.json.Decoder(_ApiReply).decode


class Connection:
    """A connection that comes back by itself. `on_reconnect` callbacks run each time it has."""

    def __init__(self, client: Client) -> None:
        self._client = client
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
        for callback in self._on_reconnect:
            await callback()

    async def publish(
        self, subject: str, payload: bytes = b"", *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Send without waiting for anything. Raises `Unavailable` when not even the buffer takes it."""
        try:
            await self._client.publish(subject, payload, reply, headers or None)
        except nats.errors.Error as error:
            reason = type(error).__name__
        else:
            return
        raise Unavailable(f"NATS did not take a message: {reason}")

    async def subscribe(self, subject: str, callback: OnIncoming, *, group: str = "") -> Subscription:
        """Call `callback` for each message; of a `group`, one member gets it.

        Never drops one: whoever subscribes bounds what it asks for.
        """
        client: Any = self._client  # its own signatures are only partly typed
        subscription: Subscription = await client.subscribe(
            subject, queue=group, cb=callback, pending_msgs_limit=0, pending_bytes_limit=0
        )
        return subscription

    def new_inbox(self) -> str:
        """A subject of our own for answers."""
        return self._client.new_inbox()

    async def flush(self) -> None:
        """Wait until the server has seen everything that was sent so far."""
        with contextlib.suppress(nats.errors.Error):
            await self._client.flush(timeout=int(API_TIMEOUT_S))

    async def ask(self, subject: str, payload: bytes = b"", *, timeout_s: float = API_TIMEOUT_S) -> Incoming:
        """Send a request and return its answer. Raises `Unavailable`."""
        try:
            return await self._client.request(subject, payload, timeout=timeout_s)
        except nats.errors.NoRespondersError:
            problem: JetStreamError = Unavailable(
                f"nobody answers on {subject}: is JetStream enabled, and `apply` run?"
            )
        except (nats.errors.Error, TimeoutError) as error:
            problem = Unavailable(f"no answer from NATS ({type(error).__name__})")
        raise problem

    async def api(self, name: str, request: object = None) -> dict[str, Any]:
        """Ask the JetStream API, for example `STREAM.INFO.X`. Raises `NotFound`, `Refused` or `Unavailable`."""
        payload = b"" if request is None else msgspec.json.encode(request)
        answer = await self.ask(f"$JS.API.{name}", payload)
        raise_for_error(_decode_reply(answer.data).error)
        decoded: dict[str, Any] = msgspec.json.decode(answer.data)
        return decoded

    def require_version(self) -> None:
        """Raise `Unsupported` unless the server can carry our retry schedules."""
        version = self._client.connected_server_version
        if (version.major, version.minor) < MIN_SERVER_VERSION:
            needed = ".".join(map(str, MIN_SERVER_VERSION))
            raise Unsupported(
                f"nats-server {version.major}.{version.minor}.{version.patch} is too old: {needed} or newer is needed, "
                "because retries are message schedules of the server. Upgrade the server."
            )

    async def close(self) -> None:
        """Send what is buffered and close."""
        with contextlib.suppress(nats.errors.Error, asyncio.TimeoutError, OSError):
            if self._client.is_connected:
                await self.flush()
            await self._client.close()


def raise_for_error(error: _ApiError | None) -> None:
    """Raise what an error in an answer of the JetStream API means."""
    if error is None:
        return
    if error.code == 404:
        raise NotFound(error.description)
    if error.code in (408, 500, 503) and not error.err_code:
        raise Unavailable(error.description)
    raise Refused(error.err_code, error.description)


@contextlib.asynccontextmanager
async def connect(
    url: str,
    *,
    name: str,
    creds_file: Path | None = None,
    ca_file: Path | None = None,
    keep_trying_until: asyncio.Event | None = None,
) -> AsyncGenerator[Connection]:
    """Connect, and close on leaving. Raises `Unavailable` at once when there is no server.

    A service passes `keep_trying_until`: then it is tried with backoff, and said so, until there is one or that is set.
    """
    connection: Connection | None = None

    async def say_error(error: Exception) -> None:
        if connection is not None:  # before that, _dial says it once, and better
            _log.warning("nats.error", error=_named(error))

    async def say_disconnected() -> None:
        if connection is not None:
            _log.warning("nats.disconnected")

    async def reconnected() -> None:
        if connection is not None:
            await connection.reconnected()

    client = await _dial(
        url,
        keep_trying_until=keep_trying_until,
        options={
            "name": name,
            "user_credentials": str(creds_file) if creds_file else None,
            "tls": ssl.create_default_context(cafile=ca_file) if ca_file else None,
            "reconnect_time_wait": 0.2,
            "ping_interval": 5,
            "pending_size": _MAX_PENDING_BYTES,
            "error_cb": say_error,
            "disconnected_cb": say_disconnected,
            "reconnected_cb": reconnected,
        },
    )
    opened = connection = Connection(client)
    try:
        yield opened
    finally:
        connection = None  # from here on a disconnect is what we want
        await opened.close()


async def _dial(url: str, *, keep_trying_until: asyncio.Event | None, options: dict[str, Any]) -> Client:
    delay_s = 0.1
    while True:
        client = Client()
        try:
            _require_credentials(options["user_credentials"])
            # The library would try for ever, and without a word; reconnecting for ever is right only afterwards.
            await client.connect(url, allow_reconnect=False, max_reconnect_attempts=1, **options)
        except (TimeoutError, OSError, nats.errors.Error, _NoCredentials) as error:
            reason = _named(error)
            await client.close()  # the library leaves a refused connection open
        else:
            client.options |= {"allow_reconnect": True, "max_reconnect_attempts": -1}
            return client
        if keep_trying_until is None or keep_trying_until.is_set():
            raise Unavailable(f"NATS can't be reached at {url} ({reason}). Is it running? See ONEPROTECT_NATS_URL.")
        _log.warning("nats.unreachable", url=url, reason=reason, next_try_s=delay_s)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(keep_trying_until.wait(), delay_s)
        delay_s = min(delay_s * 2, 5.0)


def _require_credentials(file: str | None) -> None:
    """Raise `_NoCredentials` unless `file` looks as one: the client library would try such a file for ever."""
    if file is None:
        return
    try:
        text = Path(file).read_bytes()
    except OSError:
        text = None
    if text is None:
        raise _NoCredentials("the file that ONEPROTECT_NATS_CREDS_FILE names is missing or unreadable")
    if b"BEGIN NATS USER JWT" not in text or b"BEGIN USER NKEY SEED" not in text:
        del text
        raise _NoCredentials("the file that ONEPROTECT_NATS_CREDS_FILE names holds no user's JWT and seed")


def _named(error: Exception) -> str:
    """What an error says, as far as it can't quote a file or what somebody else raised in a callback."""
    match error:
        case nats.errors.Error() | _NoCredentials():
            return str(error) or type(error).__name__
        case OSError(strerror=str(text)):
            return text
        case _:
            return type(error).__name__
