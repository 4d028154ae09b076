"""A consumer, put together."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final

import structlog

from consumers.attempts.log import StreamAttemptLog
from consumers.credentials.checker import CredentialChecker
from consumers.credentials.control_server import WorkerControl
from consumers.delivery.handler import DeliveryHandler, DeliveryPolicy
from consumers.delivery.head_state import HeadStateCache
from consumers.destinations.directory import ConfigurationDirectory
from consumers.destinations.health import DestinationHealth, DisableDestination, HealthPolicy
from consumers.destinations.hourly_stats import HourlyStatsRecorder
from consumers.http_client.client import HttpWebhookSender
from consumers.http_client.dialer import HttpProxy
from consumers.notifications.tenant_events import TenantEventPublisher
from consumers.observability.attempt_metrics import AttemptMetrics
from consumers.observability.attempt_tracing import AttemptTracer
from consumers.observability.stream_metrics import StreamMetrics
from consumers.observability.worker_metrics import WorkerMetrics
from consumers.queues.ordered_queue import OrderedQueueDependencies
from consumers.queues.ordered_queues import OrderedQueues
from consumers.queues.overflow_feeder import OverflowFeeder
from consumers.retention.archive import ArchiveBatcher, Find
from consumers.retries.reschedule import WaitingDeliveryResumer
from consumers.worker.rate_limiter import RateLimiter
from consumers.worker.worker import Worker, WorkerLimits
from messaging.client.errors import NotFound, ServerUnavailable
from messaging.delivery_requests import OverflowingPublisher
from messaging.pull_consumer import Message, PullConsumer
from oneprotect.bootstrap.process import VERSION, freeze_gc, ops_port, worker_id
from oneprotect.bootstrap.resources import JetStream, egress_policy, open_jetstream, open_provider
from oneprotect.configuration.service import ConfigurationError, ConfigurationService
from oneprotect.settings.settings import Settings
from provider.cache.provider import CachedSecretProvider
from schemas import subjects
from schemas.configuration import RetryPolicy
from telemetry.metrics.child_reports import report_to_supervisor
from telemetry.otlp.settings import ExportSettings
from telemetry.telemetry import NOTHING, Telemetry

DEFAULT_HEALTH_POLICY: Final = HealthPolicy()
TELLING_AT_ONCE: Final = 16

_log = structlog.get_logger(__name__)


async def run_consumer(
    settings: Settings,
    *,
    stop: asyncio.Event,
    health_policy: HealthPolicy = DEFAULT_HEALTH_POLICY,
    export: ExportSettings = NOTHING,
    link: socket.socket | None = None,
) -> None:
    """Consume until `stop` is set, then drain. `link`: a supervisor to report to."""
    provider = await open_provider(settings)
    egress = settings.egress
    sender = HttpWebhookSender(
        egress_policy(settings), ca_file=egress.ca_file, proxy=HttpProxy(*egress.proxy) if egress.proxy else None
    )
    telemetry = Telemetry(version=VERSION, role="consumer", instance=worker_id(), export=export)
    try:
        async with (
            telemetry.running(),
            ops_port(settings, telemetry),
            report_to_supervisor(link, telemetry.report, stop),
            open_jetstream(settings, name="oneprotect-consumer", keep_trying_until=stop) as jetstream,
        ):
            jetstream.connection.require_version()
            await _consume(settings, jetstream, provider, sender, health_policy, telemetry, stop)
    except ServerUnavailable:
        if not stop.is_set():  # told to stop while there was no server to be had: nothing was taken, nothing is left
            raise
    finally:
        await sender.aclose()
        await provider.aclose()


async def _consume(
    settings: Settings,
    jetstream: JetStream,
    provider: CachedSecretProvider,
    sender: HttpWebhookSender,
    health_policy: HealthPolicy,
    telemetry: Telemetry,
    stop: asyncio.Event,
) -> None:
    directory = ConfigurationDirectory(jetstream.destinations, jetstream.credentials)
    await directory.start()
    jetstream.connection.on_reconnect(directory.forget)
    worker = telemetry.instance
    delivery = settings.delivery
    checks = CredentialChecker(
        directory=directory,
        credentials=jetstream.credentials,
        statuses=jetstream.statuses,
        provider=provider,
        provider_name=str(settings.secret.provider),
        publisher=jetstream.publisher,
        resumption=WaitingDeliveryResumer(jetstream.connection, jetstream.publisher, jetstream.destinations),
        secret_namespace=settings.secret.namespace,
    )
    packing = ArchiveBatcher(
        jetstream.publisher, find=_archive_finder(settings, jetstream), alone=directory.ordered_destinations
    )
    health = DestinationHealth(
        bucket=jetstream.health,
        publisher=jetstream.publisher,
        disable=_disable(jetstream.configuration),
        policy=health_policy,
        worker=worker,
    )
    activity = HourlyStatsRecorder(jetstream.activity)
    tracer = _tracer(settings, telemetry)
    observation = AttemptMetrics(
        telemetry.counters,
        tenants_max=settings.telemetry.metrics_tenants_max,
        logged=settings.log.attempts,
        tracer=tracer,
    )
    history, heads = StreamAttemptLog(jetstream.connection), HeadStateCache()
    handler = DeliveryHandler(
        directory=directory,
        provider=provider,
        sender=sender,
        history=history,
        watch=checks,
        health=health,
        activity=activity,
        heads=heads,
        policy=delivery_policy(settings),
        worker=worker,
        observer=observation,
        is_archived=lambda: packing.is_open,
    )
    rates = RateLimiter(jetstream.rates, rate_of=directory.rates.get)
    runtime = Worker(
        publisher=packing,
        handler=handler,
        begin=handler.try_start,
        lane_limit=lambda lane: (
            1 if health.is_half_open(lane) else directory.lane_limit(lane, delivery.destination_max_in_flight)
        ),
        limits=WorkerLimits(
            max_in_flight=delivery.max_in_flight,
            ack_wait_s=delivery.ack_wait_s,
            drain_timeout_s=delivery.drain_timeout_s,
        ),
        may_start=rates.try_acquire,
        on_settled=tracer.settled if tracer else None,
    )
    fifo = OrderedQueues(
        OrderedQueueDependencies(
            connection=jetstream.connection,
            publisher=jetstream.publisher,
            leases=jetstream.leases,
            directory=directory,
            history=history,
            heads=heads,
            rest_s=health.open_for_s,
            submit=runtime.accept,
            worker=worker,
            ack_wait_s=delivery.ack_wait_s,
        )
    )
    directory.on_destination(runtime.on_lane_changed)
    health.on_change(runtime.on_lane_changed)
    rates.on_grant(runtime.on_lane_changed)
    for consumer in subjects.CONSUMERS:
        runtime.add_source(_pull(jetstream, runtime, consumer, _to_lines_or_else(directory, fifo, runtime)))
    feeder = OverflowFeeder(
        jetstream.connection,
        jetstream.publisher,
        leases=jetstream.leases,
        directory=directory,
        worker=worker,
        is_closed=lambda tenant, destination: health.open_for_s(tenant, destination) is not None,
        on_fifo=fifo.wake,
    )
    backlog = StreamMetrics(jetstream.connection, jetstream.replays)
    readings = WorkerMetrics(
        connection=jetstream.connection,
        publisher=jetstream.publisher,
        provider=provider,
        checks=checks,
        health=health,
        handler=handler,
        runtime=runtime,
        feeder=feeder,
        max_in_flight=delivery.max_in_flight,
    )
    telemetry.counters.watch(readings)
    telemetry.counters.watch(backlog)
    telemetry.readiness.watch(lambda: runtime.is_pulling)
    await WorkerControl(jetstream.connection, checks, provider, worker).start()
    freeze_gc()
    _log.info("consumer.started", worker=worker, version=VERSION, max_in_flight=delivery.max_in_flight)
    async with packing, asyncio.TaskGroup() as tasks:
        tasks.create_task(feeder.run(stop))
        tasks.create_task(fifo.run(stop))
        tasks.create_task(checks.run(stop))
        tasks.create_task(health.run(stop))
        tasks.create_task(backlog.run(stop))
        tasks.create_task(_drains(telemetry, stop))
        tasks.create_task(activity.run(stop))
        tasks.create_task(_telling(settings, jetstream).run(stop))
        await runtime.run(stop)
    await activity.flush()
    await rates.aclose()
    _log.info("consumer.stopped", worker=worker)


def _pull(
    jetstream: JetStream,
    runtime: Worker,
    consumer: subjects.ConsumerConfig,
    on_message: Callable[[Message], None],
    lane_of: Callable[[str], str] = subjects.lane_of,
) -> PullConsumer:
    return PullConsumer(
        jetstream.connection,
        stream=consumer.stream,
        consumer=consumer.name,
        on_message=on_message,
        room=runtime.free_capacity,
        capacity=runtime.capacity,
        lane_of=lane_of,
    )


def _telling(settings: Settings, jetstream: JetStream) -> Worker:
    """Tells tenants what happens, beside the deliveries: events are few."""
    runtime = Worker(
        publisher=OverflowingPublisher(jetstream.publisher),
        handler=TenantEventPublisher(jetstream.destinations),
        lane_limit=lambda _: 1,
        is_announced=False,
        limits=WorkerLimits(
            max_in_flight=TELLING_AT_ONCE,
            ack_wait_s=settings.delivery.ack_wait_s,
            drain_timeout_s=settings.delivery.drain_timeout_s,
        ),
    )
    runtime.add_source(_pull(jetstream, runtime, subjects.TELLING_CONSUMER, runtime.accept, lane_of=str))
    return runtime


def _tracer(settings: Settings, telemetry: Telemetry) -> AttemptTracer | None:
    if telemetry.spans is None:
        return None
    tracer = AttemptTracer(telemetry.spans, telemetry.sampling, slow_s=settings.telemetry.trace_slow_s)
    telemetry.counters.watch(tracer.readings)
    return tracer


async def _drains(telemetry: Telemetry, stop: asyncio.Event) -> None:
    await stop.wait()
    telemetry.readiness.drain()


def _to_lines_or_else(
    directory: ConfigurationDirectory, fifo: OrderedQueues, runtime: Worker
) -> Callable[[Message], None]:
    """Where a message goes that was pulled: only where there are lines is it asked whether it belongs in one."""
    in_order = directory.ordered_destinations

    def receive(message: Message) -> None:
        if in_order and message.lane in in_order:
            fifo.receive(message)
        else:
            runtime.accept(message)

    return receive


def _disable(configuration: ConfigurationService) -> DisableDestination:
    async def disable(tenant: str, destination: str, *, url: str, reason: str) -> None:
        # Somebody has changed, disabled or deleted it in between: then this verdict is about something else.
        with contextlib.suppress(ConfigurationError):
            await configuration.disable_destination(tenant, destination, by="oneprotect", reason=reason, only_url=url)

    return disable


def _archive_finder(settings: Settings, jetstream: JetStream) -> Find:
    """Tells whether deliveries that were taken are to be kept, and there is a stream for them."""

    async def find() -> bool:
        if not settings.nats.archive_days:
            return False
        try:
            await jetstream.connection.api(f"STREAM.INFO.{subjects.DELIVERED.name}")
        except NotFound:
            return False
        return True

    return find


def delivery_policy(settings: Settings) -> DeliveryPolicy:
    """What holds for every destination that does not say otherwise."""
    delivery = settings.delivery
    return DeliveryPolicy(
        timeout_s=delivery.request_timeout_s,
        max_payload_bytes=delivery.max_payload_bytes,
        retry=RetryPolicy(
            schedule_s=delivery.retry_schedule_s,
            jitter=delivery.retry_jitter,
            after_timeout_s=delivery.retry_after_timeout_s,
        ),
        secret_retry_schedule_s=settings.secret.retry_schedule_s,
        secret_namespace=settings.secret.namespace,
        user_agent=f"OneProtect-Delivery/{VERSION}",
    )
