"""One run of a replay: walks over what is kept, asks for it again, and moves the cursor.

Killed anywhere, the next run loses nothing and asks for nothing twice: the cursor stands before the first step that
is not known to be done, and of what comes behind it the streams tell what has been asked for (`consumers.replay.superseded`).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Protocol, TypeVar

import msgspec

from consumers.model.request import RetryState
from consumers.replay.pacer import Pacer
from consumers.replay.superseded import SupersededIndex, SupersededPage
from consumers.replay.window import SIZE, PublishWindow, ReplayStep
from consumers.retention.retained import RetainedDelivery, RetainedRecord
from messaging.client.errors import JetStreamError
from messaging.delivery_requests import DeliveryRequest
from messaging.periodic import pause
from messaging.publisher import MessagePublisher
from schemas import subjects
from schemas.configuration import Replay

T = TypeVar("T")


class DeliverySource(Protocol):
    """What is kept, as far as the replay takes it."""

    def find_pages(self, *, after: int, until: int) -> AsyncIterator[SupersededPage]:
        """What stands behind stream sequence `after`, up to and with `until`, and what came after it."""
        ...

    def read_page(self, page: SupersededPage) -> AsyncIterator[RetainedRecord]:
        """All of `page` once more, whole, in order."""
        ...


class ReplayRun:
    """Does what `replay` (its id) still has to do. `row` is how far it has come, at any time.

    `is_allowed` is asked before each request: while it says no, nothing is asked for.
    """

    def __init__(
        self,
        *,
        source: DeliverySource,
        publisher: MessagePublisher,
        replay: str,
        row: Replay,
        pace: Pacer,
        is_allowed: Callable[[], bool] = lambda: True,
        on_step: Callable[[Replay], None] = lambda _: None,
        at_once: int = SIZE,
    ) -> None:
        self._source = source
        self._window = PublishWindow(publisher, self._on_done, size=at_once)
        self._replay = replay
        self.row = row
        self._pace = pace
        self._is_allowed = is_allowed
        self._on_step = on_step
        self._stop = asyncio.Event()
        self._counted = [0, 0]
        """Of the record in which the cursor will stand next: left alone, replayed."""

    def stop(self) -> None:
        """Ask for nothing more."""
        self._stop.set()

    async def run(self) -> bool:
        """Ask for everything, until it is all stored or `stop` was called; False is for the latter.

        Raises `JetStreamError`. However it ends, cancelled too, nothing is on its way any more.
        """
        try:
            await self._walk()
            await self._window.drain()
        except BaseException:
            await shield_until_done(self._settle())
            raise
        return not self._stop.is_set()

    async def _walk(self) -> None:
        pages = self._source.find_pages(after=self.row.cursor, until=self.row.until_sequence)
        while (page := await self._unless_stopped(anext(pages, None))) and not self._stop.is_set():
            if all(page.index.is_superseded(kept) for kept in page.deliveries):
                for kept in page.deliveries:
                    await self._pass_over(kept, page.index)
            else:
                await self._walk_page(page)
            await self._window.drain()  # the look for the next page must see all that was asked for

    async def _unless_stopped(self, looking: Awaitable[SupersededPage | None]) -> SupersededPage | None:
        """The page, or None when there is none or `stop` is called meanwhile: a look may take long."""
        task, stopping = asyncio.ensure_future(looking), asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return await task if task.done() else None
        finally:
            stopping.cancel()
            task.cancel()

    async def _walk_page(self, page: SupersededPage) -> None:
        async for found in self._source.read_page(page):
            if page.index.is_superseded(found.delivery):
                await self._pass_over(found.delivery, page.index)
            else:
                await self._may_ask()
                if self._stop.is_set():
                    return
                await self._ask(found, page.index)

    async def _pass_over(self, kept: RetainedDelivery, later: SupersededIndex) -> None:
        await self._window.submit(
            ReplayStep(
                kept.sequence, replayed=later.is_requested_by_replay(kept), is_last_in_batch=kept.is_last_in_batch
            ),
            None,
        )

    async def _ask(self, found: RetainedRecord, later: SupersededIndex) -> None:
        step = ReplayStep(found.delivery.sequence, replayed=True, is_last_in_batch=found.delivery.is_last_in_batch)
        await self._window.submit(step, self._asking(found))
        # Should the same have been kept twice, it is asked for once.
        later.record_attempt(found.delivery.key, found.delivery.attempt + 1, self._replay)

    async def _may_ask(self) -> None:
        await self._pace.wait_turn(self._stop)
        while not self._is_allowed() and not await pause(0.02, self._stop):
            pass

    async def _settle(self) -> None:
        with contextlib.suppress(JetStreamError):
            await self._window.drain()

    def _on_done(self, step: ReplayStep) -> None:
        self._counted[step.replayed] += 1
        if not step.is_last_in_batch:  # it is looked at again after an interruption, and counted then
            return
        left_alone, replayed = self._counted
        self._counted = [0, 0]
        self.row = msgspec.structs.replace(
            self.row,
            cursor=step.sequence,
            replayed=self.row.replayed + replayed,
            skipped=self.row.skipped + left_alone,
        )
        self._on_step(self.row)

    def _asking(self, found: RetainedRecord) -> DeliveryRequest:
        kept, record = found.delivery, found.message
        progress = replayed_state(record.headers, self._replay)
        headers = progress.forward_headers(record.headers)
        headers[subjects.HEADER_MSG_ID] = progress.msg_id(subjects.msg_id(kept.tenant, kept.destination, kept.id))
        return DeliveryRequest(kept.tenant, kept.destination, record.data, headers)


async def shield_until_done(doing: Coroutine[object, object, T]) -> T:
    """Its result, when it is over: who is cancelled meanwhile is so only then."""
    task = asyncio.ensure_future(doing)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def replayed_state(headers: dict[str, str], replay: str) -> RetryState:
    """Where a kept delivery stands when `replay` asks for it: its next attempt, with its waits and schedule afresh."""
    progress = RetryState.from_headers(headers).after_attempt()
    return msgspec.structs.replace(progress, replay=replay, replay_from=progress.attempt)
