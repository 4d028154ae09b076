"""Resources that every process opens: NATS and its buckets, the egress policy, and the secret provider."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from consumers.egress.policy import EgressPolicy
from consumers.replay.service import ReplayService
from messaging.admin.topology import ArchiveLimits
from messaging.client.client import ServerAccess
from messaging.client.connection import NatsConnection, connect
from messaging.kv import KvBucket
from messaging.publisher import JetStreamPublisher
from oneprotect.api.auth.token_store import TokenStore
from oneprotect.bootstrap.secret_providers import open_reader
from oneprotect.configuration.service import ConfigurationService
from oneprotect.settings.settings import Settings
from provider.cache.provider import CachedSecretProvider
from schemas import streams


class JetStream:
    """A connection to NATS, with the publisher, buckets and services that use it."""

    def __init__(
        self,
        connection: NatsConnection,
        publisher: JetStreamPublisher,
        egress: EgressPolicy,
        secret_namespace: str | None,
    ) -> None:
        self.connection = connection
        self.publisher = publisher
        self.destinations = KvBucket(connection, publisher, streams.DESTINATIONS)
        self.credentials = KvBucket(connection, publisher, streams.CREDENTIALS)
        self.statuses = KvBucket(connection, publisher, streams.CREDENTIAL_STATUS)
        self.rates = KvBucket(connection, publisher, streams.RATES)
        self.leases = KvBucket(connection, publisher, streams.LEASES)
        self.health = KvBucket(connection, publisher, streams.HEALTH)
        self.token_bucket = KvBucket(connection, publisher, streams.TOKENS)
        self.tokens = TokenStore(self.token_bucket, publisher)
        self.replays = KvBucket(connection, publisher, streams.REPLAYS)
        self.replayer = ReplayService(connection, publisher, self.replays)
        self.activity = KvBucket(connection, publisher, streams.ACTIVITY)
        self.configuration = ConfigurationService(
            self.destinations,
            self.credentials,
            publisher,
            egress,
            statuses=self.statuses,
            secret_namespace=secret_namespace,
        )


@contextlib.asynccontextmanager
async def open_jetstream(
    settings: Settings, *, name: str, keep_trying_until: asyncio.Event | None = None
) -> AsyncGenerator[JetStream]:
    """Connect to NATS. Raises `ServerUnavailable`, unless `keep_trying_until` is given (see `connect`)."""
    async with (
        connect(nats_access(settings), name=name, keep_trying_until=keep_trying_until) as connection,
        JetStreamPublisher(connection) as publisher,
    ):
        yield JetStream(connection, publisher, egress_policy(settings), settings.secret.namespace)


def nats_access(settings: Settings) -> ServerAccess:
    """Return the address of the NATS servers, and the credentials."""
    nats = settings.nats
    return ServerAccess(
        url=nats.url,
        creds_file=nats.creds_file,
        nkey_file=nats.nkey_file,
        ca_file=nats.ca_file,
        inbox_prefix=nats.inbox_prefix,
    )


def egress_policy(settings: Settings) -> EgressPolicy:
    """Return the policy for URLs and addresses of deliveries."""
    egress = settings.egress
    return EgressPolicy(allow_cidrs=egress.allow_cidrs, allow_http=egress.allow_http, ports=egress.ports)


def archive_limits(settings: Settings) -> ArchiveLimits:
    """Return the age and size limits of the archive."""
    return ArchiveLimits(days=settings.nats.archive_days, max_bytes=settings.nats.archive_max_bytes)


async def open_provider(settings: Settings) -> CachedSecretProvider:
    """Open the configured secret provider behind its cache. There is no fallback."""
    secret = settings.require_provider()
    reader = await open_reader(secret.provider, namespaces=secret.namespaces, local_dir=secret.local_dir)
    return CachedSecretProvider(reader, ttl_s=secret.cache_ttl_s, max_stale_s=secret.max_stale_s)
