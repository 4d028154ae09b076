"""Cache before Kubernetes: effect of the API server's answers on cached Secrets."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from provider.cache.provider import CachedSecretProvider
from provider.errors import SecretDenied, SecretError, SecretNotFound, SecretUnavailable
from provider.kubernetes.circuit_breaker import BreakerState
from provider.kubernetes.provider import KubernetesSecretProvider
from provider.signing_secret import SigningSecret
from schemas.codes import Code
from tests.kubernetes import faults
from tests.kubernetes.apiserver import ApiServer
from tests.kubernetes.resolving import Clock, refused, resolve
from tests.support.waiting import until


@pytest.fixture
def clock() -> Clock:
    """The cache's."""
    return Clock()


@pytest_asyncio.fixture
async def cache(provider: KubernetesSecretProvider, clock: Clock) -> AsyncIterator[CachedSecretProvider]:
    """With the Secret in memory."""
    opened = CachedSecretProvider(provider, clock=clock, jitter=max)
    await resolve(opened)
    yield opened
    await opened.aclose()


def lose_token(server: ApiServer) -> None:
    server.users.clear()


def lose_right(server: ApiServer) -> None:
    server.revoke_all()


def lose_secret(server: ApiServer) -> None:
    server.remove("webhooks", "acme-signing")


LOSSES = [(lose_token, SecretDenied), (lose_right, SecretDenied), (lose_secret, SecretNotFound)]


@pytest.mark.parametrize(("lose", "error"), LOSSES)
@pytest.mark.parametrize("elapsed_s", [50, 61])
async def test_a_certain_refusal_evicts_the_secret(
    server: ApiServer, cache: CachedSecretProvider, clock: Clock, lose: object, error: type[SecretError], elapsed_s: int
) -> None:
    """A denied or deleted Secret leaves the cache at once, and a later outage does not revive it."""
    assert callable(lose)
    lose(server)
    clock.now_s += elapsed_s
    if elapsed_s < 60:  # in use before its time is over, so it is refreshed in the background
        await resolve(cache)
        await until(lambda: cache.size == 0)

    await refused(cache, error)
    server.every_answer = faults.saying(400)
    clock.now_s += 10
    await refused(cache, SecretUnavailable)

    assert (cache.size, cache.stale_served) == (0, 0)
    assert cache.failures == {error.code: 1, Code.SECRET_UNAVAILABLE: 1}


async def test_the_cache_bridges_an_outage_with_few_reads(
    server: ApiServer,
    provider: KubernetesSecretProvider,
    cache: CachedSecretProvider,
    clock: Clock,
    breaker_clock: Clock,
) -> None:
    """Deliveries continue for five minutes with five GETs in total, and then stop."""
    server.every_answer = faults.hanging_up()
    before = len(server.requests)

    for _ in range(23):
        clock.now_s += 13
        assert isinstance(await resolve(cache), SigningSecret)
    clock.now_s += 1

    await refused(cache, SecretUnavailable)
    assert provider.breaker.state is BreakerState.OPEN
    assert len(server.requests) - before == 5
    server.every_answer = None
    breaker_clock.now_s += 1
    assert isinstance(await resolve(cache), SigningSecret)
