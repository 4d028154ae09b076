"""What every provider does, whichever it is: the local one, Kubernetes, and a cache before either.

Kubernetes is the double, and a real cluster too when there is one.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from provider.cache.provider import CachedSecretProvider
from provider.ed25519_key import Ed25519SigningKey
from provider.errors import (
    SecretDenied,
    SecretError,
    SecretMalformed,
    SecretMismatch,
    SecretNotFound,
    SecretRefForbidden,
    SecretUnavailable,
)
from provider.kubernetes.api_server import ApiServerConfig
from provider.kubernetes.provider import KubernetesSecretProvider
from provider.kubernetes.reader import ReadRetryPolicy
from provider.local import LocalSecretProvider
from provider.secret_ref import SecretRef
from provider.signing_keys import HmacKey
from provider.signing_secret import KeyRollover, SigningSecret
from tests.kubernetes.apiserver import ApiServer
from tests.kubernetes.canary import shows
from tests.kubernetes.clusters import CLUSTERS, opened_cluster
from tests.kubernetes.faults import cut_json
from tests.kubernetes.livecluster import LiveCluster
from tests.kubernetes.manifests import (
    ED25519_KEY,
    EXPIRES_AT,
    KEY,
    OTHER_KEY,
    PURPOSE_LABEL,
    TENANT_LABEL,
    Manifest,
    manifest,
    write,
)
from tests.kubernetes.resolving import ALLOWED, Pauses, refused, resolve
from tests.support.signing import sign_with

Provider = LocalSecretProvider | KubernetesSecretProvider | CachedSecretProvider

NOW = datetime.now(UTC)
LATER = NOW.replace(microsecond=0) + timedelta(days=1)
EARLIER = LATER - timedelta(days=2)
TOO_LATE = LATER + timedelta(days=31)
GLOBEX = {TENANT_LABEL: "globex", PURPOSE_LABEL: "webhook-signing"}


class World(ABC):
    """Storage of a provider's Secrets, and operations on it. Begins empty."""

    provider: Provider
    namespace = "webhooks"

    @abstractmethod
    async def put(self, document: Manifest) -> str:
        """Create or replace a Secret, in this world's namespace, and return its version."""

    @abstractmethod
    async def deny(self) -> None:
        """Take away the right to read `acme-signing`."""

    def ref(self, name: str = "acme-signing", key: str = "signing") -> SecretRef:
        """A ref to a Secret of this world."""
        return SecretRef(namespace=self.namespace, name=name, key=key)


class Staged(World):
    """A simulated world with every fault, also those that no API server causes."""

    @abstractmethod
    async def spoil(self, document: Manifest) -> None:
        """Let the answer for `acme-signing` break off."""


class Directory(Staged):
    """A directory of manifests."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.provider = LocalSecretProvider(directory, ALLOWED)

    async def put(self, document: Manifest) -> str:
        write(self._directory, document)
        return f"{document['metadata']['uid']}/{document['metadata']['resourceVersion']}"

    async def deny(self) -> None:
        (self._directory / "webhooks" / "acme-signing.json").mkdir(parents=True)

    async def spoil(self, document: Manifest) -> None:
        path = write(self._directory, document)
        path.write_bytes(path.read_bytes()[:300])


class Pod(Staged):
    """A pod before the double of an API server."""

    def __init__(self, server: ApiServer, provider: Provider) -> None:
        self._server = server
        self.provider = provider
        server.grant("webhooks", "acme-signing")

    async def put(self, document: Manifest) -> str:
        self._server.put(document)
        return f"{document['metadata']['uid']}/{document['metadata']['resourceVersion']}"

    async def deny(self) -> None:
        self._server.revoke_all()

    async def spoil(self, document: Manifest) -> None:
        self._server.every_answer = cut_json(document)


class Live(World):
    """A namespace in a cluster that is only spoken to from outside, so that it may be a real one."""

    def __init__(self, cluster: LiveCluster, provider: Provider) -> None:
        self._cluster = cluster
        self.provider = provider
        self.namespace = cluster.namespace

    async def put(self, document: Manifest) -> str:
        return await self._cluster.put(document)

    async def deny(self) -> None:
        await self._cluster.revoke("acme-signing")


@pytest_asyncio.fixture(params=[f"{way}{kind}" for kind in ("local", "pod", *CLUSTERS) for way in ("", "cached-")])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """Each provider in its world."""
    async with opened_world(request.param, tmp_path) as opened:
        yield opened


@pytest_asyncio.fixture(params=[f"{way}{kind}" for kind in ("local", "pod") for way in ("", "cached-")])
async def staged(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Staged]:
    """Each provider in a simulated world."""
    async with opened_world(request.param, tmp_path) as opened:
        assert isinstance(opened, Staged)
        yield opened


@asynccontextmanager
async def opened_world(which: str, directory: Path) -> AsyncGenerator[World]:
    """The world of that name, with a cache before its provider if the name includes it."""
    kind = which.removeprefix("cached-")
    match kind:
        case "local":
            opening = local_world(directory)
        case "pod":
            opening = pod_world(directory)
        case _:
            opening = live_world(kind, directory)
    async with opening as opened:
        if kind != which and not isinstance(opened.provider, CachedSecretProvider):
            opened.provider = CachedSecretProvider(opened.provider)
        yield opened
        await opened.provider.aclose()


@asynccontextmanager
async def local_world(directory: Path) -> AsyncGenerator[World]:
    yield Directory(directory)


@asynccontextmanager
async def pod_world(directory: Path) -> AsyncGenerator[World]:
    async with ApiServer.running(directory / "server") as server:
        account = server.service_account(directory / "account")
        provider = KubernetesSecretProvider(
            namespaces_allowed=ALLOWED,
            server=await ApiServerConfig.in_cluster(directory=account, environ=server.environ),
            retry_policy=ReadRetryPolicy(sleep=Pauses()),
        )
        yield Pod(server, provider)


@asynccontextmanager
async def live_world(which: str, directory: Path) -> AsyncGenerator[World]:
    async with opened_cluster(which, directory) as cluster:
        await cluster.grant("acme-signing", "globex-signing")
        provider = await KubernetesSecretProvider.from_kubeconfig(
            cluster.consumer_kubeconfig(directory), namespaces_allowed=frozenset({cluster.namespace})
        )
        yield Live(cluster, provider)


async def test_the_owners_secret_signs(world: World) -> None:
    """With the key under the ref's name, in the version that it was read in."""
    version = await world.put(manifest(data={"signing": KEY, "other": OTHER_KEY}))

    secret = await resolve(world.provider, world.ref())

    assert sign_with(secret, b"message", NOW) == [("current", "v1", HmacKey(KEY).sign(b"message"))]
    assert secret.version == version


async def test_the_second_scheme_signs(world: World) -> None:
    """With an Ed25519 key where there is one, and an HMAC key still beside it while receivers move over."""
    data = {"signing": ED25519_KEY, "signing.previous": KEY}
    await world.put(manifest(data=data, annotations={EXPIRES_AT: LATER.isoformat()}))

    secret = await resolve(world.provider, world.ref())

    assert sign_with(secret, b"message", NOW) == [
        ("current", "v1a", Ed25519SigningKey(ED25519_KEY).sign(b"message")),
        ("previous", "v1", HmacKey(KEY).sign(b"message")),
    ]


@pytest.mark.parametrize(
    ("annotations", "slots", "rollover"),
    [
        ({EXPIRES_AT: LATER.isoformat()}, ["current", "previous"], KeyRollover(True, LATER, False)),
        ({EXPIRES_AT: EARLIER.isoformat()}, ["current"], KeyRollover(False, EARLIER, False)),
        ({EXPIRES_AT: TOO_LATE.isoformat()}, ["current"], KeyRollover(False, TOO_LATE, True)),
        ({EXPIRES_AT: "tomorrow"}, ["current"], KeyRollover(False, None, True)),
        ({}, ["current"], KeyRollover(False, None, True)),
    ],
    ids=["later", "earlier", "too late", "unclear", "none"],
)
async def test_a_rollover_signs_with_both_keys_until_it_ends(
    world: World, annotations: dict[str, str], slots: list[str], rollover: KeyRollover
) -> None:
    """And with the current one alone whenever its end is past, too far off, or unclear."""
    await world.put(manifest(data={"signing": KEY, "signing.previous": OTHER_KEY}, annotations=annotations))

    secret = await resolve(world.provider, world.ref())

    assert [signature.slot for signature in sign_with(secret, b"message", NOW)] == slots
    assert secret.describe_rollover(NOW) == rollover


async def test_another_tenant_is_refused_before_and_after_the_owner(world: World) -> None:
    """Whatever was read for one serves no other, and the owner notices nothing."""
    await world.put(manifest())

    await refused(world.provider, SecretMismatch, world.ref(), tenant="globex")
    assert isinstance(await resolve(world.provider, world.ref()), SigningSecret)
    await refused(world.provider, SecretMismatch, world.ref(), tenant="globex")
    assert isinstance(await resolve(world.provider, world.ref()), SigningSecret)


async def test_another_tenant_learns_nothing_of_the_keys(world: World) -> None:
    """A key that is not there is refused to others as one that is."""
    await world.put(manifest())
    absent = world.ref(key="absent")

    await refused(world.provider, SecretMismatch, absent, tenant="globex")
    await refused(world.provider, SecretNotFound, absent)


@pytest.mark.parametrize(
    "document",
    [
        manifest(labels={}),
        manifest(labels={TENANT_LABEL: "acme"}),
        manifest(labels={TENANT_LABEL: "acme", PURPOSE_LABEL: "client-tls"}),
        manifest(labels={PURPOSE_LABEL: "webhook-signing"}),
        manifest(type="example.com/else"),
        manifest(type="kubernetes.io/basic-auth", data={"username": b"u", "password": b"p", "signing": KEY}),
        manifest(type="kubernetes.io/dockerconfigjson", data={".dockerconfigjson": b"{}", "signing": KEY}),
    ],
    ids=range(7),
)
async def test_without_the_owners_consent_nothing_signs(world: World, document: Manifest) -> None:
    """Unlabelled, for another purpose, or made for something else altogether."""
    await world.put(document)

    await refused(world.provider, SecretMismatch, world.ref())


@pytest.mark.parametrize(
    "document",
    [
        manifest(type="kubernetes.io/tls"),
        manifest(type="kubernetes.io/service-account-token"),
        manifest(kind="ConfigMap"),
    ],
    ids=range(3),
)
async def test_another_object_signs_nothing(staged: Staged, document: Manifest) -> None:
    """Labels do not matter."""
    await staged.put(document)

    await refused(staged.provider, SecretMismatch, staged.ref())


@pytest.mark.parametrize(
    "material",
    [
        b"",
        b"short",
        KEY + b"\n",
        b"whsec_" + b"!" * 32,
        b"whsk_" + KEY[6:],
        ED25519_KEY[:-8] + b"AAAAAA==",
        b"k" * 65,
        b"secret\n" * 5,
    ],
    ids=range(8),
)
async def test_a_key_that_cannot_sign_is_malformed(world: World, material: bytes) -> None:
    """It is never repaired."""
    await world.put(manifest(data={"signing": material}))

    await refused(world.provider, SecretMalformed, world.ref())


async def test_plain_values_are_malformed(staged: Staged) -> None:
    """`stringData` is not read as data."""
    await staged.put(manifest(data={}, stringData={"signing": KEY.decode()}))

    await refused(staged.provider, SecretMalformed)


async def test_a_missing_secret_or_key_is_not_found(world: World) -> None:
    """A missing Secret and a missing key in a Secret are both not found."""
    await refused(world.provider, SecretNotFound, world.ref())

    await world.put(manifest(name="globex-signing", data={"other": KEY}))

    await refused(world.provider, SecretNotFound, world.ref("globex-signing"))


async def test_a_secret_under_deletion_is_not_found(staged: Staged) -> None:
    """A Secret under deletion counts as missing."""
    document = manifest()
    document["metadata"]["deletionTimestamp"] = "2026-11-23T00:00:00Z"
    await staged.put(document)

    await refused(staged.provider, SecretNotFound)


async def test_an_unreadable_secret_is_denied(world: World) -> None:
    """RBAC or file permissions deny the read."""
    await world.deny()

    await refused(world.provider, SecretDenied, world.ref())


async def test_a_broken_answer_is_unavailable(staged: Staged) -> None:
    """A broken answer is never an empty Secret."""
    await staged.spoil(manifest())

    await refused(staged.provider, SecretUnavailable)


async def test_other_namespaces_are_forbidden(staged: Staged) -> None:
    """Even when the Secret is there, granted, and labelled for the tenant."""
    await staged.put(manifest(namespace="webhooks-2"))

    await refused(
        staged.provider, SecretRefForbidden, SecretRef(namespace="webhooks-2", name="acme-signing", key="signing")
    )


async def test_concurrent_reads_get_their_own_answers(world: World) -> None:
    """Each caller gets its own answer."""
    await world.put(manifest())
    await world.put(manifest(name="globex-signing", labels=GLOBEX))
    refs = (world.ref(), world.ref("globex-signing"))

    outcomes = await asyncio.gather(
        *(resolve(world.provider, ref, tenant=tenant) for ref in refs for tenant in ("acme", "globex") * 10),
        return_exceptions=True,
    )

    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [SigningSecret, SecretMismatch] * 10 + [SecretMismatch, SigningSecret] * 10


async def test_nothing_of_a_key_is_logged_or_shown(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """No log at DEBUG shows a key after a signature or a refusal."""
    caplog.set_level(logging.DEBUG)
    await world.put(manifest(data={"signing": KEY, "signing.previous": OTHER_KEY, "broken": KEY + b"\n"}))
    broken = world.ref(key="broken")

    secret = await resolve(world.provider, world.ref())
    await refused(world.provider, SecretMalformed, broken)
    await refused(world.provider, SecretMismatch, world.ref(), tenant="globex")
    logging.getLogger("oneprotect.test").debug("the pipe is alive")

    text = caplog.text + repr(secret) + str(secret) + repr(world.provider)
    assert "the pipe is alive" in text
    assert not shows(text, KEY)
    assert not shows(text, OTHER_KEY)


@pytest.mark.parametrize("error", [SecretNotFound, SecretDenied, SecretUnavailable])
async def test_a_missing_secret_is_retryable(world: World, error: type[SecretError]) -> None:
    """A later answer counts for a missing Secret, and a refusal is final."""
    assert error.retryable
    await refused(world.provider, SecretNotFound, world.ref())

    await world.put(manifest())
    if isinstance(world.provider, CachedSecretProvider):
        world.provider.evict(world.namespace, "acme-signing")

    assert isinstance(await resolve(world.provider, world.ref()), SigningSecret)
