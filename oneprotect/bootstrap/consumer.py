"""The consumer process: its parts in dependency order, and how they start and stop."""

import asyncio
import contextlib
import functools
import os
import resource
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final

import structlog
from msgspec import Struct

from consumers.attempts.log import StreamAttemptLog
from consumers.credentials.checker import CredentialChecker
from consumers.credentials.control_server import WorkerControl
from consumers.delivery.claim_renewal import ClaimRenewal
from consumers.delivery.handler import DeliveryHandler, DeliveryPolicy
from consumers.delivery.head_state import HeadStateCache
from consumers.delivery.id_check import NamedIdCheck
from consumers.destinations.circuit_breaker import HealthPolicy
from consumers.destinations.directory import ConfigurationDirectory
from consumers.destinations.health import DestinationHealth, DisableDestination
from consumers.destinations.hourly_stats import HourlyStatsRecorder
from consumers.dns.resolver import StubResolver
from consumers.dns.system_files import SystemNames
from consumers.http_client.client import HttpWebhookSender
from consumers.http_client.proxy import HttpProxy
from consumers.isolation.guard import IsolatingGuard
from consumers.isolation.journal import HandlingJournal
from consumers.isolation.process import serve_isolated
from consumers.isolation.suspects import SuspectRegistry
from consumers.notifications.tenant_events import TenantEventPublisher
from consumers.observability.attempt_metrics import AttemptMetrics
from consumers.observability.attempt_tracing import AttemptTracer
from consumers.observability.stream_metrics import StreamMetrics
from consumers.observability.worker_metrics import WorkerMetrics
from consumers.queues.ordered_queue import OrderedQueueDependencies
from consumers.queues.ordered_queues import OrderedQueues
from consumers.queues.overflow_feeder import OverflowFeeder
from consumers.retention.archive import ArchiveBatcher, FindArchive
from consumers.retries.overdue import OverdueSchedules
from consumers.retries.reschedule import WaitingDeliveryResumer
from consumers.retries.server_clock import ServerClock
from consumers.worker.disposition import Disposition
from consumers.worker.load_shedding import LoadShedder
from consumers.worker.rate_limiter import RateLimiter
from consumers.worker.settling import SettlementProgress
from consumers.worker.worker import Worker, WorkerLimits
from messaging import management
from messaging.client.errors import JetStreamError, ServerUnavailable
from messaging.delivery_requests import OverflowingPublisher
from messaging.message import Message
from messaging.pull_consumer import PullConsumer
from messaging.tenant_turns import FairTurns
from oneprotect.bootstrap.process import VERSION, freeze_gc, ops_port, state_directory, worker_id
from oneprotect.bootstrap.resources import JetStream, egress_policy, open_jetstream, open_provider
from oneprotect.configuration.errors import ConfigurationError
from oneprotect.configuration.service import ConfigurationService
from oneprotect.settings.settings import Settings
from provider.cache.provider import CachedSecretProvider
from schemas import streams, subjects
from schemas.configuration import MAX_TIMEOUT_S, RetryPolicy
from telemetry.metrics.child_reports import report_to_supervisor
from telemetry.otlp.settings import ExportSettings
from telemetry.telemetry import NO_EXPORT, Telemetry

DEFAULT_HEALTH_POLICY: Final = HealthPolicy()
NOTIFICATIONS_IN_FLIGHT: Final = 16
ORDERED_REQUESTS: Final = 8
"""Management requests of all ordered queues at a time."""
ISOLATED: Final = (sys.executable, "-m", "oneprotect", "consumer", "--isolated")
"""Command of the process that handles suspects."""
ISOLATED_MEMORY_BYTES: Final = 256 * 1024 * 1024
"""Memory that this process may allocate, below what the chart leaves to a pod."""

_log = structlog.get_logger(__name__)


async def run_consumer(
    settings: Settings,
    *,
    stop: asyncio.Event,
    health_policy: HealthPolicy = DEFAULT_HEALTH_POLICY,
    export: ExportSettings = NO_EXPORT,
    link: socket.socket | None = None,
    sender: HttpWebhookSender | None = None,
    isolated: Sequence[str] = ISOLATED,
) -> None:
    """Consume until `stop` is set, then drain.

    Args:
        link: Socket to the supervisor that started this process, if any.
        sender: Sends the deliveries. Default: as the settings say.
        isolated: Command that runs `run_isolated`, with the number of its socket as its last argument.
    """
    telemetry = Telemetry(version=VERSION, role="consumer", instance=worker_id(), export=export)
    slots = 2 * settings.delivery.max_in_flight + 2 * NOTIFICATIONS_IN_FLIGHT
    try:
        async with (
            telemetry.running(),
            ops_port(settings, telemetry),
            report_to_supervisor(link, telemetry.report, stop),
            _open_resources(settings, telemetry, health_policy, sender, stop) as resources,
        ):
            journal = HandlingJournal(state_directory(settings), slots=slots)
            await _Consumer(resources, journal, isolated).run(stop)
            journal.close()  # not after an error: then the next process reads it
    except ServerUnavailable:
        if not stop.is_set():  # stopped before NATS was reachable: nothing was accepted, so nothing is lost
            raise


async def run_isolated(settings: Settings, *, link: socket.socket, sender: HttpWebhookSender | None = None) -> None:
    """Handle messages for the consumer at the other end of `link`, until it closes the link or dies."""
    with contextlib.suppress(OSError, ValueError):  # best effort, as some systems have no such limit
        resource.setrlimit(resource.RLIMIT_DATA, (ISOLATED_MEMORY_BYTES, ISOLATED_MEMORY_BYTES))
    telemetry = Telemetry(version=VERSION, role="consumer", instance=f"{worker_id()}-isolated")
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def end() -> None:
        loop.remove_reader(link)
        stop.set()

    loop.add_reader(link, end)  # before this process is ready, only the end of the link makes it readable
    try:
        async with _open_resources(settings, telemetry, DEFAULT_HEALTH_POLICY, sender, stop) as resources:
            loop.remove_reader(link)
            await _Consumer(resources).serve(link, stop)
    except ServerUnavailable:
        if not stop.is_set():
            raise


@contextlib.asynccontextmanager
async def _open_resources(
    settings: Settings,
    telemetry: Telemetry,
    health_policy: HealthPolicy,
    sender: HttpWebhookSender | None,
    stop: asyncio.Event,
) -> AsyncGenerator["ConsumerResources"]:
    egress = settings.egress
    async with contextlib.AsyncExitStack() as opened:
        provider = await open_provider(settings)
        opened.push_async_callback(provider.aclose)
        sender = sender or HttpWebhookSender(
            egress_policy(settings),
            ca_file=egress.ca_file,
            resolver=StubResolver(SystemNames(servers=egress.dns_servers)),
            search=egress.dns_search,
            proxy=HttpProxy(*egress.proxy) if egress.proxy else None,
        )
        opened.push_async_callback(sender.aclose)
        jetstream = await opened.enter_async_context(
            open_jetstream(settings, name="oneprotect-consumer", keep_trying_until=stop)
        )
        jetstream.connection.require_version()
        yield ConsumerResources(settings, jetstream, provider, sender, telemetry, health_policy)


class ConsumerResources(Struct, frozen=True):
    """Resources that the process opened, and that the consumer uses but does not close."""

    settings: Settings
    jetstream: JetStream
    provider: CachedSecretProvider
    sender: HttpWebhookSender
    telemetry: Telemetry
    health_policy: HealthPolicy


class _Consumer:
    """The parts of a consumer. Each part depends only on parts that are built before it."""

    def __init__(
        self, resources: ConsumerResources, journal: HandlingJournal | None = None, isolated: Sequence[str] = ()
    ) -> None:
        self._resources = resources
        self._journal = journal
        self._isolated = isolated
        self._settings = settings = resources.settings
        self._jetstream = jetstream = resources.jetstream
        self._name = resources.telemetry.instance
        self._directory = ConfigurationDirectory(jetstream.destinations, jetstream.credentials)
        self._destinations = jetstream.index
        self._clock = ServerClock(jetstream.connection)
        self._checker = self._build_credential_checker()
        self._archive = ArchiveBatcher(
            jetstream.publisher,
            find=_archive_finder(settings, jetstream),
            unbatched=self._directory.ordered_destinations,
        )
        self._health = DestinationHealth(
            bucket=jetstream.health,
            publisher=jetstream.publisher,
            disable=_destination_disabler(jetstream.configuration),
            policy=resources.health_policy,
            worker=self._name,
            clock=self._clock.now,
        )
        self._activity = HourlyStatsRecorder(jetstream.activity)
        self._attempt_log, self._heads = StreamAttemptLog(jetstream.connection), HeadStateCache()
        self._overdue = OverdueSchedules(jetstream.connection, jetstream.publisher, self._clock)
        self._tracer = _build_tracer(resources)
        self._ids = _build_id_check(settings, jetstream)
        self._handler = self._build_handler()
        self._rates = RateLimiter(jetstream.rates, self._directory.rates)
        self._shedder = LoadShedder(jetstream.publisher, self._directory.is_unordered)
        self._suspects = SuspectRegistry(jetstream.suspects, state_directory(settings))
        self._guard = self._build_guard()
        self._worker = self._build_worker()
        self._ordered_queues = self._build_ordered_queues()
        self._feeder = OverflowFeeder(
            jetstream.connection,
            jetstream.publisher,
            leases=jetstream.leases,
            directory=self._directory,
            worker=self._name,
            is_circuit_open=self._is_circuit_open,
            on_ordered=self._ordered_queues.wake,
            work_per_tenant=settings.nats.work_per_tenant,
        )
        self._stream_metrics = StreamMetrics(jetstream.connection, jetstream.replays)
        self._notify = TenantEventPublisher(self._destinations)
        self._notifier = self._build_notifier()
        self._subscribe()

    async def run(self, stop: asyncio.Event) -> None:
        """Start every part, consume until `stop` is set, then drain."""
        connection, delivery = self._jetstream.connection, self._settings.delivery
        with contextlib.suppress(JetStreamError):  # measured again soon
            await self._clock.measure()
        await self._directory.start()
        await self._destinations.start()
        connection.on_reconnect(self._jetstream.publisher.expire)
        connection.on_reconnect(self._directory.forget)
        connection.on_reconnect(self._checker.list_again)
        await self._suspects.start()
        connection.on_reconnect(self._suspects.expire)
        connection.on_server_change(self._handler.on_server_change)
        await WorkerControl(
            connection,
            self._checker,
            self._resources.provider,
            self._name,
            forget_tenant=self._forget_tenant,
            holds=self._worker.holds,
        ).start()
        freeze_gc()
        _log.info("consumer.started", worker=self._name, version=VERSION, max_in_flight=delivery.max_in_flight)
        async with self._archive, self._isolation(), asyncio.TaskGroup() as tasks:
            for part in (
                self._feeder,
                self._ordered_queues,
                self._checker,
                self._health,
                self._stream_metrics,
                self._activity,
                self._notifier,
                self._suspects,
                self._overdue,
            ):
                tasks.create_task(part.run(stop))
            if window_s := self._settings.nats.idempotency_window_s:
                tasks.create_task(self._build_claim_renewal(window_s).run(stop))
            tasks.create_task(self._drain_readiness(stop))
            await self._worker.run(stop)
        await self._activity.flush()
        await self._rates.aclose()
        _log.info("consumer.stopped", worker=self._name)

    async def serve(self, link: socket.socket, stop: asyncio.Event) -> None:
        """Handle what the consumer at the other end of `link` sends, with the parts that the handlers need."""
        await self._clock.measure()
        await self._directory.start()
        await self._destinations.start()
        self._jetstream.connection.on_reconnect(self._directory.forget)
        async with self._archive, asyncio.TaskGroup() as tasks:
            for part in (self._health, self._activity):
                tasks.create_task(part.run(stop))
            await serve_isolated(link, self._handle_isolated, self._jetstream.connection)
            stop.set()
        await self._activity.flush()

    @contextlib.asynccontextmanager
    async def _isolation(self) -> AsyncGenerator[None]:
        """End the isolated processes when the workers have ended: what is left there is returned."""
        try:
            yield
        finally:
            if self._guard is not None:
                await self._guard.aclose()

    async def _handle_isolated(self, message: Message) -> Disposition:
        is_event = message.stream == streams.EVENTS.name
        return await (self._notify(message) if is_event else self._handler(message))

    async def _drain_readiness(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._resources.telemetry.readiness.drain()

    def _forget_tenant(self, tenant: str) -> int:
        self._activity.forget_tenant(tenant)
        self._resources.sender.forget_tenant(tenant)
        return self._worker.unsettled_of(tenant)

    def _build_credential_checker(self) -> CredentialChecker:
        jetstream, secret = self._jetstream, self._settings.secret
        return CredentialChecker(
            directory=self._directory,
            credentials=jetstream.credentials,
            statuses=jetstream.statuses,
            provider=self._resources.provider,
            provider_name=str(secret.provider),
            publisher=jetstream.publisher,
            resumption=WaitingDeliveryResumer(
                jetstream.connection, jetstream.publisher, self._destinations, self._clock
            ),
            leases=jetstream.leases,
            worker=self._name,
            secret_namespace=secret.namespace,
        )

    def _build_claim_renewal(self, window_s: float) -> ClaimRenewal:
        jetstream = self._jetstream
        return ClaimRenewal(
            jetstream.connection,
            jetstream.named_ids,
            jetstream.leases,
            self._clock,
            worker=self._name,
            window_s=window_s,
        )

    def _build_handler(self) -> DeliveryHandler:
        settings, telemetry = self._settings, self._resources.telemetry
        return DeliveryHandler(
            directory=self._directory,
            provider=self._resources.provider,
            sender=self._resources.sender,
            attempt_log=self._attempt_log,
            secret_observer=self._checker,
            health=self._health,
            hourly_stats=self._activity,
            heads=self._heads,
            policy=delivery_policy(settings),
            clock=self._clock,
            worker=self._name,
            observer=AttemptMetrics(
                telemetry.counters,
                tenants_max=settings.telemetry.metrics_tenants_max,
                logged=settings.log.attempts,
                tracer=self._tracer,
            ),
            archive=self._archive,
            ids=self._ids,
        )

    def _build_guard(self) -> IsolatingGuard | None:
        if self._journal is None:
            return None
        environ = {name: value for name, value in os.environ.items() if name != "ONEPROTECT_OPS_PORT"}
        return IsolatingGuard(self._journal, self._suspects, self._isolated, environ)

    def _build_worker(self) -> Worker:
        return Worker(
            publisher=self._archive,
            connection=self._jetstream.connection,
            handler=self._handler,
            try_start=self._handler.try_start,
            settle_again=self._handler.settle_again,
            lane_limit=self._lane_limit,
            limits=_worker_limits(self._settings, self._settings.delivery.max_in_flight),
            rate_limiter=self._rates,
            shedder=self._shedder,
            on_settled=self._tracer.on_settled if self._tracer else None,
            guard=self._guard,
        )

    def _build_notifier(self) -> Worker:
        """Return the worker that turns operational events into deliveries to the tenants."""
        jetstream = self._jetstream
        worker = Worker(
            publisher=OverflowingPublisher(jetstream.publisher),
            connection=self._jetstream.connection,
            handler=self._notify,
            lane_limit=lambda _: 1,
            is_announced=False,
            limits=_worker_limits(self._settings, NOTIFICATIONS_IN_FLIGHT),
            guard=self._guard,
        )
        worker.add_source(
            _pull_consumer(jetstream, worker, streams.TELLING_CONSUMER, worker.accept, lane_of=subjects.tenant_of_event)
        )
        return worker

    def _build_ordered_queues(self) -> OrderedQueues:
        return OrderedQueues(
            OrderedQueueDependencies(
                connection=self._jetstream.connection,
                publisher=self._jetstream.publisher,
                leases=self._jetstream.leases,
                directory=self._directory,
                attempt_log=self._attempt_log,
                head_states=self._heads,
                open_for_s=self._health.open_for_s,
                submit=self._worker.accept,
                holds=self._worker.holds,
                clock=self._clock,
                worker=self._name,
                ack_wait_s=self._settings.delivery.ack_wait_s,
                requests=FairTurns(ORDERED_REQUESTS),
                max_per_tenant=self._settings.tenant.max_ordered,
            )
        )

    def _subscribe(self) -> None:
        """Connect the parts that notify each other, and the sources of messages and metrics."""
        for subscribe in (self._directory.on_destination, self._health.on_change, self._rates.on_grant):
            subscribe(self._worker.on_lane_changed)
        for consumer in streams.CONSUMERS:
            pull = _pull_consumer(self._jetstream, self._worker, consumer, self._receive)
            pull.on_leader_change = self._handler.distrust_counts
            self._worker.add_source(pull)
        telemetry = self._resources.telemetry
        telemetry.counters.add_source(self._stream_metrics)
        if self._guard is not None:
            telemetry.counters.add_source(self._guard.samples)
        telemetry.counters.add_source(
            WorkerMetrics(
                connection=self._jetstream.connection,
                publisher=self._jetstream.publisher,
                provider=self._resources.provider,
                checks=self._checker,
                health=self._health,
                handler=self._handler,
                worker=self._worker,
                feeder=self._feeder,
                shedder=self._shedder,
                notifier=self._notify,
                overdue=self._overdue,
                ids=self._ids,
                max_in_flight=self._settings.delivery.max_in_flight,
            )
        )
        telemetry.readiness.add_check("NATS delivers no messages", lambda: self._worker.is_pulling)
        progress = SettlementProgress(self._worker)
        telemetry.readiness.add_check("nothing can be settled: no result was stored for long", progress.is_made)

    def _receive(self, message: Message) -> None:
        """Pass a message to its ordered queue, or to the worker."""
        ordered = self._directory.ordered_destinations
        is_ordered = ordered and message.lane in ordered  # the lane is computed only where ordered queues exist
        if is_ordered and not self._worker.holds(message.identity):  # what is in hand here may be in flight
            self._ordered_queues.accept(message)
        else:
            self._worker.accept(message)

    def _lane_limit(self, lane: str) -> int:
        if self._health.is_half_open(lane):
            return 1
        return self._directory.lane_limit(lane, self._settings.delivery.destination_max_in_flight)

    def _is_circuit_open(self, tenant: str, destination: str) -> bool:
        return self._health.open_for_s(tenant, destination) is not None


def _pull_consumer(
    jetstream: JetStream,
    worker: Worker,
    consumer: streams.ConsumerConfig,
    on_message: Callable[[Message], None],
    lane_of: Callable[[str], str] = subjects.lane_of,
) -> PullConsumer:
    return PullConsumer(
        jetstream.connection,
        stream=consumer.stream,
        consumer=consumer.name,
        on_message=on_message,
        room=functools.partial(worker.free_capacity, consumer.stream),
        capacity=worker.capacity,
        ack_wait_s=worker.ack_wait_s,
        lane_of=lane_of,
    )


def _worker_limits(settings: Settings, max_in_flight: int) -> WorkerLimits:
    return WorkerLimits(
        max_in_flight=max_in_flight,
        ack_wait_s=settings.delivery.ack_wait_s,
        drain_timeout_s=settings.delivery.drain_timeout_s,
    )


def _build_tracer(resources: ConsumerResources) -> AttemptTracer | None:
    telemetry = resources.telemetry
    if telemetry.spans is None:
        return None
    tracer = AttemptTracer(telemetry.spans, telemetry.sampling, slow_s=resources.settings.telemetry.trace_slow_s)
    telemetry.counters.add_source(tracer.readings)
    return tracer


def _destination_disabler(configuration: ConfigurationService) -> DisableDestination:
    async def disable(tenant: str, destination: str, *, url: str, reason: str) -> None:
        # An operator who changed or deleted the destination in the meantime wins: `reason` is about the old URL.
        with contextlib.suppress(ConfigurationError):
            await configuration.disable_destination(tenant, destination, by="oneprotect", reason=reason, only_url=url)

    return disable


def _build_id_check(settings: Settings, jetstream: JetStream) -> NamedIdCheck | None:
    """Build the check of the ids that trusted publishers name, if ids are remembered."""
    if not settings.nats.idempotency_window_s:
        return None
    term_s = 2 * settings.delivery.ack_wait_s + MAX_TIMEOUT_S
    return NamedIdCheck(jetstream.connection, jetstream.named_ids, term_s=term_s)


def _archive_finder(settings: Settings, jetstream: JetStream) -> FindArchive:
    async def find() -> bool:
        """Return whether delivered payloads are archived: the settings say so and the stream exists."""
        if not settings.nats.archive_days:
            return False
        return await management.find_stream(jetstream.connection, streams.DELIVERED.name) is not None

    return find


def delivery_policy(settings: Settings) -> DeliveryPolicy:
    """Return the policy for every destination that does not set its own."""
    delivery = settings.delivery
    return DeliveryPolicy(
        timeout_s=delivery.request_timeout_s,
        max_payload_bytes=delivery.max_payload_bytes,
        retry=RetryPolicy(
            schedule_s=delivery.retry_schedule_s,
            jitter=delivery.retry_jitter,
            after_timeout_s=delivery.retry_after_timeout_s,
        ),
        retries_per_s=delivery.retries_per_s,
        secret_retry_schedule_s=settings.secret.retry_schedule_s,
        secret_namespace=settings.secret.namespace,
        user_agent=f"OneProtect-Delivery/{VERSION}",
    )
