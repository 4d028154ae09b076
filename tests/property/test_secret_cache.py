"""Properties of the cache under any course of events."""

import asyncio

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provider.cache import CachedSecretProvider
from provider.errors import SecretDenied, SecretError, SecretNotFound, SecretUnavailable
from provider.manifest import read_manifest
from provider.ref import SecretRef
from provider.snapshot import Snapshot
from provider.value import SigningSecret
from schemas.ids import Purpose
from tests.kubernetes.manifests import encoded, manifest
from tests.kubernetes.resolving import REF

TTL_S, MAX_STALE_S = 60.0, 300.0

events = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.sampled_from([0.5, 3.0, 7.0, 40.0, 59.0, 100.0, 250.0])),
        st.tuples(st.just("world"), st.sampled_from(["new", SecretUnavailable, SecretNotFound, SecretDenied])),
        st.tuples(st.just("resolve"), st.sampled_from(["acme", "acme", "acme", "globex"])),
        st.tuples(st.just("evict"), st.none()),
    ),
    max_size=60,
)


class World:
    """A provider that keeps a diary: when it was read, and what it said."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.state: int | type[SecretError] = 1
        self.diary: list[tuple[float, int | type[SecretError]]] = []

    async def read(self, ref: SecretRef) -> Snapshot:
        self.diary.append((self.now_s, self.state))
        if not isinstance(self.state, int):
            raise self.state
        document = manifest(name=ref.name)
        document["metadata"].update(uid="uid", resourceVersion=str(self.state))
        snapshot = read_manifest(encoded(document), ref)
        assert isinstance(snapshot, Snapshot)
        return snapshot

    async def aclose(self) -> None: ...


@given(events)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_secret_is_never_served_beyond_its_bounds(course: list[tuple[str, object]]) -> None:
    """Whatever happens in whatever order, what is served was said recently enough, and by the latest word on it."""

    async def run() -> None:
        world, versions, evicted_at = World(), 1, 0
        cache = CachedSecretProvider(world, ttl_s=TTL_S, max_stale_s=MAX_STALE_S, clock=lambda: world.now_s)
        for kind, value in course:
            match kind, value:
                case "wait", float(wait_s):
                    world.now_s += wait_s
                case "world", "new":
                    versions += 1
                    world.state = versions
                case "world", state:
                    assert isinstance(state, type)
                    world.state = state
                case "evict", _:
                    cache.evict(REF.namespace, REF.name)
                    evicted_at = len(world.diary)
                case _, tenant:
                    await check(world, cache, str(tenant), evicted_at)

    asyncio.run(run())


async def check(world: World, cache: CachedSecretProvider, tenant: str, evicted_at: int) -> None:
    """Resolve once and hold the outcome against the diary."""
    (outcome,) = await asyncio.gather(
        cache.resolve(REF, tenant=tenant, purpose=Purpose.WEBHOOK_SIGNING), return_exceptions=True
    )
    said = [(at_s, what) for at_s, what in world.diary[evicted_at:] if what is not SecretUnavailable]
    if not isinstance(outcome, SigningSecret):
        assert isinstance(outcome, SecretError)
        assert tenant != "acme" or world.diary[-1][1] is type(outcome)
        return
    said_at_s, latest = said[-1]
    assert tenant == "acme"
    assert outcome.version == f"uid/{latest}"
    assert world.now_s - said_at_s < MAX_STALE_S
    assert world.now_s - said_at_s < TTL_S or world.diary[-1][1] is SecretUnavailable
