"""Destinations with `ordering: fifo`: what comes for them goes into their line, and one consumer at a time has that.

What comes in is a wake-up and nothing more: whoever has the line moves everything that stands in the streams, this
message among it, in order (`consumers.queues.ordered_transfer`). So a message that comes to somebody else is handed back for a moment, in
case the one that has the line is gone by then. Lines that nobody has are looked for once a second.
"""

import asyncio
import contextlib
from typing import Final

import structlog

from consumers.model.request import RetryState
from consumers.queues.ordered_queue import OrderedQueue, OrderedQueueDependencies
from messaging import management
from messaging.client.errors import JetStreamError
from messaging.periodic import run_every
from messaging.publisher import Publication, PublishAck
from messaging.pull_consumer import Message
from schemas import subjects

LOOK_S: Final = 1.0
HANDED_BACK_S: Final = 1.0
OTHERS_S: Final = 0.5
"""For so long, a line that somebody else has is not tried for again."""

_log = structlog.get_logger(__name__)


class OrderedQueues:
    """The lines that this consumer has, and whatever comes for any line."""

    def __init__(self, around: OrderedQueueDependencies) -> None:
        self._around = around
        self._lines: dict[str, OrderedQueue] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._others: dict[str, float] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Take over lines that nobody has, until `stop` is set; then let go of all."""
        try:
            await run_every(LOOK_S, self._take_over, stop, failure_event="ordered_queues.lookup_failed", jitter=0.2)
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def accept(self, message: Message) -> None:
        """Take in what has come for a destination with a line, from the work stream or as a retry that is due."""
        tenant, destination = subjects.tenant_and_destination(message.subject)
        if message.stream == subjects.RETRIES.name:
            self._line_up(message, tenant, destination)
            return
        if self.wake(tenant, destination):
            return  # it is moved, and gone then
        with contextlib.suppress(JetStreamError):  # it is a hint
            self._around.connection.post(subjects.line(tenant, destination, "more"))
        message.nak(HANDED_BACK_S)

    def wake(self, tenant: str, destination: str) -> bool:
        """There is something to do for this line. Whether it is ours; if nobody's, we try to have it."""
        key = f"{tenant}.{destination}"
        line = self._lines.get(key)
        if line is not None:
            line.notify()
            return line.is_leased
        if self._others.get(key, 0.0) < asyncio.get_running_loop().time():
            self._lines[key] = line = OrderedQueue(self._around, tenant, destination)
            self._tasks[key] = asyncio.create_task(self._run(key, line), name=f"line {key}")
        return False

    async def _run(self, key: str, line: OrderedQueue) -> None:
        was_ours = False
        try:
            was_ours = await line.run()
        except JetStreamError as error:
            _log.warning("line.failed", line=key, error=str(error))
        finally:
            del self._lines[key], self._tasks[key]
            if not was_ours:
                self._others[key] = asyncio.get_running_loop().time() + OTHERS_S

    async def _take_over(self) -> None:
        info = await management.stream_info(
            self._around.connection, subjects.ORDERED.name, subjects=subjects.ordered("*", "*")
        )
        waiting = {subject.split(".", 3)[3] for subject in info.state.subjects} - self._lines.keys()
        self._others = {key: until for key, until in self._others.items() if until > asyncio.get_running_loop().time()}
        if not waiting:
            return
        taken = {entry.key for entry in await self._around.leases.list() if entry.value}
        for key in waiting - taken:
            self.wake(*key.split("."))

    def _line_up(self, message: Message, tenant: str, destination: str) -> None:
        """A retry from before the destination wanted order: it goes to the end of the line when it is due."""
        try:
            progress = RetryState.from_headers(message.headers)
        except ValueError:
            self._around.submit(message)  # whoever gets it next says what is wrong with it
            return
        headers = progress.forward_headers(message.headers)
        headers[subjects.HEADER_MSG_ID] = f"{message.identity}.due"
        if progress.first_attempt_at is not None:
            headers[subjects.HEADER_SINCE] = progress.first_attempt_at.isoformat()

        def on_stored(result: PublishAck | JetStreamError) -> None:
            if isinstance(result, PublishAck):
                message.ack()
            # Else it is handed out again when the server's patience is over.

        line = subjects.ordered(tenant, destination)
        self._around.publisher.send(Publication(line, message.data, headers), on_stored)
        self.wake(tenant, destination)
