"""What every provider does, whichever it is: the local one, Kubernetes, and a cache before either."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from provider.cache import CachedSecretProvider
from provider.errors import (
    SecretDenied,
    SecretError,
    SecretMalformed,
    SecretMismatch,
    SecretNotFound,
    SecretRefForbidden,
    SecretUnavailable,
)
from provider.kubernetes import KubernetesSecretProvider
from provider.local import LocalSecretProvider
from provider.ref import SecretRef
from provider.value import SigningKey, SigningSecret
from tests.kubernetes.apiserver import USER, ApiServer, cut_json
from tests.kubernetes.canary import shows
from tests.kubernetes.manifests import (
    EXPIRES_AT,
    KEY,
    OTHER_KEY,
    PURPOSE_LABEL,
    TENANT_LABEL,
    Manifest,
    manifest,
    write,
)
from tests.kubernetes.resolving import REF, refused, resolve

Provider = LocalSecretProvider | KubernetesSecretProvider | CachedSecretProvider

ALLOWED = frozenset({"webhooks"})
NOW = datetime.now(UTC)
LATER = (NOW + timedelta(days=1)).isoformat()
EARLIER = (NOW - timedelta(days=1)).isoformat()
TOO_LATE = (NOW + timedelta(days=31)).isoformat()


class World(ABC):
    """Where the Secrets of a provider are, and what may happen to them. Begins empty."""

    provider: Provider

    @abstractmethod
    def put(self, document: Manifest) -> None:
        """Create or replace a Secret."""

    @abstractmethod
    def deny(self) -> None:
        """Take away the right to read `webhooks/acme-signing`."""

    @abstractmethod
    def spoil(self, document: Manifest) -> None:
        """Let the answer for `webhooks/acme-signing` break off."""


class Directory(World):
    """A directory of manifests."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.provider = LocalSecretProvider(directory, ALLOWED)

    def put(self, document: Manifest) -> None:
        write(self._directory, document)

    def deny(self) -> None:
        (self._directory / "webhooks" / "acme-signing.json").mkdir(parents=True)

    def spoil(self, document: Manifest) -> None:
        path = write(self._directory, document)
        path.write_bytes(path.read_bytes()[:300])


class InCluster(World):
    """An API server."""

    def __init__(self, server: ApiServer, provider: Provider) -> None:
        self._server = server
        self.provider = provider
        server.grants.add((USER, "webhooks", "acme-signing"))

    def put(self, document: Manifest) -> None:
        self._server.put(document)

    def deny(self) -> None:
        self._server.grants.clear()

    def spoil(self, document: Manifest) -> None:
        self._server.every_answer = cut_json(document)


@pytest_asyncio.fixture(params=["local", "kubernetes", "cached-local", "cached-kubernetes"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """Each provider in its world."""
    cached, _, kind = request.param.rpartition("-")
    opening = local_world(tmp_path) if kind == "local" else cluster_world(tmp_path)
    async with opening as opened:
        if cached and not isinstance(opened.provider, CachedSecretProvider):
            opened.provider = CachedSecretProvider(opened.provider)
        yield opened
        await opened.provider.aclose()


@asynccontextmanager
async def local_world(directory: Path) -> AsyncGenerator[Directory]:
    yield Directory(directory)


@asynccontextmanager
async def cluster_world(directory: Path) -> AsyncGenerator[InCluster]:
    async with ApiServer.running(directory / "server") as server:
        account = server.service_account(directory / "account")
        provider = await KubernetesSecretProvider.in_cluster(
            namespaces_allowed=ALLOWED, directory=account, environ=server.environ
        )
        yield InCluster(server, provider)


async def test_the_owners_secret_signs(world: World) -> None:
    """With the key under the ref's name, in the version that it was read in."""
    world.put(manifest(data={"signing": KEY, "other": OTHER_KEY}))

    secret = await resolve(world.provider)

    assert secret.sign(b"message", NOW) == [("current", SigningKey(KEY).sign(b"message"))]
    assert secret.version == "6d1f3a52-0000-4000-8000-000000000001/41"


@pytest.mark.parametrize(
    ("annotations", "slots", "misconfigured"),
    [
        ({EXPIRES_AT: LATER}, ["current", "previous"], False),
        ({EXPIRES_AT: EARLIER}, ["current"], False),
        ({EXPIRES_AT: TOO_LATE}, ["current"], False),
        ({EXPIRES_AT: "tomorrow"}, ["current"], True),
        ({}, ["current"], True),
    ],
)
async def test_a_rollover_signs_with_both_keys_until_it_ends(
    world: World, annotations: dict[str, str], slots: list[str], misconfigured: bool
) -> None:
    """And with the current one alone whenever its end is past, too far off, or unclear."""
    world.put(manifest(data={"signing": KEY, "signing.previous": OTHER_KEY}, annotations=annotations))

    secret = await resolve(world.provider)

    assert [slot for slot, _ in secret.sign(b"message", NOW)] == slots
    assert secret.rollover_misconfigured is misconfigured


async def test_another_tenant_is_refused_before_and_after_the_owner(world: World) -> None:
    """Whatever was read for one serves no other, and the owner notices nothing."""
    world.put(manifest())

    await refused(world.provider, SecretMismatch, tenant="globex")
    assert isinstance(await resolve(world.provider), SigningSecret)
    await refused(world.provider, SecretMismatch, tenant="globex")
    assert isinstance(await resolve(world.provider), SigningSecret)


async def test_another_tenant_learns_nothing_of_the_keys(world: World) -> None:
    """A key that is not there is refused to others as one that is."""
    world.put(manifest())
    absent = SecretRef(namespace="webhooks", name="acme-signing", key="absent")

    await refused(world.provider, SecretMismatch, absent, tenant="globex")
    await refused(world.provider, SecretNotFound, absent)


@pytest.mark.parametrize(
    "document",
    [
        manifest(labels={}),
        manifest(labels={TENANT_LABEL: "acme"}),
        manifest(labels={TENANT_LABEL: "acme", PURPOSE_LABEL: "client-tls"}),
        manifest(labels={PURPOSE_LABEL: "webhook-signing"}),
        manifest(type="kubernetes.io/tls"),
        manifest(type="kubernetes.io/service-account-token"),
        manifest(type="kubernetes.io/dockerconfigjson"),
        manifest(kind="ConfigMap"),
    ],
)
async def test_without_the_owners_consent_nothing_signs(world: World, document: Manifest) -> None:
    """Unlabelled, for another purpose, or made for something else altogether."""
    world.put(document)

    await refused(world.provider, SecretMismatch)


@pytest.mark.parametrize(
    "material", [b"", b"short", KEY + b"\n", b"whsec_" + b"!" * 32, b"whsk_" + KEY[6:], b"k" * 65, b"secret\n" * 5]
)
async def test_a_key_that_cannot_sign_is_malformed(world: World, material: bytes) -> None:
    """It is never repaired."""
    world.put(manifest(data={"signing": material}))

    await refused(world.provider, SecretMalformed)


async def test_plain_values_are_malformed(world: World) -> None:
    """`stringData` is not taken for data."""
    world.put(manifest(data={}, stringData={"signing": KEY.decode()}))

    await refused(world.provider, SecretMalformed)


async def test_what_is_not_there_is_not_found(world: World) -> None:
    """Neither the Secret nor, once it is there, the key."""
    await refused(world.provider, SecretNotFound)

    world.put(manifest(name="globex-signing", data={"other": KEY}))
    world_has_another = SecretRef(namespace="webhooks", name="globex-signing", key="signing")

    await refused(world.provider, SecretNotFound, world_has_another)


async def test_what_is_being_deleted_is_not_found(world: World) -> None:
    """It is as good as gone."""
    document = manifest()
    document["metadata"]["deletionTimestamp"] = "2026-11-23T00:00:00Z"
    world.put(document)

    await refused(world.provider, SecretNotFound)


async def test_what_may_not_be_read_is_denied(world: World) -> None:
    """By whoever guards it."""
    world.deny()

    await refused(world.provider, SecretDenied)


async def test_a_broken_answer_is_unavailable(world: World) -> None:
    """And never an empty secret."""
    world.spoil(manifest())

    await refused(world.provider, SecretUnavailable)


async def test_other_namespaces_are_forbidden(world: World) -> None:
    """Even when the Secret is there and labelled for the tenant."""
    world.put(manifest(namespace="webhooks-2"))

    await refused(
        world.provider, SecretRefForbidden, SecretRef(namespace="webhooks-2", name="acme-signing", key="signing")
    )


async def test_many_may_ask_at_once(world: World) -> None:
    """Each gets its own answer."""
    world.put(manifest())
    world.put(manifest(name="globex-signing", labels={TENANT_LABEL: "globex", PURPOSE_LABEL: "webhook-signing"}))
    theirs = SecretRef(namespace="webhooks", name="globex-signing", key="signing")

    outcomes = await asyncio.gather(
        *(resolve(world.provider, ref, tenant=tenant) for ref in (REF, theirs) for tenant in ("acme", "globex") * 10),
        return_exceptions=True,
    )

    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [SigningSecret, SecretMismatch] * 10 + [SecretMismatch, SigningSecret] * 10


async def test_nothing_of_a_key_is_logged_or_shown(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Neither on the way to a signature nor on the way to a refusal, at DEBUG."""
    caplog.set_level(logging.DEBUG)
    world.put(manifest(data={"signing": KEY, "signing.previous": OTHER_KEY, "broken": KEY + b"\n"}))
    broken = SecretRef(namespace="webhooks", name="acme-signing", key="broken")

    secret = await resolve(world.provider)
    await refused(world.provider, SecretMalformed, broken)
    await refused(world.provider, SecretMismatch, tenant="globex")
    logging.getLogger("oneprotect.test").debug("the pipe is alive")

    text = caplog.text + repr(secret) + str(secret) + repr(world.provider)
    assert "the pipe is alive" in text
    assert not shows(text, KEY)
    assert not shows(text, OTHER_KEY)


@pytest.mark.parametrize("error", [SecretNotFound, SecretDenied, SecretUnavailable])
async def test_waiting_can_help_with_what_is_missing(world: World, error: type[SecretError]) -> None:
    """Missing is retryable, and a later answer counts; refused is not."""
    assert error.retryable
    await refused(world.provider, SecretNotFound)

    world.put(manifest())
    if isinstance(world.provider, CachedSecretProvider):
        world.provider.evict("webhooks", "acme-signing")

    assert isinstance(await resolve(world.provider), SigningSecret)
