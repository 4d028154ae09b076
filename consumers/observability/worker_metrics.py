"""What a consumer's parts know of themselves, as metrics. Nothing here runs unless somebody reads."""

from collections.abc import Iterator

import msgspec

from consumers.credentials.checker import STATUS_OF, CredentialChecker
from consumers.delivery.handler import DeliveryHandler
from consumers.destinations.health import DestinationHealth
from consumers.queues.overflow_feeder import OverflowFeeder
from consumers.worker.worker import Worker
from messaging.client.connection import NatsConnection
from messaging.publisher import JetStreamPublisher
from provider.cache.provider import CachedSecretProvider
from schemas.codes import CredentialStatus
from telemetry.metrics import definitions
from telemetry.metrics.definitions import MetricDefinition
from telemetry.metrics.registry import Labels, MetricSample


class WorkerMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked."""

    connection: NatsConnection
    publisher: JetStreamPublisher
    provider: CachedSecretProvider
    checks: CredentialChecker
    health: DestinationHealth
    handler: DeliveryHandler
    runtime: Worker
    feeder: OverflowFeeder
    max_in_flight: int

    def __call__(self) -> Iterator[MetricSample]:
        """A source for `MetricRegistry.watch`."""
        yield from self._work()
        yield from self._nats()
        yield from self._secrets()
        resting, trying = self.health.count()
        yield definitions.DESTINATIONS, (("state", "resting"),), resting
        yield definitions.DESTINATIONS, (("state", "trial"),), trying

    def _work(self) -> Iterator[MetricSample]:
        yield definitions.IN_FLIGHT, (), self.runtime.in_flight
        yield definitions.IN_FLIGHT_LIMIT, (), self.max_in_flight
        yield definitions.HELD, (), self.runtime.unsettled
        yield definitions.CRASHES, (), self.runtime.crashes
        yield definitions.DEFERRALS, (), self.handler.deferrals
        yield definitions.QUARANTINED, (("code", "event.invalid"),), self.handler.quarantines
        yield definitions.FED, (), self.feeder.moved

    def _nats(self) -> Iterator[MetricSample]:
        yield definitions.CONNECTED, (), self.connection.is_connected
        yield definitions.RECONNECTS, (), self.connection.reconnects
        for reason in ("subject_full", "refused", "unavailable"):
            yield definitions.PUBLISH_FAILURES, (("reason", reason),), self.publisher.failures[reason]

    def _secrets(self) -> Iterator[MetricSample]:
        provider = self.provider
        yield _plain(definitions.CACHE_HITS, provider.hits)
        yield _plain(definitions.CACHE_MISSES, provider.misses)
        yield _plain(definitions.CACHE_REFRESHES, provider.refreshes)
        yield _plain(definitions.CACHE_STALE, provider.stale_served)
        yield _plain(definitions.CACHE_ENTRIES, provider.size)
        yield _plain(definitions.CACHE_OLDEST, max(provider.ages_s, default=0.0))
        for code in STATUS_OF:
            yield definitions.READ_FAILURES, (("code", code.value),), provider.failures[code]
        known = self.checks.count()
        for status in CredentialStatus:
            yield definitions.CREDENTIALS, (("status", status.value),), known[status]


def _plain(metric: MetricDefinition, value: float, labels: Labels = ()) -> MetricSample:
    return metric, labels, value
