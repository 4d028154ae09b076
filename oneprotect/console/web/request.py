"""A request for a page of the console: the visitor and the parameters."""

import asyncio
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, TypeVar

import msgspec
from starlette.requests import Request

from messaging.kv import KvBucket, KvTable
from oneprotect.api.operations.operation import MANAGERS
from oneprotect.api.operations.request import ApiDependencies, ApiRequest
from oneprotect.api.web import request_body
from oneprotect.api.web.problems import Problem
from oneprotect.console.web.cookies import read_cookie
from oneprotect.console.web.event_stream import AttemptFeeds, EventStreamLimiter
from oneprotect.console.web.forms import read_form, require_same_origin
from oneprotect.console.web.sessions import ConsoleSession, SessionStore
from oneprotect.console.web.templating import TemplateRenderer
from schemas import validation
from schemas.configuration import Health
from schemas.hourly_stats import HourlyStats
from schemas.roles import ALL_TENANTS

COOKIE: Final = "oneprotect_console"
SECURE_COOKIE: Final = f"__Host-{COOKIE}"
FORM_TOKEN: Final = "form_token"

T = TypeVar("T", bound=msgspec.Struct)


class ConsoleDependencies(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that pages use; opened and closed elsewhere."""

    api: ApiDependencies
    sessions: SessionStore
    renderer: TemplateRenderer
    followers: EventStreamLimiter
    feeds: AttemptFeeds
    destinations: KvBucket
    health: KvTable[Health]
    activity: KvTable[HourlyStats]
    stop: asyncio.Event
    """Set when the process is to end."""


class PageResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The response of a page."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = {}


class PageRequest(ApiRequest):
    """The input of a page. Reading raises `Problem` or `ValidationError` for malformed input."""

    __slots__ = ("console", "session")

    def __init__(self, http: Request, console: ConsoleDependencies, session: ConsoleSession | None) -> None:
        super().__init__(http, console.api, session.principal if session else None)
        self.console = console
        self.session = session

    @property
    def can_operate(self) -> bool:
        """True if the user may enable, disable, test, check and replay."""
        return self.principal.has_any(MANAGERS)

    @property
    def tenant(self) -> str:
        """The tenant of the path, or else the user's tenant."""
        named = self.http.path_params.get("tenant")
        if named is None and self.principal.tenant != ALL_TENANTS:
            return self.principal.tenant
        return validation.name(named or "", "tenant")

    @property
    def has_tenant(self) -> bool:
        """False if the user may see all tenants and has chosen none."""
        return self.principal.tenant != ALL_TENANTS or "tenant" in self.http.path_params

    @property
    def base(self) -> str:
        """The path under which the tenant's pages are."""
        return f"/console/t/{self.tenant}"

    @property
    def is_secure(self) -> bool:
        """True if the browser uses https, perhaps to a proxy. A false header only loses the browser's own cookie."""
        return self.http.scope["scheme"] == "https" or self.http.headers.get("x-forwarded-proto") == "https"

    def query(self, kind: type[T]) -> T:
        """Return the decoded query string, without empty form fields."""
        return request_body.decode_query([item for item in self.http.query_params.multi_items() if item[1]], kind)

    async def form(self) -> Mapping[str, str]:
        """Return the fields of a form that this session sent. Raises `Problem` for a forged form."""
        require_same_origin(self.http)
        fields = await read_form(self)
        token = fields.pop(FORM_TOKEN, "").encode()
        if self.session is None or not hmac.compare_digest(token, self.session.form_token.encode()):
            raise Problem(403, "forbidden", "This form is not from a page of your session. Open the page again.")
        return fields

    async def manager_form(self) -> Mapping[str, str]:
        """Return the fields of a form whose sender may change something. Raises `Problem`."""
        fields = await self.form()
        if not self.can_operate:
            raise Problem(403, "forbidden", "This action requires a token with the role admin or operator.")
        self.parts.require_present(self.tenant)
        return fields

    def render(
        self, template: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **values: object
    ) -> PageResponse:
        """Return the rendered page."""
        theme = read_cookie(self.http, "oneprotect_theme")
        common = {
            "request": self,
            "theme": theme if theme in ("dark", "light") else "",
            "form_token": self.session.form_token if self.session else "",
            "now": datetime.now(UTC),
        }
        body = self.console.renderer(template, **common, **values)
        return PageResponse(status=status, body=body, headers=headers or {})


def redirect(to: str, *, headers: Mapping[str, str] | None = None) -> PageResponse:
    """Return a redirect that the browser follows with GET."""
    return PageResponse(status=303, headers={"location": to, **(headers or {})})
