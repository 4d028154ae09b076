"""What a consumer's parts know of themselves, as metrics. Nothing here runs unless somebody reads."""

from collections.abc import Iterator

import msgspec

from consumers.credentials.checker import STATUS_OF, CredentialChecks
from consumers.delivery.handler import DeliveryHandler
from consumers.destinations.health import DestinationHealth
from consumers.queues.overflow_feeder import Feeder
from consumers.worker.worker import Runtime
from messaging.client.connection import Connection
from messaging.publisher import Publisher
from provider.cache.provider import CachedSecretProvider
from schemas.codes import CredentialStatus
from telemetry.metrics import definitions as catalogue
from telemetry.metrics.definitions import Metric
from telemetry.metrics.registry import Labels, Reading


class ConsumerReadings(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked."""

    connection: Connection
    publisher: Publisher
    provider: CachedSecretProvider
    checks: CredentialChecks
    health: DestinationHealth
    handler: DeliveryHandler
    runtime: Runtime
    feeder: Feeder
    max_in_flight: int

    def __call__(self) -> Iterator[Reading]:
        """A source for `Counters.watch`."""
        yield from self._work()
        yield from self._nats()
        yield from self._secrets()
        resting, trying = self.health.count()
        yield catalogue.DESTINATIONS, (("state", "resting"),), resting
        yield catalogue.DESTINATIONS, (("state", "trial"),), trying

    def _work(self) -> Iterator[Reading]:
        yield catalogue.IN_FLIGHT, (), self.runtime.in_flight
        yield catalogue.IN_FLIGHT_LIMIT, (), self.max_in_flight
        yield catalogue.HELD, (), self.runtime.held
        yield catalogue.CRASHES, (), self.runtime.crashes
        yield catalogue.DEFERRALS, (), self.handler.deferrals
        yield catalogue.QUARANTINED, (("code", "event.invalid"),), self.handler.quarantines
        yield catalogue.FED, (), self.feeder.moved

    def _nats(self) -> Iterator[Reading]:
        yield catalogue.CONNECTED, (), self.connection.is_connected
        yield catalogue.RECONNECTS, (), self.connection.reconnects
        for reason in ("subject_full", "refused", "unavailable"):
            yield catalogue.PUBLISH_FAILURES, (("reason", reason),), self.publisher.failures[reason]

    def _secrets(self) -> Iterator[Reading]:
        provider = self.provider
        yield _plain(catalogue.CACHE_HITS, provider.hits)
        yield _plain(catalogue.CACHE_MISSES, provider.misses)
        yield _plain(catalogue.CACHE_REFRESHES, provider.refreshes)
        yield _plain(catalogue.CACHE_STALE, provider.stale_served)
        yield _plain(catalogue.CACHE_ENTRIES, provider.size)
        yield _plain(catalogue.CACHE_OLDEST, max(provider.ages_s, default=0.0))
        for code in STATUS_OF:
            yield catalogue.READ_FAILURES, (("code", code.value),), provider.failures[code]
        known = self.checks.count()
        for status in CredentialStatus:
            yield catalogue.CREDENTIALS, (("status", status.value),), known[status]


def _plain(metric: Metric, value: float, labels: Labels = ()) -> Reading:
    return metric, labels, value
