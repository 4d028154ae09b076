"""The composition root: the one place where settings turn into parts, and where a provider is picked."""

import asyncio
import contextlib
import gc
import os
import secrets
import signal
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import structlog

from consumers.activity import DestinationActivity
from consumers.archive import Find, Packing
from consumers.backlog import Backlog
from consumers.control import Control
from consumers.credentials import CredentialChecks
from consumers.delivery import DeliveryHandler, DeliveryPolicy
from consumers.directory import Directory
from consumers.egress import EgressPolicy
from consumers.feeder import Feeder
from consumers.fifo import Fifo
from consumers.heads import Heads
from consumers.health import DestinationHealth, Disable, HealthPolicy
from consumers.history import RecordedAttempts
from consumers.line import Surroundings
from consumers.observation import Observation
from consumers.rates import RateLimits
from consumers.reaching import Proxy
from consumers.readings import ConsumerReadings
from consumers.replay import Replayer
from consumers.resuming import Resumption
from consumers.runtime import Limits, Runtime
from consumers.sender import HttpSender
from consumers.telling import Telling
from consumers.tracing import AttemptTracer
from oneprotect.api.addressees import Addressees
from oneprotect.api.known_tokens import KnownTokens
from oneprotect.api.replay_runner import ReplayRunner
from oneprotect.api.token_store import TokenStore
from oneprotect.configuration import Configuration, ConfigurationError
from oneprotect.jetstream.bucket import Bucket
from oneprotect.jetstream.client import Access
from oneprotect.jetstream.connection import Connection, connect
from oneprotect.jetstream.errors import NotFound, Unavailable
from oneprotect.jetstream.publish import Publisher
from oneprotect.jetstream.pull import Message, Pull
from oneprotect.jetstream.requests import Requesting
from oneprotect.jetstream.topology import Archive
from oneprotect.settings import Settings, SettingsError
from oneprotect.sources import open_reader
from oneprotect.telemetry.link import reporting
from oneprotect.telemetry.ops import OpsPages
from oneprotect.telemetry.otel_environment import Export, OtelError
from oneprotect.telemetry.telemetry import NOTHING, Telemetry
from provider.cache import CachedSecretProvider
from schemas import subjects
from schemas.config import RetryPolicy

if TYPE_CHECKING:  # Litestar is of no use to a consumer: 150 ms and 20 MB
    from oneprotect.api.app import Beside
    from oneprotect.api.front import Front
    from oneprotect.api.oidc import JwtVerifier
    from oneprotect.api.parts import Parts

VERSION: Final = version("oneprotect-delivery")
DEFAULT_HEALTH_POLICY: Final = HealthPolicy()
API_PATIENCE_S: Final = 5.0
"""How long the API may be without NATS before it says that it is not ready: nothing that it does works without."""
TELLING_AT_ONCE: Final = 16

_log = structlog.get_logger(__name__)


class JetStream:
    """An open connection, and what publishes and keeps configuration on it."""

    def __init__(
        self, connection: Connection, publisher: Publisher, egress: EgressPolicy, secret_namespace: str | None
    ) -> None:
        self.connection = connection
        self.publisher = publisher
        self.destinations = Bucket(connection, publisher, subjects.DESTINATIONS)
        self.credentials = Bucket(connection, publisher, subjects.CREDENTIALS)
        self.statuses = Bucket(connection, publisher, subjects.CREDENTIAL_STATUS)
        self.rates = Bucket(connection, publisher, subjects.RATES)
        self.leases = Bucket(connection, publisher, subjects.LEASES)
        self.health = Bucket(connection, publisher, subjects.HEALTH)
        self.token_bucket = Bucket(connection, publisher, subjects.TOKENS)
        self.tokens = TokenStore(self.token_bucket, publisher)
        self.replays = Bucket(connection, publisher, subjects.REPLAYS)
        self.replayer = Replayer(connection, publisher, self.replays)
        self.activity = Bucket(connection, publisher, subjects.ACTIVITY)
        self.configuration = Configuration(
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
    """Connect as the settings say. Raises `Unavailable`; see `connect` for services that rather wait."""
    async with (
        connect(nats_access(settings), name=name, keep_trying_until=keep_trying_until) as connection,
        Publisher(connection) as publisher,
    ):
        yield JetStream(connection, publisher, egress_policy(settings), settings.secret.namespace)


def nats_access(settings: Settings) -> Access:
    """How the server is reached, and as whom."""
    nats = settings.nats
    return Access(
        url=nats.url,
        creds_file=nats.creds_file,
        nkey_file=nats.nkey_file,
        ca_file=nats.ca_file,
        inbox_prefix=nats.inbox_prefix,
    )


def egress_policy(settings: Settings) -> EgressPolicy:
    """Which URLs and addresses may be called."""
    egress = settings.egress
    return EgressPolicy(allow_cidrs=egress.allow_cidrs, allow_http=egress.allow_http, ports=egress.ports)


async def open_provider(settings: Settings) -> CachedSecretProvider:
    """The provider that the settings name, behind the cache. There is no other one to fall back to."""
    secret = settings.require_provider()
    reader = await open_reader(secret.provider, namespaces=secret.namespaces, local_dir=secret.local_dir)
    return CachedSecretProvider(reader, ttl_s=secret.cache_ttl_s, max_stale_s=secret.max_stale_s)


def read_export(environ: Mapping[str, str]) -> Export:
    """What `OTEL_*` ask for. Raises `SettingsError`."""
    try:
        return Export.read(environ)
    except OtelError as error:
        problem = str(error)
    raise SettingsError([problem])


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
            _ops_port(settings, telemetry),
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
    observation = _observation(settings, telemetry)
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
    rates = RateLimits(jetstream.rates, rate_of=directory.rate_per_s)
    runtime = Runtime(
        publisher=packing,
        handler=handler,
        begin=handler.begin,
        lane_of=_lane_of,
        lane_limit=lambda lane: (
            1 if health.is_on_trial(lane) else directory.lane_limit(lane, delivery.destination_max_in_flight)
        ),
        limits=Limits(
            max_in_flight=delivery.max_in_flight,
            ack_wait_s=delivery.ack_wait_s,
            drain_timeout_s=delivery.drain_timeout_s,
        ),
        may_start=rates.may_start,
        on_settled=observation.settled,
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
    _spare_the_collector()
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
    on_message: Callable[[Message], Awaitable[None]],
) -> Pull:
    return Pull(
        jetstream.connection,
        stream=consumer.stream,
        consumer=consumer.name,
        on_message=on_message,
        room=runtime.room,
        capacity=runtime.capacity,
    )


def _telling(settings: Settings, jetstream: JetStream) -> Runtime:
    """Tells tenants what happens, beside the deliveries: events are few."""
    runtime = Runtime(
        publisher=Requesting(jetstream.publisher),
        handler=Telling(jetstream.destinations),
        lane_of=lambda message: message.subject,
        lane_limit=lambda _: 1,
        is_announced=False,
        limits=Limits(
            max_in_flight=TELLING_AT_ONCE,
            ack_wait_s=settings.delivery.ack_wait_s,
            drain_timeout_s=settings.delivery.drain_timeout_s,
        ),
    )
    runtime.add(_pull(jetstream, runtime, subjects.TELLING_CONSUMER, runtime.receive))
    return runtime


async def run_api(
    settings: Settings,
    *,
    stop: asyncio.Event,
    on_listening: Callable[[str], None] = lambda _: None,
    export: Export = NOTHING,
) -> None:
    """Serve the HTTP API until `stop` is set, then finish what is under way. `on_listening` is told the URL.

    It listens before NATS is there, and says then that it is not ready. Raises `SettingsError` when the port is taken.
    """
    from oneprotect.api.front import Front
    from oneprotect.api.server import serve
    from oneprotect.api.traced import Traced

    jwts = _jwts(settings)
    telemetry = Telemetry(version=VERSION, role="api", instance=worker_id(), export=export, patience_s=API_PATIENCE_S)
    front = Front(telemetry.counters, OpsPages(telemetry.counters, telemetry.readiness))
    served = asyncio.Event()
    opening = asyncio.create_task(_open_api(settings, front, telemetry, jwts, stop, served), name="api")
    opening.add_done_callback(lambda _: stop.set())  # nothing is left to be served
    try:
        async with telemetry.running(), _ops_port(settings, telemetry):
            app = front if telemetry.spans is None else Traced(front, telemetry.spans, telemetry.sampling)
            await serve(
                app,
                host=settings.api.host,
                port=settings.api.port,
                trusted_proxies=settings.api.trusted_proxies,
                stop=stop,
                on_listening=on_listening,
            )
    except OSError as error:
        problem = f"ONEPROTECT_API_PORT: can't be had at ONEPROTECT_API_HOST ({error.strerror}); set another one"
    else:
        problem = ""
    finally:
        stop.set()
        served.set()
        await opening
    if problem:
        raise SettingsError([problem])


async def _open_api(
    settings: Settings,
    front: "Front",
    telemetry: Telemetry,
    jwts: "JwtVerifier | None",
    stop: asyncio.Event,
    served: asyncio.Event,
) -> None:
    """Connect, open the application, and keep true what it knows, until `stop` is set and everything is `served`."""
    from oneprotect.api.app import create_app
    from oneprotect.api.operating import Streams

    try:
        async with open_jetstream(settings, name="oneprotect-api", keep_trying_until=stop) as jetstream:
            jetstream.connection.require_version()
            parts = api_parts(settings, jetstream, telemetry, jwts)
            await parts.addressees.start()
            streams = Streams(jetstream.connection)
            telemetry.readiness.watch(lambda: streams.are_usable and parts.tokens.is_ready)
            keeping = [
                asyncio.create_task(coroutine) for coroutine in (parts.tokens.run(), parts.replays.run(), streams.run())
            ]
            front.open(create_app(parts, api_console(jetstream, parts, stop)))
            _spare_the_collector()
            _log.info("api.started", version=VERSION)
            try:
                await stop.wait()
                telemetry.readiness.drain()
                await served.wait()
            finally:
                for task in keeping:
                    task.cancel()
                await asyncio.wait(keeping)
    except Unavailable:
        if not stop.is_set():
            raise
    _log.info("api.stopped")


def api_console(jetstream: JetStream, parts: "Parts", stop: asyncio.Event) -> "Beside":
    """The console; its live pages end when `stop` is set."""
    from oneprotect.console.assets import Assets
    from oneprotect.console.live import Followers
    from oneprotect.console.parts import ConsoleParts
    from oneprotect.console.rendering import Renderer
    from oneprotect.console.routes import console
    from oneprotect.console.sessions import Sessions

    assets = Assets()
    return console(
        ConsoleParts(
            api=parts,
            sessions=Sessions(jetstream.token_bucket, parts.tokens),
            renderer=Renderer(assets),
            followers=Followers(),
            destinations=jetstream.destinations,
            health=jetstream.health,
            activity=jetstream.activity,
            stop=stop,
        ),
        assets,
    )


def api_parts(settings: Settings, jetstream: JetStream, telemetry: Telemetry, jwts: "JwtVerifier | None") -> "Parts":
    """What the API works with."""
    from oneprotect.api.auth import Authenticator
    from oneprotect.api.bodies import ENVELOPE_BYTES
    from oneprotect.api.bodies import Limits as BodyLimits
    from oneprotect.api.parts import Parts

    tokens = KnownTokens(jetstream.token_bucket, jetstream.connection)
    delivery = settings.delivery
    return Parts(
        connection=jetstream.connection,
        publisher=jetstream.publisher,
        configuration=jetstream.configuration,
        addressees=Addressees(jetstream.destinations, jetstream.connection),
        replayer=jetstream.replayer,
        replays=ReplayRunner(jetstream.replayer, jetstream.replays),
        tokens=tokens,
        authenticator=Authenticator(tokens, failures=settings.api.auth_failures, jwts=jwts),
        counters=telemetry.counters,
        ops=OpsPages(telemetry.counters, telemetry.readiness),
        limits=BodyLimits(
            body_bytes=delivery.max_payload_bytes * 4 // 3 + ENVELOPE_BYTES,
            body_timeout_s=settings.api.body_timeout_s,
        ),
        max_payload_bytes=delivery.max_payload_bytes,
        request_timeout_s=delivery.request_timeout_s,
    )


@contextlib.asynccontextmanager
async def _ops_port(settings: Settings, telemetry: Telemetry) -> AsyncGenerator[None]:
    """Serve the operations port meanwhile. Raises `SettingsError` when it is taken."""
    ops = settings.ops
    async with contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(telemetry.listening(host=ops.host, port=ops.port))
        except OSError as error:
            problem = f"ONEPROTECT_OPS_PORT: can't be had at ONEPROTECT_OPS_HOST ({error.strerror}); set another one"
        else:
            yield
            return
    raise SettingsError([problem])


def _observation(settings: Settings, telemetry: Telemetry) -> Observation:
    tracer = None
    if telemetry.spans is not None:
        tracer = AttemptTracer(telemetry.spans, telemetry.sampling, slow_s=settings.telemetry.trace_slow_s)
        telemetry.counters.watch(tracer.readings)
    return Observation(
        telemetry.counters,
        tenants_max=settings.telemetry.metrics_tenants_max,
        logged=settings.log.attempts,
        tracer=tracer,
    )


async def _drains(telemetry: Telemetry, stop: asyncio.Event) -> None:
    await stop.wait()
    telemetry.readiness.drain()


def _lane_of(message: Message) -> str:
    return message.subject.split(".", 3)[3]


def _to_lines_or_else(directory: Directory, fifo: Fifo, runtime: Runtime) -> Callable[[Message], Awaitable[None]]:
    """Where a message goes that was pulled: only where there are lines is it asked whether it belongs in one."""

    async def receive(message: Message) -> None:
        if directory.fifo and _lane_of(message) in directory.fifo:
            await fifo.receive(message)
        else:
            await runtime.receive(message)

    return receive


def _jwts(settings: Settings) -> "JwtVerifier | None":
    """What checks JWTs, if an issuer is trusted."""
    from oneprotect.api.jwks import IssuerKeys
    from oneprotect.api.oidc import JwtVerifier

    oidc = settings.oidc
    if oidc.issuer is None:
        return None
    return JwtVerifier(
        IssuerKeys(oidc.issuer, jwks_url=oidc.jwks_url, ca_file=oidc.ca_file),
        issuer=oidc.issuer,
        audience=settings.require_audience(),
        algorithms=oidc.algorithms,
        tenant_claim=oidc.tenant_claim,
        roles_claim=oidc.roles_claim,
    )


def _disable(configuration: Configuration) -> Disable:
    async def disable(tenant: str, destination: str, *, url: str, reason: str) -> None:
        # Somebody has changed, disabled or deleted it in between: then this verdict is about something else.
        with contextlib.suppress(ConfigurationError):
            await configuration.disable_destination(tenant, destination, by="oneprotect", reason=reason, only_url=url)

    return disable


def _spare_the_collector() -> None:
    """What was made at the start stays: no collection looks at it again, and those that remain come less often.

    Deliveries make few cycles: this saves a delivery 5 % of its instructions.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def archive_of(settings: Settings) -> Archive:
    """How long, and at most how much of, deliveries that were taken are kept."""
    return Archive(days=settings.nats.archive_days, max_bytes=settings.nats.archive_max_bytes)


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


def worker_id() -> str:
    """Names this process in results: host, process id and a random part, since pods are re-created."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
