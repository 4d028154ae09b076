"""The client library, extended: it connects with backoff, and no error of the server closes it for good.

The library closes for good when the server reports an error such as a revoked user, and when a credentials file cannot
be read during a reconnect. For a service both are temporary: the operator grants the permission or replaces the file.
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
from nats.aio.client import Client, Srv
from nats.aio.subscription import Subscription

from messaging.client.eager_task import run_eagerly
from messaging.client.errors import MESSAGE_TOO_LARGE, JetStreamError, RejectedByServer, ServerUnavailable, Unsendable
from messaging.client.headers import block_of, encode_headers_unchecked, read_headers, read_lines
from messaging.client.import_nats import allow_websockets
from messaging.client.parser import FastParser, Listener
from messaging.client.transport import BoundedTransport

DEFAULT_INBOX_PREFIX: Final = "_INBOX"
CLOSE_TIMEOUT_S: Final = 1.0
MAX_PENDING_BYTES: Final = 16 * 1024 * 1024
MAX_SUBJECT: Final = 1024
"""Longest subject to publish to. The server closes the connection for a line of more than 4,096 bytes."""

_STALE: Final = "stale connection"  # the library lower-cases the error
_SEED: Final = re.compile(rb"SU[A-Z2-7]{56}")
_log = structlog.get_logger(__name__)


class ServerAccess(msgspec.Struct, frozen=True, kw_only=True):
    """Address and credentials of a server. At most one of `creds_file` and `nkey_file` is set."""

    url: str
    """One URL, or a comma-separated list for a cluster."""
    creds_file: Path | None = None
    """File with a user's JWT and seed."""
    nkey_file: Path | None = None
    """File with a user's seed only, for servers that list public keys."""
    ca_file: Path | None = None
    inbox_prefix: str = DEFAULT_INBOX_PREFIX
    """Prefix of the subjects on which this user may receive replies."""


class ClientCallbacks(msgspec.Struct, frozen=True, kw_only=True):
    """Callbacks for errors of the server or the library, for disconnects and for reconnects."""

    on_error: Callable[[Exception], Awaitable[None]]
    on_disconnected: Callable[[], Awaitable[None]]
    on_reconnected: Callable[[], Awaitable[None]]


class UnusableCredentials(nats.errors.Error):
    """A credentials file that cannot be used at the moment."""


class PersistentClient(Client):
    """The library's client, with endless reconnects and a fast path.

    The library checks and copies subjects and headers one by one, and queues each message. Here a plain message is
    encoded at once and written with all others of one event loop iteration. `listen` passes messages to a function as
    they are read. The library does everything else.
    """

    def __init__(self) -> None:
        super().__init__()
        self._listeners: dict[bytes, Listener] = {}
        self._ps = FastParser(self, self._listeners)
        self._late: set[asyncio.Task[None]] = set()
        self._flushed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushed.set_result(None)

    @property
    def server_id(self) -> str:
        """The id of the connected server, which a restart changes."""
        return str(self._server_info.get("server_id", ""))

    @property
    def max_message_bytes(self) -> int:
        """Limit of the connected server for one message, headers included."""
        return self._max_payload

    async def listen(self, subject: str, listener: Listener, *, group: str = "") -> Subscription:
        """Call `listener` with each message on `subject` as it is read; exceptions go to `error_cb`."""
        untyped: Any = self  # its signatures are only partly typed
        number = b"%d" % (self._sid + 1)
        self._listeners[number] = listener
        try:
            subscription: Subscription = await untyped.subscribe(subject, queue=group, cb=_ignore)
        except BaseException:
            del self._listeners[number]
            raise
        return subscription

    async def unsubscribe(self, sid: int) -> None:
        """Make the server send nothing more to a subscription. What was sent before is still received."""
        untyped: Any = self
        await untyped._send_unsubscribe(sid)

    @property
    def reads(self) -> int:
        """Number of reads that had something: it grows as long as the server is heard."""
        parser: Any = self._ps
        return int(parser.reads)

    def yield_while_reading(self) -> None:
        """Let other tasks run from time to time while there is always more to read."""
        parser: Any = self._ps
        parser.yields = True

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
        """Send without waiting for the write buffer; the caller must limit its unacknowledged messages.

        Args:
            block: Encoded headers instead of `headers`.

        Raises:
            ServerUnavailable: The write buffer is full, or there is no connection.
            RejectedByServer: The message is too large, or `Unsendable`.
        """
        headers = headers or None
        if self._post_plain(subject, payload, reply, headers, block):
            return
        if block and headers is None:
            headers = read_headers(block)
        problem: JetStreamError
        try:
            self._require_sendable(subject, len(payload) + (0 if headers is None else len(block_of(headers))))
            publishing = super().publish(subject, payload, reply, None if headers is None else dict(headers))
            run_eagerly(publishing, self._late)
        except nats.errors.MaxPayloadError:
            problem = RejectedByServer(MESSAGE_TOO_LARGE, "the message is larger than the server's max_payload")
        except (nats.errors.BadSubjectError, nats.errors.BadHeaderError, UnicodeError):
            problem = Unsendable("the message has a malformed subject or header, or too long a subject")
        except nats.errors.Error as error:
            problem = ServerUnavailable(f"NATS did not accept a message: {type(error).__name__}")
        else:
            return
        raise problem

    def _require_sendable(self, subject: str, size: int) -> None:
        """Raise an error of the library for a message for which the server would close the connection."""
        if len(subject) > MAX_SUBJECT:
            raise nats.errors.BadSubjectError
        if size > self._max_payload:
            raise nats.errors.MaxPayloadError

    def _post_plain(
        self, subject: str, payload: bytes, reply: str, headers: Mapping[str, str] | None, block: bytes
    ) -> bool:
        """Send a message that needs none of the library's checks; return False for any other message."""
        size, head = len(payload), block if headers is None else encode_headers_unchecked(headers)
        if head is None or self._status != Client.CONNECTED:
            return False
        if head:
            head_size = len(head)
            size += head_size
            start = f"HPUB {subject} {reply} {head_size} {size}"
            is_plain = start.count(" ") == 4
        else:
            start = f"PUB {subject} {reply} {size}"
            is_plain = start.count(" ") == 3
        if not (is_plain and subject and start.isascii() and start.isprintable()):
            return False
        if size > self._max_payload or len(start) > MAX_SUBJECT:
            return False
        self._put(b"%b\r\n%b%b\r\n" % (start.encode(), head, payload))
        return True

    def send_reply(self, reply: bytes, payload: bytes) -> None:
        """Publish `payload` to the reply subject of a received message. Without a connection it may be lost."""
        if self._status == Client.CONNECTED:
            self._put(b"PUB %b  %d\r\n%b\r\n" % (reply, len(payload), payload))
        else:
            with contextlib.suppress(JetStreamError):
                self.post(reply.decode(), payload)

    def _put(self, command: bytes) -> None:
        pending = self._pending
        if not pending and self._flush_queue is not None:  # the first write of this iteration: flush at its end
            with contextlib.suppress(asyncio.QueueFull):  # then a flush is pending anyway
                self._flush_queue.put_nowait(self._flushed)
        pending.append(command)
        self._pending_data_size += len(command)

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, Any] | None = None
    ) -> None:
        """Publish, and wait while the write buffer is over its limit."""
        if not self._post_plain(subject, payload, reply, headers, b""):
            await super().publish(subject, payload, reply, headers)
        await self.drain_writes()

    async def drain_writes(self) -> None:
        """Wait while the write buffer is over its limit."""
        if self._pending_data_size > MAX_PENDING_BYTES:
            await self._flush_pending(force_flush=True)

    async def _connect_to_server(self, s: Srv) -> None:
        if self._transport is None and not s.uri.scheme.startswith("ws"):
            transport: Any = BoundedTransport  # untyped
            self._transport = transport()
        await super()._connect_to_server(s)

    async def _process_err(self, err_msg: str) -> None:
        if _STALE in err_msg:
            await super()._process_err(err_msg)
        else:  # after a fatal error the server closes the connection, which leads to a reconnect
            await self._error_cb(nats.errors.Error(f"nats: {err_msg.strip(chr(39))}"))

    def _connect_command(self) -> bytes:
        try:
            if self._nkeys_seed:
                self._setup_nkeys_seed_connect()  # the file may have been replaced
            return super()._connect_command()
        except Exception:  # noqa: BLE001, S110 - reported below; a file in replacement may cause any error
            pass
        raise UnusableCredentials("nats: the credentials file cannot be used; replace it")


async def _ignore(_: object) -> None:
    """Never called: the listener receives the messages."""


async def open_client(
    access: ServerAccess, *, name: str, callbacks: ClientCallbacks, keep_trying_until: asyncio.Event | None
) -> PersistentClient:
    """Connect. Raises `ServerUnavailable` at once, or with `keep_trying_until` only when that event is set."""
    delay_s = 0.1
    options = _options(access, name, callbacks)
    if access.url.startswith("ws"):
        allow_websockets()
    while True:
        client = PersistentClient()
        try:
            _require_credentials(access)
            # The library would retry the first connection for ever, without logging it.
            await client.connect(access.url.split(","), allow_reconnect=False, max_reconnect_attempts=1, **options)
        except (TimeoutError, OSError, nats.errors.Error) as error:
            reason = describe_error(error)
            await close_client(client)  # the library leaves a rejected connection open
        else:
            client.options |= {"allow_reconnect": True, "max_reconnect_attempts": -1}
            return client
        if keep_trying_until is None or keep_trying_until.is_set():
            raise ServerUnavailable(
                f"NATS is unreachable at {access.url} ({reason}); check that it runs, and ONEPROTECT_NATS_URL"
            )
        _log.warning("nats.unreachable", url=access.url, reason=reason, next_try_s=delay_s)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(keep_trying_until.wait(), delay_s)
        delay_s = min(delay_s * 2, 5.0)


async def close_client(client: Client) -> None:
    """Close within `CLOSE_TIMEOUT_S`: after a failed TLS handshake the library would wait for ever."""
    untyped: Any = client
    if not client.is_connected:  # the library would write what is pending to a closed transport, and end there
        untyped._pending, untyped._pending_data_size = [], 0
    with contextlib.suppress(nats.errors.Error, OSError, TimeoutError, RuntimeError):  # uvloop's for such a transport
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
    """Raise `UnusableCredentials` for a malformed file, for which the library raises arbitrary exceptions."""
    if access.creds_file is not None:
        text = _content(access.creds_file, "ONEPROTECT_NATS_CREDS_FILE")
        if b"BEGIN NATS USER JWT" not in text or b"BEGIN USER NKEY SEED" not in text:
            del text
            raise UnusableCredentials("the file in ONEPROTECT_NATS_CREDS_FILE does not contain a user's JWT and seed")
    if access.nkey_file is not None and not is_seed(_content(access.nkey_file, "ONEPROTECT_NATS_NKEY_FILE")):
        raise UnusableCredentials("the file in ONEPROTECT_NATS_NKEY_FILE does not contain a user's seed (SU...)")


def is_seed(content: bytes) -> bool:
    """Return true if the content is the seed of a user, surrounded by nothing but white space."""
    return _SEED.fullmatch(content.strip()) is not None


def _content(path: Path, variable: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        pass
    raise UnusableCredentials(f"the file in {variable} is missing or unreadable")


def describe_error(error: Exception) -> str:
    """Return the text of an error of the library or the system, and of any other error only its type."""
    match error:
        case nats.errors.Error():
            return str(error) or type(error).__name__
        case OSError(strerror=str(text)):
            return text
        case _:
            return type(error).__name__
