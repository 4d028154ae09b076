"""The console's routes: who may open which page, and the page that shows a problem."""

from collections.abc import Awaitable, Callable
from typing import Final, Literal
from urllib.parse import quote

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Router

from oneprotect.api.operations.operation import READERS
from oneprotect.api.web.problems import Problem, problem_of
from oneprotect.api.web.routing import Endpoint, Handler, routes_of
from oneprotect.console.pages import attempts, delivery, destination, failed, integrations, replays, sign_in
from oneprotect.console.web.dependencies import ConsoleParts
from oneprotect.console.web.request import COOKIE, SECURE_COOKIE, PageRequest, PageResponse, redirect
from oneprotect.console.web.static_files import HEADERS as ASSET_HEADERS
from oneprotect.console.web.static_files import PATH as ASSET_PATH
from oneprotect.console.web.static_files import StaticFiles
from oneprotect.console.web.templating import HEADERS


class ConsolePage(Struct, frozen=True):
    """A page, or the action of one of its forms."""

    method: Literal["GET", "POST"]
    path: str
    handle: Callable[[PageRequest], Awaitable[PageResponse]]
    needs_session: bool = True


_PREFIX: Final = "/console"
_TENANT: Final = "/console/t/{tenant}"
PAGES: Final = (
    ConsolePage("GET", "/console/sign-in", sign_in.show, needs_session=False),
    ConsolePage("POST", "/console/sign-in", sign_in.sign_in, needs_session=False),
    ConsolePage("POST", "/console/sign-out", sign_in.sign_out),
    ConsolePage("GET", "/console/integrations", integrations.show),
    ConsolePage("GET", "/console/tenant", integrations.choose),
    ConsolePage("GET", f"{_TENANT}/integrations", integrations.show),
    ConsolePage("POST", f"{_TENANT}/credentials/{{id}}/check", integrations.check),
    ConsolePage("GET", f"{_TENANT}/destinations/{{id}}", destination.show),
    ConsolePage("POST", f"{_TENANT}/destinations/{{id}}/enable", destination.enable),
    ConsolePage("POST", f"{_TENANT}/destinations/{{id}}/disable", destination.disable),
    ConsolePage("POST", f"{_TENANT}/destinations/{{id}}/test", destination.test),
    ConsolePage("GET", f"{_TENANT}/attempts", attempts.show),
    ConsolePage("GET", f"{_TENANT}/failed", failed.show),
    ConsolePage("GET", f"{_TENANT}/replays", replays.index),
    ConsolePage("POST", f"{_TENANT}/replays", replays.start),
    ConsolePage("GET", f"{_TENANT}/replays/new", replays.plan),
    ConsolePage("GET", f"{_TENANT}/replays/{{id}}", replays.show),
    ConsolePage("GET", f"{_TENANT}/replays/{{id}}/progress", replays.progress),
    ConsolePage("POST", f"{_TENANT}/replays/{{id}}/cancel", replays.cancel),
    ConsolePage("GET", f"{_TENANT}/deliveries/{{delivery}}", delivery.show),
)
LIVE: Final = f"{_TENANT}/live"


def console_routes(parts: ConsoleParts, assets: StaticFiles) -> list[BaseRoute]:
    """Return the console's routes, to be served beside the API."""

    def on_error(request: Request, error: Exception) -> Response:
        problem = problem_of(error)
        headers = {name: value for name, value in problem.headers.items() if name != "www-authenticate"}
        visit = PageRequest(request, parts, getattr(request.state, "session", None))
        return _respond(visit.page("problem.html", status=problem.status, headers=headers, problem=problem.document()))

    handlers = [
        *((page.method, page.path, _page_handler(page, parts)) for page in PAGES),
        ("GET", LIVE, _live_handler(parts)),
        ("GET", f"{ASSET_PATH}/{{name}}", _asset_handler(assets)),
    ]
    below = [(method, path.removeprefix(_PREFIX), handler) for method, path, handler in handlers]
    pages = Router(
        routes_of(below, on_error, prefix=_PREFIX), redirect_slashes=False, default=Endpoint(None, {}, on_error)
    )
    return [*routes_of([("GET", _PREFIX, _show_home)], on_error), Mount(_PREFIX, app=pages)]


def _page_handler(page: ConsolePage, parts: ConsoleParts) -> Handler:
    async def handle(request: Request) -> Response:
        visit = await _open(request, parts)
        if not page.needs_session:
            return _respond(await page.handle(visit))
        if visit.session is None:
            return _respond(_to_sign_in(request))
        _require_reader(visit)
        return _respond(await page.handle(visit))

    return handle


def _live_handler(parts: ConsoleParts) -> Handler:
    async def handle(request: Request) -> Response:
        visit = await _open(request, parts)
        _require_reader(visit)
        headers = {**HEADERS, "x-accel-buffering": "no"}
        return StreamingResponse(attempts.follow(visit), headers=headers, media_type="text/event-stream")

    return handle


def _asset_handler(assets: StaticFiles) -> Handler:
    async def handle(request: Request) -> Response:
        asset = assets.find(request.path_params["name"])
        if asset is None:
            return Response(status_code=404, headers=HEADERS)
        return Response(asset.content, headers=ASSET_HEADERS, media_type=asset.media_type)

    return handle


async def _show_home(_: Request) -> Response:
    return _respond(redirect(sign_in.HOME))


def _respond(page: PageResponse) -> Response:
    return Response(page.body, page.status, {**HEADERS, **page.headers}, "text/html")


async def _open(request: Request, parts: ConsoleParts) -> PageRequest:
    cookie = request.cookies.get(SECURE_COOKIE) or request.cookies.get(COOKIE)
    request.state.session = await parts.sessions.find(cookie) if cookie else None
    return PageRequest(request, parts, request.state.session)


def _require_reader(visit: PageRequest) -> None:
    if visit.session is None:
        raise Problem(401, "unauthorized", "You are not signed in. Sign in first.")
    tenant = visit.request.path_params.get("tenant")
    if tenant is not None and not visit.principal.is_of(tenant):
        raise Problem(403, "forbidden", "Your token belongs to another tenant. Sign in with a token of this tenant.")
    if not visit.principal.has_any(READERS):
        raise Problem(403, "forbidden", "This page requires a token with the role viewer, operator or admin.")


def _to_sign_in(request: Request) -> PageResponse:
    if request.method != "GET":
        return redirect("/console/sign-in")
    query = request.scope["query_string"].decode("latin-1")
    target = request.scope["path"] + (f"?{query}" if query else "")
    return redirect(f"/console/sign-in?next={quote(target, safe='/')}")
