"""How deliveries are requested: the one rule that every publisher follows (contract, section 3)."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from msgspec import Struct

from messaging.client.errors import BATCH_HAS_DUPLICATE, SUBJECT_FULL, JetStreamError, RejectedByServer
from messaging.publisher import JetStreamPublisher, MessagePublisher, OnStored, Publication, PublishAck
from schemas import subjects


class DeliveryRequest(Struct, frozen=True, gc=False):
    """A delivery to ask for: where to, the document, and headers with `Nats-Msg-Id` among them."""

    tenant: str
    destination: str
    document: bytes
    headers: dict[str, str]

    def on(self, subject: Callable[[str, str], str]) -> Publication:
        """The message for `subjects.requested` or `subjects.overflow`."""
        return Publication(subject(self.tenant, self.destination), self.document, self.headers)


async def publish_request(
    publisher: JetStreamPublisher, tenant: str, destination: str, document: bytes, headers: dict[str, str]
) -> PublishAck:
    """Publish a request; when its destination has its fill of due work, publish the same to the overflow.

    `headers` must hold `Nats-Msg-Id`. Raises `RejectedByServer` or `ServerUnavailable`; then it is safe to call again.
    """
    asked = DeliveryRequest(tenant, destination, document, headers)
    try:
        return await publisher.publish(asked.on(subjects.requested))
    except RejectedByServer as error:
        if error.err_code != SUBJECT_FULL:
            raise
    return await publisher.publish(asked.on(subjects.overflow))


async def publish_requests(publisher: JetStreamPublisher, requests: Sequence[DeliveryRequest]) -> list[PublishAck]:
    """Publish requests to several destinations: all or none, whenever this process or the server dies.

    A batch is atomic within one stream only. So when a destination has its fill of due work, the whole batch is stored
    in the overflow, and what finds room is then moved from there to the work stream at once, as the feeder would do a
    second later. Repeated with the same `Nats-Msg-Id`s, what is stored already counts as a duplicate.
    Raises `RejectedByServer` or `ServerUnavailable`; then it is safe to call again.
    """
    if len(requests) == 1:
        return [await _request(publisher, requests[0])]
    try:
        return await publisher.batches(subjects.WORK.name).store([one.on(subjects.requested) for one in requests])
    except RejectedByServer as error:
        if error.err_code not in (SUBJECT_FULL, BATCH_HAS_DUPLICATE):
            raise
        is_repeated = error.err_code == BATCH_HAS_DUPLICATE
    if not is_repeated:
        try:
            stored = await publisher.batches(subjects.OVERFLOW.name).store(
                [one.on(subjects.overflow) for one in requests]
            )
        except RejectedByServer as error:
            if error.err_code != BATCH_HAS_DUPLICATE:
                raise
        else:
            each = zip(requests, stored, strict=True)
            return await asyncio.gather(*(_moved(publisher, one, at) for one, at in each))
    # These were all accepted before: asking one by one only finds out what there is.
    return await asyncio.gather(*(_request(publisher, one) for one in requests))


async def _request(publisher: JetStreamPublisher, one: DeliveryRequest) -> PublishAck:
    return await publish_request(publisher, one.tenant, one.destination, one.document, one.headers)


async def _moved(publisher: JetStreamPublisher, one: DeliveryRequest, at: PublishAck) -> PublishAck:
    """Where it is after an attempt to move it to the work stream. It is accepted, whatever becomes of that."""
    try:
        stored = await publisher.publish(one.on(subjects.requested))
    except JetStreamError:
        return at
    with contextlib.suppress(JetStreamError):  # the feeder finds it there, and the work stream knows its id
        await publisher.remove(at.stream, at.seq)
    return PublishAck(stored.stream, stored.seq)


class OverflowingPublisher:
    """The same for whoever sends without waiting: a publisher of requests that follows the rule by itself."""

    def __init__(self, publisher: MessagePublisher) -> None:
        self._publisher = publisher

    def send(self, publication: Publication, on_stored: OnStored) -> None:
        """Send a request, and call `on_stored` once, with what became of it in the end."""

        def on_answer(result: PublishAck | JetStreamError) -> None:
            if not (isinstance(result, RejectedByServer) and result.err_code == SUBJECT_FULL):
                on_stored(result)
                return
            overflow = subjects.overflow(*subjects.tenant_and_destination(publication.subject))
            self._publisher.send(Publication(overflow, publication.payload, publication.headers), on_stored)

        self._publisher.send(publication, on_answer)
