"""The cache: fresh for a minute, stale only in an outage, and closed in doubt."""

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Sequence

import pytest

from provider.cache.provider import MAX_REFUSALS, CachedSecretProvider
from provider.errors import (
    SecretDenied,
    SecretError,
    SecretMalformed,
    SecretMismatch,
    SecretNotFound,
    SecretRefForbidden,
    SecretUnavailable,
)
from provider.secret_manifest import read_manifest
from provider.secret_ref import SecretRef
from provider.signing_secret import SigningSecret
from provider.snapshot import SecretSnapshot
from schemas.codes import Code
from schemas.ids import Purpose
from tests.kubernetes.manifests import KEY, PURPOSE_LABEL, TENANT_LABEL, encoded, manifest
from tests.kubernetes.resolving import Clock
from tests.support.waiting import until

REF = SecretRef.parse("k8s://webhooks/acme-signing/signing")
REFUSALS = [SecretNotFound, SecretDenied, SecretMismatch, SecretMalformed, SecretRefForbidden]


class Reader:
    """A provider with scripted snapshots and exceptions."""

    def __init__(self) -> None:
        self.answer: SecretSnapshot | Exception = snapshot()
        self.asked: list[SecretRef] = []
        self.held: asyncio.Event | None = None
        self.reading = asyncio.Event()
        self.closed = False

    async def read(self, ref: SecretRef) -> SecretSnapshot:
        answer, held = self.answer, self.held
        self.asked.append(ref)
        self.reading.set()
        if held is not None:
            await held.wait()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def aclose(self) -> None:
        self.closed = True

    @property
    def reads(self) -> int:
        return len(self.asked)


def snapshot(version: int = 1, *, tenant: str = "acme", key: bytes = KEY) -> SecretSnapshot:
    labels = {TENANT_LABEL: tenant, PURPOSE_LABEL: "webhook-signing"}
    document = manifest(labels=labels, data={"signing": key})
    document["metadata"].update(uid="uid", resourceVersion=str(version))
    read = read_manifest(encoded(document), REF)
    assert isinstance(read, SecretSnapshot)
    return read


class Desk:
    """A cache with its clock and provider. Random draws are the latest allowed."""

    def __init__(
        self,
        *,
        max_stale_s: float = 300,
        max_entries: int = 2048,
        jitter: Callable[[float, float], float] = max,
        denied_pauses_s: Sequence[float] = (),
    ) -> None:
        self.clock, self.reader = Clock(), Reader()
        self.cache = CachedSecretProvider(
            self.reader,
            ttl_s=60,
            max_stale_s=max_stale_s,
            max_entries=max_entries,
            clock=self.clock,
            jitter=jitter,
            denied_pauses_s=denied_pauses_s,
        )

    def resolve(
        self, name: str = "acme-signing", *, tenant: str = "acme", key: str = "signing"
    ) -> Awaitable[SigningSecret]:
        ref = SecretRef(namespace="webhooks", name=name, key=key)
        return self.cache.resolve(ref, tenant=tenant, purpose=Purpose.WEBHOOK_SIGNING)

    async def version(self, name: str = "acme-signing") -> str:
        return (await self.resolve(name)).version

    async def refused(self, error: type[SecretError], name: str = "acme-signing", *, tenant: str = "acme") -> None:
        with pytest.raises(error) as failure:
            await self.resolve(name, tenant=tenant)
        assert failure.value.__context__ is None

    async def settled(self) -> None:
        """Wait until no read is in progress and the last result is cached."""
        await until(lambda: len(asyncio.all_tasks()) == 1)
        await asyncio.sleep(0)

    @property
    def counts(self) -> tuple[int, int, int, int]:
        cache = self.cache
        return cache.hits, cache.misses, cache.stale_served, cache.failures.total()


async def test_a_secret_is_read_once_a_minute() -> None:
    """The cache answers between two reads, and an answer prolongs nothing."""
    desk = Desk()

    for now_s in (1000.0, 1030.0, 1047.9):
        desk.clock.now_s = now_s
        assert await desk.version() == "uid/1"
    desk.reader.answer = snapshot(2)
    before = desk.reader.reads
    desk.clock.now_s = 1060.0

    assert (before, await desk.version(), desk.reader.reads) == (1, "uid/2", 2)
    assert desk.counts == (2, 2, 0, 0)


async def test_the_minute_is_shortened_at_random() -> None:
    """The time is shortened by up to a fifth, so that simultaneous reads spread."""
    drawn: list[tuple[float, float]] = []

    def earliest(low: float, high: float) -> float:
        drawn.append((low, high))
        return low

    desk = Desk(jitter=earliest)
    await desk.version()
    desk.clock.now_s += 47.9
    await desk.version()
    hits = desk.cache.hits
    desk.clock.now_s += 0.2
    await desk.version()

    assert (hits, desk.counts) == (1, (1, 2, 0, 0))
    assert set(drawn) == {(0.8, 1.0), (0.8, 1.2)}


async def test_an_answer_ages_from_when_its_read_began() -> None:
    """The age of a slow answer counts from its request."""
    desk = Desk()
    desk.reader.held = asyncio.Event()
    first = asyncio.ensure_future(desk.resolve())
    await desk.reader.reading.wait()
    desk.clock.now_s += 50
    desk.reader.held.set()
    await first

    desk.clock.now_s = 1047.0
    await desk.version()
    reads = desk.reader.reads
    desk.reader.answer = SecretUnavailable()
    desk.clock.now_s = 1060.0
    await desk.version()
    desk.clock.now_s = 1300.0

    await desk.refused(SecretUnavailable)
    assert (reads, desk.reader.reads) == (1, 3)


async def test_all_keys_of_a_secret_come_with_one_read() -> None:
    """The cache stores the Secret and not the key."""
    desk = Desk()
    await desk.version()

    with pytest.raises(SecretNotFound):
        await desk.resolve(key="other")

    assert desk.reader.reads == 1


async def test_concurrent_resolves_share_one_read() -> None:
    """A hundred resolves of an unknown Secret cause one call to the provider."""
    desk = Desk()

    found = await asyncio.gather(*(desk.resolve() for _ in range(100)))

    assert {secret.version for secret in found} == {"uid/1"}
    assert desk.reader.reads == 1


async def test_concurrent_refusals_have_their_own_errors() -> None:
    """A shared exception object would contain the tracebacks of all callers."""
    desk = Desk()
    desk.reader.answer = SecretDenied()

    errors = await asyncio.gather(*(desk.resolve() for _ in range(10)), return_exceptions=True)

    assert {type(error) for error in errors} == {SecretDenied}
    assert len({id(error) for error in errors}) == 10
    assert desk.reader.reads == 1


async def test_the_first_caller_can_be_cancelled() -> None:
    """Cancelling the first caller does not affect the other callers."""
    desk = Desk()
    desk.reader.held = asyncio.Event()
    first, second = asyncio.ensure_future(desk.resolve()), asyncio.ensure_future(desk.resolve())
    await desk.reader.reading.wait()

    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    desk.reader.held.set()

    assert (await second).version == "uid/1"
    assert desk.reader.reads == 1


@pytest.mark.parametrize("fails", [False, True])
async def test_an_abandoned_read_is_still_cached(fails: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The read ends quietly and serves the next caller."""
    desk = Desk()
    desk.reader.answer = SecretDenied() if fails else snapshot()
    desk.reader.held = asyncio.Event()
    only = asyncio.ensure_future(desk.resolve())
    await desk.reader.reading.wait()
    only.cancel()
    await asyncio.wait([only])

    desk.reader.held.set()
    (failure,) = await asyncio.gather(desk.resolve(), return_exceptions=True)
    del only
    gc.collect()

    assert isinstance(failure, SecretDenied if fails else SigningSecret)
    assert desk.reader.reads == 1
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_an_outage_is_bridged_but_not_for_long() -> None:
    """Stale from the end of its minute until five minutes after the read, then not at all."""
    desk = Desk()
    await desk.version()
    desk.reader.answer = SecretUnavailable()

    desk.clock.now_s = 1299.9
    version = await desk.version()
    desk.clock.now_s = 1300.0

    await desk.refused(SecretUnavailable)
    assert version == "uid/1"
    assert desk.counts == (0, 2, 1, 1)


async def test_serving_stale_does_not_prolong_itself() -> None:
    """However often it is used in an outage, the bound stays where it was."""
    desk = Desk()
    await desk.version()
    desk.reader.answer = SecretUnavailable()

    served = 0
    for _ in range(40):
        desk.clock.now_s += 7
        served += len(await asyncio.gather(desk.resolve(), desk.resolve()))
    desk.clock.now_s = 1300.0

    await desk.refused(SecretUnavailable)
    assert served == 80


async def test_nothing_is_served_stale_when_that_is_switched_off() -> None:
    """With a bound of 0, an outage is noticed as soon as the minute is over."""
    desk = Desk(max_stale_s=0)
    await desk.version()
    desk.reader.answer = SecretUnavailable()

    desk.clock.now_s += 47
    version = await desk.version()
    desk.clock.now_s += 13

    await desk.refused(SecretUnavailable)
    assert version == "uid/1"


async def test_an_outage_limits_calls_to_the_provider() -> None:
    """A failed read is repeated after about five seconds, and no caller waits in between."""
    desk = Desk()
    await desk.version()
    desk.reader.answer = SecretUnavailable()
    desk.clock.now_s += 60

    for _ in range(50):
        await desk.version()
    reads = desk.reader.reads
    desk.clock.now_s += 6
    desk.reader.answer = snapshot(2)

    assert (reads, await desk.version()) == (2, "uid/2")
    assert desk.counts == (0, 3, 50, 1)


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_refusal_drops_the_cached_secret(refusal: type[SecretError]) -> None:
    """A deleted or denied Secret is not served stale, not even in a later outage."""
    desk = Desk()
    await desk.version()
    desk.clock.now_s += 60
    desk.reader.answer = refusal()

    await desk.refused(refusal)
    desk.reader.answer = SecretUnavailable()
    desk.clock.now_s += 6

    await desk.refused(SecretUnavailable)
    assert desk.cache.stale_served == 0


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_refusal_is_remembered_for_five_seconds(refusal: type[SecretError]) -> None:
    """Repeated calls do not reach the provider, and a corrected Secret is seen soon."""
    desk = Desk()
    desk.reader.answer = refusal()
    await desk.refused(refusal)
    desk.reader.answer = snapshot()

    desk.clock.now_s += 5.9
    await desk.refused(refusal)
    reads = desk.reader.reads
    desk.clock.now_s += 0.1

    assert (reads, await desk.version()) == (1, "uid/1")


async def test_an_outage_is_not_cached_without_a_snapshot() -> None:
    """The first answer after the outage counts at once."""
    desk = Desk()
    desk.reader.answer = SecretUnavailable()
    await desk.refused(SecretUnavailable)
    desk.reader.answer = snapshot()

    assert await desk.version() == "uid/1"


async def test_unknown_secrets_evict_no_known_ones() -> None:
    """Refused refs have their own bounded cache."""
    desk = Desk(max_entries=2)
    await desk.version()
    desk.reader.answer = SecretNotFound()

    for number in range(MAX_REFUSALS + 1):
        await desk.refused(SecretNotFound, f"unknown-{number}")
    reads = desk.reader.reads
    await desk.refused(SecretNotFound, "unknown-1")
    reads_of_remembered = desk.reader.reads
    await desk.refused(SecretNotFound, "unknown-0")

    assert await desk.version() == "uid/1"
    assert (reads_of_remembered - reads, desk.reader.reads - reads) == (0, 1)


async def test_the_least_used_secret_makes_room() -> None:
    """Memory is bounded by the number of Secrets. Which was used last is known to the second."""
    desk = Desk(max_entries=2)

    for name in ("a", "b", "a", "c"):
        await desk.resolve(name)
        desk.clock.now_s += 1
    reads = desk.reader.reads
    await desk.resolve("a")
    await desk.resolve("c")
    reads_of_kept = desk.reader.reads - reads
    await desk.resolve("b")

    assert (reads, reads_of_kept, desk.reader.reads) == (3, 0, 4)


async def test_unused_secrets_are_removed() -> None:
    """The next read of another Secret removes those that are too old."""
    desk = Desk()
    await desk.resolve("a")

    desk.clock.now_s += 299
    await desk.resolve("b")
    before = desk.cache.size
    desk.clock.now_s += 1
    await desk.resolve("c")

    assert (before, desk.cache.size) == (2, 2)


async def test_the_owner_is_checked_on_every_resolve() -> None:
    """A Secret cached for one tenant is refused to others, fresh or stale, without effect on its owner."""
    desk = Desk()
    await desk.version()

    await desk.refused(SecretMismatch, tenant="globex")
    desk.reader.answer = SecretUnavailable()
    desk.clock.now_s += 60
    await desk.refused(SecretUnavailable, tenant="globex")

    assert await desk.version() == "uid/1"
    assert desk.cache.stale_served == 1


async def test_requests_for_another_tenants_secret_do_not_affect_its_owner() -> None:
    """Refusals evict nothing, delay no owner, and reach the provider every five seconds at most."""
    desk = Desk()
    await desk.version()

    for _ in range(12):
        desk.clock.now_s += 1
        await desk.refused(SecretMismatch, tenant="globex")
    reads = desk.reader.reads
    await desk.version()

    assert (reads, desk.reader.reads) == (3, 3)
    assert desk.cache.hits == 1


async def test_a_stale_snapshot_causes_no_refusal() -> None:
    """In an outage, another tenant's request fails as unavailable and not as a mismatch."""
    desk = Desk()
    await desk.version()
    desk.reader.answer = SecretUnavailable()
    desk.clock.now_s += 6

    await desk.refused(SecretUnavailable, tenant="globex")
    await desk.refused(SecretUnavailable, tenant="globex")

    assert desk.reader.reads == 2
    assert await desk.version() == "uid/1"


async def test_a_relabelled_secret_stops_serving_its_old_owner() -> None:
    """At the next read, the new label decides."""
    desk = Desk()
    await desk.version()
    desk.reader.answer = snapshot(2, tenant="globex")
    desk.clock.now_s += 60

    await desk.refused(SecretMismatch)
    assert (await desk.resolve(tenant="globex")).version == "uid/2"


async def test_a_corrected_key_is_seen_within_its_minute() -> None:
    """A malformed key is read again after five seconds."""
    desk = Desk()
    desk.reader.answer = snapshot(1, key=b"short")
    await desk.refused(SecretMalformed)
    desk.reader.answer = snapshot(2)

    desk.clock.now_s += 5
    await desk.refused(SecretMalformed)
    desk.clock.now_s += 1

    assert await desk.version() == "uid/2"


async def test_an_evicted_secret_is_read_again() -> None:
    """For a revocation that cannot wait."""
    desk = Desk()
    await desk.version()
    desk.reader.answer = snapshot(2)

    desk.cache.evict("webhooks", "acme-signing")
    desk.cache.evict("webhooks", "never-seen")

    assert await desk.version() == "uid/2"


async def test_an_expired_secret_is_read_again_and_serves_in_an_outage() -> None:
    """For a Secret that may have changed: only an answer replaces the copy."""
    desk = Desk()
    await desk.version()

    desk.cache.expire("webhooks", "acme-signing")
    desk.cache.expire("webhooks", "never-seen")
    desk.reader.answer = SecretUnavailable()
    in_outage = await desk.version()
    desk.cache.expire("webhooks", "acme-signing")
    desk.reader.answer = snapshot(2)

    assert (in_outage, await desk.version(), desk.reader.reads) == ("uid/1", "uid/2", 3)


@pytest.mark.parametrize("refusal", [SecretNotFound(), snapshot(1, key=b"short"), SecretUnavailable()])
async def test_a_forgotten_failure_is_read_again(refusal: SecretSnapshot | Exception) -> None:
    """A Secret that was just repaired serves at once, and one that is usable is not read."""
    desk = Desk()
    desk.reader.answer = refusal
    with pytest.raises(SecretError):
        await desk.resolve()
    desk.reader.answer = snapshot(2)

    for _ in range(2):
        desk.cache.forget_failure("webhooks", "acme-signing")
        assert await desk.version() == "uid/2"
    assert desk.reader.reads == 2


async def test_a_check_uses_no_stale_secret() -> None:
    """A copy that bridges an outage says nothing about the Secret. It stays for the deliveries."""
    desk = Desk()
    await desk.version()
    desk.clock.now_s += 61
    desk.reader.answer = SecretUnavailable()

    with pytest.raises(SecretUnavailable):
        await desk.cache.resolve(REF, tenant="acme", purpose=Purpose.WEBHOOK_SIGNING, allow_stale=False)

    assert await desk.version() == "uid/1"


class DenyingReader(Reader):
    """A provider that denies a number of reads."""

    def __init__(self, denials: int) -> None:
        super().__init__()
        self.denials = denials

    async def read(self, ref: SecretRef) -> SecretSnapshot:
        found = await super().read(ref)
        if self.reads > 1 and self.reads <= 1 + self.denials:
            raise SecretDenied
        return found


@pytest.mark.parametrize(("denials", "expected"), [(2, "uid/1"), (3, SecretDenied)])
async def test_a_secret_that_could_be_read_is_denied_only_after_some_reads(
    denials: int, expected: str | type[SecretError]
) -> None:
    """A restarted API server denies everything until it has its roles. Then the copy is dropped."""
    desk = Desk()
    cache = CachedSecretProvider(reader := DenyingReader(denials), ttl_s=60, clock=desk.clock, denied_pauses_s=(0, 0))
    desk.cache = cache
    await desk.version()
    desk.clock.now_s += 61

    if isinstance(expected, str):
        assert await desk.version() == expected
    else:
        await desk.refused(expected)
    assert (reader.reads, cache.size) == (1 + min(denials, 2) + 1, isinstance(expected, str))


async def test_a_secret_that_was_never_read_is_denied_at_once() -> None:
    """The roles do not grant it, and more reads would only cost."""
    desk = Desk(denied_pauses_s=(0, 0))
    desk.reader.answer = SecretDenied()

    await desk.refused(SecretDenied)

    assert desk.reader.reads == 1


async def test_the_whole_cache_can_be_cleared() -> None:
    """Clearing drops Secrets, refusals and reads in progress."""
    desk = Desk()
    await desk.version("a")
    await desk.version("b")
    desk.reader.answer = SecretNotFound()
    await desk.refused(SecretNotFound, "c")
    desk.reader.held, desk.reader.answer = asyncio.Event(), snapshot()
    desk.reader.reading.clear()
    slow = asyncio.ensure_future(desk.resolve("d"))
    await desk.reader.reading.wait()

    desk.cache.evict_all()
    desk.reader.held.set()
    await slow
    size, reads = desk.cache.size, desk.reader.reads
    desk.reader.held, desk.reader.answer = None, snapshot(2)

    assert [await desk.version(name) for name in ("a", "b", "c", "d")] == ["uid/2"] * 4
    assert (size, desk.reader.reads - reads) == (0, 4)


async def test_evicting_forgets_a_refusal_too() -> None:
    """A Secret that was just created serves at once."""
    desk = Desk()
    desk.reader.answer = SecretNotFound()
    await desk.refused(SecretNotFound)
    desk.reader.answer = snapshot()

    desk.cache.evict("webhooks", "acme-signing")

    assert await desk.version() == "uid/1"


@pytest.mark.parametrize("late", [snapshot(1), SecretNotFound(), SecretUnavailable()])
async def test_an_older_answer_never_replaces_a_newer_one(late: SecretSnapshot | Exception) -> None:
    """A read that is older than an eviction and a second read is dropped."""
    desk = Desk()
    desk.reader.answer, desk.reader.held = late, asyncio.Event()
    slow = asyncio.ensure_future(desk.resolve())
    await desk.reader.reading.wait()
    slow_may_go_on, desk.reader.held = desk.reader.held, None

    desk.cache.evict("webhooks", "acme-signing")
    desk.reader.answer = snapshot(2)
    newer = await desk.version()
    slow_may_go_on.set()
    await asyncio.gather(slow, return_exceptions=True)

    assert (newer, await desk.version(), desk.reader.reads) == ("uid/2", "uid/2", 2)


async def test_closing_clears_the_cache_and_stops_reads() -> None:
    """Waiting callers get an error, and nothing is served or read afterwards."""
    desk = Desk()
    await desk.version()
    desk.reader.held = asyncio.Event()
    desk.reader.reading.clear()
    waiting = asyncio.ensure_future(desk.resolve("other"))
    await desk.reader.reading.wait()

    await desk.cache.aclose()
    (failure,) = await asyncio.gather(waiting, return_exceptions=True)

    assert isinstance(failure, SecretUnavailable)
    assert desk.reader.closed
    reads = desk.reader.reads
    await desk.refused(SecretUnavailable)
    assert desk.reader.reads == reads
    assert len(asyncio.all_tasks()) == 1


async def test_an_unknown_exception_counts_as_an_outage() -> None:
    """Callers get the product's error without a cause, and a stale snapshot bridges the outage."""
    desk = Desk()
    desk.reader.answer = ValueError(KEY)
    await desk.refused(SecretUnavailable)
    desk.reader.answer = snapshot()
    await desk.version()

    desk.reader.answer = ValueError(KEY)
    desk.clock.now_s += 60

    assert await desk.version() == "uid/1"
    assert desk.counts == (0, 3, 1, 2)


async def test_the_fast_path_serves_only_fresh_and_allowed_secrets() -> None:
    """The fast path never waits or reads, and leaves other cases to `resolve`."""
    desk = Desk()

    def cached(tenant: str = "acme") -> SigningSecret | None:
        return desk.cache.find_cached(REF, tenant=tenant, purpose=Purpose.WEBHOOK_SIGNING)

    before = cached()
    secret = await desk.resolve()
    fresh, others = cached(), cached("globex")
    desk.clock.now_s += 60

    assert (before, fresh, others, cached()) == (None, secret, None, None)
    assert desk.reader.reads == 1
    assert desk.cache.hits == 1


async def test_a_used_secret_is_refreshed_before_it_expires() -> None:
    """One background read starts after four fifths of the time, and callers get the old Secret meanwhile."""
    desk = Desk()
    await desk.version()
    desk.reader.answer, desk.reader.held = snapshot(2), asyncio.Event()
    desk.clock.now_s += 47.9
    before = (await desk.version(), desk.reader.reads, desk.cache.refreshes, len(asyncio.all_tasks()))

    desk.clock.now_s += 0.1
    meanwhile = [await desk.version() for _ in range(100)]
    desk.reader.held.set()
    await desk.settled()
    desk.clock.now_s += 20

    assert before == ("uid/1", 1, 0, 1)
    assert set(meanwhile) == {"uid/1"}
    assert (await desk.version(), desk.reader.reads, desk.cache.refreshes) == ("uid/2", 2, 1)
    assert desk.counts == (102, 1, 0, 0)


async def test_a_caller_after_expiry_joins_the_running_read() -> None:
    """There is one read, whichever caller started it."""
    desk = Desk()
    await desk.version()
    desk.reader.answer, desk.reader.held = snapshot(2), asyncio.Event()
    desk.clock.now_s += 50
    await desk.version()

    desk.clock.now_s += 10
    late = asyncio.ensure_future(desk.resolve())
    desk.reader.held.set()

    assert ((await late).version, desk.reader.reads) == ("uid/2", 2)


async def test_a_failed_background_read_is_repeated() -> None:
    """The next caller after five seconds repeats the read, and the old Secret is served meanwhile."""
    desk = Desk()
    await desk.version()
    desk.reader.answer = SecretUnavailable()

    reads: list[int] = []
    for now_s in (1048.0, 1049.0, 1053.9, 1054.0, 1059.0):
        desk.clock.now_s = now_s
        assert await desk.version() == "uid/1"
        await desk.settled()
        reads.append(desk.reader.reads)

    assert reads == [2, 2, 2, 3, 3]
    assert desk.counts == (5, 1, 0, 2)
    assert desk.cache.failures == {Code.SECRET_UNAVAILABLE: 2}


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_background_read_that_is_refused_ends_it_at_once(refusal: type[SecretError]) -> None:
    """Though its time was not over: the right to a Secret, or the Secret itself, is gone."""
    desk = Desk()
    await desk.version()
    desk.reader.answer = refusal()
    desk.clock.now_s += 50

    last = await desk.version()
    await desk.settled()

    await desk.refused(refusal)
    assert (last, desk.cache.size) == ("uid/1", 0)
    assert desk.cache.failures == {refusal.code: 1}


async def test_who_may_not_have_a_secret_does_not_keep_it_fresh() -> None:
    """Only its owner's use is use."""
    desk = Desk()
    await desk.version()
    desk.clock.now_s += 50

    found = desk.cache.find_cached(REF, tenant="globex", purpose=Purpose.WEBHOOK_SIGNING)

    assert (found, desk.cache.refreshes, len(asyncio.all_tasks())) == (None, 0, 1)


async def test_a_background_read_that_was_overtaken_leaves_no_trace() -> None:
    """Evicting means from now on."""
    desk = Desk()
    await desk.version()
    desk.reader.held = asyncio.Event()
    desk.clock.now_s += 50
    await desk.version()
    await until(lambda: desk.reader.reads == 2)

    desk.cache.evict("webhooks", "acme-signing")
    desk.reader.held.set()
    await desk.settled()

    assert desk.cache.size == 0


async def test_one_tenant_cannot_evict_anothers_secrets() -> None:
    """The tenant with most Secrets loses its least used one."""
    desk = Desk(max_entries=4)
    for name in ("a", "b"):
        await desk.resolve(name)
    desk.reader.answer = snapshot(1, tenant="globex")
    for number in range(50):
        await desk.resolve(f"globex-{number}", tenant="globex")
    reads = desk.reader.reads

    await desk.resolve("a")
    await desk.resolve("b")
    await desk.resolve("globex-48", tenant="globex")
    await desk.resolve("globex-49", tenant="globex")

    assert (desk.reader.reads, desk.cache.size) == (reads, 4)


async def test_a_tenant_may_use_free_shares_of_others() -> None:
    """A share is a guaranteed minimum and not a maximum."""
    desk = Desk(max_entries=4)
    for name in ("a", "b", "c"):
        await desk.resolve(name)
    desk.reader.answer = snapshot(1, tenant="globex")
    await desk.resolve("d", tenant="globex")
    full = desk.cache.size
    await desk.resolve("e", tenant="globex")
    reads = desk.reader.reads

    for name, tenant in (("b", "acme"), ("c", "acme"), ("d", "globex"), ("e", "globex")):
        await desk.resolve(name, tenant=tenant)

    assert (full, desk.reader.reads) == (4, reads)


async def test_a_relabelled_secret_counts_for_its_new_owner() -> None:
    """Shares follow the labels."""
    desk = Desk(max_entries=3)
    for name in ("a", "b", "c"):
        await desk.resolve(name)
    desk.clock.now_s += 60
    desk.reader.answer = snapshot(2, tenant="globex")
    for name in ("b", "c"):
        await desk.resolve(name, tenant="globex")
    desk.reader.answer = snapshot(2)
    await desk.resolve("a")
    await desk.resolve("d")
    reads = desk.reader.reads

    await desk.resolve("a")
    await desk.resolve("c", tenant="globex")

    assert (desk.reader.reads, desk.cache.size) == (reads, 3)


async def test_ages_are_reported_without_names() -> None:
    """The histogram gets the age of each cached Secret."""
    desk = Desk()
    await desk.version("a")
    desk.clock.now_s += 7
    await desk.version("b")
    desk.clock.now_s += 1

    assert sorted(desk.cache.ages_s) == [1, 8]
