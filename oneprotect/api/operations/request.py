"""One request on its way through an operation: who asks, what for, and with what."""

from typing import TypeVar

import msgspec
from starlette.requests import Request

from oneprotect.api.auth.principal import Principal
from oneprotect.api.operations.dependencies import ApiDependencies
from oneprotect.api.web import request_body
from schemas import validation

T = TypeVar("T", bound=msgspec.Struct)


class ApiRequest:
    """What an operation works with. Reading raises `Problem` or `ValidationError` for what breaks a rule."""

    __slots__ = ("_principal", "parts", "request")

    def __init__(self, request: Request, parts: ApiDependencies, principal: Principal | None) -> None:
        self.request = request
        self.parts = parts
        self._principal = principal

    @property
    def principal(self) -> Principal:
        """Who asks. Only for operations that have roles."""
        if self._principal is None:
            raise LookupError("this operation asks nobody who they are")
        return self._principal

    @property
    def by(self) -> str:
        """Who asks, for the audit trail."""
        return self.principal.id

    @property
    def address(self) -> str:
        """From where."""
        return self.request.client.host if self.request.client else "unknown"

    @property
    def tenant(self) -> str:
        """The tenant of the path."""
        return validation.name(self.request.path_params["tenant"], "tenant")

    @property
    def id(self) -> str:
        """What the path names below the tenant."""
        return validation.name(self.request.path_params["id"], "id")

    def header(self, name: str) -> str | None:
        """A request header."""
        return self.request.headers.get(name)

    async def body(self, kind: type[T]) -> T:
        """The body, as a `kind`."""
        return request_body.decode(await self.raw_body(), kind)

    async def optional_body(self, kind: type[T]) -> T | None:
        """The body, as a `kind`; None when there is none."""
        return await self.body(kind) if request_body.is_there(self.request) else None

    async def raw_body(self) -> bytes:
        """The body as it came, if it is JSON by its content type."""
        return await request_body.read(self.request, self.parts.limits)

    def query(self, kind: type[T]) -> T:
        """The query string, as a `kind`: each parameter once, but for those that are lists."""
        return request_body.query(self.request.query_params.multi_items(), kind)
