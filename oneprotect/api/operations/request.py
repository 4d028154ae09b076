"""A request to an operation: the caller and the parameters."""

from collections.abc import AsyncIterator
from typing import TypeVar

import msgspec
from starlette.requests import Request

from consumers.destinations.destination_index import DestinationIndex
from consumers.replay.service import ReplayService
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
from oneprotect.api.web.rate_limits import TenantLimiter
from oneprotect.configuration.service import ConfigurationService
from oneprotect.configuration.tenant_removal import RemovalMarkers
from schemas import validation
from telemetry.ops_server import OpsPages

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
        return request_body.decode(await request_body.read_json(self.http, self.parts.limits), kind)

    async def optional_body(self, kind: type[T]) -> T | None:
        """Return the decoded JSON body, or None without a body."""
        return await self.body(kind) if request_body.has_body(self.http) else None

    async def in_turns(self, pages: AsyncIterator[PageT]) -> AsyncIterator[PageT]:
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
