"""The isolated process: it runs the consumer's own handler, and returns what must be stored.

The consumer stores the results and settles the messages. So an input that ends this process ends nothing else. The
process handles several messages at a time: each frame between the two carries the number of its message.
"""

import asyncio
import contextlib
import itertools
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Self

import msgspec
import structlog

from consumers.retention.archive import ArchiveBatchPublication, ArchivePublication
from consumers.worker.disposition import Disposition, HandlerResult, Requeue
from consumers.worker.poison_guard import OUTAGES, IsolatedCrash, describe_outage
from messaging.client.connection import NatsConnection
from messaging.client.errors import JetStreamError
from messaging.client.term import Term, TermExpired
from messaging.message import Message
from messaging.publication import Publication
from schemas.configuration import MAX_TIMEOUT_S

START_TIMEOUT_S: Final = 60.0
HANDLE_TIMEOUT_S: Final = 4 * MAX_TIMEOUT_S
"""Longest handling. A stall ends much earlier, by the process's own watchdog."""
IDLE_S: Final = 60.0
"""The process ends after this time without a suspect."""
END_TIMEOUT_S: Final = 1.0
"""Time in which a process ends whose socket is closed. Then it is killed."""
MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
_OWN_SIGNALS: Final = frozenset(
    {
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGPROF,  # the watchdog
        signal.SIGSEGV,
        signal.SIGSYS,
        signal.SIGTRAP,
        signal.SIGXCPU,
    }
)
"""Signals that a process causes itself."""
_KINDS: Final[tuple[type[Publication], ...]] = (Publication, ArchivePublication, ArchiveBatchPublication)

_log = structlog.get_logger(__name__)


class _Request(msgspec.Struct, frozen=True):
    number: int
    subject: str
    lane: str
    reply: bytes
    data: bytes
    header_block: bytes
    deliveries: int
    held_until: float


class _Reply(msgspec.Struct, frozen=True):
    number: int
    crash: str = ""
    is_expired: bool = False
    unavailable: str = ""
    is_requeued: bool = False
    publications: tuple[tuple[int, str, bytes, dict[str, str], bytes], ...] = ()


_encode: Final = msgspec.msgpack.Encoder().encode
_decode_request: Final = msgspec.msgpack.Decoder(_Request).decode
_decode_reply: Final = msgspec.msgpack.Decoder(_Reply).decode


class ProcessEnded(Exception):
    """The process ended, or never started, while it had a message in hand.

    `code`: as `Process.returncode`. `is_own`: the process caused its end itself. `in_hand`: the number of messages that
    it had in hand.
    """

    def __init__(self, code: int = 0, in_hand: int = 0) -> None:
        super().__init__(code, in_hand)
        self.code = code
        self.is_own = code > 0 or -code in _OWN_SIGNALS
        self.in_hand = in_hand


class IsolatedProcess:
    """A child process that starts with its first message, and ends when it is idle."""

    def __init__(self, command: Sequence[str], environ: dict[str, str]) -> None:
        """`command` starts the process; the number of a socket to this process becomes its last argument."""
        self._command = command
        self._environ = environ
        self._child: asyncio.Task[_Child] | None = None
        self._in_hand = 0
        self._idle: asyncio.TimerHandle | None = None

    async def handle(self, message: Message) -> HandlerResult:
        """Handle a message beside others. Raises `ProcessEnded`."""
        self._in_hand += 1
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        try:
            if self._child is None:
                self._child = asyncio.create_task(self._start(), name="isolation")
            starting = self._child
            await asyncio.wait({starting})
            if starting.cancelled():
                raise ProcessEnded
            return await starting.result().handle(message)
        finally:
            self._in_hand -= 1
            if not self._in_hand:
                self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._end_idle)

    async def aclose(self) -> None:
        """End the process. What it has in hand raises `ProcessEnded`."""
        if self._idle is not None:
            self._idle.cancel()
        starting, self._child = self._child, None
        if starting is not None:
            starting.cancel()
            (child,) = await asyncio.gather(starting, return_exceptions=True)
            if isinstance(child, _Child):
                await child.aclose()

    async def _start(self) -> "_Child":
        task = asyncio.current_task()

        def forget() -> None:
            if self._child is task:
                self._child = None

        try:
            return await _Child.start(self._command, self._environ, on_end=forget)
        except (OSError, EOFError, TimeoutError) as error:
            _log.error("isolation.start_failed", error=type(error).__name__)
            forget()
            raise ProcessEnded from None

    def _end_idle(self) -> None:
        if self._child is not None and self._child.done():
            self._child.result().retire()


class _Child:
    """A running process, the socket to it, and the messages that it has in hand."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_end: Callable[[], None],
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._on_end = on_end
        self._numbers = itertools.count()
        self._in_hand: dict[int, tuple[Message, asyncio.Future[_Reply]]] = {}
        self._is_retired = self._is_closed = False
        self._reading = asyncio.create_task(self._read(), name="isolated-results")

    @classmethod
    async def start(cls, command: Sequence[str], environ: dict[str, str], *, on_end: Callable[[], None]) -> Self:
        """Start a process, and wait until it can handle messages. `on_end` is called when it no longer can."""
        own_end, child_end = socket.socketpair()
        with contextlib.ExitStack() as failed:  # the process ends when it sees that the socket is closed
            with child_end:
                failed.callback(own_end.close)
                process = await asyncio.create_subprocess_exec(
                    *command,
                    str(child_end.fileno()),
                    env=environ,
                    pass_fds=(child_end.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    start_new_session=True,
                )
            _log.info("isolation.started", pid=process.pid)
            reader, writer = await asyncio.open_unix_connection(sock=own_end)
            failed.pop_all()  # the transport closes it from now on
            failed.callback(writer.transport.abort)
            async with asyncio.timeout(START_TIMEOUT_S):
                await _read_frame(reader)
            failed.pop_all()
        return cls(process, reader, writer, on_end)

    async def handle(self, message: Message) -> HandlerResult:
        """Handle a message beside others. Raises `ProcessEnded`."""
        if self._is_retired:
            raise ProcessEnded
        number, future = next(self._numbers), asyncio.get_running_loop().create_future()
        self._in_hand[number] = message, future
        request = _Request(
            number,
            message.subject,
            message.lane,
            message.reply,
            message.data,
            message.header_block,
            message.deliveries,
            min(message.term.until, message.lease.until),
        )
        _write_frame(self._writer, _encode(request))
        try:
            async with asyncio.timeout(HANDLE_TIMEOUT_S):
                return _result(await future)
        except TimeoutError:
            _log.error("isolation.timed_out", subject=message.subject)
            self.retire()
            raise ProcessEnded from None
        finally:
            self._in_hand.pop(number, None)
            self._end_if_done()

    def retire(self) -> None:
        """End the process as soon as nothing is in hand; new messages go to another one."""
        self._is_retired = True
        self._on_end()
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._is_retired and not self._in_hand:
            self._writer.transport.abort()

    async def aclose(self) -> None:
        """End the process now. What is in hand is returned."""
        self._is_closed = True
        self._writer.transport.abort()
        await self._reading

    async def _read(self) -> None:
        """Pass on the results until the process ends."""
        try:
            while True:
                reply = _decode_reply(await _read_frame(self._reader))
                if (found := self._in_hand.get(reply.number)) and not found[1].done():
                    found[1].set_result(reply)
                    del self._in_hand[reply.number]
        except (OSError, EOFError):
            pass
        except msgspec.DecodeError:
            _log.error("isolation.unreadable")
        self._is_retired = True
        self._on_end()
        left, self._in_hand = list(self._in_hand.values()), {}
        code = await _end(self._process, self._writer)
        ended = ProcessEnded() if self._is_closed else ProcessEnded(code, len(left))
        if left and not self._is_closed:
            subject = left[0][0].subject if len(left) == 1 else ""
            counted = ended.is_own and len(left) == 1
            _log.error("isolation.died", subject=subject, messages=len(left), code=code, counted=counted)
        for _, future in left:
            if not future.done():
                future.set_exception(ProcessEnded(*ended.args))


def _result(reply: _Reply) -> HandlerResult:
    if reply.is_expired:
        return TermExpired()
    if reply.unavailable:
        return JetStreamError(reply.unavailable)
    if reply.crash:
        return IsolatedCrash(reply.crash)
    publications = tuple(
        _KINDS[kind](subject, payload, headers, block) for kind, subject, payload, headers, block in reply.publications
    )
    return Requeue(publications) if reply.is_requeued else publications


async def _end(process: asyncio.subprocess.Process, writer: asyncio.StreamWriter) -> int:
    """End a process unless it has ended, and return its exit code, as `Process.returncode`."""
    writer.transport.abort()  # the process ends when it sees this
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(END_TIMEOUT_S):
            return await process.wait()
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    return await process.wait()


async def serve_isolated(
    link: socket.socket, handler: Callable[[Message], Awaitable[Disposition]], connection: NatsConnection
) -> None:
    """Handle what arrives over `link` until the other end closes it or dies: another consumer handles the rest."""
    reader, writer = await asyncio.open_unix_connection(sock=link)
    handling: set[asyncio.Task[None]] = set()

    async def handle(request: _Request) -> None:
        _write_frame(writer, _encode(await _handle_isolated(request, handler, connection)))

    with contextlib.suppress(OSError, EOFError):
        _write_frame(writer, b"")
        while True:
            task = asyncio.create_task(handle(_decode_request(await _read_frame(reader))))
            handling.add(task)
            task.add_done_callback(handling.discard)
    unfinished = list(handling)
    for task in unfinished:
        task.cancel()
    await asyncio.gather(*unfinished, return_exceptions=True)
    writer.close()


async def _handle_isolated(
    request: _Request, handler: Callable[[Message], Awaitable[Disposition]], connection: NatsConnection
) -> _Reply:
    term = Term(request.held_until)  # the clock is the machine's
    message = Message(
        request.subject, request.lane, request.reply, request.data, request.header_block, connection, term
    )
    message.deliveries = request.deliveries
    try:
        return _reply(request.number, await handler(message))
    except TermExpired:
        return _Reply(request.number, is_expired=True)
    except OUTAGES as error:
        return _Reply(request.number, unavailable=describe_outage(error))
    except Exception as error:  # noqa: BLE001 - as in the worker, which counts and logs it
        return _Reply(request.number, crash=type(error).__name__)


def _reply(number: int, disposition: Disposition) -> _Reply:
    is_requeued = isinstance(disposition, Requeue)
    publications = disposition.publications if isinstance(disposition, Requeue) else disposition
    return _Reply(
        number,
        is_requeued=is_requeued,
        publications=tuple(
            (_KINDS.index(type(one)), one.subject, one.payload, one.headers, one.block) for one in publications
        ),
    )


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    size = int.from_bytes(await reader.readexactly(4), "big")
    if size > MAX_FRAME_BYTES:
        raise EOFError
    return await reader.readexactly(size)


def _write_frame(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Write without waiting: what is in hand is bounded, and so is this buffer."""
    writer.write(len(data).to_bytes(4, "big") + data)
