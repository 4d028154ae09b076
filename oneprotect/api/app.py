"""The application: operations become routes, and whatever goes wrong becomes a problem document."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from litestar import Litestar, MediaType, Request, Response
from litestar.exceptions import MethodNotAllowedException
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, ControllerRouterHandler, Receive, Scope, Send
from msgspec import Struct

from oneprotect.api.auth.principal import Principal
from oneprotect.api.docs.pages import docs_operations
from oneprotect.api.operations.dependencies import ApiDependencies
from oneprotect.api.operations.operation import ApiOperation, ApiResponse
from oneprotect.api.operations.request import ApiRequest
from oneprotect.api.resources import attempts, credentials, deliveries, destinations, probes, replays, test_deliveries
from oneprotect.api.web.problems import MEDIA_TYPE, Problem, problem_of

_OFFERED: Final = (
    *deliveries.OPERATIONS,
    *attempts.OPERATIONS,
    *destinations.OPERATIONS,
    *test_deliveries.OPERATIONS,
    *credentials.OPERATIONS,
    *replays.OPERATIONS,
    *probes.OPERATIONS,
)
OPERATIONS: Final[tuple[ApiOperation, ...]] = (*_OFFERED, *docs_operations(_OFFERED))

_HEADERS: Final = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
_PARAMETER: Final = re.compile(r"\{(\w+)\}")


class ExtraRoutes(Struct, frozen=True, kw_only=True):
    """What is served beside the API: paths that begin with `prefix`, whose problems look as `answer` says."""

    prefix: str
    routes: Sequence[ControllerRouterHandler]
    answer: Callable[[Request[Any, Any, Any], Problem], Response[bytes]]


def create_app(parts: ApiDependencies, beside: ExtraRoutes | None = None) -> Litestar:
    """The application. `beside`: the console."""

    def answer_to_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
        if beside is not None and request.url.path.startswith(f"{beside.prefix}/"):
            return beside.answer(request, problem_of(error))
        return _answer_to_error(request, error)

    return Litestar(
        route_handlers=[
            *(_route(operation, parts) for operation in OPERATIONS),
            *(beside.routes if beside else ()),
        ],
        exception_handlers={Exception: answer_to_error},
        openapi_config=None,
        logging_config=None,
        request_max_body_size=parts.limits.body_bytes,
    )


def _route(operation: ApiOperation, parts: ApiDependencies) -> HTTPRouteHandler:
    async def handle(request: Request[Any, Any, Any]) -> ASGIApp:
        principal = await _admit(request, operation, parts) if operation.roles else None
        return _sending(await operation.handle(ApiRequest(request, parts, principal)))

    path = _PARAMETER.sub(r"{\1:str}", operation.path)
    return HTTPRouteHandler(
        path,
        http_method=operation.method,
        name=operation.name,
        media_type=MediaType.JSON,
        status_code=200,  # what a framework has to be told; the answer says its own
    )(handle)


def _sending(answer: ApiResponse) -> ASGIApp:
    """What sends `answer`: a tenth of what it takes the framework's own responses, which can do more."""
    body = answer.encoded()
    fields = {**_HEADERS, **answer.headers}
    if answer.status != 204:
        fields |= {"content-type": answer.media_type, "content-length": str(len(body))}
    headers = [(name.encode(), value.encode()) for name, value in fields.items()]

    async def send_it(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return send_it


async def _admit(request: Request[Any, Any, Any], operation: ApiOperation, parts: ApiDependencies) -> Principal:
    """Who asks, if they may: the tenant first, so that nothing is told of what other tenants have."""
    address = request.client.host if request.client else "unknown"
    principal = await parts.authenticator.authenticate(request.headers.get("authorization"), address)
    if not principal.is_of(request.path_params["tenant"]):
        raise Problem(403, "forbidden", "This token is not one of this tenant.")
    if not principal.has_any(operation.roles):
        needed = " or ".join(sorted(operation.roles))
        raise Problem(403, "forbidden", f"This needs a token with the role {needed}.")
    return principal


def _answer_to_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    problem = problem_of(error)
    headers = {**_HEADERS, **problem.headers}
    if isinstance(error, MethodNotAllowedException):
        headers["allow"] = ", ".join(_allowed(request.url.path, OPERATIONS))
    return Response(problem.encode(), status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)


def _allowed(path: str, operations: Iterable[ApiOperation]) -> list[str]:
    """The methods that a path takes."""
    return sorted(
        {
            operation.method
            for operation in operations
            if re.fullmatch(_PARAMETER.sub("[^/]+", operation.path) + "/?", path)
        }
        | {"OPTIONS"}
    )
