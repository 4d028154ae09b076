"""Resources that every process opens: NATS and its buckets, the egress policy, and the secret provider."""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from consumers.delivery.named_ids import NamedIds
from consumers.destinations.destination_index import DestinationIndex
from consumers.egress.policy import EgressPolicy
from consumers.replay.service import ReplayService
from messaging.admin.topology import StreamLimits
from messaging.client.client import ServerAccess
from messaging.client.connection import NatsConnection, connect
from messaging.kv import KvBucket
from messaging.publisher import JetStreamPublisher
from messaging.quota import KeyQuota, Quota
from messaging.work_share import WorkShare
from oneprotect.api.auth.token_store import TokenStore
from oneprotect.configuration.service import ConfigurationService
from oneprotect.settings.settings import Settings, TenantSettings
from provider.cache.provider import CachedSecretProvider
from provider.errors import ProviderMisconfigured
from provider.provider import SnapshotReader
from schemas import streams

if TYPE_CHECKING:
    from provider.kubernetes.access_review import AccessReviews

ProviderName = Literal["kubernetes", "local"]


class JetStream:
    """A connection to NATS, with the publisher, buckets and services that use it."""

    def __init__(
        self,
        connection: NatsConnection,
        publisher: JetStreamPublisher,
        egress: EgressPolicy,
        secret_namespace: str | None,
        limits: TenantSettings,
    ) -> None:
        self.connection = connection
        self.publisher = publisher
        self.destinations = KvBucket(connection, publisher, streams.DESTINATIONS)
        self.credentials = KvBucket(connection, publisher, streams.CREDENTIALS)
        self.statuses = KvBucket(connection, publisher, streams.CREDENTIAL_STATUS)
        self.rates = KvBucket(connection, publisher, streams.RATES)
        self.suspects = KvBucket(connection, publisher, streams.SUSPECTS)
        self.leases = KvBucket(connection, publisher, streams.LEASES)
        self.health = KvBucket(connection, publisher, streams.HEALTH)
        self.token_bucket = KvBucket(connection, publisher, streams.TOKENS)
        token_quota = KeyQuota(self.token_bucket, "tokens", limits.max_tokens, setting="ONEPROTECT_TENANT_MAX_TOKENS")
        self.tokens = TokenStore(self.token_bucket, publisher, token_quota)
        self.session_quota = KeyQuota(
            self.token_bucket,
            "console sessions",
            limits.max_sessions,
            setting="ONEPROTECT_TENANT_MAX_SESSIONS",
            below="*.*",
            prefix="session-",
        )
        self.replays = KvBucket(connection, publisher, streams.REPLAYS)
        self.replayer = ReplayService(connection, publisher, self.replays, max_open=limits.max_replays)
        self.named_id_rows = KvBucket(connection, publisher, streams.NAMED_IDS)
        self.removals = KvBucket(connection, publisher, streams.REMOVALS)
        self.activity = KvBucket(connection, publisher, streams.ACTIVITY)
        self.index = DestinationIndex(self.destinations, connection)
        destination_quota = Quota(
            "destinations", limits.max_destinations, self.index.count, setting="ONEPROTECT_TENANT_MAX_DESTINATIONS"
        )
        ordered_quota = Quota(
            "ordered destinations",
            limits.max_ordered,
            self.index.count_ordered,
            setting="ONEPROTECT_TENANT_MAX_ORDERED",
        )
        credential_quota = KeyQuota(
            self.credentials, "credentials", limits.max_credentials, setting="ONEPROTECT_TENANT_MAX_CREDENTIALS"
        )
        self.configuration = ConfigurationService(
            self.destinations,
            self.credentials,
            publisher,
            egress,
            index=self.index,
            statuses=self.statuses,
            secret_namespace=secret_namespace,
            destination_quota=destination_quota,
            ordered_quota=ordered_quota,
            credential_quota=credential_quota,
        )
        id_quota = KeyQuota(
            self.named_id_rows,
            "named ids",
            limits.max_named_ids,
            setting="ONEPROTECT_TENANT_MAX_NAMED_IDS",
            below=">",
            reads=False,
            remedy="wait until some are forgotten, or request deliveries without an id",
        )
        self.named_ids = NamedIds(connection, self.named_id_rows, id_quota)
        self.quotas = (destination_quota, ordered_quota, credential_quota, token_quota, self.session_quota, id_quota)


@contextlib.asynccontextmanager
async def open_jetstream(
    settings: Settings, *, name: str, keep_trying_until: asyncio.Event | None = None
) -> AsyncGenerator[JetStream]:
    """Connect to NATS. Raises `ServerUnavailable`, unless `keep_trying_until` is given (see `connect`)."""
    async with (
        connect(nats_access(settings), name=name, keep_trying_until=keep_trying_until) as connection,
        JetStreamPublisher(connection) as publisher,
        contextlib.aclosing(WorkShare(connection, settings.nats.work_per_tenant)) as share,
    ):
        publisher.exceeds_share = share.is_exceeded
        yield JetStream(connection, publisher, egress_policy(settings), settings.secret.namespace, settings.tenant)


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


def stream_limits(settings: Settings) -> StreamLimits:
    """Return the sizes of the streams that hold records."""
    nats = settings.nats
    return StreamLimits(
        archive_days=nats.archive_days,
        archive_bytes=nats.archive_max_bytes,
        attempts_bytes=nats.attempts_max_bytes,
        events_bytes=nats.events_max_bytes,
        quarantine_bytes=nats.quarantine_max_bytes,
        remembered_s=nats.idempotency_window_s,
    )


def is_pod(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether this process runs in a Kubernetes pod."""
    return "KUBERNETES_SERVICE_HOST" in environ


async def open_reader(
    provider: ProviderName | None,
    *,
    namespaces: frozenset[str],
    local_dir: Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> SnapshotReader:
    """Open the provider without a cache. Outside a cluster, `kubernetes` uses the kubeconfig.

    Raises:
        ProviderMisconfigured: There is no provider name, or `local` has no `local_dir`. There is no default.
    """
    if provider is None:
        raise ProviderMisconfigured("No secret provider is configured.")
    if provider == "local":
        from provider.local import LocalSecretProvider

        if local_dir is None:
            raise ProviderMisconfigured("The local provider needs a directory.")
        return LocalSecretProvider(local_dir, namespaces_allowed=namespaces)

    from provider.kubernetes.provider import KubernetesSecretProvider

    if is_pod(environ):
        return await KubernetesSecretProvider.in_cluster(namespaces_allowed=namespaces)
    kubeconfig = Path(environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
    return await KubernetesSecretProvider.from_kubeconfig(kubeconfig, namespaces_allowed=namespaces)


async def open_reviews() -> "AccessReviews":
    """Open access reviews for this pod's service account. Raises `ProviderMisconfigured` outside a pod."""
    from provider.kubernetes.access_review import AccessReviews
    from provider.kubernetes.api_server import SERVICE_ACCOUNT, ApiServerConfig

    return AccessReviews(await ApiServerConfig.in_cluster(directory=SERVICE_ACCOUNT, environ=os.environ))


async def open_provider(settings: Settings) -> CachedSecretProvider:
    """Open the configured secret provider behind its cache. There is no fallback."""
    secret = settings.require_provider()
    reader = await open_reader(secret.provider, namespaces=secret.namespaces, local_dir=secret.local_dir)
    return CachedSecretProvider(reader, ttl_s=secret.cache_ttl_s, max_stale_s=secret.max_stale_s)
