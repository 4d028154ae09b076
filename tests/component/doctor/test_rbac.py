"""Checks of a service account, against the double of the API server over TLS."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from messaging.client.client import ServerAccess
from oneprotect.doctor.credentials import check_credentials
from oneprotect.doctor.installation import InstallationSettings
from oneprotect.doctor.rbac import EXCESS_VERBS, check_permissions
from oneprotect.doctor.registered_credentials import RegisteredCredential
from oneprotect.doctor.remedies import SecretProblem
from oneprotect.doctor.result import CheckResult, CheckStatus
from oneprotect.doctor.runner import SecretSources, examine
from provider.kubernetes.access_review import AccessReviews
from provider.kubernetes.api_server import ApiServerConfig
from provider.kubernetes.provider import KubernetesSecretProvider
from provider.secret_ref import SecretRef
from schemas.configuration import Credential
from tests.kubernetes.apiserver import USER, ApiServer
from tests.kubernetes.manifests import KEY, manifest
from tests.support.leaks import Canary, Search

NAMESPACE = "webhooks"


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[ApiServer]:
    """An API server with the Secrets of two tenants."""
    async with ApiServer.running(tmp_path / "apiserver") as running:
        for name in ("acme-signing", "globex-signing"):
            running.put(manifest(name=name))
        yield running


@pytest_asyncio.fixture
async def reviews(server: ApiServer, tmp_path: Path) -> AsyncIterator[AccessReviews]:
    """Access reviews of the consumers' service account."""
    directory = server.service_account(tmp_path / "account")
    asking = AccessReviews(await ApiServerConfig.in_cluster(directory=directory, environ=server.environ))
    yield asking
    await asking.aclose()


def _registered(name: str, secret: str) -> RegisteredCredential:
    ref = SecretRef(namespace=NAMESPACE, name=secret, key="signing")
    return RegisteredCredential(tenant="acme", id=name, credential=Credential(secret_ref=str(ref)), ref=ref)


REGISTERED = [_registered("orders-key", "acme-signing"), _registered("invoices-key", "globex-signing")]


async def _check(
    reviews: AccessReviews, registered: list[RegisteredCredential] | None = None
) -> tuple[CheckResult, CheckResult]:
    """Check required and excess permissions, and that the results name no Secret."""
    required, excess = await check_permissions(reviews, {NAMESPACE}, REGISTERED if registered is None else registered)
    shown = msgspec.json.encode([required, excess])
    assert b"acme-signing" not in shown
    assert b"globex-signing" not in shown
    assert NAMESPACE.encode() not in shown
    return required, excess


async def test_the_required_permissions_alone_pass(server: ApiServer, reviews: AccessReviews) -> None:
    """A service account that may get the Secrets of credentials, and nothing else, passes."""
    required, excess = await _check(reviews)

    assert (required.status, required.finding) == (CheckStatus.OK, "it may get all 2")
    assert excess.status is CheckStatus.OK
    assert {request.path.rpartition("/")[2] for request in server.requests} == {"selfsubjectaccessreviews"}


async def test_a_missing_permission_fails(server: ApiServer, reviews: AccessReviews) -> None:
    """The result names the credential whose Secret may not be read, and the remedy the missing role."""
    server.revoke_all()
    server.grant(NAMESPACE, "acme-signing")
    required, excess = await _check(reviews)

    assert required.status is CheckStatus.FAILED
    assert "acme/invoices-key" in required.finding
    assert "acme/orders-key" not in required.finding
    assert "kubectl create role" in (required.remedy or "")
    assert excess.status is CheckStatus.OK


@pytest.mark.parametrize("verb", EXCESS_VERBS)
async def test_an_excess_verb_is_a_warning(server: ApiServer, reviews: AccessReviews, verb: str) -> None:
    """The result names the excess verb, and the remedy the right role."""
    server.grant(NAMESPACE, verbs=(verb,))
    required, excess = await _check(reviews)

    assert required.status is CheckStatus.OK
    assert (excess.status, excess.finding) == (
        CheckStatus.WARNING,
        f"the account is over-privileged: it may also {verb}",
    )
    assert "resourceNames: [SECRET, ...], verbs: [get]" in (excess.remedy or "")


async def test_a_role_without_names(server: ApiServer, reviews: AccessReviews) -> None:
    """A role without resource names allows every Secret, which is a warning."""
    server.grant(NAMESPACE)
    required, excess = await _check(reviews)

    assert required.status is CheckStatus.OK
    assert excess.finding.endswith("it may also get any Secret, even if no credential names it")


async def test_a_role_for_everything(server: ApiServer, reviews: AccessReviews) -> None:
    """One result names all excess verbs."""
    server.grant(NAMESPACE, verbs=("*",))
    _, excess = await _check(reviews)

    assert all(verb in excess.finding for verb in EXCESS_VERBS)


async def test_without_credentials(reviews: AccessReviews) -> None:
    """Without credentials no permission is missing. With unreadable credentials the result is unknown."""
    none, _ = await _check(reviews, [])
    unread, _ = await check_permissions(reviews, {NAMESPACE}, None)

    assert (none.status, none.finding) == (CheckStatus.OK, "no credential names one")
    assert unread.status is CheckStatus.UNKNOWN


async def test_an_api_server_that_does_not_answer(server: ApiServer, reviews: AccessReviews) -> None:
    """Without answers of the API server both results are unknown."""
    server.users.clear()
    required, excess = await _check(reviews)

    assert (required.status, excess.status) == (CheckStatus.UNKNOWN, CheckStatus.UNKNOWN)
    assert "kubectl get --raw /readyz" in (excess.remedy or "")


async def test_without_nats_permissions_are_examined(reviews: AccessReviews) -> None:
    """Excess permissions are checked even without NATS."""
    installation = InstallationSettings(
        variables_set=0,
        nats=ServerAccess(url="nats://127.0.0.1:1"),
        provider="kubernetes",
        namespaces=frozenset({NAMESPACE}),
    )
    checks = await examine(installation, SecretSources(reviews=reviews))

    assert [(check.name, check.status) for check in checks if check.group == "permissions"] == [
        ("required access to Secrets", CheckStatus.UNKNOWN),
        ("excess access to Secrets", CheckStatus.OK),
    ]


async def test_outside_of_a_cluster() -> None:
    """The permissions of a kubeconfig are not the consumers', so the result is unknown."""
    installation = InstallationSettings(
        variables_set=0, nats=ServerAccess(url="nats://127.0.0.1:1"), provider="kubernetes"
    )
    checks = await examine(installation, SecretSources())

    (check,) = (check for check in checks if check.group == "permissions")
    assert check.status is CheckStatus.UNKNOWN
    assert check.remedy == "run the doctor in a consumer's pod: kubectl exec deploy/CONSUMER -- oneprotect doctor"


async def test_a_provider_that_can_not_be_opened() -> None:
    """The reason why the provider cannot be opened is a failure."""
    installation = InstallationSettings(
        variables_set=0, nats=ServerAccess(url="nats://127.0.0.1:1"), provider="kubernetes"
    )
    checks = await examine(installation, SecretSources(problem="The service account's token file is missing."))

    (check,) = (check for check in checks if check.name == "secret provider")
    assert (check.status, check.finding) == (CheckStatus.FAILED, "The service account's token file is missing.")


async def test_secrets_of_a_cluster(server: ApiServer, tmp_path: Path) -> None:
    """In a cluster each cause has its own finding, and a remedy with kubectl."""
    server.put(manifest(name="unlabelled", labels={}))
    server.put(manifest(name="padded", data={"signing": KEY + b"\n"}))
    server.put(manifest(name="denied"))
    server.revoke_all()
    server.grant(NAMESPACE, "acme-signing", "unlabelled", "padded", "gone")
    registered = [
        _registered(f"{name}-key", name) for name in ("acme-signing", "unlabelled", "padded", "gone", "denied")
    ]
    provider = await KubernetesSecretProvider.in_cluster(
        namespaces_allowed=frozenset({NAMESPACE}),
        directory=server.service_account(tmp_path / "account"),
        environ=server.environ,
    )
    checks = await check_credentials(registered, provider, is_local=False)
    await provider.aclose()

    found = {check.name: (check.status, check.finding) for check in checks}
    remedies = {check.name: check.remedy or "" for check in checks}
    assert found["acme/acme-signing-key"][1].startswith("the Secret can sign")
    assert found["acme/unlabelled-key"] == (CheckStatus.FAILED, SecretProblem.UNLABELLED.value)
    assert found["acme/padded-key"] == (CheckStatus.FAILED, SecretProblem.MALFORMED_KEY.value)
    assert found["acme/gone-key"] == (CheckStatus.FAILED, SecretProblem.NO_SECRET.value)
    assert found["acme/denied-key"] == (CheckStatus.FAILED, SecretProblem.DENIED.value)
    assert (
        "kubectl label secret SECRET --namespace NAMESPACE oneprotect.io/tenant=acme" in remedies["acme/unlabelled-key"]
    )
    assert "rtrimstr" in remedies["acme/padded-key"]
    assert "printf 'whsec_%s'" in remedies["acme/gone-key"]
    assert "kubectl create rolebinding" in remedies["acme/denied-key"]
    assert Search(Canary("key", KEY)).find(msgspec.json.encode(checks)) == []
    assert USER not in str(checks)
