"""Circuit breaker between the provider and a failing API server."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from provider.errors import SecretDenied, SecretNotFound, SecretUnavailable
from provider.kubernetes.api_server import ApiServerConfig
from provider.kubernetes.circuit_breaker import BreakerState, CallOutcome, CircuitBreaker
from provider.kubernetes.provider import KubernetesSecretProvider
from provider.kubernetes.reader import ReadRetryPolicy
from provider.secret_ref import SecretRef
from provider.signing_secret import SigningSecret
from tests.kubernetes import faults
from tests.kubernetes.apiserver import Answer, ApiServer
from tests.kubernetes.faults import with_status
from tests.kubernetes.manifests import PURPOSE_LABEL, TENANT_LABEL, manifest
from tests.kubernetes.resolving import ALLOWED, Clock, Pauses, refused, resolve

OTHERS = SecretRef.parse("k8s://webhooks/globex-signing/signing")


@pytest_asyncio.fixture
async def provider(
    server: ApiServer, tmp_path: Path, pauses: Pauses, breaker_clock: Clock
) -> AsyncIterator[KubernetesSecretProvider]:
    """With half a second for a read."""
    server.put(manifest(name="globex-signing", labels={TENANT_LABEL: "globex", PURPOSE_LABEL: "webhook-signing"}))
    opened = KubernetesSecretProvider(
        namespaces_allowed=ALLOWED,
        server=await ApiServerConfig.in_cluster(
            directory=server.service_account(tmp_path / "account"), environ=server.environ
        ),
        timeout_s=0.5,
        retry_policy=ReadRetryPolicy(sleep=pauses, jitter=max),
        breaker=CircuitBreaker(clock=breaker_clock, jitter=max),
    )
    yield opened
    await opened.aclose()


async def broken(server: ApiServer, provider: KubernetesSecretProvider, fault: Answer | None = None) -> None:
    """Let reads fail until the breaker opens."""
    server.every_answer = fault or faults.hanging_up()
    await refused(provider, SecretUnavailable)
    before = provider.breaker.state
    await refused(provider, SecretUnavailable)
    assert (before, provider.breaker.state) == (BreakerState.CLOSED, BreakerState.OPEN)


@pytest.mark.parametrize(
    "fault",
    [faults.hanging_up(), faults.internal_error(), faults.too_many_requests("0"), faults.cut_body(manifest())],
    ids=["reset", "500", "429", "cut body"],
)
async def test_five_failed_gets_open_the_breaker(
    server: ApiServer, provider: KubernetesSecretProvider, pauses: Pauses, fault: Answer
) -> None:
    """The fifth failed GET ends its read, and later reads of any Secret send nothing."""
    await broken(server, provider, fault)
    server.every_answer = None

    await refused(provider, SecretUnavailable)
    await refused(provider, SecretUnavailable, OTHERS, tenant="globex")

    assert (len(server.requests), len(pauses.lengths_s)) == (5, 3)


async def test_an_open_breaker_refuses_without_waiting(server: ApiServer, provider: KubernetesSecretProvider) -> None:
    """A refused read does not wait for a slot, even while admitted reads are in flight."""
    server.every_answer = faults.stalled(server)
    waiting = [asyncio.ensure_future(resolve(provider)) for _ in range(8)]
    await server.until_in_flight(8)
    for _ in range(5):
        ticket = provider.breaker.admit_call()
        assert ticket is not None
        provider.breaker.record_outcome(ticket, CallOutcome.FAILED)

    await asyncio.gather(*(refused(provider, SecretUnavailable) for _ in range(100)))
    assert not any(task.done() for task in waiting)
    server.gate.set()

    assert all(isinstance(secret, SigningSecret) for secret in await asyncio.gather(*waiting))
    assert provider.breaker.state is BreakerState.CLOSED


async def test_reads_that_wait_for_a_slot_are_refused_when_the_breaker_opens(
    server: ApiServer, provider: KubernetesSecretProvider
) -> None:
    """Of twenty reads, those that get a slot after the opening send nothing."""

    async def hang_up_together(request: web.Request) -> web.StreamResponse:
        await server.gate.wait()
        return await faults.hanging_up()(request)

    server.every_answer = hang_up_together
    waiting = [asyncio.ensure_future(refused(provider, SecretUnavailable)) for _ in range(20)]
    await server.until_in_flight(8)

    server.gate.set()
    await asyncio.gather(*waiting)

    assert provider.breaker.opened == 1
    assert 8 <= len(server.requests) < 20


async def test_a_half_open_breaker_admits_one_probe(
    server: ApiServer, provider: KubernetesSecretProvider, breaker_clock: Clock
) -> None:
    """Of many reads one is admitted, and its success closes the breaker for all."""
    await broken(server, provider)
    server.every_answer = faults.stalled(server)
    sent = len(server.requests)
    breaker_clock.now_s += 1

    probe = asyncio.ensure_future(resolve(provider))
    await server.until_in_flight(1)
    await asyncio.gather(*(refused(provider, SecretUnavailable) for _ in range(10)))
    sent_with_the_probe = len(server.requests)
    server.gate.set()
    await probe

    assert (sent_with_the_probe - sent, provider.breaker.state) == (1, BreakerState.CLOSED)
    assert isinstance(await resolve(provider, OTHERS, tenant="globex"), SigningSecret)


async def test_a_failed_probe_is_not_retried(
    server: ApiServer, provider: KubernetesSecretProvider, breaker_clock: Clock
) -> None:
    """The breaker opens for twice as long."""
    await broken(server, provider)
    sent = len(server.requests)
    breaker_clock.now_s += 1

    await refused(provider, SecretUnavailable)
    breaker_clock.now_s += 1.9
    state = provider.breaker.state
    breaker_clock.now_s += 0.1

    assert (len(server.requests) - sent, state) == (1, BreakerState.OPEN)
    assert provider.breaker.state is BreakerState.HALF_OPEN


@pytest.mark.parametrize("status", [403, 404, 400, 302])
async def test_any_valid_answer_closes_the_breaker(
    server: ApiServer, provider: KubernetesSecretProvider, breaker_clock: Clock, status: int
) -> None:
    """A server that refuses is a server that answers."""
    await broken(server, provider)
    server.every_answer = with_status(server, status)
    breaker_clock.now_s += 1

    await refused(provider, {403: SecretDenied, 404: SecretNotFound}.get(status, SecretUnavailable))

    assert provider.breaker.state is BreakerState.CLOSED


async def test_a_malformed_secret_does_not_open_the_breaker(
    server: ApiServer, provider: KubernetesSecretProvider
) -> None:
    """A single broken Secret does not block the others."""
    server.every_answer = faults.cut_json(manifest())

    for _ in range(4):
        await refused(provider, SecretUnavailable)

    assert (provider.breaker.state, len(server.requests)) == (BreakerState.CLOSED, 12)


async def test_a_timeout_counts_as_a_failure(server: ApiServer, provider: KubernetesSecretProvider) -> None:
    """Eight reads that time out open the breaker once."""
    server.every_answer = faults.stalled(server)

    await asyncio.gather(*(refused(provider, SecretUnavailable) for _ in range(8)))

    assert (provider.breaker.state, provider.breaker.opened) == (BreakerState.OPEN, 1)


async def test_a_cancelled_call_does_not_count(
    server: ApiServer, provider: KubernetesSecretProvider, breaker_clock: Clock
) -> None:
    """A cancelled call or probe changes nothing, and the next probe is admitted."""
    await broken(server, provider)
    server.every_answer = faults.stalled(server)
    breaker_clock.now_s += 1

    probe = asyncio.ensure_future(resolve(provider))
    await server.until_in_flight(1)
    probe.cancel()
    await asyncio.wait([probe])
    state = provider.breaker.state
    server.every_answer = None

    assert state is BreakerState.HALF_OPEN
    assert isinstance(await resolve(provider), SigningSecret)
