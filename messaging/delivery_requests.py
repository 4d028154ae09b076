"""Publishing delivery requests: to the work stream, to the overflow, or into the queue of an ordered destination.

A request goes to the overflow when its destination is at its limit, or when its tenant exceeds its share of the work
stream. `OrderedRoute` decides for ordered destinations.
"""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final, Protocol, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from messaging.client import errors
from messaging.client.errors import SUBJECT_FULL, JetStreamError, RejectedByServer
from messaging.publication import MessagePublisher, OnStored, Publication, PublishAck, publish
from messaging.publisher import JetStreamPublisher
from schemas import streams, subjects
from schemas.headers import CLAIMED, HEADER_CHECKED, HEADER_MSG_ID, HEADER_SINCE

MAX_CLOCK_DIFFERENCE: Final = timedelta(minutes=1)
"""Between this machine and the servers, whose time the results have."""
MAX_AT_ONCE: Final = 32
"""Requests of a fan-out that are published one by one at a time."""
WAKE_AFTER_S: Final = 5.0
"""A queue may have no holder when this process has published nothing to it for this long."""
MAX_AWAKE: Final = 16_384
"""Queues that are known to be awake."""
_UNKNOWN: Final = -1

T = TypeVar("T")
Ack = TypeVar("Ack", bound=PublishAck | None)


class DeliveryRequest(Struct, frozen=True, gc=False):
    """A request for a delivery. `headers` must hold `Nats-Msg-Id`."""

    tenant: str
    destination: str
    document: bytes
    headers: dict[str, str]

    def on(self, subject: Callable[[str, str], str]) -> Publication:
        """Return the message for `subjects.requested`, `subjects.overflow` or `subjects.ordered`."""
        return Publication(subject(self.tenant, self.destination), self.document, self.headers)


class Route(Enum):
    """The place where a request is stored."""

    QUEUE = "queue"
    WORK = "work"
    OVERFLOW = "overflow"


class OrderedRoute:
    """Chooses where a single request to an ordered destination goes: into its queue, if it overtakes nothing there.

    What waits in the work stream or the overflow was accepted before, and the holder of the queue moves it. A request
    that would overtake it follows it. Only the leaders of both streams know: a process does not see what others accept.
    `docs/explanation/ordering.md` has the proof.
    """

    def __init__(self, publisher: JetStreamPublisher, signal: Callable[[str], None]) -> None:
        """`signal` sends an empty message on a subject, without an acknowledgement."""
        self._publisher = publisher
        self._signal = signal
        self._choosing: dict[str, asyncio.Task[Route]] = {}
        self._awake: OrderedDict[str, float] = OrderedDict()
        """Time of the last request that went to a queue."""

    async def publish(self, request: DeliveryRequest) -> PublishAck:
        """Publish a request. Raises `RejectedByServer` or `ServerUnavailable`; then it is safe to call again."""
        match await self.choose(request.tenant, request.destination):
            case Route.QUEUE:
                stored = await self._publisher.publish(request.on(subjects.ordered))
                self._wake(request.tenant, request.destination)
                return stored
            case Route.OVERFLOW:
                return await _publish_in_overflow(self._publisher, request)
            case Route.WORK:
                return await _publish(self._publisher, request)

    async def choose(self, tenant: str, destination: str) -> Route:
        """Return the route of a request that was made before this call."""
        key = f"{tenant}.{destination}"
        earlier = self._choosing.get(key)
        if earlier is not None:  # began before this request, so a request accepted in between is unknown to it
            await asyncio.wait({earlier})
        choosing = self._choosing.get(key)
        if choosing is None:
            choosing = self._choosing[key] = asyncio.create_task(self._choose(tenant, destination))
            choosing.add_done_callback(lambda _: self._choosing.pop(key))
        return await asyncio.shield(choosing)

    async def _choose(self, tenant: str, destination: str) -> Route:
        """Ask the leaders of both streams. In the work stream the order is kept as well, so it is the way out."""
        places = subjects.overflow(tenant, destination), subjects.requested(tenant, destination)
        overflow, work = await asyncio.gather(*map(self._newest, places))
        if overflow == work == 0:
            return Route.QUEUE
        return Route.WORK if overflow in (0, _UNKNOWN) else Route.OVERFLOW

    async def _newest(self, subject: str) -> int | None:
        try:
            return await self._publisher.last_sequence(subject)
        except JetStreamError:
            return _UNKNOWN

    def _wake(self, tenant: str, destination: str) -> None:
        """Wake a consumer for the queue that a request was stored in, if the queue may have no holder."""
        key, now = f"{tenant}.{destination}", time.monotonic()
        last = self._awake.pop(key, -WAKE_AFTER_S)
        self._awake[key] = now
        if len(self._awake) > MAX_AWAKE:
            self._awake.popitem(last=False)
        if now - last >= WAKE_AFTER_S:
            with contextlib.suppress(JetStreamError):  # consumers look for queues without a holder every second
                self._signal(subjects.line(tenant, destination, "wake"))


class RequestPublisher(MessagePublisher, Protocol):
    """A publisher that knows the shares of tenants, such as `JetStreamPublisher`."""

    @property
    def exceeds_share(self) -> Callable[[str, int], bool]:
        """Returns whether a request of a tenant belongs into the overflow."""
        ...


class OverflowingPublisher:
    """Publishes requests: to the work stream, or to the overflow."""

    def __init__(self, publisher: RequestPublisher) -> None:
        self._publisher = publisher

    def send(self, publication: Publication, on_stored: OnStored) -> None:
        """Send a request, and call `on_stored` once, with the final result."""
        tenant, destination = subjects.tenant_and_destination(publication.subject)
        in_overflow = Publication(subjects.overflow(tenant, destination), publication.payload, publication.headers)
        if self._publisher.exceeds_share(tenant, 1):
            self._publisher.send(in_overflow, on_stored)
            return

        def on_answer(result: PublishAck | JetStreamError) -> None:
            if isinstance(result, RejectedByServer) and result.err_code == SUBJECT_FULL:
                self._publisher.send(in_overflow, on_stored)
            else:
                on_stored(result)

        self._publisher.send(publication, on_answer)


async def publish_request(
    publisher: JetStreamPublisher, tenant: str, destination: str, document: bytes, headers: dict[str, str]
) -> PublishAck:
    """Publish a request.

    `headers` must hold `Nats-Msg-Id`. Raises `RejectedByServer` or `ServerUnavailable`; then it is safe to call again.
    """
    return await _publish(publisher, DeliveryRequest(tenant, destination, document, headers))


async def publish_requests(
    publisher: JetStreamPublisher, requests: Sequence[DeliveryRequest], *, ordered: OrderedRoute | None = None
) -> list[PublishAck]:
    """Publish requests to several destinations: all or none, even if this process or the server dies.

    A batch is atomic within one stream only. If a destination is at its limit, the whole batch is stored in the
    overflow. Requests to other destinations are then moved to the work stream at once, without waiting for the feeder.
    If the tenant exceeds its share, all of them stay in the overflow.
    Requests that are stored already, by an earlier call, count as duplicates. If the API has claimed their id, all are
    duplicates when one is, and nothing is stored.

    Args:
        ordered: Stores a request, if there is only one and its destination is known to have an ordered queue.

    Raises:
        RejectedByServer, ServerUnavailable: It is safe to call again.
    """
    if len(requests) == 1:
        return [await (_publish(publisher, requests[0]) if ordered is None else ordered.publish(requests[0]))]
    is_over_share = publisher.exceeds_share(requests[0].tenant, len(requests))
    try:
        if not is_over_share:
            with contextlib.suppress(_SubjectFull):
                return await _store(publisher, streams.WORK, requests, subjects.requested)
        await _require_unknown(publisher, requests)
        kept = requests if is_over_share else [_asking_for_results(one) for one in requests]
        stored = await _store(publisher, streams.OVERFLOW, kept, subjects.overflow)
    except _StoredBefore:
        if _is_claimed(requests[0]):
            return [PublishAck("", 0, duplicate=True)] * len(requests)
        # Each single request finds out where.
        return await _in_parts(requests, lambda one: _publish(publisher, one))
    if is_over_share:
        return stored
    each = list(zip(requests, stored, strict=True))
    return await _in_parts(each, lambda one: _move_to_work(publisher, *one))


async def _in_parts(each: Sequence[T], store: Callable[[T], Awaitable[Ack]]) -> list[Ack]:
    """Store `each`, a part at a time: the requests of others come in between."""
    stored: list[Ack] = []
    for start in range(0, len(each), MAX_AT_ONCE):
        stored += await asyncio.gather(*map(store, each[start : start + MAX_AT_ONCE]))
    return stored


def _asking_for_results(request: DeliveryRequest) -> DeliveryRequest:
    """Return a request for the overflow that may be in the work stream, too, when the feeder finds it.

    If its removal fails after the early move, its copy was sent perhaps long ago. So the results are asked for first.
    """
    since = (datetime.now(UTC) - MAX_CLOCK_DIFFERENCE).isoformat()
    return replace(request, headers={**request.headers, HEADER_SINCE: since})


class _SubjectFull(Exception):
    """A destination of a batch is at its limit."""


class _StoredBefore(Exception):
    """A stream knows the id of a request of a batch."""


async def _store(
    publisher: JetStreamPublisher,
    stream: streams.StreamConfig,
    requests: Sequence[DeliveryRequest],
    subject: Callable[[str, str], str],
) -> list[PublishAck]:
    """Store requests as one batch. Raises `_SubjectFull`, `_StoredBefore` or `JetStreamError`."""
    try:
        return await publisher.batches(stream.name).store([one.on(subject) for one in requests])
    except RejectedByServer as error:
        match error.err_code:
            case errors.SUBJECT_FULL:
                raise _SubjectFull from None
            case errors.BATCH_HAS_DUPLICATE:
                raise _StoredBefore from None
            case _:
                raise


async def _publish(publisher: JetStreamPublisher, request: DeliveryRequest) -> PublishAck:
    if publisher.exceeds_share(request.tenant, 1):
        return await _publish_in_overflow(publisher, request)
    return await publish(OverflowingPublisher(publisher), request.on(subjects.requested))


async def _publish_in_overflow(publisher: JetStreamPublisher, request: DeliveryRequest) -> PublishAck:
    known = await _find_in_work(publisher, request)
    return known or await publisher.publish(request.on(subjects.overflow))


async def _require_unknown(publisher: JetStreamPublisher, requests: Sequence[DeliveryRequest]) -> None:
    """Raise `_StoredBefore` if the work stream knows one of `requests`."""
    if any(await _in_parts(requests, lambda one: _find_in_work(publisher, one))):
        raise _StoredBefore


async def _find_in_work(publisher: JetStreamPublisher, request: DeliveryRequest) -> PublishAck | None:
    """Return the acknowledgement of what the work stream knows under the id of a request, if the API has claimed it.

    An earlier version may have stored it there, and the overflow does not know that.
    """
    if not _is_claimed(request):
        return None
    subject = subjects.requested(request.tenant, request.destination)
    return await publisher.find_known(subject, request.headers[HEADER_MSG_ID])


def _is_claimed(request: DeliveryRequest) -> bool:
    return request.headers.get(HEADER_CHECKED) == CLAIMED


async def _move_to_work(publisher: JetStreamPublisher, request: DeliveryRequest, stored: PublishAck) -> PublishAck:
    """Try to move a stored request from the overflow to the work stream, and return where it is then."""
    try:
        moved = await publisher.publish(request.on(subjects.requested))
    except JetStreamError:
        return stored
    if moved.duplicate:  # of another message, perhaps: the feeder looks
        return stored
    with contextlib.suppress(JetStreamError):  # the feeder removes it: the work stream knows its id
        await publisher.remove(stored.stream, stored.seq)
    return PublishAck(moved.stream, moved.seq)
