"""Publishing delivery requests: to the work stream, or to the overflow when their destination is at its limit."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from msgspec import Struct

from messaging.client.errors import BATCH_HAS_DUPLICATE, SUBJECT_FULL, JetStreamError, RejectedByServer
from messaging.publication import MessagePublisher, OnStored, Publication, PublishAck, publish
from messaging.publisher import JetStreamPublisher
from schemas import streams, subjects


class DeliveryRequest(Struct, frozen=True, gc=False):
    """A request for a delivery. `headers` must hold `Nats-Msg-Id`."""

    tenant: str
    destination: str
    document: bytes
    headers: dict[str, str]

    def on(self, subject: Callable[[str, str], str]) -> Publication:
        """Return the message for `subjects.requested` or `subjects.overflow`."""
        return Publication(subject(self.tenant, self.destination), self.document, self.headers)


class OverflowingPublisher:
    """Publishes requests; one that the server refuses because its subject is full goes to the overflow instead."""

    def __init__(self, publisher: MessagePublisher) -> None:
        self._publisher = publisher

    def send(self, publication: Publication, on_stored: OnStored) -> None:
        """Send a request, and call `on_stored` once, with the final result."""

        def on_answer(result: PublishAck | JetStreamError) -> None:
            if not (isinstance(result, RejectedByServer) and result.err_code == SUBJECT_FULL):
                on_stored(result)
                return
            overflow = subjects.overflow(*subjects.tenant_and_destination(publication.subject))
            self._publisher.send(Publication(overflow, publication.payload, publication.headers), on_stored)

        self._publisher.send(publication, on_answer)


async def publish_request(
    publisher: MessagePublisher, tenant: str, destination: str, document: bytes, headers: dict[str, str]
) -> PublishAck:
    """Publish a request.

    `headers` must hold `Nats-Msg-Id`. Raises `RejectedByServer` or `ServerUnavailable`; then it is safe to call again.
    """
    request = DeliveryRequest(tenant, destination, document, headers)
    return await publish(OverflowingPublisher(publisher), request.on(subjects.requested))


async def publish_requests(publisher: JetStreamPublisher, requests: Sequence[DeliveryRequest]) -> list[PublishAck]:
    """Publish requests to several destinations: all or none, even if this process or the server dies.

    A batch is atomic within one stream only. If a destination is at its limit, the whole batch is stored in the
    overflow. Requests to other destinations are then moved to the work stream at once, without waiting for the feeder.
    Requests that are stored already, by an earlier call, count as duplicates.

    Raises:
        RejectedByServer, ServerUnavailable: It is safe to call again.
    """
    if len(requests) == 1:
        return [await _publish(publisher, requests[0])]
    try:
        return await publisher.batches(streams.WORK.name).store([one.on(subjects.requested) for one in requests])
    except RejectedByServer as error:
        if error.err_code not in (SUBJECT_FULL, BATCH_HAS_DUPLICATE):
            raise
        is_repeated = error.err_code == BATCH_HAS_DUPLICATE
    if not is_repeated:
        try:
            stored = await publisher.batches(streams.OVERFLOW.name).store(
                [one.on(subjects.overflow) for one in requests]
            )
        except RejectedByServer as error:
            if error.err_code != BATCH_HAS_DUPLICATE:
                raise
        else:
            each = zip(requests, stored, strict=True)
            return await asyncio.gather(*(_move_to_work(publisher, one, at) for one, at in each))
    # An earlier call stored all of them, so each single request finds out where.
    return await asyncio.gather(*(_publish(publisher, one) for one in requests))


async def _publish(publisher: MessagePublisher, request: DeliveryRequest) -> PublishAck:
    return await publish_request(publisher, request.tenant, request.destination, request.document, request.headers)


async def _move_to_work(publisher: JetStreamPublisher, request: DeliveryRequest, stored: PublishAck) -> PublishAck:
    """Try to move a stored request from the overflow to the work stream, and return where it is then."""
    try:
        moved = await publisher.publish(request.on(subjects.requested))
    except JetStreamError:
        return stored
    with contextlib.suppress(JetStreamError):  # the feeder removes it: the work stream knows its id
        await publisher.remove(stored.stream, stored.seq)
    return PublishAck(moved.stream, moved.seq)
