"""kill -9 of consumers and of the server under load: the archive has every delivered delivery."""

from collections import Counter
from collections.abc import Callable

import pytest

from consumers.retention.archive import read_archive_batch
from schemas import streams
from schemas.codes import Outcome
from schemas.events import decode_request
from tests.support.receiver import Scripted
from tests.support.site import Site
from tests.support.waiting import until

pytestmark = pytest.mark.retry

ROUNDS = 6
EACH = 100


async def test_the_archive_is_complete_after_repeated_kills(
    site: Site, receiver: Scripted, figure: Callable[[str], None]
) -> None:
    """No copy is missing although consumers and the server are killed in the middle of archive batches."""
    for name in ("orders", "invoices"):
        await site.destination(name, receiver.url, max_in_flight=32)
    deliveries: set[str] = set()

    for kill in range(ROUNDS):
        async with site.consumer_process() as consumer:
            for number in range(EACH):
                deliveries.add(await site.deliver("orders" if number % 2 else "invoices"))
            # The first deliveries have arrived; the last ones are neither archived nor acknowledged.
            await until(lambda kill=kill: len(receiver.seen) >= EACH * kill + EACH // 2, 30)  # type: ignore[misc]
            if kill % 2:
                await site.server.kill()
            consumer.kill()
            await consumer.wait()
        if kill % 2:
            await site.server.start()
            await until(lambda: site.jetstream.connection.is_connected, 20)
    async with site.consumer_process():
        await until(site.is_settled, 60)

    delivered = {r.delivery for r in await site.results() if r.outcome is Outcome.DELIVERED}
    packs = await site.records(streams.DELIVERED)
    copies = Counter(decode_request(one.data).id for packed in packs for one in read_archive_batch(packed))
    assert delivered == deliveries
    assert set(copies) == deliveries
    figure(
        f"{len(deliveries)} delivered, {ROUNDS} kills: {len(copies)} in the archive, {copies.total() - len(copies)} of "
        f"them twice, in {len(packs)} packs; sent twice: {len(receiver.seen) - len(deliveries)}"
    )
