"""Access reviews: the answer of the API server or none, without guesses, proxies or exceptions."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from provider.kubernetes.access_review import MAX_ANSWER_BYTES, AccessReviews
from provider.kubernetes.api_server import ApiServerConfig
from tests.kubernetes.apiserver import Answer, ApiServer
from tests.kubernetes.faults import hanging_up, internal_error, saying, stalled, too_many_requests
from tests.kubernetes.manifests import manifest

ALLOWED = '{"kind": "SelfSubjectAccessReview", "status": {"allowed": true}}'


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[ApiServer]:
    """An API server where the consumer may get `webhooks/acme-signing`."""
    async with ApiServer.running(tmp_path / "apiserver") as running:
        running.put(manifest())
        yield running


@pytest_asyncio.fixture
async def reviews(server: ApiServer, tmp_path: Path) -> AsyncIterator[AccessReviews]:
    """An access reviewer with the consumer's token."""
    asking = AccessReviews(await _cluster(server, tmp_path), timeout_s=1.0)
    yield asking
    await asking.aclose()


async def _cluster(server: ApiServer, directory: Path) -> ApiServerConfig:
    return await ApiServerConfig.in_cluster(
        directory=server.service_account(directory / "account"), environ=server.environ
    )


async def _may(reviews: AccessReviews) -> bool | None:
    return await reviews.is_allowed("get", namespace="webhooks", name="acme-signing")


async def test_allowed_is_true_and_all_else_is_false(reviews: AccessReviews) -> None:
    """A permission of the role is True, and all others are False."""
    assert await _may(reviews) is True
    assert await reviews.is_allowed("get", namespace="webhooks", name="another") is False
    assert await reviews.is_allowed("list", namespace="webhooks") is False
    assert await reviews.is_allowed("get", namespace="elsewhere", name="acme-signing") is False


async def test_a_renewed_token_is_read(server: ApiServer, reviews: AccessReviews, tmp_path: Path) -> None:
    """A token that is refused is read from its file once more, and only once."""
    assert await _may(reviews) is True
    server.users = {"token-2": server.users["token-1"]}
    refused = await _may(reviews)
    asked = len(server.requests)
    server.service_account(tmp_path / "account", token="token-2")

    assert refused is None
    assert asked == 3
    assert await _may(reviews) is True


@pytest.mark.parametrize(
    "answer",
    [
        saying(200, "", "application/json"),
        saying(200, "{}", "application/json"),
        saying(200, '{"kind": "Status", "status": {"allowed": true}}', "application/json"),
        saying(200, ALLOWED.replace("true", '"true"'), "application/json"),
        saying(201, ALLOWED[:-4], "application/json"),
        saying(201, ALLOWED + " " * MAX_ANSWER_BYTES, "application/json"),
        saying(202, ALLOWED, "application/json"),
        saying(403, ALLOWED, "application/json"),
        saying(307, ALLOWED, "application/json", Location="/elsewhere"),
        too_many_requests(),
        internal_error(),
        hanging_up(),
    ],
)
async def test_an_unclear_response_is_no_answer(server: ApiServer, reviews: AccessReviews, answer: Answer) -> None:
    """A response that is not a clear review gives no answer and is not retried."""
    server.next_answers.append(answer)
    none = await _may(reviews)
    asked = len(server.requests)
    server.next_answers.append(saying(201, ALLOWED, "application/json"))

    assert none is None
    assert asked == 1
    assert await _may(reviews) is True


async def test_a_silent_server_causes_a_timeout(server: ApiServer, tmp_path: Path) -> None:
    """A review has a time limit."""
    server.every_answer = stalled(server)
    reviews = AccessReviews(await _cluster(server, tmp_path), timeout_s=0.1)
    none = await _may(reviews)
    await reviews.aclose()

    assert none is None
    assert len(server.requests) == 1


async def test_no_proxy_from_the_environment(
    server: ApiServer, reviews: AccessReviews, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A review uses neither a proxy nor a netrc file of the environment."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    may = await _may(reviews)

    assert may is True
    assert len(server.requests) == 1


async def test_a_closed_reviewer_gives_no_answer(reviews: AccessReviews) -> None:
    """A closed reviewer raises no exception."""
    before = await _may(reviews)
    await reviews.aclose()

    assert before is True
    assert await _may(reviews) is None
