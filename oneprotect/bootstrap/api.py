"""The API process: the HTTP API and the console.

Only this module imports the web framework, so that consumers do not pay for it in memory and start time.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog
from starlette.routing import BaseRoute

from messaging.client.connection import connect
from messaging.client.errors import ServerUnavailable
from messaging.delivery_requests import OrderedRoute
from messaging.kv import KvTable
from oneprotect.api.app import create_app
from oneprotect.api.auth.authenticator import Authenticator
from oneprotect.api.auth.jwks import IssuerKeys
from oneprotect.api.auth.jwt import JwtVerifier
from oneprotect.api.auth.token_cache import TokenCache
from oneprotect.api.nats_service.deliveries import DeliveryService
from oneprotect.api.operations.named_deliveries import NamedDeliveries
from oneprotect.api.operations.replay_runner import ReplayRunner
from oneprotect.api.operations.request import ApiDependencies
from oneprotect.api.operations.storage_quota import StorageLimits, StorageQuota
from oneprotect.api.resources.probes import StreamAvailability
from oneprotect.api.web.gateway import StartupGateway
from oneprotect.api.web.rate_limits import TenantLimiter
from oneprotect.api.web.request_body import ENVELOPE_BYTES, BodyLimits
from oneprotect.api.web.server import serve
from oneprotect.api.web.tracing_middleware import TracingMiddleware
from oneprotect.bootstrap.process import VERSION, describe_bind_error, freeze_gc, ops_port, worker_id
from oneprotect.bootstrap.resources import JetStream, nats_access, open_jetstream
from oneprotect.configuration.tenant_removal import RemovalMarkers
from oneprotect.console.app import console_routes
from oneprotect.console.web.event_stream import AttemptFeeds, EventStreamLimiter
from oneprotect.console.web.request import ConsoleDependencies
from oneprotect.console.web.sessions import SessionStore
from oneprotect.console.web.templating import StaticFiles, TemplateRenderer
from oneprotect.settings.settings import Settings, SettingsError
from schemas.configuration import Health
from schemas.hourly_stats import HourlyStats
from telemetry.bounded_http import ConnectionLimits
from telemetry.ops_server import OpsPages
from telemetry.otlp.settings import ExportSettings
from telemetry.telemetry import NO_EXPORT, Telemetry

API_PATIENCE_S: Final = 5.0
"""Time without NATS after which the API is not ready. Every operation needs NATS."""

_log = structlog.get_logger(__name__)


async def run_api(
    settings: Settings,
    *,
    stop: asyncio.Event,
    on_listening: Callable[[str], None] = lambda _: None,
    export: ExportSettings = NO_EXPORT,
) -> None:
    """Serve the HTTP API until `stop` is set, then finish the requests in progress.

    The API listens, and is not ready, before NATS is available.

    Args:
        on_listening: Called with the URL.

    Raises:
        SettingsError: The port is taken.
    """
    jwts = _build_jwt_verifier(settings)
    telemetry = Telemetry(version=VERSION, role="api", instance=worker_id(), export=export, patience_s=API_PATIENCE_S)
    front = StartupGateway(telemetry.counters, OpsPages(telemetry.counters, telemetry.readiness))
    served = asyncio.Event()
    opening = asyncio.create_task(_open_api(settings, front, telemetry, jwts, stop, served), name="api")
    opening.add_done_callback(lambda _: stop.set())  # without the application, there is nothing to serve
    try:
        async with telemetry.running(), ops_port(settings, telemetry):
            app = front if telemetry.spans is None else TracingMiddleware(front, telemetry.spans, telemetry.sampling)
            await serve(
                app,
                host=settings.api.host,
                port=settings.api.port,
                connections=ConnectionLimits(
                    total=settings.api.max_connections,
                    per_client=settings.api.max_connections_per_client,
                    proxies=settings.api.trusted_proxies,
                ),
                trusted_proxies=settings.api.trusted_proxies,
                stop=stop,
                on_listening=on_listening,
            )
    except OSError as error:
        problem = describe_bind_error("ONEPROTECT_API", error)
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
    front: StartupGateway,
    telemetry: Telemetry,
    jwts: JwtVerifier | None,
    stop: asyncio.Event,
    served: asyncio.Event,
) -> None:
    """Connect, open the application and update its caches, until `stop` and then `served` are set."""
    try:
        async with (
            open_jetstream(settings, name="oneprotect-api", keep_trying_until=stop) as jetstream,
            # A flood of requests over NATS may cost this connection, and then does not cost the other one.
            connect(nats_access(settings), name="oneprotect-api-requests", keep_trying_until=stop) as requests,
        ):
            jetstream.connection.require_version()
            parts = build_dependencies(settings, jetstream, telemetry, jwts)
            await parts.destinations.start()
            await jetstream.replayer.index.start()
            jetstream.connection.on_reconnect(jetstream.replayer.index.forget)
            service = DeliveryService(requests, parts, telemetry, VERSION)
            await service.start()
            streams = StreamAvailability(jetstream.connection)
            telemetry.readiness.add_check("NATS or a stream is unavailable", lambda: streams.are_usable)
            telemetry.readiness.add_check("the tokens have not been read yet", lambda: parts.tokens.is_ready)
            updating = [
                asyncio.create_task(coroutine)
                for coroutine in (
                    parts.tokens.run(),
                    parts.removals.run(),
                    parts.replay_runner.run(),
                    parts.storage.run(),
                    streams.run(),
                )
            ]
            front.open(create_app(parts, build_console(settings, jetstream, parts, stop)))
            freeze_gc()
            _log.info("api.started", version=VERSION)
            try:
                await stop.wait()
                telemetry.readiness.drain()
                await asyncio.gather(service.drain(), served.wait())
            finally:
                for task in updating:
                    task.cancel()
                await asyncio.wait(updating)
    except ServerUnavailable:
        if not stop.is_set():
            raise
    _log.info("api.stopped")


def build_console(
    settings: Settings, jetstream: JetStream, parts: ApiDependencies, stop: asyncio.Event
) -> list[BaseRoute]:
    """Build the console. Its live pages end when `stop` is set."""
    assets = StaticFiles()
    return console_routes(
        ConsoleDependencies(
            api=parts,
            sessions=SessionStore(jetstream.token_bucket, parts.tokens, jetstream.session_quota),
            renderer=TemplateRenderer(assets),
            followers=EventStreamLimiter(per_tenant=settings.tenant.max_streams),
            feeds=AttemptFeeds(jetstream.connection),
            destinations=jetstream.destinations,
            health=KvTable(jetstream.health, Health),
            activity=KvTable(jetstream.activity, HourlyStats),
            stop=stop,
        ),
        assets,
    )


def build_dependencies(
    settings: Settings, jetstream: JetStream, telemetry: Telemetry, jwts: JwtVerifier | None
) -> ApiDependencies:
    """Build the dependencies of the API's operations."""
    tokens = TokenCache(jetstream.token_bucket, jetstream.connection)
    delivery = settings.delivery
    limiter = TenantLimiter(
        tenant_per_s=settings.tenant.rate_per_s,
        caller_per_s=settings.tenant.token_rate_per_s,
        max_concurrent=settings.tenant.max_concurrent,
    )
    return ApiDependencies(
        connection=jetstream.connection,
        publisher=jetstream.publisher,
        ordered_route=OrderedRoute(jetstream.publisher, jetstream.connection.post),
        configuration=jetstream.configuration,
        destinations=jetstream.index,
        removals=RemovalMarkers(jetstream.removals, jetstream.connection),
        replay_service=jetstream.replayer,
        replay_runner=ReplayRunner(jetstream.replayer, jetstream.replays),
        tokens=tokens,
        authenticator=Authenticator(tokens, failures=settings.api.auth_failures, jwts=jwts),
        ops=OpsPages(telemetry.counters, telemetry.readiness),
        limits=BodyLimits(
            body_bytes=delivery.max_payload_bytes * 4 // 3 + ENVELOPE_BYTES,
            body_timeout_s=settings.api.body_timeout_s,
        ),
        limiter=limiter,
        named=_build_named_deliveries(settings, jetstream, limiter),
        storage=StorageQuota(
            jetstream.connection,
            StorageLimits(
                waiting_bytes=settings.tenant.max_waiting_bytes,
                failed_bytes=settings.tenant.max_failed_bytes,
                archive_share=settings.tenant.archive_share,
            ),
            telemetry.counters,
        ),
        max_payload_bytes=delivery.max_payload_bytes,
        request_timeout_s=delivery.request_timeout_s,
    )


def _build_named_deliveries(settings: Settings, jetstream: JetStream, limiter: TenantLimiter) -> NamedDeliveries | None:
    """Build what stores deliveries under named ids, if ids are remembered."""
    if not settings.nats.idempotency_window_s:
        return None
    return NamedDeliveries(jetstream.connection, jetstream.named_ids, limiter)


def _build_jwt_verifier(settings: Settings) -> JwtVerifier | None:
    """Build the verifier of JWTs, if an issuer is configured."""
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
