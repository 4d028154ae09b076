"""Reading from the API: one GET, what its status means, and what happens when it goes wrong."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from provider.cluster import Cluster
from provider.errors import (
    SecretDenied,
    SecretError,
    SecretMismatch,
    SecretNotFound,
    SecretRefForbidden,
    SecretUnavailable,
)
from provider.kubernetes import KubernetesSecretProvider, SecretsApi
from provider.manifest import MAX_BYTES
from provider.ref import SecretRef
from provider.value import SigningSecret
from tests.kubernetes import apiserver
from tests.kubernetes.apiserver import Answer, ApiServer, failure, saying
from tests.kubernetes.manifests import manifest
from tests.kubernetes.resolving import REF, refused, resolve

PATH = "/api/v1/namespaces/webhooks/secrets/acme-signing"

Fault = Callable[[ApiServer], Answer]

FAULTS: dict[str, Fault] = {
    "429 as text": lambda _: apiserver.too_many_requests(),
    "500 as html": lambda _: saying(500, "<html><body>500</body></html>", "text/html"),
    "503": lambda _: saying(503, "", Retry_After="1"),
    "504": lambda _: saying(504, '{"kind":"Status","code":504}', "application/json"),
    "400": lambda _: saying(400, "Bad Request"),
    "201": lambda server: with_status(server, 201),
    "206": lambda server: with_status(server, 206),
    "html with 200": lambda _: saying(200, "<html>sign in</html>", "text/html"),
    "nothing with 200": lambda _: saying(200, ""),
    "cut JSON": lambda _: apiserver.cut_json(manifest()),
    "cut body": lambda _: apiserver.cut_body(manifest()),
    "too much": lambda _: apiserver.oversized(manifest(), MAX_BYTES),
    "gzip": lambda _: apiserver.gzipped(manifest()),
}

OTHER_CALLS: list[Callable[[Any], Awaitable[object]]] = [
    lambda api: api.list_namespaced_secret("webhooks"),
    lambda api: api.list_namespaced_secret("webhooks", watch=True, field_selector="metadata.name=acme-signing"),
    lambda api: api.list_secret_for_all_namespaces(),
    lambda api: api.read_namespaced_secret("", "webhooks"),
    lambda api: api.read_namespaced_secret("../secrets", "webhooks"),
    lambda api: api.read_namespaced_secret("acme-signing", "webhooks", pretty="true"),
    lambda api: api.read_namespaced_config_map("acme-signing", "webhooks"),
    lambda api: api.delete_namespaced_secret("acme-signing", "webhooks"),
    lambda api: api.api_client.call_api(PATH, "HEAD", auth_settings=[]),
]


def with_status(server: ApiServer, status: int) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = await server.answer(request)
        response.set_status(status)
        return response

    return answer


async def test_a_resolve_is_one_plain_get(server: ApiServer, provider: KubernetesSecretProvider) -> None:
    """Of exactly the named Secret, for an answer that is not compressed, by our service account."""
    secret = await resolve(provider)

    (request,) = server.requests
    assert secret.version == "6d1f3a52-0000-4000-8000-000000000001/41"
    assert (request.method, request.path_qs) == ("GET", PATH)
    assert request.headers["Authorization"] == "Bearer token-1"
    assert request.headers["Accept"] == "application/json"
    assert request.headers["Accept-Encoding"] == "identity"


async def test_an_absent_secret_is_not_found(server: ApiServer, provider: KubernetesSecretProvider) -> None:
    """With the right to see that it is absent."""
    del server.secrets["webhooks", "acme-signing"]

    await refused(provider, SecretNotFound)


async def test_a_secret_that_is_not_granted_is_denied(server: ApiServer, provider: KubernetesSecretProvider) -> None:
    """Whether it exists or not."""
    server.grants.clear()

    await refused(provider, SecretDenied)
    assert len(server.requests) == 1


async def test_an_unknown_token_is_read_anew_once_and_then_denied(
    server: ApiServer, provider: KubernetesSecretProvider
) -> None:
    """No loop, and no other credentials."""
    server.users.clear()

    await refused(provider, SecretDenied)
    assert len(server.requests) == 2


@pytest.mark.parametrize("token", ["token-2", "token-2\n", "\n token-2\r\n"])
async def test_a_renewed_token_is_picked_up(
    server: ApiServer, provider: KubernetesSecretProvider, tmp_path: Path, token: str
) -> None:
    """When the old one stops working, from the file, with or without a line end."""
    await resolve(provider)
    server.users = {"token-2": apiserver.USER}
    (tmp_path / "account" / "token").write_text(token)

    secret = await resolve(provider)

    assert isinstance(secret, SigningSecret)
    assert [request.headers["Authorization"] for request in server.requests] == [
        "Bearer token-1",
        "Bearer token-1",
        "Bearer token-2",
    ]


@pytest.mark.parametrize("token", ["", "\n", "two tokens", "token\x00", "tökén", None])
async def test_a_token_file_without_a_token_is_no_answer(
    server: ApiServer, provider: KubernetesSecretProvider, tmp_path: Path, token: str | None
) -> None:
    """Nothing is sent with it, and once it is right again, secrets are."""
    server.users = {"token-2": apiserver.USER}
    file = tmp_path / "account" / "token"
    file.unlink()
    if token is not None:
        file.write_text(token)

    await refused(provider, SecretUnavailable)
    requests = len(server.requests)
    file.write_text("token-2")

    assert isinstance(await resolve(provider), SigningSecret)
    assert requests == 1  # the one that was answered 401


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_whatever_is_no_answer_is_unavailable(
    server: ApiServer, provider: KubernetesSecretProvider, fault: Fault
) -> None:
    """Neither an empty secret nor a foreign exception comes of it, it is asked once, and the next answer counts."""
    server.next_answers.append(fault(server))

    await refused(provider, SecretUnavailable)

    assert len(server.requests) == 1
    assert isinstance(await resolve(provider), SigningSecret)


async def test_a_server_that_hangs_up_is_unavailable(server: ApiServer, provider: KubernetesSecretProvider) -> None:
    """A connection may have been idle too long, so it is tried on a second one, and no third."""
    server.every_answer = apiserver.hanging_up()

    await refused(provider, SecretUnavailable)
    requests = len(server.requests)
    server.every_answer = None

    assert isinstance(await resolve(provider), SigningSecret)
    assert requests <= 2


async def test_a_large_secret_is_read(server: ApiServer, provider: KubernetesSecretProvider) -> None:
    """The bound is above what a cluster can hold."""
    server.put(manifest(data={"signing": b"k" * 32, "ballast": b"x" * 1_048_000}))

    assert isinstance(await resolve(provider), SigningSecret)


@pytest.mark.parametrize(("status", "error"), [(404, SecretNotFound), (403, SecretDenied)])
async def test_the_status_counts_and_not_the_body(
    server: ApiServer, provider: KubernetesSecretProvider, status: int, error: type[SecretError]
) -> None:
    """A valid Secret in a refusal is no Secret."""
    server.every_answer = with_status(server, status)

    await refused(provider, error)


async def test_another_object_is_a_mismatch(server: ApiServer, provider: KubernetesSecretProvider) -> None:
    """An answer that belongs to another question signs nothing."""
    server.next_answers.append(lambda _: answered(manifest(name="globex-signing")))
    server.next_answers.append(lambda _: answered(manifest(namespace="globex")))

    await refused(provider, SecretMismatch)
    await refused(provider, SecretMismatch)


async def answered(document: dict[str, object]) -> web.Response:
    return web.json_response(document)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(
    server: ApiServer, provider: KubernetesSecretProvider, tmp_path: Path, status: int
) -> None:
    """The token goes to the API server and nowhere else, even if it says so."""
    async with ApiServer.running(tmp_path / "elsewhere") as elsewhere:
        elsewhere.put(manifest())
        server.next_answers.append(saying(status, Location=f"{elsewhere.url}{PATH}"))
        server.next_answers.append(saying(status, Location=f"{PATH}?again"))

        await refused(provider, SecretUnavailable)
        await refused(provider, SecretUnavailable)

        assert elsewhere.requests == []
        assert len(server.requests) == 2


async def test_a_stalled_server_is_given_up_on(server: ApiServer, tmp_path: Path) -> None:
    """The time allowed is for all of it, waiting for a turn included; afterwards reading works again."""
    provider = await KubernetesSecretProvider.in_cluster(
        namespaces_allowed=frozenset({"webhooks"}),
        directory=server.service_account(tmp_path / "account"),
        environ=server.environ,
        timeout_s=0.3,
    )
    server.every_answer = apiserver.stalled(server)
    loop = asyncio.get_running_loop()

    began_s = loop.time()
    await asyncio.gather(*(refused(provider, SecretUnavailable) for _ in range(20)))
    took_s = loop.time() - began_s
    server.every_answer = None

    assert isinstance(await resolve(provider), SigningSecret)
    assert 0.3 <= took_s < 3
    await provider.aclose()


async def test_at_most_eight_reads_go_on_at_once(server: ApiServer, provider: KubernetesSecretProvider) -> None:
    """The rest wait for their turn."""
    server.every_answer = apiserver.stalled(server)

    waiting = [asyncio.ensure_future(resolve(provider)) for _ in range(20)]
    await server.until_in_flight(8)
    await asyncio.sleep(0)
    server.gate.set()
    await asyncio.gather(*waiting)

    assert (server.most_in_flight, len(server.requests)) == (8, 20)


async def test_a_cancelled_resolve_is_cancelled(server: ApiServer, provider: KubernetesSecretProvider) -> None:
    """It is not mistaken for a failure, and frees its turn."""
    server.every_answer = apiserver.stalled(server)
    waiting = [asyncio.ensure_future(resolve(provider)) for _ in range(8)]
    await server.until_in_flight(8)

    for one in waiting:
        one.cancel()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    server.every_answer = None

    assert {type(outcome) for outcome in outcomes} == {asyncio.CancelledError}
    assert isinstance(await resolve(provider), SigningSecret)


@pytest.mark.parametrize("allowed", [frozenset[str](), frozenset({"webhooks-2"})])
async def test_a_namespace_that_is_not_allowed_is_not_asked_for(
    server: ApiServer, tmp_path: Path, allowed: frozenset[str]
) -> None:
    """The service account might read it; we do not try."""
    provider = await KubernetesSecretProvider.in_cluster(
        namespaces_allowed=allowed, directory=server.service_account(tmp_path / "account"), environ=server.environ
    )

    await refused(provider, SecretRefForbidden)

    assert server.requests == []
    await provider.aclose()


async def test_anothers_secret_is_a_mismatch(provider: KubernetesSecretProvider) -> None:
    """The service account may read it, the tenant may not use it."""
    await refused(provider, SecretMismatch, tenant="globex")
    await refused(provider, SecretNotFound, SecretRef(namespace="webhooks", name="acme-signing", key="other"))

    assert isinstance(await resolve(provider), SigningSecret)


@pytest.mark.parametrize("call", OTHER_CALLS)
async def test_nothing_but_one_secret_can_be_asked_for(
    server: ApiServer, tmp_path: Path, call: Callable[[Any], Awaitable[object]]
) -> None:
    """Not even by a mistake of ours: whatever else goes no further than our session."""
    cluster = await Cluster.in_cluster(directory=server.service_account(tmp_path / "account"), environ=server.environ)
    api = await SecretsApi.connect(cluster)

    with pytest.raises((ValueError, TypeError)):
        await call(api._api)  # pyright: ignore[reportPrivateUsage] - there is no other way past our own method
    status, _ = await api.get(REF, fresh_credentials=False)

    assert status == 200
    assert [request.path for request in server.requests] == [PATH]
    await api.aclose()


async def test_a_closed_provider_answers_nothing(server: ApiServer, provider: KubernetesSecretProvider) -> None:
    """Nor does it open connections again."""
    await resolve(provider)

    await provider.aclose()

    await refused(provider, SecretUnavailable)
    assert len(server.requests) == 1


async def test_statuses_are_the_real_ones() -> None:
    """The double says what a real server says, to the letter."""
    denied = failure(403, "Forbidden", 'secrets "x" is forbidden', {"name": "x", "kind": "secrets"})

    assert denied.text == (
        '{"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",'
        ' "message": "secrets \\"x\\" is forbidden", "reason": "Forbidden",'
        ' "details": {"name": "x", "kind": "secrets"}, "code": 403}'
    )
    assert str(REF) == "k8s://webhooks/acme-signing/signing"
