"""Trust in the API server: certificates that are no good, and CAs that change while we run."""

import asyncio
from pathlib import Path

import pytest

from provider.errors import ProviderMisconfigured, SecretUnavailable
from provider.kubernetes.api_server import ApiServerConfig, TokenFile
from provider.kubernetes.circuit_breaker import BreakerState
from provider.kubernetes.provider import KubernetesSecretProvider
from provider.kubernetes.secrets_api import SecretsApi
from provider.kubernetes.session import ApiServerResponse, ResponseFault
from provider.kubernetes.tls import RELOAD_INTERVAL_S, CaBundle
from provider.signing_secret import SigningSecret
from tests.kubernetes import faults
from tests.kubernetes.apiserver import ApiServer
from tests.kubernetes.certificates import Authority
from tests.kubernetes.resolving import REF, Clock, Pauses, refused, resolve


@pytest.fixture
def successor(tmp_path: Path) -> Authority:
    """The CA that comes after the server's first one."""
    return Authority(tmp_path / "successor")


async def test_an_expired_certificate_is_not_accepted(
    server: ApiServer, provider: KubernetesSecretProvider, pauses: Pauses
) -> None:
    """And is not tried again: it does not become valid by that. One that is renewed is accepted."""
    server.present(server.authority, expired=True)
    await refused(provider, SecretUnavailable)
    requests = len(server.requests)

    server.present(server.authority)

    assert isinstance(await resolve(provider), SigningSecret)
    assert (requests, pauses.lengths_s) == (0, [])


async def test_certificates_that_are_no_good_open_the_breaker(
    server: ApiServer, provider: KubernetesSecretProvider
) -> None:
    """They are no answer."""
    server.present(server.authority, expired=True)

    for _ in range(5):
        await refused(provider, SecretUnavailable)

    assert provider.breaker.state is BreakerState.OPEN


async def test_a_changed_ca_is_found_when_the_old_one_fails(
    server: ApiServer, provider: KubernetesSecretProvider, successor: Authority, tmp_path: Path
) -> None:
    """At once, by everybody who asks just then, and without one of them being told that there is an outage."""
    server.present(successor)
    (tmp_path / "account" / "ca.crt").write_bytes(successor.ca_file.read_bytes())

    secrets = await asyncio.gather(*(resolve(provider) for _ in range(20)))

    assert len(secrets) == 20
    assert (provider.breaker.state, provider.breaker.opened) == (BreakerState.CLOSED, 0)


async def test_what_is_under_way_on_an_old_connection_ends_well(
    server: ApiServer, provider: KubernetesSecretProvider, successor: Authority, tmp_path: Path
) -> None:
    """New trust makes new connections, and breaks none."""
    server.next_answers.append(faults.stalled(server))
    slow = asyncio.ensure_future(resolve(provider))
    await server.until_in_flight(1)

    server.present(successor)
    (tmp_path / "account" / "ca.crt").write_bytes(successor.ca_file.read_bytes())
    quick = await resolve(provider)
    server.gate.set()

    assert isinstance(quick, SigningSecret)
    assert isinstance(await slow, SigningSecret)
    assert len(server.requests) == 2


async def test_a_ca_that_is_no_longer_in_the_file_is_no_longer_trusted(
    server: ApiServer, provider: KubernetesSecretProvider, successor: Authority, tmp_path: Path
) -> None:
    """Once the change is noticed, the old one counts for nothing."""
    server.present(successor)
    (tmp_path / "account" / "ca.crt").write_bytes(successor.ca_file.read_bytes())
    await resolve(provider)

    server.present(server.authority)
    server.next_answers.append(faults.saying(400, Connection="close"))
    await refused(provider, SecretUnavailable)
    requests = len(server.requests)
    await refused(provider, SecretUnavailable)

    assert len(server.requests) == requests


@pytest.mark.parametrize("content", [b"", b"no certificate", None], ids=["empty", "text", "missing"])
async def test_a_file_of_no_use_changes_nothing(
    server: ApiServer,
    provider: KubernetesSecretProvider,
    successor: Authority,
    tmp_path: Path,
    content: bytes | None,
) -> None:
    """It may be half written; the CAs known so far go on to count, and the file is looked at again."""
    file = tmp_path / "account" / "ca.crt"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    assert isinstance(await resolve(provider), SigningSecret)

    server.present(successor)
    server.next_answers.append(faults.saying(400, Connection="close"))
    await refused(provider, SecretUnavailable)
    await refused(provider, SecretUnavailable)
    file.write_bytes(successor.ca_file.read_bytes())

    assert isinstance(await resolve(provider), SigningSecret)


def test_a_changed_file_is_noticed_within_a_minute(tmp_path: Path, successor: Authority) -> None:
    """Without any failure, and without a look at it each time."""
    clock, file = Clock(), tmp_path / "ca.crt"
    file.write_bytes(Authority(tmp_path / "first").ca_file.read_bytes())
    trust = CaBundle(ca_file=file, clock=clock)
    first = trust.context
    file.write_bytes(successor.ca_file.read_bytes())

    clock.now_s += RELOAD_INTERVAL_S - 1
    trust.reload_if_due()
    early = trust.context
    clock.now_s += 1
    trust.reload_if_due()
    second = trust.context
    clock.now_s += RELOAD_INTERVAL_S
    trust.reload_if_due()

    assert early is first
    assert second is not first
    assert trust.context is second


async def test_a_ca_that_was_taken_away_stops_counting_without_any_failure(
    server: ApiServer, successor: Authority, tmp_path: Path
) -> None:
    """A minute later, though the connection that it vouched for is still open."""
    clock, account = Clock(), server.service_account(tmp_path / "account")
    trust = CaBundle(ca_file=account / "ca.crt", clock=clock)
    cluster = ApiServerConfig(url=server.url, trust=trust, credentials=TokenFile(account / "token"))
    api = SecretsApi(cluster)
    (account / "ca.crt").write_bytes(successor.ca_file.read_bytes())

    outcomes: list[ApiServerResponse | ResponseFault] = []
    for elapsed_s in (0, RELOAD_INTERVAL_S - 1, 1):
        clock.now_s += elapsed_s
        outcomes.append(await api.get_secret(REF, fresh_credentials=False))

    assert [isinstance(outcome, ApiServerResponse) for outcome in outcomes] == [True, True, False]
    assert outcomes[-1] is ResponseFault.UNTRUSTED
    await api.aclose()


def test_without_a_file_the_systems_cas_count() -> None:
    """There is nothing to look at again."""
    trust = CaBundle(ca_file=None)
    context = trust.context

    trust.reload()

    assert trust.context is context


def test_a_file_of_no_use_at_the_start_is_refused(tmp_path: Path) -> None:
    """There is nothing to go on with."""
    with pytest.raises(ProviderMisconfigured, match="CA is missing"):
        CaBundle(ca_file=tmp_path / "none")
