"""The metrics that a consumer's parts keep themselves, read when a snapshot is taken."""

from collections.abc import Iterator

import msgspec

from consumers.credentials.checker import STATUS_OF, CredentialChecker
from consumers.delivery.handler import DeliveryHandler
from consumers.delivery.id_check import NamedIdCheck
from consumers.destinations.health import DestinationHealth
from consumers.notifications.tenant_events import TenantEventPublisher
from consumers.queues.overflow_feeder import OverflowFeeder
from consumers.retries.overdue import OverdueSchedules
from consumers.worker.load_shedding import LoadShedder
from consumers.worker.worker import Worker
from messaging.client.connection import NatsConnection
from messaging.publisher import JetStreamPublisher
from provider.cache.provider import CachedSecretProvider
from schemas.codes import CredentialStatus
from telemetry.metrics import definitions
from telemetry.metrics.registry import MetricSample


class WorkerMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a consumer that have metrics."""

    connection: NatsConnection
    publisher: JetStreamPublisher
    provider: CachedSecretProvider
    checks: CredentialChecker
    health: DestinationHealth
    handler: DeliveryHandler
    worker: Worker
    feeder: OverflowFeeder
    shedder: LoadShedder
    notifier: TenantEventPublisher
    overdue: OverdueSchedules
    ids: NamedIdCheck | None
    max_in_flight: int

    def __call__(self) -> Iterator[MetricSample]:
        """Yield the readings, as a source for `MetricRegistry.add_source`."""
        worker, provider = self.worker, self.provider
        for metric, value in (
            (definitions.IN_FLIGHT, worker.in_flight),
            (definitions.IN_FLIGHT_LIMIT, self.max_in_flight),
            (definitions.UNSETTLED, worker.unsettled),
            (definitions.CRASHES, worker.crashes),
            (definitions.INTERRUPTIONS, worker.interruptions),
            (definitions.RETURNS, worker.returns),
            (definitions.TERMINATED, worker.terminations),
            (definitions.OVERDUE, self.overdue.overdue),
            (definitions.LATENESS, self.handler.spread.late_s),
            (definitions.RETRY_ROOM, self.handler.spread.per_s),
            (definitions.DEFERRALS, self.handler.deferrals),
            (definitions.REPEATED_ATTEMPTS, self.handler.repeated_attempts),
            (definitions.REPEATED_IDS, self.ids.duplicates if self.ids else 0),
            (definitions.FED, self.feeder.moved),
            (definitions.SHED, self.shedder.moved),
            (definitions.CONNECTED, self.connection.is_connected),
            (definitions.RECONNECTS, self.connection.reconnects),
            (definitions.FORBIDDEN, self.connection.permissions.count),
            (definitions.CACHE_HITS, provider.hits),
            (definitions.CACHE_MISSES, provider.misses),
            (definitions.CACHE_REFRESHES, provider.refreshes),
            (definitions.CACHE_STALE, provider.stale_served),
            (definitions.CACHE_ENTRIES, provider.size),
            (definitions.CACHE_OLDEST, max(provider.ages_s, default=0.0)),
        ):
            yield metric, (), value
        yield definitions.QUARANTINED, (("code", "event.invalid"),), self.handler.quarantines
        yield definitions.QUARANTINED, (("code", "internal"),), worker.quarantines
        for reason in ("subject_full", "refused", "unavailable"):
            yield definitions.PUBLISH_FAILURES, (("reason", reason),), self.publisher.failures[reason]
        for code in STATUS_OF:
            yield definitions.READ_FAILURES, (("code", code.value),), provider.failures[code]
        for limit in ("subscribers", "rate"):
            yield definitions.OMITTED, (("limit", limit),), self.notifier.omitted[limit]
        statuses = self.checks.count()
        for status in CredentialStatus:
            yield definitions.CREDENTIALS, (("status", status.value),), statuses[status]
        resting, trying = self.health.count()
        yield definitions.DESTINATIONS, (("state", "open"),), resting
        yield definitions.DESTINATIONS, (("state", "half_open"),), trying
