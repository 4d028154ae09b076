"""Isolation: a process of its own that handles suspects, one at a time.

The process runs the consumer's own handler, and returns what must be stored; the consumer stores it and settles the
message. So an input that ends its process ends this one, and nothing else. A death that came from outside, by a signal
such as SIGKILL, is not the message's fault, and is not counted.
"""

import asyncio
import collections
import contextlib
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import msgspec
import structlog

from consumers.isolation.journal import HandlingJournal
from consumers.isolation.suspects import MAX_ISOLATED_DEATHS, SuspectRegistry
from consumers.retention.archive import ArchiveBatchPublication, ArchivePublication
from consumers.worker.disposition import Disposition, HandlerResult, Requeue, quarantine_publication
from consumers.worker.poison_guard import IsolatedCrash, OnIsolated
from messaging.client.connection import NatsConnection
from messaging.client.errors import JetStreamError
from messaging.message import Message
from messaging.publication import Publication
from schemas.codes import Code
from schemas.configuration import MAX_TIMEOUT_S
from telemetry.metrics import definitions
from telemetry.metrics.registry import MetricSample

MAX_WAITING: Final = 256
"""Suspects of one process that wait for their turn. Others are returned to their stream."""
START_TIMEOUT_S: Final = 60.0
HANDLE_TIMEOUT_S: Final = 4 * MAX_TIMEOUT_S
"""Longest handling. A stall ends much earlier, by the process's own watchdog."""
IDLE_S: Final = 60.0
"""The process ends after this time without a suspect."""
RESULTS: Final = ("handled", "died", "quarantined", "returned")
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
    subject: str
    lane: str
    reply: bytes
    data: bytes
    header_block: bytes
    deliveries: int


class _Reply(msgspec.Struct, frozen=True):
    crash: str = ""
    unavailable: str = ""
    is_requeued: bool = False
    publications: tuple[tuple[int, str, bytes, dict[str, str], bytes], ...] = ()


_encode: Final = msgspec.msgpack.Encoder().encode
_decode_request: Final = msgspec.msgpack.Decoder(_Request).decode
_decode_reply: Final = msgspec.msgpack.Decoder(_Reply).decode


class IsolatingGuard:
    """A poison guard that isolates suspects in a process.

    Tenants take turns, so that one tenant's suspects delay another's by one message each.
    """

    def __init__(
        self, journal: HandlingJournal, registry: SuspectRegistry, command: Sequence[str], environ: dict[str, str]
    ) -> None:
        """`command` starts the process; the number of a socket to this process becomes its last argument."""
        self.begin: Callable[[str], int] = journal.begin
        self.end: Callable[[int], None] = journal.end
        self.isolated: AbstractSet[str] = registry.isolated
        self.accused: AbstractSet[str] = registry.accused
        self.is_suspect: Callable[[Message], bool] = registry.is_suspect
        self._command = command
        self._environ = environ
        self._registry = registry
        self._waiting: dict[str, collections.deque[tuple[Message, OnIsolated]]] = {}
        self._count = 0
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._process: _IsolatedProcess | None = None
        self.results: collections.Counter[str] = collections.Counter()
        """Suspects by what became of them, one of `RESULTS`."""

    def isolate(self, message: Message, on_result: OnIsolated) -> None:
        """Handle a suspect when its turn comes, and call `on_result` once: at once when too many wait."""
        tenant = message.lane.partition(".")[0]
        if self._count >= MAX_WAITING and not self._return_newest(beyond=len(self._waiting.get(tenant, ()))):
            on_result(None)
            return
        self._count += 1
        self._waiting.setdefault(tenant, collections.deque()).append((message, on_result))
        self._arrived.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(), name="isolation")

    def _return_newest(self, *, beyond: int) -> bool:
        """Return the newest of the longest line to its stream, if more than `beyond` and itself wait in that line."""
        longest = max(self._waiting.values(), key=len)
        if len(longest) <= beyond + 1:
            return False
        self._count -= 1
        longest.pop()[1](None)
        return True

    def return_waiting(self) -> None:
        """Return everything that waits to its stream."""
        while self._count:
            self._next()[1](None)

    def samples(self) -> Iterator[MetricSample]:
        """Yield the current metrics."""
        yield definitions.SUSPECTS, (), len(self.isolated)
        for result in RESULTS:
            yield definitions.ISOLATED, (("result", result),), self.results[result]

    async def aclose(self) -> None:
        """Return everything, and end the process."""
        self.return_waiting()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _next(self) -> tuple[Message, OnIsolated]:
        tenant, waiting = next(iter(self._waiting.items()))
        del self._waiting[tenant]
        found = waiting.popleft()
        if waiting:
            self._waiting[tenant] = waiting  # behind the other tenants
        self._count -= 1
        return found

    async def _work(self) -> None:
        try:
            while await self._has_work():
                message, on_result = self._next()
                result: HandlerResult | None = None
                try:
                    result = await self._handle(message)
                finally:
                    on_result(result)
                if isinstance(result, (tuple, Requeue)):
                    with contextlib.suppress(JetStreamError):  # the entry expires
                        await self._registry.clear(message)
        finally:
            await self._end_process()

    async def _has_work(self) -> bool:
        self._arrived.clear()
        if not self._count:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(IDLE_S):
                    await self._arrived.wait()
        return self._count > 0

    async def _handle(self, message: Message) -> HandlerResult | None:
        process = self._process
        try:
            if process is None:
                async with asyncio.timeout(START_TIMEOUT_S):
                    self._process = process = await _IsolatedProcess.start(self._command, self._environ)
                    await process.receive()
        except (OSError, EOFError, TimeoutError) as error:
            _log.error("isolation.start_failed", error=type(error).__name__)
            await self._end_process()
            return self._count_result("returned", None)
        try:
            async with asyncio.timeout(HANDLE_TIMEOUT_S):
                result = await process.handle(message)
        except TimeoutError:
            _log.error("isolation.timed_out", subject=message.subject)
            await self._end_process()
            return self._count_result("returned", None)
        except (OSError, EOFError):
            return await self._on_death(message, await self._end_process())
        except msgspec.DecodeError:
            _log.error("isolation.unreadable", subject=message.subject)
            await self._end_process()
            return self._count_result("returned", None)
        return self._count_result("handled", result)

    async def _on_death(self, message: Message, code: int) -> HandlerResult | None:
        is_own = code > 0 or -code in _OWN_SIGNALS
        _log.error("isolation.died", subject=message.subject, code=code, counted=is_own)
        if not is_own:
            return self._count_result("returned", None)
        self._count_result("died", None)
        try:
            deaths = await self._registry.count_isolated_death(message)
        except JetStreamError as error:
            _log.warning("suspects.unavailable", error=str(error))
            return None
        if deaths < MAX_ISOLATED_DEATHS:
            return None
        reason = f"ended the process that handled it {deaths} times, last with the code {code}"
        return self._count_result("quarantined", (quarantine_publication(message, Code.INTERNAL, reason),))

    def _count_result(self, name: str, result: HandlerResult | None) -> HandlerResult | None:
        self.results[name] += 1
        return result

    async def _end_process(self) -> int:
        process, self._process = self._process, None
        return 0 if process is None else await process.end()


class _IsolatedProcess:
    """A running process, and the socket to it."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls, command: Sequence[str], environ: dict[str, str]) -> "_IsolatedProcess":
        own_end, child_end = socket.socketpair()
        with child_end:
            process = await asyncio.create_subprocess_exec(
                *command,
                str(child_end.fileno()),
                env=environ,
                pass_fds=(child_end.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        _log.info("isolation.started", pid=process.pid)
        return cls(process, *await asyncio.open_unix_connection(sock=own_end))

    async def receive(self) -> bytes:
        return await _read_frame(self._reader)

    async def handle(self, message: Message) -> HandlerResult:
        request = _Request(
            message.subject, message.lane, message.reply, message.data, message.header_block, message.deliveries
        )
        await _write_frame(self._writer, _encode(request))
        reply = _decode_reply(await self.receive())
        if reply.unavailable:
            return JetStreamError(reply.unavailable)
        if reply.crash:
            return IsolatedCrash(reply.crash)
        publications = tuple(
            _KINDS[kind](subject, payload, headers, block)
            for kind, subject, payload, headers, block in reply.publications
        )
        return Requeue(publications) if reply.is_requeued else publications

    async def end(self) -> int:
        """End the process unless it has ended, and return its exit code, as `Process.returncode`."""
        self._writer.close()  # the process ends when it is idle
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                return await self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        return await self._process.wait()


async def serve_isolated(
    link: socket.socket, handler: Callable[[Message], Awaitable[Disposition]], connection: NatsConnection
) -> None:
    """Handle what arrives over `link`, one message at a time, until the other end closes it or dies."""
    reader, writer = await asyncio.open_unix_connection(sock=link)
    reading = asyncio.create_task(_read_frame(reader))
    with contextlib.suppress(OSError, EOFError):
        await _write_frame(writer, b"")
        while True:
            request = _decode_request(await reading)
            reading = asyncio.create_task(_read_frame(reader))
            handling = asyncio.create_task(_handle_isolated(request, handler, connection))
            await asyncio.wait({reading, handling}, return_when=asyncio.FIRST_COMPLETED)
            if not handling.done():  # the consumer is gone: another one handles the message
                handling.cancel()
                await asyncio.wait({handling})
                break
            await _write_frame(writer, _encode(handling.result()))
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    writer.close()


async def _handle_isolated(
    request: _Request, handler: Callable[[Message], Awaitable[Disposition]], connection: NatsConnection
) -> _Reply:
    message = Message(request.subject, request.lane, request.reply, request.data, request.header_block, connection)
    message.deliveries = request.deliveries
    try:
        return _reply(await handler(message))
    except JetStreamError as error:
        return _Reply(unavailable=str(error))
    except Exception as error:  # noqa: BLE001 - as in the worker, which counts and logs it
        return _Reply(crash=type(error).__name__)


def _reply(disposition: Disposition) -> _Reply:
    is_requeued = isinstance(disposition, Requeue)
    publications = disposition.publications if isinstance(disposition, Requeue) else disposition
    return _Reply(
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


async def _write_frame(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(len(data).to_bytes(4, "big") + data)
    await writer.drain()
