"""The console's routes: who may open which page, and the page that shows a problem."""

from collections.abc import Awaitable, Callable
from typing import Final, Literal
from urllib.parse import quote

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Router

from oneprotect.api.operations.operation import READERS
from oneprotect.api.operations.request import client_address
from oneprotect.api.web.problems import Problem, problem_of
from oneprotect.api.web.routing import SLOTS, Endpoint, Handler, routes_of, while_connected
from oneprotect.console.pages import attempts, destination, failed, integrations, replays, sign_in
from oneprotect.console.web.cookies import read_cookie
from oneprotect.console.web.request import (
    COOKIE,
    SECURE_COOKIE,
    ConsoleDependencies,
    PageRequest,
    PageResponse,
    redirect,
)
from oneprotect.console.web.templating import HEADERS, STATIC_HEADERS, STATIC_PATH, StaticFiles


class ConsolePage(Struct, frozen=True):
    """A page, or the action of one of its forms."""

    method: Literal["GET", "POST"]
    path: str
    handle: Callable[[PageRequest], Awaitable[PageResponse]]
    needs_session: bool = True
    reads_many: bool = False
    """True for lists and searches, which take turns."""


_PREFIX: Final = "/console"
_TENANT: Final = "/console/t/{tenant}"
PAGES: Final = (
    ConsolePage("GET", "/console/sign-in", sign_in.show, needs_session=False),
    ConsolePage("POST", "/console/sign-in", sign_in.sign_in, needs_session=False),
    ConsolePage("POST", "/console/sign-out", sign_in.sign_out),
    ConsolePage("GET", "/console/integrations", integrations.show, reads_many=True),
    ConsolePage("GET", "/console/tenant", integrations.choose),
    ConsolePage("GET", f"{_TENANT}/integrations", integrations.show, reads_many=True),
    ConsolePage("POST", f"{_TENANT}/credentials/{{id}}/check", integrations.check),
    ConsolePage("GET", f"{_TENANT}/destinations/{{id}}", destination.show, reads_many=True),
    ConsolePage("POST", f"{_TENANT}/destinations/{{id}}/enable", destination.enable),
    ConsolePage("POST", f"{_TENANT}/destinations/{{id}}/disable", destination.disable),
    ConsolePage("POST", f"{_TENANT}/destinations/{{id}}/test", destination.test),
    ConsolePage("GET", f"{_TENANT}/attempts", attempts.show, reads_many=True),
    ConsolePage("GET", f"{_TENANT}/failed", failed.show, reads_many=True),
    ConsolePage("GET", f"{_TENANT}/replays", replays.show_all, reads_many=True),
    ConsolePage("POST", f"{_TENANT}/replays", replays.start),
    ConsolePage("GET", f"{_TENANT}/replays/new", replays.plan),
    ConsolePage("GET", f"{_TENANT}/replays/{{id}}", replays.show),
    ConsolePage("GET", f"{_TENANT}/replays/{{id}}/progress", replays.show_progress),
    ConsolePage("POST", f"{_TENANT}/replays/{{id}}/cancel", replays.cancel),
    ConsolePage("GET", f"{_TENANT}/deliveries/{{delivery}}", attempts.show_delivery, reads_many=True),
)
LIVE: Final = f"{_TENANT}/live"


def console_routes(console: ConsoleDependencies, assets: StaticFiles) -> list[BaseRoute]:
    """Return the console's routes, to be served beside the API."""

    def on_error(http: Request, error: Exception) -> Response:
        problem = problem_of(error)
        headers = {name: value for name, value in problem.headers.items() if name != "www-authenticate"}
        request = PageRequest(http, console, getattr(http.state, "session", None))
        document = problem.document()
        return _respond(request.render("problem.html", status=problem.status, headers=headers, problem=document))

    handlers = [
        *((page.method, page.path, _page_handler(page, console)) for page in PAGES),
        ("GET", LIVE, _live_handler(console)),
        ("GET", f"{STATIC_PATH}/{{name}}", _asset_handler(assets)),
    ]
    below = [(method, path.removeprefix(_PREFIX), handler) for method, path, handler in handlers]
    pages = Router(
        routes_of(below, on_error, prefix=_PREFIX), redirect_slashes=False, default=Endpoint(None, {}, on_error)
    )
    return [*routes_of([("GET", _PREFIX, _show_home)], on_error), Mount(_PREFIX, app=pages)]


def _page_handler(page: ConsolePage, console: ConsoleDependencies) -> Handler:
    async def handle(http: Request) -> Response:
        request = await _open(http, console)
        if request.session is None:
            address = client_address(http)
            # Requests that only lead to the sign-in page leave room for those that sign in.
            console.api.limiter.admit_anonymous(address if page.needs_session else f"{address} signs in")
        if page.needs_session:
            if request.session is None:
                return _respond(_to_sign_in(http))
            _require_reader(request)
            principal = request.principal
            tenant = http.path_params.get("tenant", principal.tenant)
            limiter = console.api.limiter
            http.scope[SLOTS].enter_context(limiter.admit(tenant, principal.id, of=principal.tenant))
            if page.reads_many:
                reading = limiter.read(tenant, lambda: page.handle(request), of=principal.tenant)
                return _respond(await while_connected(http, reading))
        return _respond(await page.handle(request))

    return handle


def _live_handler(console: ConsoleDependencies) -> Handler:
    async def handle(http: Request) -> Response:
        request = await _open(http, console)
        _require_reader(request)
        headers = {**HEADERS, "x-accel-buffering": "no"}
        return StreamingResponse(attempts.follow(request), headers=headers, media_type="text/event-stream")

    return handle


def _asset_handler(assets: StaticFiles) -> Handler:
    async def handle(request: Request) -> Response:
        asset = assets.find(request.path_params["name"])
        if asset is None:
            return Response(status_code=404, headers=HEADERS)
        return Response(asset.content, headers=STATIC_HEADERS, media_type=asset.media_type)

    return handle


async def _show_home(_: Request) -> Response:
    return _respond(redirect(sign_in.HOME))


def _respond(page: PageResponse) -> Response:
    return Response(page.body, page.status, {**HEADERS, **page.headers}, "text/html")


async def _open(http: Request, console: ConsoleDependencies) -> PageRequest:
    cookie = read_cookie(http, SECURE_COOKIE) or read_cookie(http, COOKIE)
    http.state.session = await console.sessions.find(cookie) if cookie else None  # `on_error` shows the session, too
    return PageRequest(http, console, http.state.session)


def _require_reader(request: PageRequest) -> None:
    if request.session is None:
        raise Problem(401, "unauthorized", "You are not signed in. Sign in first.")
    tenant = request.http.path_params.get("tenant")
    if tenant is not None and not request.principal.is_of(tenant):
        raise Problem(403, "forbidden", "Your token belongs to another tenant. Sign in with a token of this tenant.")
    if not request.principal.has_any(READERS):
        raise Problem(403, "forbidden", "This page requires a token with the role viewer, operator or admin.")


def _to_sign_in(http: Request) -> PageResponse:
    if http.method != "GET":
        return redirect("/console/sign-in")
    query = http.scope["query_string"].decode("latin-1")
    target = http.scope["path"] + (f"?{query}" if query else "")
    return redirect(f"/console/sign-in?next={quote(target, safe='/')}")
