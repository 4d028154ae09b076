"""A lease: one holder at a time, by the server's clock."""

import asyncio

import msgspec
import pytest

from messaging.kv import KvBucket
from messaging.lease import OVERDUE_S, TTL_S, Lease, LeaseHolder, LeaseLost, find_holder
from schemas import streams
from tests.support.site import TENANT, Site
from tests.support.waiting import until

pytestmark = pytest.mark.retry

ANN = LeaseHolder(replay="rpl-1", by="ann", run="1")
BOB = LeaseHolder(replay="rpl-2", by="bob", run="2")


@pytest.fixture
def bucket(site: Site) -> KvBucket:
    """The bucket that leases are in."""
    return KvBucket(site.jetstream.connection, site.jetstream.publisher, streams.REPLAYS)


async def test_a_lease_has_one_holder(bucket: KvBucket) -> None:
    """Of many that want it at once one has it; given back, the next one has it without a wait."""
    leases = [Lease(bucket, TENANT, LeaseHolder(replay="rpl-1", by="ann", run=str(number))) for number in range(8)]

    holders = await asyncio.gather(*(lease.acquire() for lease in leases))
    (first,) = (lease for lease in leases if lease.is_held)
    await first.release()
    again = await leases[3].acquire()

    assert holders.count(None) == 1
    assert len({holder.run for holder in holders if holder}) == 1
    assert (again, leases[3].is_held, first.is_held) == (None, True, False)


async def test_tenants_have_separate_leases(bucket: KvBucket) -> None:
    """A lease of one tenant does not delay another tenant."""
    assert await Lease(bucket, TENANT, ANN).acquire() is None
    assert await Lease(bucket, "globex", BOB).acquire() is None
    assert await find_holder(bucket, TENANT) == ANN


async def test_the_lease_of_a_dead_holder_expires(bucket: KvBucket) -> None:
    """A lease without renewals is free after a few seconds, and a renewed one is not."""
    loop = asyncio.get_running_loop()
    dead, alive = Lease(bucket, TENANT, ANN), Lease(bucket, "globex", ANN)
    await dead.acquire()
    await alive.acquire()
    began = loop.time()

    async def is_free() -> bool:
        await alive.renew()
        return await Lease(bucket, TENANT, BOB).acquire() is None

    await until(is_free, TTL_S + 3)

    assert TTL_S - 1 < loop.time() - began < TTL_S + 2
    assert not dead.is_held, "its holder has known for a while"
    with pytest.raises(LeaseLost):
        await dead.renew()
    assert await find_holder(bucket, TENANT) == BOB
    assert (alive.is_held, await find_holder(bucket, "globex")) == (True, ANN)


async def test_a_former_holder_cannot_release_the_lease(bucket: KvBucket) -> None:
    """A holder that was replaced changes nothing any more."""
    ann, bob = Lease(bucket, TENANT, ANN), Lease(bucket, TENANT, BOB)
    await ann.acquire()
    await bucket.put(TENANT, b"", ttl_s=1)
    await bob.acquire()

    await ann.release()

    assert await find_holder(bucket, TENANT) == BOB
    await bob.renew()
    assert bob.is_held


async def test_a_lost_acknowledgement_does_not_lose_the_lease(bucket: KvBucket) -> None:
    """The holder recognizes a renewal whose acknowledgement was lost as its own."""
    ann = Lease(bucket, TENANT, ANN)
    await ann.acquire()
    known = ann.revision
    await ann.renew()
    ann.revision = known

    await ann.renew()

    assert ann.is_held
    assert ann.revision > known


async def test_a_lease_that_the_server_does_not_delete_is_free_after_its_lifetime(bucket: KvBucket) -> None:
    """After some restarts the server has forgotten to. A lease that is renewed stays with its holder."""
    await bucket.put(TENANT, msgspec.json.encode(ANN))  # without a TTL
    alive = Lease(bucket, "globex", ANN)
    await alive.acquire()
    assert await Lease(bucket, TENANT, BOB, ttl_s=1).acquire() == ANN

    async def is_free() -> bool:
        await alive.renew()
        assert await Lease(bucket, "globex", BOB, ttl_s=1).acquire() == ANN
        return await Lease(bucket, TENANT, BOB, ttl_s=1).acquire() is None

    await until(is_free, 1 + OVERDUE_S + 3)

    assert await find_holder(bucket, TENANT) == BOB
