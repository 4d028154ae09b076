"""Routes from paths to handlers. Every error becomes a response of the same kind as the path's other responses."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from oneprotect.api.web.problems import Problem

T = TypeVar("T")

Handler = Callable[[Request], Awaitable[Response]]
SLOTS: Final = "oneprotect.slots"
"""The key of a request's scope under which a handler finds the stack of what the request occupies until it is over."""
LARGE_BYTES: Final = 64 * 1024
"""The size of a body from which the end of a response waits until the client has read most of it."""
OnError = Callable[[Request, Exception], Response]


class Endpoint:
    """The handlers of one path by HTTP method, as an ASGI application. A `path` of None has none: the 404."""

    def __init__(self, path: str | None, handlers: Mapping[str, Handler], on_error: OnError) -> None:
        self.handlers = handlers
        self._path = path
        self._allow = {"allow": ", ".join(sorted({*handlers, "OPTIONS"}))}
        self._on_error = on_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one request."""
        with contextlib.ExitStack() as slots:
            scope[SLOTS] = slots
            request = Request(scope, receive)
            try:
                response = await self._respond(request)
            except Exception as error:  # noqa: BLE001 - `on_error` logs unexpected ones
                response = self._on_error(request, error)
            await response(scope, receive, _until_read(send))

    async def _respond(self, request: Request) -> Response:
        if self._path is None:
            raise Problem(404, "not-found", "Nothing is at this address. See /openapi.json for the paths.")
        request.scope["path_template"] = self._path
        if handler := self.handlers.get(request.method):
            return await handler(request)
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=self._allow)
        raise Problem(
            405, "method-not-allowed", "This path has no such method. `Allow` lists its methods.", headers=self._allow
        )


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns, or cancel it when the client disconnects. Raises `Problem`."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_until_disconnected(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait({working, leaving})
    raise Problem(400, "bad-request", "The client disconnected before the response.")


async def _until_disconnected(receive: Receive) -> None:
    event = await receive()
    while event["type"] != "http.disconnect":
        if event.get("more_body", False):
            await asyncio.Event().wait()  # the handler reads no body: the rest stays with the client
        event = await receive()


def _until_read(send: Send) -> Send:
    """Return a `send` that returns from the end of a large body after the client has read most of it.

    So a client that reads nothing occupies the slots of its tenant, until the server resets the connection.
    """

    async def send_all(event: Message) -> None:
        if len(event.get("body", b"")) < LARGE_BYTES or event.get("more_body", False):
            await send(event)
            return
        await send({**event, "more_body": True})
        await send({"type": "http.response.body"})  # the server first waits for room

    return send_all


class NormalizingRouter(Router):
    """A router that ignores repeated and trailing slashes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one request."""
        scope["path"] = "/" + "/".join(filter(None, scope["path"].split("/")))
        await self.app(scope, receive, send)


def routes_of(handlers: Iterable[tuple[str, str, Handler]], on_error: OnError, *, prefix: str = "") -> list[Route]:
    """Return one route per path from (method, path, handler); `prefix`: where the routes will be mounted."""
    by_path: dict[str, dict[str, Handler]] = {}
    for method, path, handler in handlers:
        by_path.setdefault(path, {})[method] = handler
    return [Route(path, Endpoint(prefix + path, methods, on_error)) for path, methods in by_path.items()]
