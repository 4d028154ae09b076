"""What is kept of one tenant, as far as one filter takes it: in pages, each with what came after it."""

from collections.abc import AsyncIterator

from consumers.replay import superseded
from consumers.replay.superseded import PAGE_SIZE, SupersededPage
from consumers.retention import retained
from consumers.retention.retained import RetainedDelivery, RetainedRecord
from messaging.client.connection import NatsConnection
from schemas.configuration import ReplayFilter


class RetainedDeliverySource:
    """The kept deliveries that `chosen` takes, oldest first. `replay`: who looks, to know its own requests again."""

    def __init__(
        self, connection: NatsConnection, tenant: str, chosen: ReplayFilter, *, replay: str | None = None
    ) -> None:
        self._connection = connection
        self._tenant = tenant
        self._chosen = chosen
        self._replay = replay

    async def find_pages(self, *, after: int = 0, until: int | None = None) -> AsyncIterator[SupersededPage]:
        """What stands behind stream sequence `after`, up to and with `until`. Raises `JetStreamError`."""
        wanted: list[RetainedDelivery] = []
        async for found in self.scan(after=after, until=until):
            wanted.append(found.delivery)
            if len(wanted) >= PAGE_SIZE and found.delivery.is_last_in_batch:
                yield await self._look(wanted)
                wanted = []
        if wanted:
            yield await self._look(wanted)

    def read_page(self, page: SupersededPage) -> AsyncIterator[RetainedRecord]:
        """All of `page` once more, whole, in order."""
        return self.scan(after=page.deliveries[0].sequence - 1, until=page.deliveries[-1].sequence)

    def scan(self, *, after: int = 0, until: int | None = None) -> AsyncIterator[RetainedRecord]:
        """What stands behind `after`, without a look at what came later."""
        return retained.scan(self._connection, self._tenant, self._chosen, after=after, until=until)

    async def _look(self, wanted: list[RetainedDelivery]) -> SupersededPage:
        return await superseded.find_superseded(self._connection, self._tenant, wanted, self._replay)
