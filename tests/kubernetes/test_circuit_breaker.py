"""The breaker between us and an API server that fails: one for all of it, whoever asks for whatever."""

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
async def test_five_failed_gets_in_a_row_open_it(
    server: ApiServer, provider: KubernetesSecretProvider, pauses: Pauses, fault: Answer
) -> None:
    """The fifth is in the second read, which gives up with it; then nobody asks any more, for any Secret."""
    await broken(server, provider, fault)
    server.every_answer = None

    await refused(provider, SecretUnavailable)
    await refused(provider, SecretUnavailable, OTHERS, tenant="globex")

    assert (len(server.requests), len(pauses.lengths_s)) == (5, 3)


async def test_while_it_is_open_nobody_waits(server: ApiServer, provider: KubernetesSecretProvider) -> None:
    """Not for a turn either, while the last of those who were let through still wait for an answer."""
    server.every_answer = faults.stalled(server)
    waiting = [asyncio.ensure_future(resolve(provider)) for _ in range(8)]
    await server.until_in_flight(8)
    for _ in range(5):
        ticket = provider.breaker.admit_call()
        assert ticket is not None
        provider.breaker.record_outcome(ticket, CallOutcome.FAILED)

    began_s = asyncio.get_running_loop().time()
    await asyncio.gather(*(refused(provider, SecretUnavailable) for _ in range(100)))
    took_s = asyncio.get_running_loop().time() - began_s
    server.gate.set()

    assert took_s < 0.4
    assert all(isinstance(secret, SigningSecret) for secret in await asyncio.gather(*waiting))
    assert provider.breaker.state is BreakerState.CLOSED


async def test_who_waits_for_a_turn_while_it_opens_is_told(
    server: ApiServer, provider: KubernetesSecretProvider
) -> None:
    """Of twenty, those who come to their turn afterwards send nothing."""

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


async def test_one_probe_goes_out_when_its_time_has_come(
    server: ApiServer, provider: KubernetesSecretProvider, breaker_clock: Clock
) -> None:
    """Of many who ask, one is let through and is answered, and with that everybody is."""
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


async def test_a_probe_that_fails_is_not_tried_again(
    server: ApiServer, provider: KubernetesSecretProvider, breaker_clock: Clock
) -> None:
    """It opens for twice as long."""
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
async def test_any_answer_that_makes_sense_closes_it(
    server: ApiServer, provider: KubernetesSecretProvider, breaker_clock: Clock, status: int
) -> None:
    """A server that refuses is one that answers."""
    await broken(server, provider)
    server.every_answer = with_status(server, status)
    breaker_clock.now_s += 1

    await refused(provider, {403: SecretDenied, 404: SecretNotFound}.get(status, SecretUnavailable))

    assert provider.breaker.state is BreakerState.CLOSED


async def test_what_cannot_be_understood_is_an_answer_too(
    server: ApiServer, provider: KubernetesSecretProvider
) -> None:
    """One Secret that is broken does not shut the way to the others."""
    server.every_answer = faults.cut_json(manifest())

    for _ in range(4):
        await refused(provider, SecretUnavailable)

    assert (provider.breaker.state, len(server.requests)) == (BreakerState.CLOSED, 12)


async def test_running_out_of_time_is_a_failure(server: ApiServer, provider: KubernetesSecretProvider) -> None:
    """Eight who wait in vain open it once."""
    server.every_answer = faults.stalled(server)

    await asyncio.gather(*(refused(provider, SecretUnavailable) for _ in range(8)))

    assert (provider.breaker.state, provider.breaker.opened) == (BreakerState.OPEN, 1)


async def test_being_called_off_is_none(
    server: ApiServer, provider: KubernetesSecretProvider, breaker_clock: Clock
) -> None:
    """Neither while it is closed, nor for the probe: the next one goes out in its place."""
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
