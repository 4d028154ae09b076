"""The producer: requests in a burst, or at a pace, over all destinations in turn."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from bench.harness.errors import BenchError
from bench.harness.workload import ADDRESSES, PAYLOAD, Address, Contender
from messaging.client.errors import JetStreamError
from messaging.publication import Publication, PublishAck
from messaging.publisher import JetStreamPublisher
from schemas import subjects
from schemas.events import CONTENT_TYPE, DeliveryRequested, RequestedData, encode
from schemas.headers import HEADER_CHECKED, HEADER_MSG_ID
from schemas.ids import new_delivery_id

WINDOW: Final = 512
"""Requests that may be on their way to the server at a time."""


class Load:
    """Publishes requests to a contender's work stream, and remembers them by the receiver's name for each."""

    def __init__(
        self, publisher: JetStreamPublisher, contender: Contender, addresses: Sequence[Address] = ADDRESSES
    ) -> None:
        self._publisher = publisher
        self._contender = contender
        self._addresses = itertools.cycle(addresses)
        self._window = asyncio.Semaphore(WINDOW)
        self._refused: list[JetStreamError] = []
        self.published_ns: dict[str, int] = {}
        """Nanoseconds since 1970 at which each was published, by `<path> <delivery id>`."""

    async def burst(self, count: int) -> None:
        """Publish `count` requests as fast as the server stores them, and wait for the last. Raises `BenchError`."""
        for _ in range(count):
            await self._publish()
        await self._all_stored()

    async def paced(self, per_s: float, seconds: float) -> list[str]:
        """Publish at an even pace; returns the names. Raises `BenchError`."""
        names: list[str] = []
        began = time.perf_counter()
        for number in range(int(per_s * seconds)):
            await asyncio.sleep(max(0.0, began + number / per_s - time.perf_counter()))
            names.append(await self._publish())
        await self._all_stored()
        return names

    async def _publish(self) -> str:
        await self._window.acquire()
        address, delivery = next(self._addresses), new_delivery_id()
        headers = {
            HEADER_MSG_ID: subjects.msg_id(address.tenant, address.destination, delivery),
            "content-type": CONTENT_TYPE,
            HEADER_CHECKED: "1",  # like a request that came over the API
        }
        publication = Publication(self._contender.requested(address), document(address, delivery), headers)
        name = f"{address.path} {delivery}"
        self.published_ns[name] = time.time_ns()
        self._publisher.send(publication, self._on_stored)
        return name

    def _on_stored(self, result: PublishAck | JetStreamError) -> None:
        if not isinstance(result, PublishAck):
            self._refused.append(result)
        self._window.release()

    async def _all_stored(self) -> None:
        for _ in range(WINDOW):
            await self._window.acquire()
        for _ in range(WINDOW):
            self._window.release()
        if self._refused:
            raise BenchError(f"{len(self._refused)} requests were not stored, the first because: {self._refused[0]}")


def document(address: Address, delivery: str) -> bytes:
    """A request as a producer publishes it."""
    return encode(
        DeliveryRequested(
            specversion="1.0",
            id=delivery,
            source="/bench",
            type="oneprotect.delivery.requested.v1",
            time=datetime.now(UTC),
            tenant=address.tenant,
            data=RequestedData(
                destination=address.destination, event_type="invoice.paid", payload=msgspec.Raw(PAYLOAD)
            ),
        )
    )
