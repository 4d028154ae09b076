"""A request to an operation: the caller and the parameters."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final, TypeVar

import msgspec
from starlette.requests import Request

from consumers.destinations.destination_index import DestinationIndex
from consumers.replay.service import ReplayService
from consumers.replay.source import DryRunSummary
from messaging.client.connection import NatsConnection
from messaging.delivery_requests import OrderedRoute
from messaging.publisher import JetStreamPublisher
from oneprotect.api.auth.authenticator import Authenticator
from oneprotect.api.auth.principal import Principal
from oneprotect.api.auth.token_cache import TokenCache
from oneprotect.api.operations.named_deliveries import NamedDeliveries
from oneprotect.api.operations.replay_runner import ReplayRunner
from oneprotect.api.operations.storage_quota import StorageQuota
from oneprotect.api.web import request_body
from oneprotect.api.web.problems import Problem
from oneprotect.api.web.rate_limits import TenantLimiter, key_of
from oneprotect.api.web.routing import while_connected
from oneprotect.configuration.service import ConfigurationService
from oneprotect.configuration.tenant_removal import RemovalMarkers
from schemas import validation
from schemas.configuration import ReplayFilter
from telemetry.ops_server import OpsPages

DRY_RUN_PAGE: Final = 16_384
"""Deliveries that a dry run has in memory. Between two pages, others have their turn."""
DRY_RUN_TIMEOUT_S: Final = 60.0
_DRY_RUN_TOO_LONG: Final = (
    "The dry run took too long. Narrow the filter by destination or time, or run `oneprotect replay --dry-run`."
)

T = TypeVar("T", bound=msgspec.Struct)
PageT = TypeVar("PageT")


class ApiDependencies(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that operations use; opened and closed elsewhere."""

    connection: NatsConnection
    publisher: JetStreamPublisher
    ordered_route: OrderedRoute
    configuration: ConfigurationService
    destinations: DestinationIndex
    replay_service: ReplayService
    replay_runner: ReplayRunner
    tokens: TokenCache
    authenticator: Authenticator
    removals: RemovalMarkers
    ops: OpsPages
    limits: request_body.BodyLimits
    limiter: TenantLimiter
    storage: StorageQuota
    named: NamedDeliveries | None
    """Stores deliveries whose id the producer named; None when ids are not remembered."""
    max_payload_bytes: int
    request_timeout_s: float

    def require_present(self, tenant: str) -> None:
        """Raise `Problem` while an operator removes the tenant."""
        if self.removals.has(tenant):
            raise Problem(403, "forbidden", "This tenant is being removed. Nothing can be read or changed.")


class ApiRequest:
    """The input of an operation. Reading raises `Problem` or `ValidationError` for malformed input."""

    __slots__ = ("_principal", "http", "parts")

    def __init__(self, http: Request, parts: ApiDependencies, principal: Principal | None) -> None:
        self.http = http
        self.parts = parts
        self._principal = principal

    @property
    def principal(self) -> Principal:
        """The caller. Raises `LookupError` without authentication."""
        if self._principal is None:
            raise LookupError("this request is not authenticated")
        return self._principal

    @property
    def is_public(self) -> bool:
        """Return True when the caller sees codes in their public form."""
        return not self.principal.is_operator

    @property
    def by(self) -> str:
        """The caller's id, for the audit trail."""
        return self.principal.id

    @property
    def address(self) -> str:
        """The client's address."""
        return client_address(self.http)

    @property
    def tenant(self) -> str:
        """The tenant of the path."""
        return validation.name(self.http.path_params["tenant"], "tenant")

    @property
    def id(self) -> str:
        """The name below the tenant in the path."""
        return validation.name(self.http.path_params["id"], "id")

    @property
    def delivery_id(self) -> str:
        """The delivery id of the path."""
        return validation.delivery_id(self.http.path_params["id"], "id")

    def header(self, name: str) -> str | None:
        """Return a request header."""
        return self.http.headers.get(name)

    async def body(self, kind: type[T]) -> T:
        """Return the decoded JSON body."""
        request_body.require_json(self.http.headers)
        return request_body.decode(await self.read_body(), kind)

    async def read_body(self) -> bytes:
        """Return the body, when it is the turn of the tenant, or of an address without a tenant."""
        caller = self._principal
        key = f"@{self.address}" if caller is None else key_of(self.tenant, caller.tenant)
        return await self.parts.limiter.bodies.read(self.http, self.parts.limits, key)

    async def optional_body(self, kind: type[T]) -> T | None:
        """Return the decoded JSON body, or None without a body."""
        return await self.body(kind) if request_body.has_body(self.http) else None

    async def dry_run(self, chosen: ReplayFilter) -> DryRunSummary:
        """Return what a replay would do. Raises `Problem` when the search takes too long, or the client leaves."""
        summary = DryRunSummary()
        pages = self.parts.replay_service.find_pages(self.tenant, chosen, page_size=DRY_RUN_PAGE)
        try:
            async with asyncio.timeout(DRY_RUN_TIMEOUT_S):
                await while_connected(self.http, summary.add_pages(self._in_turns(pages)))
        except TimeoutError:
            problem = Problem(503, "too-many", _DRY_RUN_TOO_LONG)
        else:
            return summary
        raise problem

    async def _in_turns(self, pages: AsyncIterator[PageT]) -> AsyncIterator[PageT]:
        """Yield the pages of a dry run, and wait for a turn of the tenant before each."""
        while True:
            async with self.parts.limiter.read_turn(self.tenant, of=self.principal.tenant, dry_run=True):
                page = await anext(pages, None)
            if page is None:
                return
            yield page

    def query(self, kind: type[T]) -> T:
        """Return the decoded query string; only parameters that are lists may be repeated."""
        return request_body.decode_query(self.http.query_params.multi_items(), kind)


def client_address(http: Request) -> str:
    """Return the address of the client, or of the proxy in front of it if no proxy is trusted."""
    return http.client.host if http.client else "unknown"
