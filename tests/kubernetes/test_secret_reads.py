"""Reads of Secrets: one GET, the meaning of its status, retries and deadlines."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from provider.errors import (
    SecretDenied,
    SecretError,
    SecretMismatch,
    SecretNotFound,
    SecretRefForbidden,
    SecretUnavailable,
)
from provider.kubernetes.api_server import ApiServerConfig
from provider.kubernetes.provider import KubernetesSecretProvider
from provider.kubernetes.reader import ReadRetryPolicy
from provider.kubernetes.session import ApiServerResponse as Got
from provider.secret_manifest import MAX_BYTES
from provider.secret_ref import SecretRef
from provider.signing_secret import SigningSecret
from tests.kubernetes import faults
from tests.kubernetes.apiserver import USER, Answer, ApiServer
from tests.kubernetes.canary import shows
from tests.kubernetes.faults import saying, with_status
from tests.kubernetes.manifests import KEY, manifest
from tests.kubernetes.resolving import ALLOWED, Pauses, refused, resolve

PATH = "/api/v1/namespaces/webhooks/secrets/acme-signing"

Fault = Callable[[ApiServer], Answer]

PASSING: dict[str, Fault] = {
    "429 as text": lambda _: faults.too_many_requests(),
    "500 as html": lambda _: faults.internal_error(),
    "503": lambda _: saying(503, "", Retry_After="0"),
    "504": lambda _: faults.timed_out(),
    "html with 200": lambda _: saying(200, "<html>sign in</html>", "text/html"),
    "nothing with 200": lambda _: saying(200, ""),
    "cut JSON": lambda _: faults.cut_json(manifest()),
    "cut body": lambda _: faults.cut_body(manifest()),
    "reset in the body": lambda _: faults.cut_body(manifest(), reset=True),
    "reset before the answer": lambda _: faults.hanging_up(),
    "too much": lambda _: faults.oversized(manifest(), MAX_BYTES),
    "no end": faults.endless,
    "gzip": lambda _: faults.gzipped(manifest()),
    "gzip bomb": lambda _: faults.gzipped(manifest(), blanks=50_000_000),
}
LASTING: dict[str, Fault] = {
    "400": lambda _: saying(400, "Bad Request"),
    "201": lambda server: with_status(server, 201),
    "206": lambda server: with_status(server, 206),
    "302": lambda _: saying(302, "", Location=PATH),
}


async def test_a_resolve_is_one_plain_get(server: ApiServer, provider: KubernetesSecretProvider) -> None:
    """The provider sends one uncompressed GET of the named Secret with the service account's token."""
    secret = await resolve(provider)

    (request,) = server.requests
    assert secret.version == "6d1f3a52-0000-4000-8000-000000000001/41"
    assert (request.method, request.path_qs) == ("GET", PATH)
    assert request.headers["Authorization"] == "Bearer token-1"
    assert request.headers["Accept"] == "application/json"
    assert request.headers["Accept-Encoding"] == "identity"


async def test_an_absent_secret_is_not_found(server: ApiServer, provider: KubernetesSecretProvider) -> None:
    """A permitted user gets `SecretNotFound`."""
    server.remove("webhooks", "acme-signing")

    await refused(provider, SecretNotFound)


async def test_a_secret_that_is_not_granted_is_denied(server: ApiServer, provider: KubernetesSecretProvider) -> None:
    """The error is the same for existing and absent Secrets."""
    server.revoke_all()

    await refused(provider, SecretDenied)
    assert len(server.requests) == 1


async def test_an_unknown_token_is_read_again_once_and_then_denied(
    server: ApiServer, provider: KubernetesSecretProvider
) -> None:
    """A second 401 ends the read, without other credentials."""
    server.users.clear()

    await refused(provider, SecretDenied)
    assert len(server.requests) == 2


@pytest.mark.parametrize("token", ["token-2", "token-2\n", "\n token-2\r\n"])
async def test_a_renewed_token_is_used(
    server: ApiServer, provider: KubernetesSecretProvider, tmp_path: Path, token: str
) -> None:
    """After a 401 the token file is read again, with or without a line end."""
    await resolve(provider)
    server.users = {"token-2": USER}
    (tmp_path / "account" / "token").write_text(token)

    secret = await resolve(provider)

    assert isinstance(secret, SigningSecret)
    assert [request.headers["Authorization"] for request in server.requests] == [
        "Bearer token-1",
        "Bearer token-1",
        "Bearer token-2",
    ]


@pytest.mark.parametrize("token", ["", "\n", "two tokens", "token\x00", "tökén", None])
async def test_an_empty_token_file_makes_secrets_unavailable(
    server: ApiServer, provider: KubernetesSecretProvider, tmp_path: Path, token: str | None
) -> None:
    """Nothing is sent without a token, and reads work again once the file is valid."""
    server.users = {"token-2": USER}
    file = tmp_path / "account" / "token"
    file.unlink()
    if token is not None:
        file.write_text(token)

    await refused(provider, SecretUnavailable)
    requests = len(server.requests)
    file.write_text("token-2")

    assert isinstance(await resolve(provider), SigningSecret)
    assert requests == 1  # the one that was answered 401


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
async def test_a_transient_fault_is_retried_twice(
    server: ApiServer, provider: KubernetesSecretProvider, fault: Fault
) -> None:
    """The read is then unavailable, without a foreign exception, and the next read works."""
    server.next_answers.extend([fault(server)] * 3)

    await refused(provider, SecretUnavailable)
    tries = len(server.requests)

    assert isinstance(await resolve(provider), SigningSecret)
    assert (tries, len(server.requests)) == (3, 4)


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
async def test_a_fault_before_a_good_answer_is_hidden(
    server: ApiServer, provider: KubernetesSecretProvider, fault: Fault
) -> None:
    """The read returns the answer that follows the fault."""
    server.next_answers.extend([fault(server)] * 2)

    assert isinstance(await resolve(provider), SigningSecret)
    assert len(server.requests) == 3


@pytest.mark.parametrize("fault", LASTING.values(), ids=LASTING)
async def test_a_permanent_fault_is_not_retried(
    server: ApiServer, provider: KubernetesSecretProvider, fault: Fault
) -> None:
    """A retry would not change the answer."""
    server.next_answers.append(fault(server))

    await refused(provider, SecretUnavailable)
    tries = len(server.requests)

    assert isinstance(await resolve(provider), SigningSecret)
    assert tries == 1


@pytest.mark.parametrize(
    ("fault", "expected_s"),
    [
        (faults.internal_error(), [0.1, 0.2]),
        (faults.hanging_up(), [0.1, 0.2]),
        (faults.too_many_requests("1"), [1.0, 1.0]),
        (saying(503, "", Retry_After="0"), [0.0, 0.0]),
        (faults.too_many_requests("3600"), [2.0, 2.0]),
        (faults.too_many_requests("Fri, 31 Dec 2027 23:59:59 GMT"), [0.1, 0.2]),
        (faults.too_many_requests("-1"), [0.1, 0.2]),
        (faults.too_many_requests("9" * 400), [0.1, 0.2]),
    ],
    ids=range(8),
)
async def test_a_pause_follows_retry_after(
    server: ApiServer, provider: KubernetesSecretProvider, pauses: Pauses, fault: Answer, expected_s: list[float]
) -> None:
    """`Retry-After` counts in whole seconds up to two; without it the pause grows."""
    server.every_answer = fault

    await refused(provider, SecretUnavailable)

    assert pauses.lengths_s == expected_s


async def test_a_pause_beyond_the_deadline_is_skipped(server: ApiServer, tmp_path: Path) -> None:
    """A read that would miss its deadline fails at once."""
    provider = await opened(server, tmp_path, timeout_s=1.9)
    server.every_answer = faults.too_many_requests("2")
    loop = asyncio.get_running_loop()

    began_s = loop.time()
    await refused(provider, SecretUnavailable)
    took_s = loop.time() - began_s

    assert took_s < 1.9
    assert len(server.requests) == 1
    await provider.aclose()


async def test_a_pause_lasts_its_time(server: ApiServer, tmp_path: Path) -> None:
    """The default policy waits on the real clock."""
    provider = await opened(server, tmp_path, timeout_s=5, retry_policy=ReadRetryPolicy(jitter=max))
    server.next_answers.append(faults.internal_error())
    loop = asyncio.get_running_loop()

    began_s = loop.time()
    await resolve(provider)

    assert loop.time() - began_s >= 0.1
    await provider.aclose()


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_refusal_is_not_retried(
    server: ApiServer, provider: KubernetesSecretProvider, pauses: Pauses, status: int
) -> None:
    """A refusal is an answer; only a 401 leads to one more GET with a fresh token."""
    server.every_answer = with_status(server, status)

    await refused(provider, SecretNotFound if status == 404 else SecretDenied)

    assert len(server.requests) == (2 if status == 401 else 1)
    assert pauses.lengths_s == []


async def test_a_token_renewed_between_two_attempts_is_used(
    server: ApiServer, provider: KubernetesSecretProvider
) -> None:
    """A read sends at most four GETs."""
    unauthorized = with_status(server, 401)
    server.next_answers.extend([faults.internal_error(), unauthorized, faults.internal_error()])

    assert isinstance(await resolve(provider), SigningSecret)
    assert len(server.requests) == 4


async def test_the_http_library_does_not_retry_a_dropped_connection(
    server: ApiServer, provider: KubernetesSecretProvider
) -> None:
    """Each attempt is one request, on a new or a reused connection."""
    await resolve(provider)
    server.every_answer = faults.hanging_up()

    await refused(provider, SecretUnavailable)

    assert len(server.requests) == 1 + 3


async def test_a_refused_connection_is_retried(
    server: ApiServer, provider: KubernetesSecretProvider, pauses: Pauses, tmp_path: Path
) -> None:
    """Three connections are attempted."""
    environ = server.environ | {"KUBERNETES_SERVICE_PORT": "1"}
    nobody = KubernetesSecretProvider(
        namespaces_allowed=ALLOWED,
        server=await ApiServerConfig.in_cluster(
            directory=server.service_account(tmp_path / "account"), environ=environ
        ),
        retry_policy=ReadRetryPolicy(sleep=pauses, jitter=max),
    )

    await refused(nobody, SecretUnavailable)

    assert pauses.lengths_s == [0.1, 0.2]
    assert isinstance(await resolve(provider), SigningSecret)
    await nobody.aclose()


async def test_a_large_secret_is_read(server: ApiServer, provider: KubernetesSecretProvider) -> None:
    """The bound is above the largest Secret of a cluster."""
    server.put(manifest(data={"signing": b"k" * 32, "ballast": b"x" * 1_048_000}))

    assert isinstance(await resolve(provider), SigningSecret)


@pytest.mark.parametrize(("status", "error"), [(404, SecretNotFound), (403, SecretDenied)])
async def test_the_status_decides_and_not_the_body(
    server: ApiServer, provider: KubernetesSecretProvider, status: int, error: type[SecretError]
) -> None:
    """A valid Secret in a refusal is ignored."""
    server.every_answer = with_status(server, status)

    await refused(provider, error)


async def test_another_object_is_a_mismatch(server: ApiServer, provider: KubernetesSecretProvider) -> None:
    """An answer about another object never signs."""
    server.next_answers.append(saying(200, json.dumps(manifest(name="globex-signing")), "application/json"))
    server.next_answers.append(saying(200, json.dumps(manifest(namespace="globex")), "application/json"))

    await refused(provider, SecretMismatch)
    await refused(provider, SecretMismatch)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(
    server: ApiServer, provider: KubernetesSecretProvider, tmp_path: Path, status: int
) -> None:
    """The token is sent to the API server only."""
    async with ApiServer.running(tmp_path / "elsewhere") as elsewhere:
        elsewhere.put(manifest())
        server.next_answers.append(saying(status, Location=f"{elsewhere.url}{PATH}"))
        server.next_answers.append(saying(status, Location=f"{PATH}?again"))

        await refused(provider, SecretUnavailable)
        await refused(provider, SecretUnavailable)

        assert elsewhere.requests == []
        assert len(server.requests) == 2


@pytest.mark.parametrize("slow", [faults.stalled, faults.dripping])
async def test_a_slow_server_ends_the_read_at_its_deadline(server: ApiServer, tmp_path: Path, slow: Fault) -> None:
    """The deadline includes the wait for a slot, and later reads work."""
    provider = await opened(server, tmp_path, timeout_s=0.3)
    server.every_answer = slow(server)
    loop = asyncio.get_running_loop()

    began_s = loop.time()
    await refused(provider, SecretUnavailable)
    took_s = loop.time() - began_s
    server.every_answer = None

    assert isinstance(await resolve(provider), SigningSecret)
    assert 0.29 < took_s < 10
    await provider.aclose()


async def test_the_wait_for_a_slot_counts_toward_the_deadline(server: ApiServer, tmp_path: Path) -> None:
    """A read without a slot ends at the deadline too."""
    provider = await opened(server, tmp_path, timeout_s=0.3)
    server.every_answer = faults.stalled(server)

    await asyncio.gather(*(refused(provider, SecretUnavailable) for _ in range(20)))

    assert len(server.requests) == 8
    await provider.aclose()


async def opened(
    server: ApiServer, directory: Path, *, timeout_s: float, retry_policy: ReadRetryPolicy | None = None
) -> KubernetesSecretProvider:
    """A provider with its own clock and time limit."""
    return KubernetesSecretProvider(
        namespaces_allowed=ALLOWED,
        server=await ApiServerConfig.in_cluster(
            directory=server.service_account(directory / "account"), environ=server.environ
        ),
        timeout_s=timeout_s,
        retry_policy=retry_policy or ReadRetryPolicy(),
    )


async def test_at_most_eight_reads_are_in_flight(server: ApiServer, provider: KubernetesSecretProvider) -> None:
    """Further reads wait for a slot."""
    server.every_answer = faults.stalled(server)

    waiting = [asyncio.ensure_future(resolve(provider)) for _ in range(20)]
    await server.until_in_flight(8)
    await asyncio.sleep(0)
    server.gate.set()
    await asyncio.gather(*waiting)

    assert (server.most_in_flight, len(server.requests)) == (8, 20)


async def test_a_cancelled_resolve_is_cancelled(server: ApiServer, provider: KubernetesSecretProvider) -> None:
    """A cancellation is not a failure, and frees the slot."""
    server.every_answer = faults.stalled(server)
    waiting = [asyncio.ensure_future(resolve(provider)) for _ in range(8)]
    await server.until_in_flight(8)

    for one in waiting:
        one.cancel()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    server.every_answer = None

    assert {type(outcome) for outcome in outcomes} == {asyncio.CancelledError}
    assert isinstance(await resolve(provider), SigningSecret)


@pytest.mark.parametrize("allowed", [frozenset[str](), frozenset({"webhooks-2"})])
async def test_a_namespace_that_is_not_allowed_is_never_read(
    server: ApiServer, tmp_path: Path, allowed: frozenset[str]
) -> None:
    """No request is sent, although the service account may read the namespace."""
    provider = await KubernetesSecretProvider.in_cluster(
        namespaces_allowed=allowed, directory=server.service_account(tmp_path / "account"), environ=server.environ
    )

    await refused(provider, SecretRefForbidden)

    assert server.requests == []
    await provider.aclose()


async def test_another_tenants_secret_is_a_mismatch(provider: KubernetesSecretProvider) -> None:
    """The service account may read the Secret, but the tenant may not use it."""
    await refused(provider, SecretMismatch, tenant="globex")
    await refused(provider, SecretNotFound, SecretRef(namespace="webhooks", name="acme-signing", key="other"))

    assert isinstance(await resolve(provider), SigningSecret)


async def test_a_closed_provider_is_unavailable(server: ApiServer, provider: KubernetesSecretProvider) -> None:
    """A closed provider opens no new connection."""
    await resolve(provider)

    await provider.aclose()

    await refused(provider, SecretUnavailable)
    assert len(server.requests) == 1


def test_a_response_hides_its_body() -> None:
    """The body may be a Secret."""
    answer = Got(200, KEY)

    assert repr(answer) == "ApiServerResponse(...)"
    assert not shows(str(answer), KEY)
