"""The client library, as we want it: dialled with backoff, and never closed for good by what a server says.

The library gives up for ever when the server sends an error such as a revoked user, and when a file of credentials
can't be read in the middle of a reconnect. To a service both are outages that end: the server closes the connection by
itself, and whoever rotates credentials puts a good file in their place.
"""

import asyncio
import contextlib
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.subscription import Subscription

from messaging.client.eager_task import run_eagerly
from messaging.client.errors import MESSAGE_TOO_LARGE, JetStreamError, RejectedByServer, ServerUnavailable
from messaging.client.headers import encode_headers_unchecked, read_headers, read_lines
from messaging.client.import_nats import allow_websockets
from messaging.client.parser import FastParser, Listener

DEFAULT_INBOX_PREFIX: Final = "_INBOX"
CLOSE_TIMEOUT_S: Final = 1.0
MAX_PENDING_BYTES: Final = 16 * 1024 * 1024

_STALE: Final = "stale connection"  # the library lowers what a server says
_SEED: Final = re.compile(rb"SU[A-Z2-7]{56}")
_log = structlog.get_logger(__name__)


class ServerAccess(msgspec.Struct, frozen=True, kw_only=True):
    """How a server is reached, and as whom. At most one of `creds_file` and `nkey_file`."""

    url: str
    """One, or several of a cluster joined by commas."""
    creds_file: Path | None = None
    """A user's JWT and its seed."""
    nkey_file: Path | None = None
    """A user's seed alone, for servers that list public keys."""
    ca_file: Path | None = None
    inbox_prefix: str = DEFAULT_INBOX_PREFIX
    """Where this user may hear answers."""


class ClientCallbacks(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of a connection: an error of the server's or of the library's, and coming and going."""

    on_error: Callable[[Exception], Awaitable[None]]
    on_disconnected: Callable[[], Awaitable[None]]
    on_reconnected: Callable[[], Awaitable[None]]


class UnusableCredentials(nats.errors.Error):
    """The file of credentials is of no use right now."""


class PersistentClient(Client):
    """The library's client, which comes back from everything, and is quicker with what is plain.

    It checks and copies subjects and headers one by one, and brings each message through a queue. Here what is plain,
    as all of ours is, is put together at once, and goes out with whatever else is sent in the same round of the event
    loop; and `listen` brings messages to a function as they are read. Everything else is left to the library.
    """

    def __init__(self) -> None:
        super().__init__()
        self._listeners: dict[bytes, Listener] = {}
        self._ps = FastParser(self, self._listeners)
        self._late: set[asyncio.Task[None]] = set()
        self._flushed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushed.set_result(None)

    async def listen(self, subject: str, listener: Listener, *, group: str = "") -> Subscription:
        """Call `listener` with each message on `subject`, as it is read; what it raises goes to `error_cb`."""
        untyped: Any = self  # its own signatures are only partly typed
        number = b"%d" % (self._sid + 1)
        self._listeners[number] = listener
        try:
            subscription: Subscription = await untyped.subscribe(subject, queue=group, cb=_unheard)
        except BaseException:
            del self._listeners[number]
            raise
        return subscription

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self._listeners.pop(b"%d" % sid, None)
        super()._remove_sub(sid, max_msgs)

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        return read_lines(raw)

    def post(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
        block: bytes = b"",
    ) -> None:
        """Send without waiting: a caller that sends much bounds what is on its way by the answers.

        Args:
            subject: Where to send.
            payload: The body.
            reply: Where to answer.
            headers: Headers from anywhere.
            block: Headers as they came with another message, instead of `headers`.

        Raises:
            ServerUnavailable: The buffer is full, or there is no connection.
            RejectedByServer: The message is too large.
        """
        headers = headers or None
        if self._post_plain(subject, payload, reply, headers, block):
            return
        if block and headers is None:
            headers = read_headers(block)
        publishing = super().publish(subject, payload, reply, None if headers is None else dict(headers))
        try:
            run_eagerly(publishing, self._late)
        except nats.errors.MaxPayloadError:
            reason = ""
        except nats.errors.Error as error:
            reason = type(error).__name__
        else:
            return
        if not reason:
            raise RejectedByServer(MESSAGE_TOO_LARGE, "the message is larger than the server's max_payload")
        raise ServerUnavailable(f"NATS did not accept a message: {reason}")

    def _post_plain(
        self, subject: str, payload: bytes, reply: str, headers: Mapping[str, str] | None, block: bytes
    ) -> bool:
        """Send what needs none of the library's checks. Returns False, and does nothing, for everything else."""
        size, head = len(payload), block if headers is None else encode_headers_unchecked(headers)
        if head is None or size > self._max_payload or self._status != Client.CONNECTED:
            return False
        if head:
            start = f"HPUB {subject} {reply} {len(head)} {len(head) + size}"
            is_plain = start.count(" ") == 4
        else:
            start = f"PUB {subject} {reply} {size}"
            is_plain = start.count(" ") == 3
        if not (is_plain and subject and start.isascii() and start.isprintable()):
            return False
        self._put(b"%b\r\n%b%b\r\n" % (start.encode(), head, payload))
        return True

    def answer(self, reply: bytes, body: bytes) -> None:
        """Publish `body` to `reply`, a subject that the server made. Lost if it cannot be sent."""
        if self._status == Client.CONNECTED:
            self._put(b"PUB %b  %d\r\n%b\r\n" % (reply, len(body), body))
        else:
            with contextlib.suppress(JetStreamError):
                self.post(reply.decode(), body)

    def _put(self, command: bytes) -> None:
        pending = self._pending
        if not pending and self._flush_queue is not None:  # the first of this round: have all of them written after it
            with contextlib.suppress(asyncio.QueueFull):  # then that is going to happen anyway
                self._flush_queue.put_nowait(self._flushed)
        pending.append(command)
        self._pending_data_size += len(command)

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, Any] | None = None
    ) -> None:
        """Send, and wait only while much is still to be written; see the library's own."""
        if not self._post_plain(subject, payload, reply, headers, b""):
            await super().publish(subject, payload, reply, headers)
        await self.catch_up()

    async def catch_up(self) -> None:
        """Wait while more is still to be written than should be."""
        if self._pending_data_size > MAX_PENDING_BYTES:
            await self._flush_pending(force_flush=True)

    async def _process_err(self, err_msg: str) -> None:
        if _STALE in err_msg:
            await super()._process_err(err_msg)
        else:  # whatever is fatal, the server closes the connection for, and that is what we reconnect after
            await self._error_cb(nats.errors.Error(f"nats: {err_msg.strip(chr(39))}"))

    def _connect_command(self) -> bytes:
        try:
            if self._nkeys_seed:
                self._setup_nkeys_seed_connect()  # the file may hold another key by now
            return super()._connect_command()
        except Exception:  # noqa: BLE001, S110 - whatever a file that is just being replaced leads to, told below
            pass
        raise UnusableCredentials("nats: the file of credentials can't be used; put a good one in its place")


async def _unheard(_: object) -> None:
    """Nothing comes this way: there is a listener."""


async def open_client(
    access: ServerAccess, *, name: str, callbacks: ClientCallbacks, keep_trying_until: asyncio.Event | None
) -> PersistentClient:
    """Connect. Raises `ServerUnavailable` at once, or, with `keep_trying_until`, when that is set and there is no server."""
    delay_s = 0.1
    options = _options(access, name, callbacks)
    if access.url.startswith("ws"):
        allow_websockets()
    while True:
        client = PersistentClient()
        try:
            _require_credentials(access)
            # The library would try for ever, and without a word; reconnecting for ever is right only afterwards.
            await client.connect(access.url.split(","), allow_reconnect=False, max_reconnect_attempts=1, **options)
        except (TimeoutError, OSError, nats.errors.Error) as error:
            reason = named(error)
            await close_client(client)  # the library leaves a refused connection open
        else:
            client.options |= {"allow_reconnect": True, "max_reconnect_attempts": -1}
            return client
        if keep_trying_until is None or keep_trying_until.is_set():
            raise ServerUnavailable(
                f"NATS can't be reached at {access.url} ({reason}). Is it running? See ONEPROTECT_NATS_URL."
            )
        _log.warning("nats.unreachable", url=access.url, reason=reason, next_try_s=delay_s)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(keep_trying_until.wait(), delay_s)
        delay_s = min(delay_s * 2, 5.0)


async def close_client(client: Client) -> None:
    """Close, and don't wait long for it: after a TLS handshake that failed, the library would wait for ever."""
    with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await client.close()


def _options(access: ServerAccess, name: str, callbacks: ClientCallbacks) -> dict[str, Any]:
    return {
        "name": name,
        "user_credentials": str(access.creds_file) if access.creds_file else None,
        "nkeys_seed": str(access.nkey_file) if access.nkey_file else None,
        "tls": ssl.create_default_context(cafile=access.ca_file) if access.ca_file else None,
        "inbox_prefix": access.inbox_prefix,
        "reconnect_time_wait": 0.2,
        "ping_interval": 5,
        "pending_size": MAX_PENDING_BYTES,
        "error_cb": callbacks.on_error,
        "disconnected_cb": callbacks.on_disconnected,
        "reconnected_cb": callbacks.on_reconnected,
    }


def _require_credentials(access: ServerAccess) -> None:
    """Raise `UnusableCredentials` unless the file looks like one: else the library raises whatever it stumbles over."""
    if access.creds_file is not None:
        text = _content(access.creds_file, "ONEPROTECT_NATS_CREDS_FILE")
        if b"BEGIN NATS USER JWT" not in text or b"BEGIN USER NKEY SEED" not in text:
            del text
            raise UnusableCredentials("the file that ONEPROTECT_NATS_CREDS_FILE names holds no user's JWT and seed")
    if access.nkey_file is not None and not is_seed(_content(access.nkey_file, "ONEPROTECT_NATS_NKEY_FILE")):
        raise UnusableCredentials("the file that ONEPROTECT_NATS_NKEY_FILE names holds no user's seed (SU...)")


def is_seed(content: bytes) -> bool:
    """Whether it is the seed of a user, and nothing else but a line end."""
    return _SEED.fullmatch(content.strip()) is not None


def _content(path: Path, variable: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        pass
    raise UnusableCredentials(f"the file that {variable} names is missing or unreadable")


def named(error: Exception) -> str:
    """What an error says, as far as it can't quote a file or what somebody else raised in a callback."""
    match error:
        case nats.errors.Error():
            return str(error) or type(error).__name__
        case OSError(strerror=str(text)):
            return text
        case _:
            return type(error).__name__
