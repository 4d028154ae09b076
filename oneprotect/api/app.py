"""The HTTP application: operations become routes, and errors become problem documents."""

from collections.abc import Sequence
from functools import partial
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from oneprotect.api.auth.principal import Principal
from oneprotect.api.docs.pages import docs_operations
from oneprotect.api.operations.operation import ApiOperation, ApiResponse
from oneprotect.api.operations.request import ApiDependencies, ApiRequest, client_address
from oneprotect.api.resources import attempts, credentials, deliveries, destinations, probes, replays
from oneprotect.api.web.problems import Problem, problem_of, problem_response
from oneprotect.api.web.routing import SLOTS, Endpoint, Handler, NormalizingRouter, routes_of, while_connected
from schemas.roles import ALL_TENANTS

_RESOURCES: Final[tuple[ApiOperation, ...]] = (
    *deliveries.OPERATIONS,
    *attempts.OPERATIONS,
    *destinations.OPERATIONS,
    *credentials.OPERATIONS,
    *replays.OPERATIONS,
    *probes.OPERATIONS,
)
OPERATIONS: Final[tuple[ApiOperation, ...]] = (*_RESOURCES, *docs_operations(_RESOURCES))

_HEADERS: Final = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def create_app(parts: ApiDependencies, beside: Sequence[BaseRoute] = ()) -> NormalizingRouter:
    """Return the application. `beside`: further routes, which respond to their own errors."""
    handlers = [(operation.method, operation.path, _handler(operation, parts)) for operation in OPERATIONS]
    return NormalizingRouter(
        [*routes_of(handlers, _on_error), *beside], redirect_slashes=False, default=Endpoint(None, {}, _on_error)
    )


def _handler(operation: ApiOperation, parts: ApiDependencies) -> Handler:
    async def respond(request: Request) -> Response:
        if not operation.roles:
            parts.limiter.admit_anonymous(client_address(request))
            answer = await operation.handle(ApiRequest(request, parts, None))
        else:
            principal = await _authorize(request, operation, parts)
            tenant = request.path_params["tenant"]
            if operation.reads_many:
                handle = partial(operation.handle, ApiRequest(request, parts, principal))
                answer = await while_connected(request, parts.limiter.read(tenant, handle, of=principal.tenant))
            else:
                answer = await operation.handle(ApiRequest(request, parts, principal))
        return _respond(answer)

    return respond


def _respond(answer: ApiResponse) -> Response:
    media_type = None if answer.status == 204 else answer.media_type
    return Response(answer.encoded(), answer.status, {**_HEADERS, **answer.headers}, media_type)


async def _authorize(request: Request, operation: ApiOperation, parts: ApiDependencies) -> Principal:
    """Count the request and return the caller.

    The tenant is checked before the role, so that no caller learns about other tenants.
    """
    authorization = request.headers.get("authorization")
    principal = await parts.authenticator.authenticate(authorization, client_address(request))
    tenant = request.path_params["tenant"] if principal.tenant == ALL_TENANTS else principal.tenant
    # Before the checks, so that refused requests count, too.
    request.scope[SLOTS].enter_context(parts.limiter.admit(tenant, principal.id, of=principal.tenant))
    if not principal.is_of(request.path_params["tenant"]):
        raise Problem(403, "forbidden", "This token belongs to another tenant. Use a token of this tenant.")
    if not principal.has_any(operation.roles):
        needed = " or ".join(sorted(operation.roles))
        raise Problem(403, "forbidden", f"This operation requires a token with the role {needed}.")
    parts.require_present(request.path_params["tenant"])
    return principal


def _on_error(_: Request, error: Exception) -> Response:
    return problem_response(problem_of(error))
