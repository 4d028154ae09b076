"""A run of a replay: walks over the retained deliveries, requests them again, and moves the cursor.

A run that is killed loses nothing and requests nothing twice. The cursor is before the first step that is not known to
be done, and the streams show which deliveries behind the cursor were requested (`consumers.replay.source`).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Final, Protocol, TypeVar

import msgspec

from consumers.model.request import RetryState
from consumers.replay.source import SupersededIndex, SupersededPage
from consumers.replay.window import WINDOW_SIZE, PublishWindow, ReplayStep
from consumers.retention.retained import RetainedDelivery, RetainedRecord
from messaging.client.errors import JetStreamError
from messaging.delivery_requests import DeliveryRequest, RequestPublisher
from messaging.periodic import pause
from schemas import subjects
from schemas.configuration import Replay
from schemas.headers import HEADER_MSG_ID

CATCH_UP_S: Final = 0.25
"""A run that is late by more than this does not catch up: no burst follows a pause."""
_LEASE_POLL_S: Final = 0.02

T = TypeVar("T")


class Pacer:
    """Evenly spaced turns at `rate_per_s`; without a rate, every turn is now."""

    __slots__ = ("_interval_s", "_next_at")

    def __init__(self, rate_per_s: float | None) -> None:
        self._interval_s = 1 / rate_per_s if rate_per_s else 0.0
        self._next_at: float | None = None

    def reserve_turn(self, now: float) -> float:
        """Reserve the next turn, and return the seconds until then. `now` is the time of any steady clock."""
        if not self._interval_s:
            return 0.0
        turn = now if self._next_at is None else max(self._next_at, now - CATCH_UP_S)
        self._next_at = turn + self._interval_s
        return max(0.0, turn - now)

    async def wait_turn(self, stop: asyncio.Event) -> None:
        """Wait for the next turn, or until `stop` is set."""
        wait_s = self.reserve_turn(asyncio.get_running_loop().time())
        if wait_s:
            await pause(wait_s, stop)


class DeliverySource(Protocol):
    """The retained deliveries that a replay's filter matches."""

    def find_pages(self, *, after: int, until: int) -> AsyncIterator[SupersededPage]:
        """Return the deliveries after stream sequence `after`, up to and including `until`, in pages."""
        ...

    def read_page(self, page: SupersededPage) -> AsyncIterator[RetainedRecord]:
        """Read the deliveries of `page` with their payloads, in order."""
        ...

    async def count(self, *, after: int = 0, until: int | None = None) -> int:
        """Return how many deliveries there are."""
        ...


class ReplayRun:
    """Does what remains of `replay`, an id. `row` is the progress at any time.

    `is_allowed` is asked before each request; nothing is requested while the answer is False.
    """

    def __init__(
        self,
        *,
        source: DeliverySource,
        publisher: RequestPublisher,
        replay: str,
        row: Replay,
        pacer: Pacer,
        is_allowed: Callable[[], bool] = lambda: True,
        on_step: Callable[[Replay], None] = lambda _: None,
        window_size: int = WINDOW_SIZE,
    ) -> None:
        self._source = source
        self._window = PublishWindow(publisher, self._on_done, size=window_size)
        self._replay = replay
        self.row = row
        self._pacer = pacer
        self._is_allowed = is_allowed
        self._on_step = on_step
        self._stop = asyncio.Event()
        self._counted = [0, 0]
        """Deliveries skipped and replayed of the message to which the cursor moves next."""

    def stop(self) -> None:
        """Request nothing more."""
        self._stop.set()

    async def count(self) -> None:
        """Count the deliveries to examine, unless they are counted, or `stop` is called. Raises `JetStreamError`."""
        if self.row.total is None:
            counting = self._source.count(after=self.row.cursor, until=self.row.until_sequence)
            self.row = msgspec.structs.replace(self.row, total=await self._unless_stopped(counting))

    async def run(self) -> bool:
        """Request everything. Returns True when all of it is stored, False after `stop`.

        Raises `JetStreamError`. No request is on its way any more when this returns, raises or is cancelled.
        """
        try:
            await self._walk()
            await self._window.drain()
        except BaseException:
            await shield_until_done(self._drain())
            raise
        return not self._stop.is_set()

    async def _walk(self) -> None:
        pages = self._source.find_pages(after=self.row.cursor, until=self.row.until_sequence)
        while (page := await self._unless_stopped(anext(pages, None))) and not self._stop.is_set():
            if all(page.index.is_superseded(delivery) for delivery in page.deliveries):
                for delivery in page.deliveries:
                    await self._skip(delivery, page.index)
            else:
                await self._walk_page(page)
            await self._window.drain()  # the search for the next page must find every request

    async def _unless_stopped(self, search: Awaitable[T]) -> T | None:
        """Return what is found, or None when `stop` is called: a search may take long."""
        task, stopping = asyncio.ensure_future(search), asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return await task if task.done() else None
        finally:
            stopping.cancel()
            task.cancel()

    async def _walk_page(self, page: SupersededPage) -> None:
        async for found in self._source.read_page(page):
            if page.index.is_superseded(found.delivery):
                await self._skip(found.delivery, page.index)
                continue
            await self._pacer.wait_turn(self._stop)
            while not self._is_allowed() and not await pause(_LEASE_POLL_S, self._stop):
                pass
            if self._stop.is_set():
                return
            await self._submit(found.delivery, self._request(found), replayed=True)
            # A delivery that was retained twice is requested once.
            page.index.record_attempt(found.delivery.key, found.delivery.attempt + 1, self._replay)

    async def _skip(self, delivery: RetainedDelivery, index: SupersededIndex) -> None:
        await self._submit(delivery, None, replayed=index.is_requested_by_replay(delivery))

    async def _submit(self, delivery: RetainedDelivery, request: DeliveryRequest | None, *, replayed: bool) -> None:
        step = ReplayStep(delivery.sequence, replayed=replayed, is_last_in_batch=delivery.is_last_in_batch)
        await self._window.submit(step, request)

    async def _drain(self) -> None:
        with contextlib.suppress(JetStreamError):
            await self._window.drain()

    def _on_done(self, step: ReplayStep) -> None:
        self._counted[step.replayed] += 1
        if not step.is_last_in_batch:  # after an interruption, the batch is read and counted again
            return
        skipped, replayed = self._counted
        self._counted = [0, 0]
        self.row = msgspec.structs.replace(
            self.row,
            cursor=step.sequence,
            replayed=self.row.replayed + replayed,
            skipped=self.row.skipped + skipped,
        )
        self._on_step(self.row)

    def _request(self, found: RetainedRecord) -> DeliveryRequest:
        delivery, message = found.delivery, found.message
        state = replayed_state(message.headers, self._replay)
        request_id = subjects.msg_id(delivery.tenant, delivery.destination, delivery.id)
        headers = state.forward_headers(message.headers) | {HEADER_MSG_ID: state.msg_id(request_id)}
        return DeliveryRequest(delivery.tenant, delivery.destination, message.data, headers)


async def shield_until_done(work: Coroutine[object, object, T]) -> T:
    """Return the result of `work`. A cancellation meanwhile is raised when `work` has ended."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def replayed_state(headers: dict[str, str], replay: str) -> RetryState:
    """Return the retry state of a retained delivery in `replay`: its next attempt, with a fresh schedule."""
    state = RetryState.from_headers(headers).after_attempt()
    return msgspec.structs.replace(state, replay=replay, replay_from=state.attempt)
