"""Trust in the API server: bad certificates, and CAs that change while the process runs."""

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


async def test_an_expired_certificate_is_refused(
    server: ApiServer, provider: KubernetesSecretProvider, pauses: Pauses
) -> None:
    """An expired certificate is not retried, and a renewed one is accepted."""
    server.present(server.authority, expired=True)
    await refused(provider, SecretUnavailable)
    requests = len(server.requests)

    server.present(server.authority)

    assert isinstance(await resolve(provider), SigningSecret)
    assert (requests, pauses.lengths_s) == (0, [])


async def test_untrusted_certificates_open_the_breaker(server: ApiServer, provider: KubernetesSecretProvider) -> None:
    """An untrusted server counts as a failure."""
    server.present(server.authority, expired=True)

    for _ in range(5):
        await refused(provider, SecretUnavailable)

    assert provider.breaker.state is BreakerState.OPEN


async def test_a_changed_ca_is_loaded_when_the_old_one_fails(
    server: ApiServer, provider: KubernetesSecretProvider, successor: Authority, tmp_path: Path
) -> None:
    """All concurrent reads succeed at once, and none reports an outage."""
    server.present(successor)
    (tmp_path / "account" / "ca.crt").write_bytes(successor.ca_file.read_bytes())

    secrets = await asyncio.gather(*(resolve(provider) for _ in range(20)))

    assert len(secrets) == 20
    assert (provider.breaker.state, provider.breaker.opened) == (BreakerState.CLOSED, 0)


async def test_requests_on_an_old_connection_finish(
    server: ApiServer, provider: KubernetesSecretProvider, successor: Authority, tmp_path: Path
) -> None:
    """A new CA opens new connections and breaks none."""
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


async def test_a_removed_ca_is_no_longer_trusted(
    server: ApiServer, provider: KubernetesSecretProvider, successor: Authority, tmp_path: Path
) -> None:
    """After the reload, the old CA does not count."""
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
async def test_an_unusable_ca_file_changes_nothing(
    server: ApiServer,
    provider: KubernetesSecretProvider,
    successor: Authority,
    tmp_path: Path,
    content: bytes | None,
) -> None:
    """The file may be half written: known CAs stay trusted, and the file is checked again."""
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
    """The change is noticed without a failure, and the file is not read each time."""
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


async def test_a_removed_ca_stops_counting_within_a_minute(
    server: ApiServer, successor: Authority, tmp_path: Path
) -> None:
    """The CA loses trust although a connection that it verified is still open."""
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


def test_the_systems_cas_count_without_a_file() -> None:
    """Without a file there is nothing to reload."""
    trust = CaBundle(ca_file=None)
    context = trust.context

    trust.reload()

    assert trust.context is context


def test_an_unusable_ca_file_at_the_start_is_refused(tmp_path: Path) -> None:
    """Without a first context the provider cannot start."""
    with pytest.raises(ProviderMisconfigured, match="CA is missing"):
        CaBundle(ca_file=tmp_path / "none")
