"""What the doctor says of a service account, by the API server's own word: the double of it, over TLS."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from oneprotect.doctor.credentials import check_credentials
from oneprotect.doctor.installation import InstallationSettings
from oneprotect.doctor.rbac import TOO_MUCH, check_permissions
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
    """What the consumers' service account may do there."""
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
    """What is said of too little and of too much, and require that it names no Secret."""
    too_little, too_much = await check_permissions(
        reviews, {NAMESPACE}, REGISTERED if registered is None else registered
    )
    told = msgspec.json.encode([too_little, too_much])
    assert b"acme-signing" not in told
    assert b"globex-signing" not in told
    assert NAMESPACE.encode() not in told
    return too_little, too_much


async def test_enough_and_no_more(server: ApiServer, reviews: AccessReviews) -> None:
    """A service account that may get the Secrets of credentials, and do nothing else, is as it should be."""
    too_little, too_much = await _check(reviews)

    assert (too_little.status, too_little.finding) == (CheckStatus.OK, "it may get all 2")
    assert too_much.status is CheckStatus.OK
    assert {request.path.rpartition("/")[2] for request in server.requests} == {"selfsubjectaccessreviews"}


async def test_too_little(server: ApiServer, reviews: AccessReviews) -> None:
    """A Secret that may not be read fails, by its credential, with the role that is missing."""
    server.revoke_all()
    server.grant(NAMESPACE, "acme-signing")
    too_little, too_much = await _check(reviews)

    assert too_little.status is CheckStatus.FAILED
    assert "acme/invoices-key" in too_little.finding
    assert "acme/orders-key" not in too_little.finding
    assert "kubectl create role" in (too_little.mending or "")
    assert too_much.status is CheckStatus.OK


@pytest.mark.parametrize("verb", TOO_MUCH)
async def test_a_verb_too_much(server: ApiServer, reviews: AccessReviews, verb: str) -> None:
    """Whatever it may do beside `get` is a warning that names it, with the role that it should have."""
    server.grant(NAMESPACE, verbs=(verb,))
    too_little, too_much = await _check(reviews)

    assert too_little.status is CheckStatus.OK
    assert (too_much.status, too_much.finding) == (CheckStatus.WARNING, f"it is over-privileged: it may also {verb}")
    assert "resourceNames: [SECRET, ...], verbs: [get]" in (too_much.mending or "")


async def test_a_role_without_names(server: ApiServer, reviews: AccessReviews) -> None:
    """A role whose list of names is empty allows every Secret, which is told."""
    server.grant(NAMESPACE)
    too_little, too_much = await _check(reviews)

    assert too_little.status is CheckStatus.OK
    assert too_much.finding.endswith("it may also get any, also those that no credential names")


async def test_a_role_for_everything(server: ApiServer, reviews: AccessReviews) -> None:
    """All that is too much is told at once."""
    server.grant(NAMESPACE, verbs=("*",))
    _, too_much = await _check(reviews)

    assert all(verb in too_much.finding for verb in TOO_MUCH)


async def test_without_credentials(reviews: AccessReviews) -> None:
    """Where no credential is registered nothing may be too little; where none could be read, nothing is known."""
    none, _ = await _check(reviews, [])
    unread, _ = await check_permissions(reviews, {NAMESPACE}, None)

    assert (none.status, none.finding) == (CheckStatus.OK, "no credential names one")
    assert unread.status is CheckStatus.UNKNOWN


async def test_an_api_server_that_does_not_answer(server: ApiServer, reviews: AccessReviews) -> None:
    """What can't be asked is unknown: neither too little nor too much is claimed."""
    server.users.clear()
    too_little, too_much = await _check(reviews)

    assert (too_little.status, too_much.status) == (CheckStatus.UNKNOWN, CheckStatus.UNKNOWN)
    assert "kubectl get --raw /readyz" in (too_much.mending or "")


async def test_without_nats_permissions_are_examined(reviews: AccessReviews) -> None:
    """A cluster is asked what is too much even while NATS is down."""
    installation = InstallationSettings(
        variables_set=0, nats_url="nats://127.0.0.1:1", provider="kubernetes", namespaces=frozenset({NAMESPACE})
    )
    checks = await examine(installation, SecretSources(reviews=reviews))

    assert [(check.name, check.status) for check in checks if check.group == "permissions"] == [
        ("may get the Secrets of credentials", CheckStatus.UNKNOWN),
        ("may do nothing else with Secrets", CheckStatus.OK),
    ]


async def test_outside_of_a_cluster() -> None:
    """What a person's kubeconfig allows says nothing about the consumers, so nothing is claimed."""
    installation = InstallationSettings(variables_set=0, nats_url="nats://127.0.0.1:1", provider="kubernetes")
    checks = await examine(installation, SecretSources())

    (check,) = (check for check in checks if check.group == "permissions")
    assert check.status is CheckStatus.UNKNOWN
    assert check.mending == "run it where one runs: kubectl exec deploy/CONSUMER -- oneprotect doctor"


async def test_a_provider_that_can_not_be_opened() -> None:
    """Why the provider can't be opened is a failure, in its own words."""
    installation = InstallationSettings(variables_set=0, nats_url="nats://127.0.0.1:1", provider="kubernetes")
    checks = await examine(installation, SecretSources(problem="The service account's token file is missing."))

    (check,) = (check for check in checks if check.name == "secret provider")
    assert (check.status, check.finding) == (CheckStatus.FAILED, "The service account's token file is missing.")


async def test_secrets_of_a_cluster(server: ApiServer, tmp_path: Path) -> None:
    """In a cluster each cause is found as with files, and mended with kubectl; what may not be read is told so."""
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
    mending = {check.name: check.mending or "" for check in checks}
    assert found["acme/acme-signing-key"][1].startswith("its Secret can sign")
    assert found["acme/unlabelled-key"] == (CheckStatus.FAILED, SecretProblem.UNLABELLED.value)
    assert found["acme/padded-key"] == (CheckStatus.FAILED, SecretProblem.MALFORMED_KEY.value)
    assert found["acme/gone-key"] == (CheckStatus.FAILED, SecretProblem.NO_SECRET.value)
    assert found["acme/denied-key"] == (CheckStatus.FAILED, SecretProblem.DENIED.value)
    assert (
        "kubectl label secret SECRET --namespace NAMESPACE oneprotect.io/tenant=acme" in mending["acme/unlabelled-key"]
    )
    assert "rtrimstr" in mending["acme/padded-key"]
    assert "printf 'whsec_%s'" in mending["acme/gone-key"]
    assert "kubectl create rolebinding" in mending["acme/denied-key"]
    assert Search(Canary("key", KEY)).find(msgspec.json.encode(checks)) == []
    assert USER not in str(checks)
