"""One request for a page: who asks, and with what."""

import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Final, TypeVar
from urllib.parse import parse_qsl, urlsplit

import msgspec
from msgspec import Meta
from starlette.requests import Request

from oneprotect.api.auth.principal import Principal
from oneprotect.api.operations.request import ApiRequest
from oneprotect.api.web import request_body
from oneprotect.api.web.problems import Problem
from oneprotect.console.web.dependencies import ConsoleParts
from oneprotect.console.web.sessions import ConsoleSession
from schemas import validation
from schemas.roles import ALL_TENANTS, Role
from schemas.validation import ValidationError

COOKIE: Final = "oneprotect_console"
SECURE_COOKIE: Final = f"__Host-{COOKIE}"
FORM_TOKEN: Final = "form_token"
KEEPERS: Final = frozenset({Role.ADMIN, Role.OPERATOR})
_MAX_FIELDS: Final = 64
_FORM: Final = "application/x-www-form-urlencoded"

T = TypeVar("T", bound=msgspec.Struct)


class PageRequest:
    """What a page works with. Reading raises `Problem` or `ValidationError` for what breaks a rule."""

    __slots__ = ("parts", "request", "session")

    def __init__(self, request: Request, parts: ConsoleParts, session: ConsoleSession | None) -> None:
        self.request = request
        self.parts = parts
        self.session = session

    @property
    def principal(self) -> Principal:
        """Who asks. Only for pages that ask for a session."""
        if self.session is None:
            raise LookupError("this page asks nobody who they are")
        return self.session.principal

    @property
    def is_public(self) -> bool:
        """Whether they are told about Secrets what a tenant may know, and no more."""
        return not self.principal.is_operator

    @property
    def can_operate(self) -> bool:
        """Whether they may enable, disable, test, check and replay."""
        return self.principal.has_any(KEEPERS)

    @property
    def tenant(self) -> str:
        """The tenant of the path, or else their own."""
        named = self.request.path_params.get("tenant")
        if named is None and self.principal.tenant != ALL_TENANTS:
            return self.principal.tenant
        return validation.name(named or "", "tenant")

    @property
    def has_tenant(self) -> bool:
        """Whether there is one yet: somebody who may see all has to choose."""
        return self.principal.tenant != ALL_TENANTS or "tenant" in self.request.path_params

    @property
    def base(self) -> str:
        """What the addresses of the tenant's pages begin with."""
        return f"/console/t/{self.tenant}"

    @property
    def id(self) -> str:
        """What the path names below the tenant."""
        return validation.name(self.request.path_params["id"], "id")

    @property
    def address(self) -> str:
        """From where they ask."""
        return self.request.client.host if self.request.client else "unknown"

    @property
    def is_secure(self) -> bool:
        """Whether the browser speaks https, perhaps to a proxy; at worst a cookie is not kept."""
        return self.request.scope["scheme"] == "https" or self.request.headers.get("x-forwarded-proto") == "https"

    @property
    def call(self) -> ApiRequest:
        """The same for an operation of the API."""
        return ApiRequest(self.request, self.parts.api, self.principal)

    def query(self, kind: type[T]) -> T:
        """The query string, without the fields of a form that were left empty."""
        items = [(name, value) for name, value in self.request.query_params.multi_items() if value]
        return request_body.query(items, kind)

    async def read_form(self) -> dict[str, str]:
        """The fields of a form. Raises `Problem`."""
        if self.request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
            raise Problem(415, "unsupported-media-type", "Send forms as `application/x-www-form-urlencoded`.")
        body = await request_body.read_bytes(self.request, self.parts.api.limits)
        try:
            pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
        except ValueError:
            raise Problem(400, "bad-request", "The form is malformed. Open the page again and retry.") from None
        return dict(pairs)

    async def form(self) -> Mapping[str, str]:
        """The fields of a form of ours that this session sent. Raises `Problem` for a forged one."""
        require_same_origin(self.request)
        fields = await self.read_form()
        token = fields.pop(FORM_TOKEN, "")
        if self.session is None or not _same(token, self.session.form_token):
            raise Problem(403, "forbidden", "This form is not from a page of this session. Open the page anew.")
        return fields

    async def keepers_form(self) -> Mapping[str, str]:
        """The same, when its sender may change something. Raises `Problem`."""
        fields = await self.form()
        if not self.can_operate:
            raise Problem(403, "forbidden", "This needs a token with the role admin or operator.")
        return fields

    def page(
        self, template: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **values: object
    ) -> "PageResponse":
        """A page as it is answered."""
        common = {
            "visit": self,
            "theme": theme_of(self.request),
            "form_token": self.session.form_token if self.session else "",
            "now": datetime.now(UTC),
        }
        return PageResponse(
            status=status, body=self.parts.renderer(template, **common, **values), headers=headers or {}
        )


class PagePosition(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a cursor stands for: go on before this place in the stream."""

    before: Annotated[int, Meta(ge=1, le=2**63 - 1)]


class PageResponse(msgspec.Struct, frozen=True, kw_only=True):
    """What is answered."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = {}


def redirect(to: str, *, headers: Mapping[str, str] | None = None) -> PageResponse:
    """Go there next, with a GET."""
    return PageResponse(status=303, headers={"location": to, **(headers or {})})


def require_same_origin(request: Request) -> None:
    """Raise `Problem` unless the browser says that a page of ours sent this."""
    site = request.headers.get("sec-fetch-site")
    if site is None:
        host = request.headers.get("host", "")
        ours = bool(host) and urlsplit(request.headers.get("origin", "")).netloc == host
    else:
        ours = site == "same-origin"
    if not ours:
        raise Problem(403, "forbidden", "This form was sent from another site, or by no browser; open the page here.")


def theme_of(request: Request) -> str:
    """The chosen theme; empty for what the system prefers."""
    chosen = request.cookies.get("oneprotect_theme", "")
    return chosen if chosen in ("dark", "light") else ""


def times_of_input(since: str | None, until: str | None) -> tuple[datetime | None, datetime | None]:
    """What two such fields hold, the first one earlier. Raises `ValidationError`."""
    begin, end = time_of_input(since, "since"), time_of_input(until, "until")
    if begin and end and begin >= end:
        raise ValidationError("until", "expected a time after `since`")
    return begin, end


def time_of_input(text: str | None, field: str) -> datetime | None:
    """What a field for a date and time holds, in UTC. Raises `ValidationError`."""
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None:
        raise ValidationError(field, "expected a date and time like 2026-11-23T20:00, in UTC")
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
