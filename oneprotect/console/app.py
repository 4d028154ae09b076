"""The console's routes: who may open which page, and what is shown when one can't be."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, Final, Literal
from urllib.parse import quote

from litestar import MediaType, Request, Response
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream
from litestar.types import ControllerRouterHandler
from msgspec import Struct

from oneprotect.api.app import ExtraRoutes
from oneprotect.api.operations.operation import READERS
from oneprotect.api.web.problems import Problem, problem_of
from oneprotect.console.pages import attempts, delivery, destination, failed, integrations, replays, sign_in
from oneprotect.console.web.dependencies import ConsoleParts
from oneprotect.console.web.request import COOKIE, SECURE_COOKIE, PageRequest, PageResponse, redirect
from oneprotect.console.web.sessions import ConsoleSession
from oneprotect.console.web.static_files import HEADERS as ASSET_HEADERS
from oneprotect.console.web.static_files import PATH as ASSET_PATH
from oneprotect.console.web.static_files import StaticFiles
from oneprotect.console.web.templating import HEADERS


class ConsolePage(Struct, frozen=True, kw_only=True):
    """One page, or what one of its forms does. `asks`: whether it is only for who is signed in."""

    method: Literal["GET", "POST"] = "GET"
    path: str
    handle: Callable[[PageRequest], Awaitable[PageResponse]]
    asks: bool = True


_TENANT: Final = "/console/t/{tenant}"
PAGES: Final = (
    ConsolePage(path="/console/sign-in", handle=sign_in.show, asks=False),
    ConsolePage(path="/console/sign-in", handle=sign_in.sign_in, asks=False, method="POST"),
    ConsolePage(path="/console/sign-out", handle=sign_in.sign_out, method="POST"),
    ConsolePage(path="/console/integrations", handle=integrations.show),
    ConsolePage(path="/console/tenant", handle=integrations.choose),
    ConsolePage(path=f"{_TENANT}/integrations", handle=integrations.show),
    ConsolePage(path=f"{_TENANT}/credentials/{{id}}/check", handle=integrations.check, method="POST"),
    ConsolePage(path=f"{_TENANT}/destinations/{{id}}", handle=destination.show),
    ConsolePage(path=f"{_TENANT}/destinations/{{id}}/enable", handle=destination.enable, method="POST"),
    ConsolePage(path=f"{_TENANT}/destinations/{{id}}/disable", handle=destination.disable, method="POST"),
    ConsolePage(path=f"{_TENANT}/destinations/{{id}}/test", handle=destination.test, method="POST"),
    ConsolePage(path=f"{_TENANT}/attempts", handle=attempts.show),
    ConsolePage(path=f"{_TENANT}/failed", handle=failed.show),
    ConsolePage(path=f"{_TENANT}/replays", handle=replays.index),
    ConsolePage(path=f"{_TENANT}/replays", handle=replays.start, method="POST"),
    ConsolePage(path=f"{_TENANT}/replays/new", handle=replays.plan),
    ConsolePage(path=f"{_TENANT}/replays/{{id}}", handle=replays.show),
    ConsolePage(path=f"{_TENANT}/replays/{{id}}/progress", handle=replays.progress),
    ConsolePage(path=f"{_TENANT}/replays/{{id}}/cancel", handle=replays.cancel, method="POST"),
    ConsolePage(path=f"{_TENANT}/deliveries/{{delivery}}", handle=delivery.show),
)
LIVE: Final = f"{_TENANT}/live"
EVENTS: Final = "text/event-stream"


def console(parts: ConsoleParts, assets: StaticFiles) -> ExtraRoutes:
    """All of them, for the application."""

    def answer(request: Request[Any, Any, Any], problem: Problem) -> Response[bytes]:
        shown = _told(PageRequest(request, parts, None), problem)
        headers = {**HEADERS, **shown.headers}
        return Response(shown.body, status_code=shown.status, media_type=MediaType.HTML, headers=headers)

    return ExtraRoutes(prefix="/console", routes=_routes(parts, assets), answer=answer)


def _routes(parts: ConsoleParts, assets: StaticFiles) -> Sequence[ControllerRouterHandler]:
    return [
        *(_route(page, parts) for page in PAGES),
        _live(parts),
        _assets(assets),
        _home("/console"),
    ]


def _route(page: ConsolePage, parts: ConsoleParts) -> HTTPRouteHandler:
    async def handle(request: Request[Any, Any, Any]) -> Response[bytes]:
        visit = PageRequest(request, parts, None)
        try:
            visit = PageRequest(request, parts, await _session(request, parts))
            shown = await page.handle(visit) if _may_open(visit, page) else _to_sign_in(request)
        except Exception as error:  # noqa: BLE001 - whatever it is becomes a page, and unexpected ones are logged
            shown = _told(visit, problem_of(error))
        return Response(
            shown.body,
            status_code=shown.status,
            media_type=MediaType.HTML,
            headers={**HEADERS, **shown.headers},
        )

    return _handler(page.path, page.method)(handle)


def _live(parts: ConsoleParts) -> HTTPRouteHandler:
    async def handle(request: Request[Any, Any, Any]) -> Response[bytes] | Stream:
        visit = PageRequest(request, parts, None)
        try:
            visit = PageRequest(request, parts, await _session(request, parts))
            _require_reader(visit)
            events: AsyncGenerator[bytes] = attempts.follow(visit)
        except Exception as error:  # noqa: BLE001 - as above
            shown = _told(visit, problem_of(error))
            return Response(shown.body, status_code=shown.status, media_type=MediaType.HTML, headers=HEADERS)
        headers = {**HEADERS, "x-accel-buffering": "no"}
        return Stream(events, media_type=EVENTS, headers=headers)

    return HTTPRouteHandler(_typed(LIVE), http_method="GET", media_type=EVENTS)(handle)


def _assets(assets: StaticFiles) -> HTTPRouteHandler:
    async def handle(request: Request[Any, Any, Any]) -> Response[bytes]:
        asset = assets.find(request.path_params["name"])
        if asset is None:
            return Response(b"", status_code=404, media_type=MediaType.TEXT, headers=HEADERS)
        return Response(asset.content, media_type=asset.media_type, headers=ASSET_HEADERS)

    return _handler(f"{ASSET_PATH}/{{name}}", "GET")(handle)


def _home(path: str) -> HTTPRouteHandler:
    async def handle() -> Response[bytes]:
        return Response(b"", status_code=303, media_type=MediaType.HTML, headers={**HEADERS, "location": sign_in.HOME})

    return _handler(path, "GET")(handle)


def _handler(path: str, method: Literal["GET", "POST"]) -> HTTPRouteHandler:
    return HTTPRouteHandler(_typed(path), http_method=method, media_type=MediaType.HTML)


def _typed(path: str) -> str:
    return path.replace("}", ":str}")


async def _session(request: Request[Any, Any, Any], parts: ConsoleParts) -> ConsoleSession | None:
    cookie = request.cookies.get(SECURE_COOKIE) or request.cookies.get(COOKIE)
    return await parts.sessions.find(cookie) if cookie else None


def _may_open(visit: PageRequest, page: ConsolePage) -> bool:
    """Whether to go on; False for somebody who has to sign in first. Raises `Problem` for somebody who may not."""
    if not page.asks:
        return True
    if visit.session is None:
        return False
    _require_reader(visit)
    return True


def _require_reader(visit: PageRequest) -> None:
    if visit.session is None:
        raise Problem(401, "unauthorized", "Sign in first.")
    tenant = visit.request.path_params.get("tenant")
    if tenant is not None and not visit.principal.is_of(tenant):
        raise Problem(403, "forbidden", "This token is not one of this tenant.")
    if not visit.principal.has_any(READERS):
        raise Problem(403, "forbidden", "This token can't look at this.")


def _to_sign_in(request: Request[Any, Any, Any]) -> PageResponse:
    if request.method != "GET":
        return redirect("/console/sign-in")
    query = f"?{request.url.query}" if request.url.query else ""
    return redirect(f"/console/sign-in?next={quote(request.url.path + query, safe='/')}")


def _told(visit: PageRequest, problem: Problem) -> PageResponse:
    """A problem as a page."""
    headers = {name: value for name, value in problem.headers.items() if name != "www-authenticate"}
    return visit.page("problem.html", status=problem.status, headers=headers, problem=problem.document())
