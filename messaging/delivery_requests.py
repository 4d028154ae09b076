"""Publishing delivery requests: to the work stream, to the overflow, or into the queue of an ordered destination.

A request goes to the overflow when its destination is at its limit, or when its tenant exceeds its share of the work
stream. See `messaging.ordered_route` for ordered destinations.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from messaging.client import errors
from messaging.client.errors import SUBJECT_FULL, JetStreamError, RejectedByServer
from messaging.ordered_route import Route
from messaging.publication import MessagePublisher, OnStored, Publication, PublishAck, publish
from messaging.publisher import JetStreamPublisher
from schemas import streams, subjects
from schemas.headers import HEADER_SINCE

MAX_CLOCK_DIFFERENCE: Final = timedelta(minutes=1)
"""Between this machine and the servers, whose time the results have."""


class DeliveryRequest(Struct, frozen=True, gc=False):
    """A request for a delivery. `headers` must hold `Nats-Msg-Id`.

    `is_ordered`: the destination is known to have an ordered queue. If false, a consumer moves the request there.
    """

    tenant: str
    destination: str
    document: bytes
    headers: dict[str, str]
    is_ordered: bool = False

    def on(self, subject: Callable[[str, str], str]) -> Publication:
        """Return the message for `subjects.requested`, `subjects.overflow` or `subjects.ordered`."""
        return Publication(subject(self.tenant, self.destination), self.document, self.headers)


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


async def publish_requests(publisher: JetStreamPublisher, requests: Sequence[DeliveryRequest]) -> list[PublishAck]:
    """Publish requests to several destinations: all or none, even if this process or the server dies.

    A batch is atomic within one stream only. If a destination is at its limit, the whole batch is stored in the
    overflow. Requests to other destinations are then moved to the work stream at once, without waiting for the feeder.
    If the tenant exceeds its share, all of them stay in the overflow.
    Requests that are stored already, by an earlier call, count as duplicates.

    Raises:
        RejectedByServer, ServerUnavailable: It is safe to call again.
    """
    if len(requests) == 1:
        return [await _publish(publisher, requests[0])]
    is_over_share = publisher.exceeds_share(requests[0].tenant, len(requests))
    try:
        if not is_over_share:
            with contextlib.suppress(_SubjectFull):
                return await _store(publisher, streams.WORK, requests, subjects.requested)
        kept = requests if is_over_share else [_asking_for_results(one) for one in requests]
        stored = await _store(publisher, streams.OVERFLOW, kept, subjects.overflow)
    except _StoredBefore:  # each single request finds out where
        return await asyncio.gather(*(_publish(publisher, one) for one in requests))
    if is_over_share:
        return stored
    each = zip(requests, stored, strict=True)
    return await asyncio.gather(*(_move_to_work(publisher, one, at) for one, at in each))


def _asking_for_results(request: DeliveryRequest) -> DeliveryRequest:
    """Return a request for the overflow that may be in the work stream, too, when the feeder finds it.

    If its removal fails after the early move, its copy was sent perhaps long ago. So the results are asked for first.
    """
    since = (datetime.now(UTC) - MAX_CLOCK_DIFFERENCE).isoformat()
    return replace(request, headers={**request.headers, HEADER_SINCE: since})


class _SubjectFull(Exception):
    """A destination of a batch is at its limit."""


class _StoredBefore(Exception):
    """An earlier call stored all requests of a batch."""


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
    route = Route.WORK
    if request.is_ordered:
        route = await publisher.ordered_route.choose(request.tenant, request.destination)
    match route:
        case Route.QUEUE:
            stored = await publisher.publish(request.on(subjects.ordered))
            publisher.ordered_route.on_queued(request.tenant, request.destination)
            return stored
        case Route.OVERFLOW:
            return await publisher.publish(request.on(subjects.overflow))
        case Route.WORK:
            return await publish(OverflowingPublisher(publisher), request.on(subjects.requested))


async def _move_to_work(publisher: JetStreamPublisher, request: DeliveryRequest, stored: PublishAck) -> PublishAck:
    """Try to move a stored request from the overflow to the work stream, and return where it is then."""
    try:
        moved = await publisher.publish(request.on(subjects.requested))
    except JetStreamError:
        return stored
    with contextlib.suppress(JetStreamError):  # the feeder removes it: the work stream knows its id
        await publisher.remove(stored.stream, stored.seq)
    return PublishAck(moved.stream, moved.seq)
