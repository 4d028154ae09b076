"""A consumer, put together."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final

import structlog

from consumers.attempts.log import RecordedAttempts
from consumers.credentials.checker import CredentialChecks
from consumers.credentials.control_server import Control
from consumers.delivery.handler import DeliveryHandler, DeliveryPolicy
from consumers.delivery.head_state import Heads
from consumers.destinations.directory import Directory
from consumers.destinations.health import DestinationHealth, Disable, HealthPolicy
from consumers.destinations.hourly_stats import DestinationActivity
from consumers.http_client.client import HttpSender
from consumers.http_client.dialer import Proxy
from consumers.notifications.tenant_events import Telling
from consumers.observability.attempt_metrics import Observation
from consumers.observability.attempt_tracing import AttemptTracer
from consumers.observability.stream_metrics import Backlog
from consumers.observability.worker_metrics import ConsumerReadings
from consumers.queues.ordered_queue import Surroundings
from consumers.queues.ordered_queues import Fifo
from consumers.queues.overflow_feeder import Feeder
from consumers.retention.archive import Find, Packing
from consumers.retries.reschedule import Resumption
from consumers.worker.rate_limiter import RateLimits
from consumers.worker.worker import Limits, Runtime
from messaging.client.errors import NotFound, Unavailable
from messaging.delivery_requests import Requesting
from messaging.pull_consumer import Message, Pull
from oneprotect.bootstrap.process import VERSION, ops_port, spare_the_collector, worker_id
from oneprotect.bootstrap.resources import JetStream, egress_policy, open_jetstream, open_provider
from oneprotect.configuration.service import Configuration, ConfigurationError
from oneprotect.settings.settings import Settings
from provider.cache.provider import CachedSecretProvider
from schemas import subjects
from schemas.configuration import RetryPolicy
from telemetry.metrics.child_reports import reporting
from telemetry.otlp.settings import Export
from telemetry.telemetry import NOTHING, Telemetry

DEFAULT_HEALTH_POLICY: Final = HealthPolicy()
TELLING_AT_ONCE: Final = 16

_log = structlog.get_logger(__name__)


async def run_consumer(
    settings: Settings,
    *,
    stop: asyncio.Event,
    health_policy: HealthPolicy = DEFAULT_HEALTH_POLICY,
    export: Export = NOTHING,
    link: socket.socket | None = None,
) -> None:
    """Consume until `stop` is set, then drain. `link`: a supervisor to report to."""
    provider = await open_provider(settings)
    egress = settings.egress
    sender = HttpSender(
        egress_policy(settings), ca_file=egress.ca_file, proxy=Proxy(*egress.proxy) if egress.proxy else None
    )
    telemetry = Telemetry(version=VERSION, role="consumer", instance=worker_id(), export=export)
    try:
        async with (
            telemetry.running(),
            ops_port(settings, telemetry),
            reporting(link, telemetry.report, stop),
            open_jetstream(settings, name="oneprotect-consumer", keep_trying_until=stop) as jetstream,
        ):
            jetstream.connection.require_version()
            await _consume(settings, jetstream, provider, sender, health_policy, telemetry, stop)
    except Unavailable:
        if not stop.is_set():  # told to stop while there was no server to be had: nothing was taken, nothing is left
            raise
    finally:
        await sender.aclose()
        await provider.aclose()


async def _consume(
    settings: Settings,
    jetstream: JetStream,
    provider: CachedSecretProvider,
    sender: HttpSender,
    health_policy: HealthPolicy,
    telemetry: Telemetry,
    stop: asyncio.Event,
) -> None:
    directory = Directory(jetstream.destinations, jetstream.credentials)
    await directory.start()
    jetstream.connection.on_reconnect(directory.forget)
    worker = telemetry.instance
    delivery = settings.delivery
    checks = CredentialChecks(
        directory=directory,
        credentials=jetstream.credentials,
        statuses=jetstream.statuses,
        provider=provider,
        provider_name=str(settings.secret.provider),
        publisher=jetstream.publisher,
        resumption=Resumption(jetstream.connection, jetstream.publisher, jetstream.destinations),
        secret_namespace=settings.secret.namespace,
    )
    packing = Packing(jetstream.publisher, find=_archive_finder(settings, jetstream), alone=directory.fifo)
    health = DestinationHealth(
        bucket=jetstream.health,
        publisher=jetstream.publisher,
        disable=_disable(jetstream.configuration),
        policy=health_policy,
        worker=worker,
    )
    activity = DestinationActivity(jetstream.activity)
    tracer = _tracer(settings, telemetry)
    observation = Observation(
        telemetry.counters,
        tenants_max=settings.telemetry.metrics_tenants_max,
        logged=settings.log.attempts,
        tracer=tracer,
    )
    history, heads = RecordedAttempts(jetstream.connection), Heads()
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
    rates = RateLimits(jetstream.rates, rate_of=directory.rates.get)
    runtime = Runtime(
        publisher=packing,
        handler=handler,
        begin=handler.begin,
        lane_limit=lambda lane: (
            1 if health.is_on_trial(lane) else directory.lane_limit(lane, delivery.destination_max_in_flight)
        ),
        limits=Limits(
            max_in_flight=delivery.max_in_flight,
            ack_wait_s=delivery.ack_wait_s,
            drain_timeout_s=delivery.drain_timeout_s,
        ),
        may_start=rates.may_start,
        on_settled=tracer.settled if tracer else None,
    )
    fifo = Fifo(
        Surroundings(
            connection=jetstream.connection,
            publisher=jetstream.publisher,
            leases=jetstream.leases,
            directory=directory,
            history=history,
            heads=heads,
            rest_s=health.wait_s,
            submit=runtime.receive,
            worker=worker,
            ack_wait_s=delivery.ack_wait_s,
        )
    )
    directory.on_destination(runtime.lane_changed)
    health.on_change(runtime.lane_changed)
    rates.on_grant(runtime.lane_changed)
    for consumer in subjects.CONSUMERS:
        runtime.add(_pull(jetstream, runtime, consumer, _to_lines_or_else(directory, fifo, runtime)))
    feeder = Feeder(
        jetstream.connection,
        jetstream.publisher,
        leases=jetstream.leases,
        directory=directory,
        worker=worker,
        is_closed=lambda tenant, destination: health.wait_s(tenant, destination) is not None,
        on_fifo=fifo.stir,
    )
    backlog = Backlog(jetstream.connection, jetstream.replays)
    readings = ConsumerReadings(
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
    await Control(jetstream.connection, checks, provider, worker).start()
    spare_the_collector()
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
    runtime: Runtime,
    consumer: subjects.Consumer,
    on_message: Callable[[Message], None],
    lane_of: Callable[[str], str] = subjects.lane_of,
) -> Pull:
    return Pull(
        jetstream.connection,
        stream=consumer.stream,
        consumer=consumer.name,
        on_message=on_message,
        room=runtime.room,
        capacity=runtime.capacity,
        lane_of=lane_of,
    )


def _telling(settings: Settings, jetstream: JetStream) -> Runtime:
    """Tells tenants what happens, beside the deliveries: events are few."""
    runtime = Runtime(
        publisher=Requesting(jetstream.publisher),
        handler=Telling(jetstream.destinations),
        lane_limit=lambda _: 1,
        is_announced=False,
        limits=Limits(
            max_in_flight=TELLING_AT_ONCE,
            ack_wait_s=settings.delivery.ack_wait_s,
            drain_timeout_s=settings.delivery.drain_timeout_s,
        ),
    )
    runtime.add(_pull(jetstream, runtime, subjects.TELLING_CONSUMER, runtime.receive, lane_of=str))
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


def _to_lines_or_else(directory: Directory, fifo: Fifo, runtime: Runtime) -> Callable[[Message], None]:
    """Where a message goes that was pulled: only where there are lines is it asked whether it belongs in one."""
    in_order = directory.fifo

    def receive(message: Message) -> None:
        if in_order and message.lane in in_order:
            fifo.receive(message)
        else:
            runtime.receive(message)

    return receive


def _disable(configuration: Configuration) -> Disable:
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
